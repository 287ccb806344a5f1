//! A small cluster that is told a story line by line.

use muster_model::{
    ClusterId, NodeId, Timestamp,
    cluster::{
        Cluster, ClusterSpec, Endpoint, Meta, Node, NodeDescription, NodeState, NodeStatus, Service, Task, TaskState,
        TaskStatus, UpdateState, UpdateStatus, Version,
    },
    spec::{
        Availability, ContainerSpec, EndpointSpec, FailureAction, Labels, Mode, NetworkAttachment, NetworkSpec,
        NodeSpec, PublishMode, PublishedPort, RestartCondition, Role, ServiceSpec, TaskSpec, UpdateConfig, UpdateOrder,
    },
};
use muster_plan::{IdSource, Planner, explain, new_network};
use muster_state::{Change, Entry, Group, Key, State};
use std::{fmt::Write, net::Ipv4Addr, sync::Arc, time::Duration};

pub struct Story {
    state: State,
    planner: Planner,
    ids: IdSource,
    now: Timestamp,
}

impl Story {
    pub fn new() -> Self {
        let state = State::new();
        let planner = Planner::new(&state);
        let mut story =
            Self { state, planner, ids: IdSource::new([1; 4]), now: Timestamp::from_millis(1_700_000_000_000) };
        story.apply(vec![Change::put(Cluster {
            id: ClusterId::from_u128(1),
            meta: Meta::default(),
            spec: ClusterSpec { task_history_limit: 2, ..ClusterSpec::default() },
            ca_cert_pem: String::new(),
            ca_key_sealed: Vec::new(),
            worker_secret: String::new(),
            manager_secret: String::new(),
            address_pool: "10.0.0.0/8".parse().expect("valid"),
            subnet_prefix: 24,
            operators: Vec::new(),
        })]);
        story
    }

    /// Obeys one line and says what came of it.
    pub fn command(&mut self, line: &str) -> String {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut words = line.split_whitespace();
        let Some(verb) = words.next() else { return String::new() };
        let rest: Vec<&str> = words.collect();
        let first = rest.first().copied().unwrap_or_default();
        match verb {
            "plan" => return self.plan(),
            "tasks" => return self.tasks(),
            "explain" => return self.explain(first),
            "node" => self.node(first, &rest[1..]),
            "network" => return self.network(first, &rest[1..]),
            "service" => self.service(first, &rest[1..]),
            "update" => self.update(first, &rest[1..]),
            "remove" => self.change_service(first, |s| s.removing = true),
            "run" => self.report_all(first, TaskState::Running),
            "stop" => self.report_stopping(first),
            "report" => self.report(first, rest.get(1).copied().unwrap_or_default()),
            "pass" => {
                self.now = self.now.max(self.state.time()).after(Duration::from_secs(first.parse().expect("seconds")))
            }
            "down" => self.node_state(first, NodeState::Down),
            "up" => self.node_state(first, NodeState::Ready),
            "drain" => self.availability(first, Availability::Drain),
            "pause" => self.availability(first, Availability::Pause),
            "activate" => self.availability(first, Availability::Active),
            "forget" => {
                let id = self.node_named(first).id;
                self.apply(vec![Change::Delete(Key::Node(id))]);
            }
            other => panic!("no command {other:?}"),
        }
        String::new()
    }

    fn apply(&mut self, changes: Vec<Change>) {
        self.apply_groups(vec![Group { changes, ..Group::default() }]);
    }

    fn apply_groups(&mut self, groups: Vec<Group>) {
        let entry = Entry { time: self.now, groups, ..Entry::default() };
        let entry = Entry::decode(&entry.encode()).expect("own entries decode");
        let applied = self.state.apply(self.state.index() + 1, &entry).expect("in order");
        for outcome in &applied.outcomes {
            assert_eq!(outcome.rejection(), None);
        }
        self.planner.observe(&self.state, &applied.events);
    }

    fn plan(&mut self) -> String {
        // As a leader does: never before what the state has seen.
        self.now = self.now.max(self.state.time());
        let plan = self.planner.plan(&self.state, self.now, &mut self.ids);
        let text = plan.describe(&self.state);
        let fresh = Planner::new(&self.state).plan(&self.state, self.now, &mut self.ids.clone());
        assert_eq!(
            plan.is_empty(),
            fresh.is_empty(),
            "a new leader would plan otherwise: {}",
            fresh.describe(&self.state)
        );
        if plan.is_empty() {
            return "nothing to do\n".into();
        }
        self.apply_groups(plan.groups.into_iter().map(|(_, g)| g).collect());
        text
    }

    fn explain(&self, service: &str) -> String {
        let id = self.state.find_service(service).expect("a service of the story").id;
        let waits = self.state.tasks_of_service(id).find(|t| t.status.state == TaskState::Pending).expect("one waits");
        format!("{}\n", explain(&self.state, waits))
    }

