//! Who gets a certificate, and who gets in with one.

use crate::harness::{Host, description, three, until};
use muster_calls::{Cluster, Kind};
use muster_controller::{JoinError, Storage, join, renew};
use muster_model::{Timestamp, cluster::ClusterSpec};
use muster_mtls::{Ca, CertRole, DialError, Expect, JoinToken, KeyRequest, NodeIdentity, Tls, bootstrap, new_secret};
use muster_proto::{RemoteCluster, v1};
use std::{net::SocketAddr, time::Duration};
use tonic::Code;

fn nowhere() -> SocketAddr {
    "127.0.0.1:9".parse().expect("an address")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_or_digest_is_refused_and_registers_nobody() {
    let host = Host::found(Storage::default()).await;
    let at = [host.addr.to_string()];
    let good = host.tokens().await.0;
    let wrong = JoinToken { secret: new_secret().expect("random"), ..good.clone() };
    let e = join(&at, &wrong, &description("x", nowhere())).await.expect_err("wrong secret");
    assert!(
        matches!(&e, JoinError::Refused { code: Code::PermissionDenied, message } if message.contains("join token")),
        "{e}"
    );
    let wrong = JoinToken { ca_digest: "0".repeat(64), ..good.clone() };
    let e = join(&at, &wrong, &description("x", nowhere())).await.expect_err("wrong digest");
    assert!(matches!(&e, JoinError::Dial(DialError::OtherAuthority { .. })), "{e}");
    let e = join(&["127.0.0.1:1".to_owned()], &good, &description("x", nowhere())).await.expect_err("nobody there");
    assert!(matches!(&e, JoinError::Dial(DialError::Connect { .. })), "{e}");
    assert_eq!(host.api().node_list().await.expect("nodes").len(), 1);

    let rotated = host.api().rotate_join_tokens(true, false).await.expect("rotated");
    let e = join(&at, &good, &description("x", nowhere())).await.expect_err("the old token");
    assert!(matches!(&e, JoinError::Refused { code: Code::PermissionDenied, .. }), "{e}");
    let fresh: JoinToken = rotated.worker.parse().expect("well formed");
    join(&at, &fresh, &description("x", nowhere())).await.expect("the new token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_works_at_any_manager() {
    let hosts = three(Storage::default()).await;
    for host in &hosts {
        let worker = Host::join_worker("w", host).await;
        let role = hosts[0].api().node_inspect(&worker.id().to_string()).await.expect("registered").node.role;
        assert_eq!(role.as_str(), "worker");
        renew(&worker.tls, &[host.addr], &description("w", worker.addr))
            .await
            .expect("renewed through the same manager");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_calls_nothing_of_managers() {
    let host = Host::found(Storage::default()).await;
    let worker = Host::join_worker("w", &host).await;
    let channel = worker.tls.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
    let refused = RemoteCluster::new(channel.clone()).node_list().await.expect_err("manager-only");
    assert_eq!(refused.kind, Kind::Forbidden);
    // Not even by claiming to speak for somebody.
    let forged = RemoteCluster::new(channel.clone()).on_behalf_of(Some("local".into()));
    assert_eq!(forged.join_tokens().await.expect_err("forged").kind, Kind::Forbidden);

    let batch = v1::RaftBatch::default();
    let mut raft = v1::raft_client::RaftClient::new(channel.clone());
    let refused = raft.step(tokio_stream::once(batch)).await.expect_err("no manager");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = raft.snapshot(tokio_stream::once(v1::SnapshotPiece::default())).await.expect_err("no manager");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let csr = KeyRequest::new().expect("key").csr().to_vec();
    let mut ca = v1::ca_client::CaClient::new(channel);
    let refused = ca
        .issue_operator(v1::IssueRequest { csr: csr.clone().into(), ..Default::default() })
        .await
        .expect_err("a worker");
    assert_eq!(refused.code(), Code::PermissionDenied);

    // A host without a certificate may only join.
    let token = host.tokens().await.0;
    let anonymous = bootstrap(&host.addr.to_string(), &token).await.expect("connects").channel;
    assert_eq!(RemoteCluster::new(anonymous.clone()).node_list().await.expect_err("nobody").kind, Kind::Unauthorized);
    let refused = v1::dispatch_client::DispatchClient::new(anonymous.clone())
        .session(tokio_stream::pending())
        .await
        .expect_err("nobody");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused =
        v1::ca_client::CaClient::new(anonymous).issue(v1::IssueRequest { csr: csr.into(), ..Default::default() }).await;
    assert_eq!(refused.expect_err("no secret").code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_may_not_speak_for_another_one_in_consensus() {
    let hosts = three(Storage::default()).await;
    let channel = hosts[1].tls.channel(&hosts[0].addr.to_string(), Expect::Manager).await.expect("connects");
    let message = v1::RaftMessage {
        kind: 14,
        from: hosts[2].id().raft_id(),
        to: hosts[0].id().raft_id(),
        term: 1,
        ..Default::default()
    };
    let batch = v1::RaftBatch { messages: vec![message] };
    let refused = v1::raft_client::RaftClient::new(channel).step(tokio_stream::once(batch)).await.expect_err("forged");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_certificate_works_from_elsewhere_and_cannot_become_a_nodes() {
    let host = Host::found(Storage::default()).await;
    let channel = host.tls.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
    let key = KeyRequest::new().expect("key");
    let request = v1::IssueRequest { csr: key.csr().to_vec().into(), ..Default::default() };
    let reply = v1::ca_client::CaClient::new(channel).issue_operator(request).await.expect("issued").into_inner();
    let roots = reply.roots.iter().map(|r| r.to_vec().into()).collect();
    let credentials = key.complete(reply.certificate.to_vec(), roots).expect("fits");
    assert_eq!(credentials.identity().role, CertRole::Operator);
    let operator = Tls::new(credentials).expect("valid");
    let channel = operator.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
    assert_eq!(RemoteCluster::new(channel.clone()).node_list().await.expect("allowed").len(), 1);
    let refused = renew(&operator, &[host.addr], &description("x", nowhere())).await.expect_err("not here");
    assert!(matches!(refused, JoinError::Refused { code: Code::PermissionDenied, .. }), "{refused}");
    let refused =
        v1::dispatch_client::DispatchClient::new(channel).session(tokio_stream::pending()).await.expect_err("no node");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// An operator with a certificate of its own, given by a host.
async fn operator(host: &Host, name: &str) -> Tls {
    let channel = host.tls.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
    let key = KeyRequest::new().expect("key");
    let request = v1::IssueRequest { csr: key.csr().to_vec().into(), name: name.to_owned(), ..Default::default() };
    let reply = v1::ca_client::CaClient::new(channel).issue_operator(request).await.expect("issued").into_inner();
    let roots = reply.roots.iter().map(|r| r.to_vec().into()).collect();
    Tls::new(key.complete(reply.certificate.to_vec(), roots).expect("fits")).expect("valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_certificate_that_is_called_back_opens_no_managers_door() {
    let hosts = three(Storage::default()).await;
    let (kept, gone) = (operator(&hosts[1], "kept").await, operator(&hosts[2], "gone").await);
    let listed = hosts[0].api().cluster().await.expect("inspected").operators;
    assert_eq!(listed.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["kept", "gone"]);
    assert!(listed.iter().all(|c| c.revoked.is_none() && c.not_after > muster_mtls::now()));
    let mut open = Vec::new();
    for host in &hosts {
        let channel = gone.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
        RemoteCluster::new(channel.clone()).node_list().await.expect("allowed");
        open.push(channel);
    }
    // However its serial is written.
    let serial = gone.leaf().serial.to_uppercase();
    let revoked = hosts[1].api().operator_revoke(&serial).await.expect("revoked");
    assert_eq!(revoked.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["gone"]);
    for (host, open) in hosts.iter().zip(open) {
        until("it is refused", async || {
            let channel = gone.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
            let answer = RemoteCluster::new(channel).membership().await;
            answer.is_err_and(|e| e.kind == Kind::Unauthorized && e.message.contains("was revoked"))
        })
        .await;
        RemoteCluster::new(open).node_list().await.expect_err("neither is what was open");
        let channel = kept.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
        RemoteCluster::new(channel).node_list().await.expect("the other one is not touched");
    }
    let api = hosts[0].api();
    assert_eq!(api.operator_revoke("gone").await.expect_err("twice").kind, Kind::Conflict);
    assert_eq!(api.operator_revoke("nobody").await.expect_err("unknown").kind, Kind::NotFound);
    // One that an earlier build gave, and kept no list of.
    let stranger = muster_model::NodeId::from_u128(78);
    let stranger = forged_with_the_real_key(&hosts[0], CertRole::Operator, stranger, muster_mtls::now());
    let connect = async || stranger.channel(&hosts[0].addr.to_string(), Expect::Manager).await.expect("connects");
    RemoteCluster::new(connect().await).node_list().await.expect("allowed");
    api.operator_revoke(&stranger.leaf().serial).await.expect("revoked");
    until("it is refused", async || RemoteCluster::new(connect().await).node_list().await.is_err()).await;
}

/// Signs as the cluster's own authority would, for a minute that we choose.
pub fn forged_with_the_real_key(host: &Host, role: CertRole, id: muster_model::NodeId, at: Timestamp) -> Tls {
    let cluster = host.controller().published().state.cluster().expect("founded").clone();
    let key = muster_controller::SealKey::load(&host.data_dir().join("managers.key")).expect("the key file");
    let key = key.open(cluster.id, &cluster.ca_key_sealed).expect("opens");
    let cert = muster_mtls::certificate_from_pem(&cluster.ca_cert_pem).expect("a certificate");
    let ca = Ca::load(&cert, &key).expect("loads");
    let request = KeyRequest::new().expect("key");
    let identity = NodeIdentity { node_id: id, cluster_id: cluster.id, role };
    let leaf = ca.sign_csr(request.csr(), identity, Duration::from_secs(60), at).expect("signed");
    Tls::new(request.complete(leaf.to_vec(), vec![cert]).expect("fits")).expect("valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_opens_nothing_but_its_own_renewal() {
    let host = Host::found_with(Storage::default(), ClusterSpec::default()).await;
    let worker = Host::join_worker("w", &host).await;
    let long_ago = Timestamp(muster_mtls::now().0 - 3_600_000_000_000);
    let expired = forged_with_the_real_key(&host, CertRole::Worker, worker.id(), long_ago);
    let channel = expired.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
    let refused = v1::dispatch_client::DispatchClient::new(channel.clone())
        .session(tokio_stream::pending())
        .await
        .expect_err("expired");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("expired"), "{refused}");
    let given = renew(&expired, &[host.addr], &description("w", worker.addr)).await.expect("a member renews");
    assert_eq!(given.node_id, worker.id());
    assert!(!given.credentials.leaf().expired(muster_mtls::now()));

    // The first that it knew is a worker by now, another is away, and a third is of another cluster.
    let (worker_now, other) = (Host::join_worker("x", &host).await, Host::found(Storage::default()).await);
    let known = [worker_now.addr, nowhere(), other.addr, host.addr];
    let given = renew(&expired, &known, &description("w", worker.addr)).await.expect("any manager renews it");
    assert_eq!(given.node_id, worker.id());
    let told = renew(&expired, &known[..2], &description("w", worker.addr)).await.expect_err("no manager");
    assert!(matches!(told, JoinError::Dial(DialError::Connect { refusal: Some(_), .. })), "{told}");

    let stranger = muster_model::NodeId::from_u128(77);
    let stranger = forged_with_the_real_key(&host, CertRole::Manager, stranger, long_ago);
    // The cluster's own word ends the search.
    let known = [host.addr, other.addr];
    let refused = renew(&stranger, &known, &description("x", nowhere())).await.expect_err("no member");
    assert!(matches!(refused, JoinError::Refused { code: Code::PermissionDenied, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_authority_gets_nowhere_and_keeps_nobody_from_joining_elsewhere() {
    let (ours, theirs) = (Host::found(Storage::default()).await, Host::found(Storage::default()).await);
    let known = [theirs.addr.to_string(), ours.addr.to_string()];
    join(&known, &ours.tokens().await.0, &description("w", nowhere())).await.expect("the second is of this cluster");
    let refused = theirs.tls.channel(&ours.addr.to_string(), Expect::Manager).await.expect_err("another cluster");
    assert!(matches!(refused, DialError::Connect { refusal: Some(_), .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_whose_certificate_ran_out_while_it_was_off_signs_its_own() {
    let host = Host::found(Storage::default()).await;
    let long_ago = Timestamp(muster_mtls::now().0 - 3_600_000_000_000);
    let expired = forged_with_the_real_key(&host, CertRole::Manager, host.id(), long_ago);
    host.tls.install(expired.credentials()).expect("installed");
    assert!(host.tls.leaf().expired(muster_mtls::now()));
    let credentials = host.controller().renew_own_certificate().expect("it holds the authority");
    assert_eq!(credentials.identity().role, CertRole::Manager);
    assert!(!host.tls.leaf().expired(muster_mtls::now()));
}
