//! Agents' sessions with the leader.

use crate::certificates::forged_with_the_real_key;
use crate::harness::{Host, PATIENCE, description, leader_of, service, three, until};
use muster_calls::{Ask, Cluster, Kind, Load, TaskQuery};
use muster_controller::{Published, Storage, renew};
use muster_model::{
    Timestamp,
    assignment::{Assignment, AssignmentSet, AssignmentUpdate, TaskReport},
    cluster::{ClusterSpec, NodeState, Task, TaskState, TaskStatus},
};
use muster_mtls::{CertRole, Expect};
use muster_proto::{LEADER_KEY, MAX_MESSAGE_BYTES, v1};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// An agent as its manager sees it.
pub struct Agent {
    up: mpsc::Sender<v1::AgentMessage>,
    down: Streaming<v1::ManagerMessage>,
    set: AssignmentSet,
    role: String,
    managers: usize,
    /// The last reports that the state holds.
    taken: u64,
}

impl Agent {
    pub async fn open(of: &Host, at: &Host) -> Result<Self, Status> {
        let channel = of.tls.channel(&at.addr.to_string(), Expect::Manager).await.expect("connects");
        let (up, rx) = mpsc::channel(16);
        let hello = v1::Hello { description: serde_json::to_vec(&description("agent", of.addr)).expect("JSON").into() };
        up.send(v1::AgentMessage { of: Some(v1::agent_message::Of::Hello(hello)) }).await.expect("room");
        let client = v1::dispatch_client::DispatchClient::new(channel);
        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        let down = client.session(ReceiverStream::new(rx)).await?.into_inner();
        let mut agent = Self { up, down, set: AssignmentSet::default(), role: String::new(), managers: 0, taken: 0 };
        assert!(matches!(agent.next().await?, v1::manager_message::Of::Welcome(w) if w.heartbeat_period_ms > 0));
        Ok(agent)
    }

    async fn next(&mut self) -> Result<v1::manager_message::Of, Status> {
        let message = timeout(PATIENCE, self.down.message()).await;
        let message = message.unwrap_or_else(|_| panic!("nothing in time; {} tasks so far", self.tasks().len()))?;
        message.and_then(|m| m.of).ok_or_else(|| Status::cancelled("the session ended"))
    }

    /// Takes in messages until the agent knows what is wanted.
    pub async fn until(&mut self, wanted: impl Fn(&Self) -> bool) -> Result<(), Status> {
        while !wanted(self) {
            match self.next().await? {
                v1::manager_message::Of::Assignments(a) => {
                    let update: AssignmentUpdate = rmp_serde::from_slice(&a.update).expect("an update");
                    self.set.apply(update).expect("deltas follow each other");
                }
                v1::manager_message::Of::Managers(m) => (self.role, self.managers) = (m.role, m.managers.len()),
                v1::manager_message::Of::ReportsTaken(taken) => self.taken = taken.sequence,
                v1::manager_message::Of::Refused(r) => panic!("nobody asked for a place: {}", r.message),
                v1::manager_message::Of::Welcome(_) => panic!("a second welcome"),
            }
        }
        Ok(())
    }

    pub fn tasks(&self) -> Vec<Arc<Task>> {
        let tasks = self.set.items.values().filter_map(|a| match a {
            Assignment::Task(t) if t.desired <= TaskState::Running => Some(t.clone()),
            _ => None,
        });
        tasks.collect()
    }

    async fn say(&self, of: v1::agent_message::Of) {
        // The session may have been ended.
        let _ = self.up.send(v1::AgentMessage { of: Some(of) }).await;
    }