    fn tasks(&self) -> String {
        let mut out = String::new();
        let mut tasks: Vec<_> = self.state.tasks().collect();
        tasks.sort_by_key(|t| (t.service_name.clone(), t.slot, t.node, t.meta.created_at, t.desired));
        for t in tasks {
            let node = t.node.and_then(|n| self.state.node(n)).map_or("-", |n| n.description.hostname.as_str());
            let (desired, state) = (t.desired.as_str(), t.status.state.as_str());
            writeln!(
                out,
                "{}.{} {} on {node}: {state}, desired {desired}",
                t.service_name, t.slot, t.spec.container.image
            )
            .expect("a String takes it");
        }
        out
    }

    fn node(&mut self, name: &str, options: &[&str]) {
        let number = self.state.nodes().count() + 1;
        let mut description = NodeDescription {
            hostname: name.into(),
            os: "linux".into(),
            arch: "x86_64".into(),
            nano_cpus: 4_000_000_000,
            memory_bytes: 4 << 30,
            vtep: Some(Ipv4Addr::new(192, 168, 0, u8::try_from(number).expect("few nodes"))),
            ..NodeDescription::default()
        };
        let mut spec = NodeSpec::default();
        for (key, value) in pairs(options) {
            match key {
                "cpus" => description.nano_cpus = value.parse::<u64>().expect("a number") * 1_000_000_000,
                "memory" => description.memory_bytes = value.parse::<u64>().expect("MiB") << 20,
                "role" if value == "manager" => spec.role = Role::Manager,
                "route" => description.routes.push(value.parse().expect("a subnet")),
                "feature" => description.features.push(value.into()),
                label => {
                    spec.labels.insert(label.strip_prefix("label.").expect("an option").into(), value.into());
                }
            }
        }
        self.apply(vec![Change::put(Node {
            id: NodeId::from_u128(number as u128),
            meta: Meta::default(),
            spec,
            role: Role::Worker,
            description,
            status: NodeStatus { state: NodeState::Ready, ..NodeStatus::default() },
            manager_addr: None,
        })]);
    }

    fn node_named(&self, name: &str) -> Arc<Node> {
        self.state.find_node(name).expect("a node of the story").clone()
    }

    fn node_state(&mut self, name: &str, state: NodeState) {
        let node = self.node_named(name).id;
        let status = NodeStatus { state, message: String::new(), since: self.now };
        self.apply(vec![Change::NodeStatus { node, status, description: None }]);
    }

    fn availability(&mut self, name: &str, availability: Availability) {
        let mut node = Node::clone(&self.node_named(name));
        node.spec.availability = availability;
        self.apply(vec![Change::put(node)]);
    }

    fn network(&mut self, name: &str, options: &[&str]) -> String {
        let mut spec = NetworkSpec { name: name.into(), ..NetworkSpec::default() };
        for (key, value) in pairs(options) {
            assert_eq!(key, "subnet");
            spec.subnet = Some(value.parse().expect("a subnet"));
        }
        match new_network(&self.state, spec, self.ids.id()) {
            Err(e) => format!("refused: {e}\n"),
            Ok(network) => {
                let text = format!(
                    "network {name} vni={} subnet={} gateway={}\n",
                    network.vni, network.subnet, network.gateway
                );
                self.apply(vec![Change::put(network)]);
                text
            }
        }
    }

    fn service(&mut self, name: &str, options: &[&str]) {
        let mut spec = ServiceSpec {
            name: name.into(),
            labels: Labels::new(),
            mode: Mode::Replicated { replicas: 1 },
            task: TaskSpec {
                container: ContainerSpec { image: "busybox".into(), ..Default::default() },
                ..Default::default()
            },
            endpoint: EndpointSpec::default(),
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
            networks_beside: false,
        };
        self.options(&mut spec, options);
        spec.validate().expect("a valid spec");
        let service = Service {
            id: self.ids.id(),
            meta: Meta::default(),
            spec,
            previous_spec: None,
            spec_version: Version::ABSENT,
            endpoint: Endpoint::default(),
            update_status: None,
            removing: false,
        };
        self.apply(vec![Change::put(service)]);
    }

    fn change_service(&mut self, name: &str, change: impl FnOnce(&mut Service)) {
        let mut service = Service::clone(self.state.find_service(name).expect("a service of the story"));
        change(&mut service);
        self.apply(vec![Change::put(service)]);
    }

    fn update(&mut self, name: &str, options: &[&str]) {
        let mut spec = self.state.find_service(name).expect("a service of the story").spec.clone();
        self.options(&mut spec, options);
        let now = self.now;
        self.change_service(name, |s| {
            let changed = s.spec.task != spec.task;
            s.previous_spec = Some(Arc::new(std::mem::replace(&mut s.spec, spec)));
            s.update_status = changed.then(|| UpdateStatus {
                state: UpdateState::Updating,
                started_at: now,
                completed_at: Timestamp::ZERO,
                message: "update in progress".into(),
            });
        });
    }

