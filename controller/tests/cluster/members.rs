//! Managers come, go, and are given the whole state where the log no longer reaches back.

use crate::harness::{Host, PATIENCE, description, leader_of, network, small_storage, three, until};
use muster_calls::{Cluster, Kind};
use muster_controller::{Bootstrap, Storage, renew};
use muster_model::{
    NodeId,
    cluster::NodeState,
    spec::{NodeSpec, Role},
};
use muster_mtls::CertRole;
use tokio::time::timeout;

async fn set_role(host: &Host, node: NodeId, role: Role) {
    until("the role is set", async || {
        let seen = host.api().node_inspect(&node.to_string()).await.expect("a member").node;
        let spec = NodeSpec { role, ..seen.spec.clone() };
        match host.api().node_update(node, seen.meta.version, spec).await {
            Ok(()) => true,
            // Its observed half moved meanwhile, or a majority has to be seen first.
            Err(e) => {
                assert!(matches!(e.kind, Kind::OutOfSequence | Kind::Conflict | Kind::Unavailable), "{e}");
                false
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_manager_is_given_the_whole_state_when_the_log_was_compacted() {
    let a = Host::found(small_storage()).await;
    for n in 0..120 {
        a.api().network_create(network(&format!("net{n}"))).await.expect("created");
    }
    let mut b = Host::join_manager("second", &a, small_storage()).await;
    a.wait("two voters", |p| p.membership.voters().len() == 2).await;
    let seen = b.wait("the state", |p| p.state.network_by_name("net119").is_some()).await;
    assert!((0..120).all(|n| seen.state.network_by_name(&format!("net{n}")).is_some()));
    a.api().network_create(network("later")).await.expect("created with both");
    b.wait("later entries", |p| p.state.network_by_name("later").is_some()).await;
    // What was received is durable.
    b.crash().await;
    b.resume().await;
    b.wait("everything from its own disk or its leader", |p| {
        p.state.network_by_name("later").is_some() && p.leader.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_promoted_by_renewing_its_certificate_and_demoted_again() {
    let [a, b, c] = three(Storage::default()).await;
    let d = Host::join_worker("fourth", &a).await;
    assert_eq!(a.api().node_inspect(&d.id().to_string()).await.expect("a member").node.role, Role::Worker);

    set_role(&a, d.id(), Role::Manager).await;
    let given = renew(&d.tls, &[b.addr], &description("fourth", d.addr))
        .await
        .expect("renewed through a follower or the leader");
    assert_eq!((given.role, given.node_id), (CertRole::Manager, d.id()));
    d.tls.install(given.credentials).expect("installed");
    let seal_key = given.seal_key.expect("a manager's share");
    d.start(Bootstrap::Join { managers: given.managers, seal_key }).await;
    let raft_id = d.id().raft_id();
    for host in [&a, &b, &c, &d] {
        host.wait("four voters", |p| p.membership.is_voter(raft_id)).await;
    }
    d.api().network_create(network("shop")).await.expect("through the new manager");

    set_role(&a, d.id(), Role::Worker).await;
    a.wait("it left consensus", |p| !p.membership.contains(raft_id)).await;
    let id = d.id();
    a.wait("it is a worker in name too", |p| {
        p.state.node(id).is_some_and(|n| n.role == Role::Worker && n.manager_addr.is_none())
    })
    .await;
    until("it is given a worker's certificate", async || {
        let given = renew(&d.tls, &[a.addr, b.addr], &description("fourth", d.addr)).await.expect("still a member");
        given.role == CertRole::Worker && given.seal_key.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_just_elected_demotes_another_at_the_first_asking() {
    let mut hosts = three(Storage::default()).await;
    let old = leader_of(&hosts).await;
    hosts[old].controller().shutdown().await;
    hosts[old].crash().await;
    hosts[old].resume().await;
    let leader = leader_of(&hosts).await;
    let id = hosts[(leader + 1) % 3].id();
    let node = hosts[leader].api().node_inspect(&id.to_string()).await.expect("there").node;
    let spec = NodeSpec { role: Role::Worker, ..node.spec };
    hosts[leader].api().node_update(id, node.meta.version, spec).await.expect("demoted");
    let gone = |p: &std::sync::Arc<muster_controller::Published>| !p.membership.contains(id.raft_id());
    hosts[leader].wait("it has left", gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_itself_may_be_demoted() {
    let hosts = three(Storage::default()).await;
    let leader = leader_of(&hosts).await;
    let (old, other) = (hosts[leader].id(), &hosts[(leader + 1) % 3]);
    set_role(other, old, Role::Worker).await;
    other
        .wait("another leader, without the old one", |p| {
            p.leader.is_some_and(|l| l != old) && !p.membership.contains(old.raft_id())
        })
        .await;
    other.api().network_create(network("shop")).await.expect("two are a majority of two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_manager_cannot_go_and_a_removed_node_is_no_member() {
    let a = Host::found(Storage::default()).await;
    let seen = a.api().node_inspect(&a.id().to_string()).await.expect("there").node;
    let spec = NodeSpec { role: Role::Worker, ..seen.spec };
    assert_eq!(a.api().node_update(a.id(), seen.meta.version, spec).await.expect_err("the last").kind, Kind::Conflict);

    let w = Host::join_worker("second", &a).await;
    let channel = w.tls.channel(&a.addr.to_string(), muster_mtls::Expect::Manager).await.expect("connects");
    let remote = muster_proto::RemoteCluster::new(channel);
    timeout(PATIENCE, remote.leave(false)).await.expect("in time").expect("a worker may leave");
    let id = w.id();
    a.wait("it is down", |p| p.state.node(id).is_some_and(|n| n.status.state == NodeState::Down)).await;
    a.api().node_remove(&id.to_string(), false).await.expect("removed");
    let refused = renew(&w.tls, &[a.addr], &description("second", w.addr)).await.expect_err("no member");
    assert!(refused.to_string().contains("no member"), "{refused}");
    until("its connections are closed", async || {
        !a.tls.connections().list().iter().any(|c| c.identity.is_some_and(|i| i.node_id == id))
    })
    .await;
}
