//! One manager that leads alone, agents that do as they are told, and a clock that tests move.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use muster_controller_core::{
    Call, CallError, CloseReason, ClusterEvent, Config, Effect, Input, Manager, NewCluster, Now, PeerChange,
    Registration, Reply, SessionId, Token, events_of,
};
use muster_model::{
    ClusterId, NodeId, ServiceId, TaskId, Timestamp,
    assignment::{Assignment, AssignmentSet, TaskReport},
    cluster::{ClusterSpec, NodeDescription, Task, TaskState, TaskStatus},
    spec::{
        Availability, ContainerSpec, EndpointSpec, Labels, Mode, NetworkSpec, PublishedPort, RestartPolicy, Role,
        ServiceSpec, TaskSpec, UpdateConfig,
    },
};
use muster_state::{Entry, State};
use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

pub const SECOND: Duration = Duration::from_secs(1);

/// An agent that runs everything at once; images that end in `:bad` fail, in `:once` complete, in `:nope` cannot be had.
#[derive(Debug, Default)]
pub struct Agent {
    pub session: Option<SessionId>,
    pub set: AssignmentSet,
    pub running: BTreeMap<TaskId, TaskState>,
    /// What was said in this session. A new one begins with saying everything again.
    pub reported: BTreeMap<TaskId, TaskState>,
    pub updates: usize,
}

impl Agent {
    /// What it was told, but for who else is a member.
    pub fn told_besides_nodes(&self) -> Vec<muster_model::assignment::AssignmentKey> {
        use muster_model::assignment::AssignmentKey;
        self.set.items.keys().filter(|k| !matches!(k, AssignmentKey::Node(_))).copied().collect()
    }
}

pub struct Cluster {
    pub manager: Manager,
    pub now: Now,
    pub index: u64,
    pub agents: BTreeMap<NodeId, Agent>,
    /// Entries that consensus has not committed yet.
    pub log: VecDeque<Entry>,
    /// Whether entries commit by themselves.
    pub auto: bool,
    pub proposals: Vec<Entry>,
    pub replies: BTreeMap<Token, Result<Reply, CallError>>,
    pub closed: Vec<(NodeId, CloseReason)>,
    pub peers: Vec<PeerChange>,
    pub transfers: Vec<NodeId>,
    /// What was told of changes to who listens.
    pub told: Vec<ClusterEvent>,
    next_token: u64,
    next_session: u64,
    committing: bool,
}

pub fn node_id(n: u128) -> NodeId {
    NodeId::from_u128(n)
}

pub fn description(n: u8) -> NodeDescription {
    NodeDescription {
        hostname: format!("n{n}"),
        os: "linux".into(),
        arch: "x86_64".into(),
        nano_cpus: 4_000_000_000,
        memory_bytes: 8 << 30,
        vtep: Some(Ipv4Addr::new(192, 168, 0, n)),
        ..NodeDescription::default()
    }
}

pub fn registration(n: u8, role: Role) -> Registration {
    Registration {
        node: node_id(n.into()),
        role,
        availability: Availability::Active,
        labels: Labels::new(),
        description: description(n),
        manager_addr: (role == Role::Manager).then(|| ([192, 168, 0, n], 2377).into()),
    }
}

pub fn service(name: &str, replicas: u64) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        labels: Labels::new(),
        mode: Mode::Replicated { replicas },
        task: TaskSpec {
            container: ContainerSpec { image: "busybox".into(), ..Default::default() },
            restart: RestartPolicy { delay: Duration::ZERO, ..Default::default() },
            ..Default::default()
        },
        endpoint: EndpointSpec::default(),
        update: UpdateConfig { monitor: Duration::ZERO, ..Default::default() },
        rollback: UpdateConfig::default(),
        networks_beside: false,
    }
}

pub fn published(mut spec: ServiceSpec, port: u16) -> ServiceSpec {
    spec.endpoint.ports.push(PublishedPort { target: 80, published: port, ..Default::default() });
    spec
}