    fn options(&self, spec: &mut ServiceSpec, options: &[&str]) {
        let seconds = |v: &str| Duration::from_secs(v.parse().expect("seconds"));
        for (key, value) in pairs(options) {
            match key {
                "replicas" => spec.mode = Mode::Replicated { replicas: value.parse().expect("a number") },
                "mode" => spec.mode = Mode::Global,
                "image" => spec.task.container.image = value.into(),
                "network" => {
                    let id = self.state.find_network(value).expect("a network of the story").id;
                    spec.task.networks.push(NetworkAttachment { target: id.to_string(), aliases: vec![] });
                }
                "publish" | "host" => {
                    let (published, target) = value.split_once(':').expect("PUBLISHED:TARGET");
                    let mode = if key == "host" { PublishMode::Host } else { PublishMode::Ingress };
                    let (published, target) = (published.parse().expect("a port"), target.parse().expect("a port"));
                    spec.endpoint.ports.push(PublishedPort { target, published, mode, ..Default::default() });
                }
                "constraint" => spec.task.placement.constraints.push(value.into()),
                "spread" => spec.task.placement.spread_over.push(value.into()),
                "per-node" => spec.task.placement.max_replicas_per_node = value.parse().expect("a number"),
                "memory" => spec.task.resources.reservations.memory_bytes = value.parse::<u64>().expect("MiB") << 20,
                "cpus" => {
                    spec.task.resources.reservations.nano_cpus = (value.parse::<f64>().expect("a number") * 1e9) as u64
                }
                "restart" => {
                    spec.task.restart.condition = match value {
                        "none" => RestartCondition::None,
                        "on-failure" => RestartCondition::OnFailure,
                        _ => RestartCondition::Any,
                    };
                }
                "restart-delay" => spec.task.restart.delay = seconds(value),
                "attempts" => spec.task.restart.max_attempts = value.parse().expect("a number"),
                "window" => spec.task.restart.window = seconds(value),
                "parallelism" => spec.update.parallelism = value.parse().expect("a number"),
                "delay" => spec.update.delay = seconds(value),
                "monitor" => spec.update.monitor = seconds(value),
                "order" => spec.update.order = UpdateOrder::StartFirst,
                "on-failure" => {
                    spec.update.failure_action = match value {
                        "rollback" => FailureAction::Rollback,
                        "continue" => FailureAction::Continue,
                        _ => FailureAction::Pause,
                    };
                }
                "max-failure" => spec.update.max_failure_ppm = value.parse().expect("a number"),
                other => panic!("no option {other:?}"),
            }
        }
    }

    /// Tasks of a service that have a node, and have not ended.
    fn live(&self, service: &str) -> Vec<Arc<Task>> {
        let named = self.state.services().find(|s| s.spec.name == service).expect("a service of the story");
        let live = |t: &&Arc<Task>| t.status.state >= TaskState::Assigned && !t.status.state.is_terminal();
        self.state.tasks_of_service(named.id).filter(live).cloned().collect()
    }

    fn observe(&mut self, tasks: impl IntoIterator<Item = Arc<Task>>, state: TaskState) {
        let status = TaskStatus { state, at: self.now, ..TaskStatus::default() };
        let changes = tasks.into_iter().map(|t| Change::TaskStatus { task: t.id, status: status.clone() }).collect();
        self.apply(changes);
    }

    /// Agents start what is to run, and make ready what is to be ready.
    fn report_all(&mut self, service: &str, state: TaskState) {
        for t in self.live(service) {
            let to = state.min(t.desired);
            if t.desired <= TaskState::Running && t.status.state < to {
                self.observe([t], to);
            }
        }
    }

    /// Agents stop what is not to run any more.
    fn report_stopping(&mut self, service: &str) {
        for t in self.live(service) {
            if t.desired > TaskState::Running {
                self.observe([t], TaskState::Shutdown);
            }
        }
    }

    /// `SERVICE.SLOT STATE`, of the task in that slot that lives.
    fn report(&mut self, which: &str, state: &str) {
        let (service, slot) = which.rsplit_once('.').expect("SERVICE.SLOT");
        let state = match state {
            "failed" => TaskState::Failed,
            "complete" => TaskState::Complete,
            "rejected" => TaskState::Rejected,
            "running" => TaskState::Running,
            other => panic!("no state {other:?}"),
        };
        let live = self.live(service);
        let task = live
            .iter()
            .find(|t| t.slot.to_string() == slot && t.desired <= TaskState::Running)
            .expect("a live task in the slot");
        self.observe([task.clone()], state);
    }
}

fn pairs<'a>(options: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    options.iter().map(|o| o.split_once('=').expect("KEY=VALUE")).collect()
}
