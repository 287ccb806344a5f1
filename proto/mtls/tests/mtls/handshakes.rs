//! Who gets in, as what, and what becomes of connections when keys change.

use crate::harness::{DAY, TestServer, ca, call, call_as, issue, issue_at, node, now, tls};
use muster_model::{Timestamp, spec::Role};
use muster_mtls::{CallerKind, CertRole, DialError, Expect, JoinToken, LocalIo, Refusal, bootstrap, new_secret};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::Code;

/// Polls a condition that the network brings about.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn each_guard_lets_in_whom_it_names() {
    let ca = ca();
    let manager = tls(issue(&ca, 1, CertRole::Manager));
    let server = TestServer::start(&manager).await;
    let dial =
        async |id, role| tls(issue(&ca, id, role)).channel(&server.at(), Expect::Manager).await.expect("connects");
    let (m, w, o) =
        (dial(2, CertRole::Manager).await, dial(7, CertRole::Worker).await, dial(3, CertRole::Operator).await);

    assert_eq!(call(&m, "/probe/manager").await.expect("allowed"), format!("manager/{}", node(2)));
    assert_eq!(call(&o, "/probe/manager").await.expect("allowed"), format!("operator/{}", node(3)));
    let refused = call(&w, "/probe/manager").await.expect_err("a worker");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "role worker may not do this: expected manager or operator");

    assert!(call(&w, "/probe/node7").await.is_ok());
    assert_eq!(call(&m, "/probe/node7").await.expect_err("another node").code(), Code::PermissionDenied);
    assert!(call(&m, "/probe/raft").await.is_ok());
    assert_eq!(call(&o, "/probe/raft").await.expect_err("an operator").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn only_a_manager_may_name_another_caller() {
    let ca = ca();
    let server = TestServer::start(&tls(issue(&ca, 1, CertRole::Manager))).await;
    let dial =
        async |id, role| tls(issue(&ca, id, role)).channel(&server.at(), Expect::Manager).await.expect("connects");
    let (m, w) = (dial(2, CertRole::Manager).await, dial(7, CertRole::Worker).await);
    let worker = CallerKind::Certified { role: CertRole::Worker, id: node(9) };
    assert_eq!(call_as(&m, "/probe/any", Some(CallerKind::Local)).await.expect("passed on"), "local");
    assert_eq!(call_as(&m, "/probe/manager", Some(worker)).await.expect_err("worker").code(), Code::PermissionDenied);
    assert_eq!(
        call_as(&w, "/probe/any", Some(CallerKind::Local)).await.expect_err("forged").code(),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn a_host_with_a_token_finds_its_cluster_and_nobody_else() {
    let (ours, other) = (ca(), ca());
    let server = TestServer::start(&tls(issue(&ours, 1, CertRole::Manager))).await;
    let token =
        |digest: String| JoinToken { role: Role::Worker, ca_digest: digest, secret: new_secret().expect("random") };
    let joined = bootstrap(&server.at(), &token(ours.digest())).await.expect("the right authority");
    assert_eq!((joined.root, joined.cluster_id), (ours.certificate().clone(), ours.cluster_id()));
    assert_eq!(call(&joined.channel, "/probe/any").await.expect_err("anonymous").code(), Code::Unauthenticated);
    assert_eq!(call(&joined.channel, "/probe/renew").await.expect_err("anonymous").code(), Code::Unauthenticated);

    let wrong = bootstrap(&server.at(), &token(other.digest())).await.expect_err("another authority");
    assert!(matches!(wrong, DialError::OtherAuthority { .. }), "{wrong}");
    let worker = TestServer::start(&tls(issue(&ours, 2, CertRole::Worker))).await;
    let wrong = bootstrap(&worker.at(), &token(ours.digest())).await.expect_err("no manager");
    assert!(matches!(wrong, DialError::Connect { refusal: Some(Refusal::TheirCertificate), .. }), "{wrong}");
    assert!(matches!(bootstrap("nowhere", &token(ours.digest())).await, Err(DialError::Address(_))));
}

#[tokio::test]
async fn a_server_must_be_whom_the_client_expects() {
    let ca = ca();
    let server = TestServer::start(&tls(issue(&ca, 1, CertRole::Worker))).await;
    let client = tls(issue(&ca, 2, CertRole::Manager));
    assert!(client.channel(&server.at(), Expect::Member).await.is_ok());
    assert!(client.channel(&server.at(), Expect::Node(node(1))).await.is_ok());
    for wrong in [Expect::Manager, Expect::Node(node(3))] {
        let e = client.channel(&server.at(), wrong).await.expect_err("somebody else");
        assert!(matches!(e, DialError::Connect { refusal: Some(Refusal::TheirCertificate), .. }), "{e}");
    }
    let away = client.channel("127.0.0.1:1", Expect::Member).await.expect_err("nobody");
    assert!(matches!(away, DialError::Connect { refusal: None, .. }), "{away}");
}

#[tokio::test]
async fn a_foreign_authority_is_refused_and_that_can_be_told_from_absence() {
    let (ours, other) = (ca(), ca());
    let server = TestServer::start(&tls(issue(&ours, 1, CertRole::Manager))).await;
    // Trusts our root, so that it is the server that refuses.
    let stranger = issue(&other, 2, CertRole::Manager);
    let stranger = stranger.with_roots(vec![ours.certificate().clone(), other.certificate().clone()]).expect("roots");
    let refused = tls(stranger).channel(&server.at(), Expect::Manager).await.expect_err("refused");
    assert!(matches!(refused, DialError::Connect { refusal: Some(Refusal::OurCertificate(_)), .. }), "{refused:?}");
}

#[tokio::test]
async fn an_expired_certificate_may_renew_and_do_nothing_else() {
    let ca = ca();
    let server = TestServer::start(&tls(issue(&ca, 1, CertRole::Manager))).await;
    let old = issue_at(&ca, 7, CertRole::Worker, DAY, Timestamp(now().0 - 3 * DAY.as_nanos() as i64));
    assert!(old.leaf().expired(now()));
    let channel = tls(old.clone()).channel(&server.at(), Expect::Manager).await.expect("connects");
    for method in ["/probe/any", "/probe/node7", "/probe/manager"] {
        let refused = call(&channel, method).await.expect_err("expired");
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("expired at"), "{refused}");
    }
    assert_eq!(call(&channel, "/probe/renew").await.expect("may renew"), old.leaf().serial);
    // Expired, and not ours at all: refused in the handshake.
    let foreign = crate::harness::ca();
    let foreign = issue_at(&foreign, 7, CertRole::Worker, DAY, Timestamp(now().0 - 3 * DAY.as_nanos() as i64));
    let roots = vec![foreign.roots()[0].clone(), ca.certificate().clone()];
    let foreign = tls(foreign.with_roots(roots).expect("roots"));
    foreign.channel(&server.at(), Expect::Manager).await.expect_err("refused");
}

#[tokio::test]
async fn leaf_and_roots_change_without_dropping_a_connection() {
    let (old_ca, new_ca) = (ca(), ca());
    let both = vec![old_ca.certificate().clone(), new_ca.certificate().clone()];
    let server_tls = tls(issue(&old_ca, 1, CertRole::Manager));
    let server = TestServer::start(&server_tls).await;
    let client = tls(issue(&old_ca, 7, CertRole::Worker));
    let first = client.channel(&server.at(), Expect::Manager).await.expect("connects");
    let before = call(&first, "/probe/renew").await.expect("works");

    server_tls.install(server_tls.credentials().with_roots(both.clone()).expect("both")).expect("installed");
    client.install(issue(&new_ca, 7, CertRole::Worker).with_roots(both.clone()).expect("both")).expect("installed");
    server_tls.install(issue(&new_ca, 1, CertRole::Manager).with_roots(both).expect("both")).expect("installed");
    assert_eq!(call(&first, "/probe/renew").await.expect("the old connection goes on"), before);
    let second = client.channel(&server.at(), Expect::Manager).await.expect("connects");
    assert_ne!(call(&second, "/probe/renew").await.expect("works"), before);

    server_tls.install(issue(&new_ca, 1, CertRole::Manager)).expect("only the new root is left");
    let late = issue(&old_ca, 8, CertRole::Worker);
    let late = tls(late.with_roots(vec![old_ca.certificate().clone(), new_ca.certificate().clone()]).expect("roots"));
    late.channel(&server.at(), Expect::Manager).await.expect_err("the old root is trusted no more");
    let foreign = muster_mtls::Ca::create(muster_model::ClusterId::from_u128(99), now()).expect("authority");
    assert!(client.install(issue(&foreign, 7, CertRole::Worker)).is_err(), "another cluster's identity");
}

#[tokio::test]
async fn closing_by_node_id_ends_its_connections_and_a_new_one_may_follow() {
    let ca = ca();
    let server_tls = tls(issue(&ca, 1, CertRole::Manager));
    let server = TestServer::start(&server_tls).await;
    let dial = async |id| {
        tls(issue(&ca, id, CertRole::Worker)).channel(&server.at(), Expect::Manager).await.expect("connects")
    };
    let (seven, eight) = (dial(7).await, dial(8).await);
    call(&seven, "/probe/any").await.expect("works");
    call(&eight, "/probe/any").await.expect("works");
    assert_eq!(server_tls.connections().list().len(), 2);
    assert_eq!(server_tls.connections().close_node(node(7)), 1);
    until("the connection is gone", async || server_tls.connections().list().len() == 1).await;
    call(&eight, "/probe/any").await.expect("untouched");
    until("the channel dials again", async || call(&seven, "/probe/any").await.is_ok()).await;
}

#[tokio::test]
async fn clients_that_say_nothing_or_nonsense_do_not_stop_others() {
    let ca = ca();
    let server = TestServer::start(&tls(issue(&ca, 1, CertRole::Manager))).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut tcp = tokio::net::TcpStream::connect(server.addr).await.expect("connects");
        if silent.len() % 2 == 0 {
            tokio::io::AsyncWriteExt::write_all(&mut tcp, b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
        }
        silent.push(tcp);
    }
    let client = tls(issue(&ca, 7, CertRole::Worker));
    let channel = timeout(Duration::from_secs(5), client.channel(&server.at(), Expect::Manager)).await;
    assert!(call(&channel.expect("in time").expect("connects"), "/probe/any").await.is_ok());
}

#[tokio::test]
async fn the_hosts_own_socket_counts_as_an_operator() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("muster.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    let accepted = async move { listener.accept().await.map(|(stream, _)| LocalIo(stream)) };
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let server = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(crate::harness::Probe)
            .serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(rx)),
    );
    let connect = tonic::transport::Endpoint::from_static("http://local").connect_with_connector_lazy(
        tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        }),
    );
    let feed = tokio::spawn(async move { tx.send(accepted.await).await });
    assert_eq!(call(&connect, "/probe/manager").await.expect("allowed"), "local");
    assert_eq!(call(&connect, "/probe/raft").await.expect_err("no manager").code(), Code::PermissionDenied);
    server.abort();
    feed.abort();
}