impl Cluster {
    /// A cluster of one manager, node 1, and `workers` more nodes, all with a session.
    pub fn new(workers: u8) -> Self {
        let mut c = Self {
            manager: Manager::new(Config::new(node_id(1), [1, 2, 3, 4]), State::new()),
            now: Now { mono: Duration::from_secs(100), wall: Timestamp::from_millis(1_700_000_000_000) },
            index: 0,
            agents: BTreeMap::new(),
            log: VecDeque::new(),
            auto: true,
            proposals: Vec::new(),
            replies: BTreeMap::new(),
            closed: Vec::new(),
            peers: Vec::new(),
            transfers: Vec::new(),
            told: Vec::new(),
            next_token: 0,
            next_session: 0,
            committing: false,
        };
        c.input(Input::Membership { voters: vec![1], learners: vec![] });
        c.input(Input::Leading { term: 1 });
        let cluster = NewCluster {
            id: ClusterId::from_u128(7),
            spec: ClusterSpec::default(),
            ca_cert_pem: String::new(),
            ca_key_sealed: Vec::new(),
            worker_secret: "w".into(),
            manager_secret: "m".into(),
            address_pool: "10.0.0.0/8".parse().expect("valid"),
            subnet_prefix: 24,
        };
        c.ok(Call::Init { cluster: Box::new(cluster), first: registration(1, Role::Manager) });
        for n in 2..=workers + 1 {
            c.ok(Call::Register(registration(n, Role::Worker)));
        }
        for n in 1..=workers + 1 {
            c.connect(n);
        }
        c
    }

    pub fn state(&self) -> &State {
        self.manager.state()
    }