    async fn report(&self, state: TaskState) {
        let status = |t: &Arc<Task>| TaskReport {
            task: t.id,
            status: TaskStatus { state, at: Timestamp(muster_mtls::now().0), ..TaskStatus::default() },
        };
        let reports: Vec<TaskReport> = self.tasks().iter().map(status).collect();
        let reports = rmp_serde::to_vec_named(&reports).expect("encodes").into();
        self.say(v1::agent_message::Of::Reports(v1::Reports { sequence: 7, reports })).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_reaches_its_node_in_two_consensus_rounds_and_reports_come_back() {
    let host = Host::found(Storage::default()).await;
    let worker = Host::join_worker("w", &host).await;
    let mut agent = Agent::open(&worker, &host).await.expect("opened");
    agent.until(|a| a.role == "worker" && a.managers == 1).await.expect("told of the managers");
    let id = worker.id();
    host.wait("the node is ready", |p| p.state.node(id).is_some_and(|n| n.status.state == NodeState::Ready)).await;

    let before = host.controller().published().proposals;
    host.api().service_create(service("web", 3)).await.expect("created");
    agent.until(|a| a.tasks().len() == 3).await.expect("assigned");
    let tasks = host.api().task_list(TaskQuery::default()).await.expect("tasks");
    assert!(tasks.iter().all(|t| t.status.state == TaskState::Assigned && t.node == Some(id)), "{tasks:?}");
    assert_eq!(host.controller().published().proposals - before, 2, "the service, then its tasks up to ASSIGNED");

    agent.report(TaskState::Running).await;
    agent.until(|a| a.taken == 7).await.expect("the reports are part of the state");
    until("the tasks run", async || host.api().service_inspect("web").await.expect("there").running_tasks == 3).await;
}

/// What asks for a node of this host's for one container.
fn ask(of: &Host) -> Ask {
    Ask { loads: [(of.id(), Load::default())].into(), ..Ask::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_waits_for_a_new_leader_to_hear_from_its_nodes() {
    let spec = ClusterSpec { node_timeout: Duration::from_secs(20), ..ClusterSpec::default() };
    let mut host = Host::found_with(Storage::default(), spec).await;
    let agent = Agent::open(&host, &host).await.expect("opened");
    let id = host.id();
    let is = |state| move |p: &Arc<Published>| p.leading && p.state.node(id).is_some_and(|n| n.status.state == state);
    host.wait("the node is ready", is(NodeState::Ready)).await;
    host.crash().await;
    drop(agent);
    host.resume().await;
    host.wait("the new leader has not heard from it", is(NodeState::Unknown)).await;
    let (api, wanted) = (host.api(), ask(&host));
    let mut placing = tokio::spawn(async move { api.place(wanted).await });
    let early = timeout(Duration::from_millis(300), &mut placing).await;
    assert!(early.is_err(), "answered from ignorance: {early:?}");
    let _agent = Agent::open(&host, &host).await.expect("opened");
    let placed = timeout(PATIENCE, placing).await.expect("in time").expect("no panic").expect("placed");
    assert_eq!(placed.node, id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_waits_no_longer_than_its_node_may_be_silent() {
    let spec = ClusterSpec { node_timeout: Duration::from_secs(2), ..ClusterSpec::default() };
    let host = Host::found_with(Storage::default(), spec).await;
    let refused = host.api().place(ask(&host)).await.expect_err("the node never came");
    assert!(refused.kind == Kind::Conflict && refused.message.contains("1 of 1: not ready"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_drops_no_session_and_one_that_is_not_renewed_does() {
    // Nobody is lost for want of heartbeats here.
    let spec = ClusterSpec { node_timeout: Duration::from_secs(600), ..ClusterSpec::default() };
    let host = Host::found_with(Storage::default(), spec).await;
    let (worker, idle) = (Host::join_worker("w", &host).await, Host::join_worker("idle", &host).await);
    for node in [&worker, &idle] {
        let short = forged_with_the_real_key(&host, CertRole::Worker, node.id(), muster_mtls::now());
        node.tls.install(short.credentials()).expect("installed");
    }
    let end = idle.tls.leaf().not_after;
    let mut agent = Agent::open(&worker, &host).await.expect("opened");
    let mut lost = Agent::open(&idle, &host).await.expect("opened");
    let given = renew(&worker.tls, &[host.addr], &description("agent", worker.addr)).await.expect("renewed");
    assert!(given.credentials.leaf().not_after > end);
    worker.tls.install(given.credentials).expect("installed");
    assert!(worker.tls.show().await.is_empty(), "the manager is there");

    // Well after the short ones' end, and the minute that a guest may stay.
    assert!(host.tls.connections().close_expired(end.after(Duration::from_secs(61))) > 0);
    lost.until(|_| false).await.expect_err("its session ended with its certificate");
    host.api().service_create(service("web", 2)).await.expect("created");
    agent.until(|a| !a.tasks().is_empty()).await.expect("the old stream goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_read_loses_its_session_and_holds_up_nobody() {
    // Nobody is lost for want of heartbeats here.
    let spec = ClusterSpec { node_timeout: Duration::from_secs(600), ..ClusterSpec::default() };
    let host = Host::found_with(Storage::default(), spec).await;
    let (deaf, other) = (Host::join_worker("deaf", &host).await, Host::join_worker("other", &host).await);
    let mut sleeper = Agent::open(&deaf, &host).await.expect("opened");
    let mut reader = Agent::open(&other, &host).await.expect("opened");
    let ids = [deaf.id(), other.id()];
    host.wait("both are ready", |p| {
        ids.iter().all(|id| p.state.node(*id).is_some_and(|n| n.status.state == NodeState::Ready))
    })
    .await;
    // Each node gets a task of each, 80 KB: far more than a stream's window (2 MiB) and its queue hold.
    const SERVICES: usize = 160;
    for n in 0..SERVICES {
        let mut spec = service(&format!("s{n}"), 2);
        spec.task.container.env = (0..40).map(|n| format!("V{n}={}", "x".repeat(2000))).collect();
        host.api().service_create(spec).await.expect("created");
        reader.until(|a| a.tasks().len() > n).await.expect("the other one reads on");
    }
    let ended = sleeper.until(|_| false).await.expect_err("ended");
    assert_eq!(ended.code(), Code::ResourceExhausted, "{ended}");
    let mut again = Agent::open(&deaf, &host).await.expect("opened again");
    again.until(|a| a.tasks().len() == SERVICES).await.expect("it is sent the whole set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_agent_is_lost_and_one_that_opens_again_replaces_its_session() {
    let spec = ClusterSpec {
        heartbeat_period: Duration::from_millis(100),
        node_timeout: Duration::from_millis(1500),
        ..ClusterSpec::default()
    };
    let host = Host::found_with(Storage::default(), spec).await;
    let worker = Host::join_worker("w", &host).await;
    let id = worker.id();
    let mut first = Agent::open(&worker, &host).await.expect("opened");
    let mut second = Agent::open(&worker, &host).await.expect("opened again");
    let replaced = first.until(|_| false).await.expect_err("the older session ends");
    assert_eq!(replaced.code(), Code::Aborted);
    assert!(replaced.message().contains("another session"), "{replaced}");
    second.say(v1::agent_message::Of::Heartbeat(v1::Heartbeat {})).await;
    host.wait("ready", |p| p.state.node(id).is_some_and(|n| n.status.state == NodeState::Ready)).await;
    let silent = second.until(|_| false).await.expect_err("no heartbeat");
    assert_eq!(silent.code(), Code::Aborted);
    host.wait("down", |p| p.state.node(id).is_some_and(|n| n.status.state == NodeState::Down)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sends_the_agent_to_the_leader_and_a_lost_leader_ends_its_sessions() {
    let hosts = three(Storage::default()).await;
    let leader = leader_of(&hosts).await;
    let worker = Host::join_worker("w", &hosts[leader]).await;
    let follower = &hosts[(leader + 1) % 3];
    let refused = Agent::open(&worker, follower).await.map(drop).expect_err("not the leader");
    assert_eq!(refused.code(), Code::Unavailable);
    let named = refused.metadata().get(LEADER_KEY).and_then(|v| v.to_str().ok().map(str::to_owned));
    assert_eq!(named, Some(hosts[leader].addr.to_string()));

    let mut agent = Agent::open(&worker, &hosts[leader]).await.expect("opened");
    agent.until(|a| a.managers == 3).await.expect("told");
    hosts[leader].controller().shutdown().await;
    agent.until(|_| false).await.expect_err("ended");
    let old = hosts[leader].id();
    follower.wait("another leader", |p| p.leader.is_some_and(|l| l != old)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begins_with_hello_and_reads_reports_that_decode() {
    let host = Host::found(Storage::default()).await;
    let worker = Host::join_worker("w", &host).await;
    let channel = worker.tls.channel(&host.addr.to_string(), Expect::Manager).await.expect("connects");
    let mut client = v1::dispatch_client::DispatchClient::new(channel);
    let heartbeat = v1::AgentMessage { of: Some(v1::agent_message::Of::Heartbeat(v1::Heartbeat {})) };
    assert_eq!(
        client.session(tokio_stream::once(heartbeat)).await.expect_err("no hello").code(),
        Code::InvalidArgument
    );
    let hello = v1::AgentMessage { of: Some(v1::agent_message::Of::Hello(v1::Hello { description: "{".into() })) };
    assert_eq!(client.session(tokio_stream::once(hello)).await.expect_err("no JSON").code(), Code::InvalidArgument);

    let mut agent = Agent::open(&worker, &host).await.expect("opened");
    agent.say(v1::agent_message::Of::Reports(v1::Reports { sequence: 1, reports: "garbage".into() })).await;
    assert_eq!(agent.until(|_| false).await.expect_err("garbage").code(), Code::InvalidArgument);
}
