//! Prints how fast plans are made and applied: placements per second on 10 000 nodes, and what a large state costs.
//!
//! `cargo run --release -p muster-controller-core --example placements [TASKS]`; TASKS (default 1 000 000) are placed first.

use muster_model::{
    NodeId, ServiceId, Timestamp,
    cluster::{Endpoint, Meta, Node, NodeDescription, NodeState, NodeStatus, Service, TaskState, TaskStatus, Version},
    spec::{ContainerSpec, EndpointSpec, Labels, Mode, NodeSpec, Role, ServiceSpec, TaskSpec, UpdateConfig},
};
use muster_plan::{IdSource, Planner};
use muster_state::{Change, Entry, Group, State};
use std::time::Duration;

const NODES: u128 = 10_000;

/// The CPU time of this thread: other load on the machine does not count.
struct Cpu(Duration);

impl Cpu {
    fn read() -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    fn now() -> Self {
        Self(Self::read())
    }

    fn elapsed(&self) -> Duration {
        Self::read() - self.0
    }
}

struct Bench {
    state: State,
    planner: Planner,
    ids: IdSource,
    planning: Duration,
    applying: Duration,
    coding: Duration,
}

impl Bench {
    fn apply(&mut self, groups: Vec<Group>) {
        let entry = Entry { time: Timestamp::from_millis(1), groups, ..Entry::default() };
        let start = Cpu::now();
        let bytes = entry.encode();
        let entry = Entry::decode(&bytes).expect("own entries decode");
        self.coding += start.elapsed();
        let start = Cpu::now();
        let applied = self.state.apply(self.state.index() + 1, &entry).expect("in order");
        self.applying += start.elapsed();
        let start = Cpu::now();
        self.planner.observe(&self.state, &applied.events);
        self.planning += start.elapsed();
    }

    fn plan(&mut self) -> usize {
        let start = Cpu::now();
        let plan = self.planner.plan(&self.state, Timestamp::from_millis(2), &mut self.ids);
        self.planning += start.elapsed();
        let changes = plan.groups.iter().map(|(_, g)| g.changes.len()).sum();
        self.apply(plan.groups.into_iter().map(|(_, g)| g).collect());
        changes
    }

    /// Creates services until there are `tasks` more, and places their tasks.
    fn create(&mut self, tasks: u64, per_service: u64) {
        let mut left = tasks;
        while left > 0 {
            let mut changes = Vec::new();
            while left > 0 && (changes.len() as u64 * per_service) < 20_000 {
                let n = per_service.min(left);
                changes.push(Change::put(service(&mut self.ids, n)));
                left -= n;
            }
            self.apply(vec![Group { changes, ..Group::default() }]);
            while self.planner.deadline() == Some(Timestamp::ZERO) {
                self.plan();
            }
        }
    }

    fn measure(&mut self, tasks: u64, per_service: u64) {
        (self.planning, self.applying, self.coding) = Default::default();
        self.create(tasks, per_service);
        let rate = |d: Duration| tasks as f64 / d.as_secs_f64() / 1000.0;
        let (plan, apply, code) = (rate(self.planning), rate(self.applying), rate(self.coding));
        println!(
            "{per_service:>6} tasks per service: plan {plan:8.1} k/s, apply {apply:8.1} k/s, encode+decode {code:8.1} k/s"
        );
    }
}

fn service(ids: &mut IdSource, replicas: u64) -> Service {
    let id: ServiceId = ids.id();
    let mut task =
        TaskSpec { container: ContainerSpec { image: "busybox".into(), ..Default::default() }, ..Default::default() };
    task.resources.reservations.nano_cpus = 1_000_000;
    task.resources.reservations.memory_bytes = 1 << 20;
    Service {
        id,
        meta: Meta::default(),
        spec: ServiceSpec {
            name: id.to_string(),
            labels: Labels::new(),
            mode: Mode::Replicated { replicas },
            task,
            endpoint: EndpointSpec::default(),
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
            networks_beside: false,
        },
        previous_spec: None,
        spec_version: Version::ABSENT,
        endpoint: Endpoint::default(),
        update_status: None,
        removing: false,
    }
}

fn node(n: u128) -> Node {
    Node {
        id: NodeId::from_u128(n),
        meta: Meta::default(),
        spec: NodeSpec::default(),
        role: Role::Worker,
        description: NodeDescription {
            hostname: format!("n{n}"),
            nano_cpus: 64_000_000_000,
            memory_bytes: 512 << 30,
            ..Default::default()
        },
        status: NodeStatus { state: NodeState::Ready, ..Default::default() },
        manager_addr: None,
    }
}

fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) / 256
}

fn main() {
    let tasks: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let state = State::new();
    let planner = Planner::new(&state);
    let (planning, applying, coding) = Default::default();
    let mut bench = Bench { state, planner, ids: IdSource::new([7; 4]), planning, applying, coding };
    bench.apply(vec![Group { changes: (1..=NODES).map(|n| Change::put(node(n))).collect(), ..Group::default() }]);
    bench.measure(tasks, 1000);
    println!("{} tasks on {NODES} nodes: {} MiB resident", bench.state.task_count(), resident_mib());
    for per_service in [1, 10, 100, 1000, 10_000] {
        bench.measure(if per_service == 1 { 2_000 } else { 20_000 }, per_service);
    }
    large_state(&mut bench);
}

fn large_state(bench: &mut Bench) {
    let start = Cpu::now();
    let snapshot = bench.state.snapshot();
    println!("snapshot: {:?}", start.elapsed());
    let start = Cpu::now();
    let reports: Vec<Change> = bench
        .state
        .tasks()
        .take(20_000)
        .map(|t| Change::TaskStatus {
            task: t.id,
            status: TaskStatus { state: TaskState::Running, ..TaskStatus::default() },
        })
        .collect();
    let count = reports.len();
    bench.apply(vec![Group { changes: reports, ..Group::default() }]);
    println!("{count} reports beside a snapshot: {:?}", start.elapsed());
    let start = Cpu::now();
    let pairs: Vec<_> = snapshot.pairs().collect();
    let bytes: usize = pairs.iter().map(|(k, v)| k.len() + v.len()).sum();
    println!("encode: {:?}, {} MiB in {} pairs", start.elapsed(), bytes >> 20, pairs.len());
    let start = Cpu::now();
    let restored = State::restore(pairs).expect("own pairs restore");
    println!("restore: {:?}, {} tasks", start.elapsed(), restored.task_count());
    let start = Cpu::now();
    Planner::new(&restored);
    println!("a new leader's planner: {:?}", start.elapsed());
}