    pub fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.manager.handle(self.now, input, &mut out);
        for effect in out {
            self.perform(effect);
        }
        if self.committing {
            return;
        }
        self.committing = true;
        let mut rounds = 0;
        while self.auto
            && let Some(entry) = self.log.pop_front()
        {
            rounds += 1;
            assert!(rounds < 5_000, "the manager does not come to rest: it goes on with {:#?}", entry.groups);
            self.commit(entry);
        }
        self.committing = false;
    }

    /// Commits the oldest open entry, through its bytes.
    pub fn commit_next(&mut self) {
        let entry = self.log.pop_front().expect("an entry is open");
        self.commit(entry);
    }

    fn commit(&mut self, entry: Entry) {
        self.index += 1;
        let entry = Entry::decode(&entry.encode()).expect("own entries decode");
        self.input(Input::Committed { index: self.index, entry });
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { entry, .. } => {
                self.proposals.push(entry.clone());
                self.log.push_back(entry);
            }
            Effect::Reply { token, result } => {
                assert!(self.replies.insert(token, result).is_none(), "{token:?} was answered twice");
            }
            Effect::SendAssignments { node, session, update } => {
                let agent = self.agents.get_mut(&node).expect("a known agent");
                assert_eq!(agent.session, Some(session), "sent down a session that is open");
                agent.set.apply(update).expect("deltas fit");
                agent.updates += 1;
            }
            Effect::CloseSession { node, session, why } => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.session == Some(session)) {
                    agent.session = None;
                }
                self.closed.push((node, why));
            }
            Effect::ChangeMembership(change) => self.peers.push(change),
            Effect::TransferLeadership { to } => self.transfers.push(to),
            Effect::Applied(applied) => self.told.extend(events_of(&applied)),
            Effect::Halt(e) => panic!("halted: {e}"),
        }
    }

    pub fn begin(&mut self, call: Call) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.input(Input::Call { token, call: Box::new(call), trace_parent: Some("00-trace".into()) });
        token
    }

    pub fn call(&mut self, call: Call) -> Result<Reply, CallError> {
        let token = self.begin(call);
        self.replies.remove(&token).expect("answered")
    }

    pub fn ok(&mut self, call: Call) -> Reply {
        self.call(call).expect("accepted")
    }

    pub fn create(&mut self, spec: ServiceSpec) -> ServiceId {
        match self.ok(Call::ServiceCreate { spec: Box::new(spec) }) {
            Reply::Service { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn network(&mut self, name: &str) {
        self.ok(Call::NetworkCreate { spec: NetworkSpec { name: name.into(), ..Default::default() } });
    }

    pub fn connect(&mut self, n: u8) {
        self.next_session += 1;
        let session = SessionId(self.next_session);
        let agent = self.agents.entry(node_id(n.into())).or_default();
        agent.session = Some(session);
        agent.reported.clear();
        self.input(Input::SessionOpened { node: node_id(n.into()), session, description: Box::new(description(n)) });
    }

    /// The agent's connection breaks, and it does not come back by itself.
    pub fn disconnect(&mut self, n: u8) {
        let agent = self.agents.get_mut(&node_id(n.into())).expect("a known agent");
        if let Some(session) = agent.session.take() {
            self.input(Input::SessionClosed { node: node_id(n.into()), session });
        }
    }

    /// Time passes in small steps; agents with a session say that they live.
    pub fn pass(&mut self, time: Duration) {
        let step = Duration::from_millis(250);
        let end = self.now.mono + time;
        while self.now.mono < end {
            self.now.mono += step;
            self.now.wall = self.now.wall.after(step);
            let alive: Vec<_> = self.agents.iter().filter_map(|(n, a)| Some((*n, a.session?))).collect();
            for (node, session) in alive {
                self.input(Input::Heartbeat { node, session });
            }
            if self.manager.deadline(self.now).is_some_and(|at| at <= self.now.mono) {
                self.input(Input::Tick);
            }
        }
    }

    /// Agents do what their assignments say and report it, until nothing changes.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            let before = self.proposals.len();
            self.run_agents();
            if self.proposals.len() == before {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    pub fn run_agents(&mut self) {
        let nodes: Vec<_> = self.agents.iter().filter(|(_, a)| a.session.is_some()).map(|(n, _)| *n).collect();
        for node in nodes {
            let agent = self.agents.get_mut(&node).expect("listed");
            let session = agent.session.expect("filtered");
            let tasks: Vec<Arc<Task>> = agent
                .set
                .items
                .values()
                .filter_map(|a| if let Assignment::Task(t) = a { Some(t.clone()) } else { None })
                .collect();
            agent.running.retain(|id, _| tasks.iter().any(|t| t.id == *id));
            let mut reports = Vec::new();
            for task in tasks {
                let old = agent.running.get(&task.id).copied().unwrap_or(TaskState::Assigned);
                let new = advance(&task, old);
                agent.running.insert(task.id, new);
                if new > TaskState::Assigned && agent.reported.insert(task.id, new) != Some(new) {
                    let status = TaskStatus { state: new, at: self.now.wall, ..Default::default() };
                    reports.push(TaskReport { task: task.id, status });
                }
            }
            if !reports.is_empty() {
                self.next_token += 1;
                self.input(Input::Reports { node, session, token: Token(self.next_token), reports });
            }
        }
    }

    /// Tasks of a service that run and are to run, by node.
    pub fn running(&self, service: ServiceId) -> BTreeMap<NodeId, usize> {
        let mut by_node = BTreeMap::new();
        for t in self.state().tasks_of_service(service) {
            if t.status.state == TaskState::Running && t.desired == TaskState::Running {
                *by_node.entry(t.node.expect("runs somewhere")).or_default() += 1;
            }
        }
        by_node
    }

    pub fn service_version(&self, id: ServiceId) -> muster_model::cluster::Version {
        self.state().service(id).expect("exists").meta.version
    }
}

fn advance(task: &Task, state: TaskState) -> TaskState {
    if state.is_terminal() {
        return state;
    }
    if task.status.state.is_terminal() {
        return task.status.state;
    }
    match task.desired {
        TaskState::Ready | TaskState::Running if task.spec.container.image.ends_with(":nope") => TaskState::Rejected,
        TaskState::Ready => TaskState::Ready,
        TaskState::Running if task.spec.container.image.ends_with(":bad") => TaskState::Failed,
        TaskState::Running if task.spec.container.image.ends_with(":once") => TaskState::Complete,
        TaskState::Running => TaskState::Running,
        _ => TaskState::Shutdown,
    }
}
