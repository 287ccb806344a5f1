//! Random operations, faults and leader changes against one manager; after each the invariants hold, and after healing
//! the cluster is what the specs say.

mod cluster;

use cluster::{Cluster, SECOND, node_id, published, service};
use muster_controller_core::{Call, Input};
use muster_model::{
    NodeId, ServiceId, TaskId, Timestamp,
    assignment::{Assignment, AssignmentKey},
    cluster::{Task, TaskState, UpdateState},
    spec::{Availability, Mode, NetworkAttachment, NodeSpec, PublishMode, PublishedPort, ServiceSpec, UpdateOrder},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

/// Random operations per seed.
const STEPS: usize = 60;
const NODES: u8 = 4;
const NAMES: [&str; 4] = ["web", "api", "db", "mail"];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

fn random_spec(dice: &mut Dice, name: &str) -> ServiceSpec {
    let mut spec = service(name, dice.roll(6));
    if dice.one_in(4) {
        spec.mode = Mode::Global;
    }
    if dice.one_in(2) {
        spec.task.networks.push(NetworkAttachment { target: "shop".into(), aliases: vec![] });
    }
    if dice.one_in(3) {
        let port = if dice.one_in(2) { 0 } else { 8000 + u16::try_from(dice.roll(3)).expect("small") };
        spec = published(spec, port);
    }
    if dice.one_in(5) {
        spec.endpoint.ports.push(PublishedPort {
            target: 53,
            published: 5353,
            mode: PublishMode::Host,
            ..Default::default()
        });
    }
    if dice.one_in(3) {
        spec.task.resources.reservations.memory_bytes = 1 << 30;
    }
    if dice.one_in(4) {
        spec.task.placement.constraints.push("node.role==worker".into());
    }
    if dice.one_in(4) {
        spec.task.placement.max_replicas_per_node = 2;
    }
    if dice.one_in(3) {
        spec.update.order = UpdateOrder::StartFirst;
    }
    spec.update.parallelism = dice.roll(3);
    spec.task.restart.delay = Duration::from_millis(500 * dice.roll(3));
    spec.task.container.image =
        ["busybox", "busybox:2", "busybox:3", "busybox:bad", "busybox:once"][dice.roll(5) as usize].into();
    spec
}

fn any_service(c: &Cluster, dice: &mut Dice) -> Option<(ServiceId, ServiceSpec)> {
    let all: Vec<_> = c.state().services().filter(|s| !s.removing).map(|s| (s.id, s.spec.clone())).collect();
    (!all.is_empty()).then(|| all[dice.roll(all.len() as u64) as usize].clone())
}

/// One random thing; refusals are fine.
fn step(c: &mut Cluster, dice: &mut Dice) {
    let n = 1 + u8::try_from(dice.roll(NODES.into())).expect("small");
    match dice.roll(13) {
        0 => {
            let name = NAMES[dice.roll(4) as usize];
            let spec = random_spec(dice, name);
            c.begin(Call::ServiceCreate { spec: Box::new(spec) });
        }
        1 => {
            if let Some((id, old)) = any_service(c, dice) {
                let mut spec = random_spec(dice, &old.name);
                if spec.mode == Mode::Global || old.mode == Mode::Global {
                    spec.mode = old.mode;
                }
                let version = c.service_version(id);
                c.begin(Call::ServiceUpdate { id, version, spec: Box::new(spec) });
            }
        }
        2 => {
            if let Some((id, _)) = any_service(c, dice) {
                let version = c.service_version(id);
                c.begin(Call::ServiceRollback { id, version });
            }
        }
        3 => {
            let name = NAMES[dice.roll(4) as usize].to_owned();
            c.begin(Call::ServiceRemove { name });
        }
        4 => c.disconnect(n),
        5 => c.connect(n),
        6 => {
            let availability = [Availability::Active, Availability::Pause, Availability::Drain][dice.roll(3) as usize];
            availability_of(c, n, availability);
        }
        7 => {
            c.input(Input::Following { leader: None });
            // Whoever leads next has a beginning of what was proposed, and has applied it when it takes office.
            let kept = dice.roll(c.log.len() as u64 + 1) as usize;
            c.log.truncate(kept);
            while !c.log.is_empty() {
                c.commit_next();
            }
            // Its clock is its own.
            let ms = i64::try_from(dice.roll(7_200_000)).expect("small") - 3_600_000;
            c.now.wall = Timestamp(c.now.wall.0 + ms * 1_000_000);
            let term = c.index + 2;
            c.input(Input::Leading { term });
        }
        8 => c.auto = dice.one_in(2),
        9 | 10 => c.pass(Duration::from_millis(250 * (1 + dice.roll(30)))),
        _ => c.run_agents(),
    }
    if !c.auto && !c.log.is_empty() && dice.one_in(2) {
        c.commit_next();
    }
}

fn availability_of(c: &mut Cluster, n: u8, availability: Availability) {
    let node = c.state().node(node_id(n.into())).expect("known").clone();
    let spec = NodeSpec { availability, ..node.spec.clone() };
    c.begin(Call::NodeUpdate { id: node.id, version: node.meta.version, spec });
}

fn check(c: &Cluster, last: &mut BTreeMap<TaskId, TaskState>) {
    let mut addresses: BTreeSet<Ipv4Addr> = BTreeSet::new();
    for service in c.state().services() {
        for vip in service.endpoint.vips.values() {
            assert!(addresses.insert(*vip), "{vip} twice");
        }
    }
    let mut memory: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut ports: BTreeSet<(NodeId, u16)> = BTreeSet::new();
    for task in c.state().tasks() {
        let before = last.insert(task.id, task.status.state).unwrap_or_default();
        assert!(before <= task.status.state, "{} went back from {before:?} to {:?}", task.id, task.status.state);
        let lost = task.status.state == TaskState::Orphaned;
        if lost || !task.status.state.is_terminal() {
            for a in &task.addresses {
                assert!(addresses.insert(a.ip), "{} twice", a.ip);
            }
        }
        if let (Some(node), false, true) =
            (task.node, task.status.state.is_terminal(), task.status.state >= TaskState::Assigned)
        {
            *memory.entry(node).or_default() += task.spec.resources.reservations.memory_bytes;
            for p in &task.host_ports {
                assert!(ports.insert((node, p.published)), "host port {} twice on {node}", p.published);
            }
        }
    }
    assert!(memory.values().all(|m| *m <= 8 << 30), "{memory:?}");
}

fn heal(c: &mut Cluster) {
    c.auto = true;
    while !c.log.is_empty() {
        c.commit_next();
    }
    for n in 1..=NODES {
        availability_of(c, n, Availability::Active);
        c.connect(n);
    }
    for _ in 0..100 {
        c.run_agents();
        c.pass(SECOND);
    }
}

fn converged(c: &Cluster, seed: u64) {
    for service in c.state().services() {
        let name = &service.spec.name;
        assert!(!service.removing, "seed {seed}: {name} is still being removed");
        let status = service.update_status.as_ref().map(|u| u.state);
        let stopped = matches!(status, Some(UpdateState::Paused | UpdateState::RollbackPaused));
        let ends = matches!(service.spec.task.container.image.as_str(), "busybox:bad" | "busybox:once");
        if stopped || ends {
            continue;
        }
        let tasks: Vec<_> =
            c.state().tasks_of_service(service.id).filter(|t| t.desired <= TaskState::Running).collect();
        let running = tasks.iter().filter(|t| t.status.state == TaskState::Running).count();
        let waiting: Vec<_> = tasks.iter().filter(|t| t.status.state < TaskState::Assigned).collect();
        let eligible = if service.spec.task.placement.constraints.is_empty() { 4 } else { 3 };
        let wanted = match service.spec.mode {
            Mode::Replicated { replicas } => usize::try_from(replicas).expect("small"),
            Mode::Global => eligible,
        };
        let slots: BTreeSet<_> = tasks.iter().map(|t| (t.slot, t.node.filter(|_| t.slot == 0))).collect();
        assert_eq!(slots.len(), wanted, "seed {seed}: {name} {status:?}:\n{}", brief(c, service.id));
        for t in &waiting {
            assert!(!t.status.message.is_empty(), "seed {seed}: {name} waits and does not say why");
        }
        if waiting.is_empty() {
            assert_eq!(running, wanted, "seed {seed}: {name} {status:?}:\n{}", brief(c, service.id));
            let stale = tasks.iter().filter(|t| *t.spec != service.spec.task).count();
            assert_eq!(stale, 0, "seed {seed}: {name} has old tasks, update {status:?}:\n{}", brief(c, service.id));
        }
    }
}

fn brief(c: &Cluster, service: ServiceId) -> String {
    let line = |t: &std::sync::Arc<Task>| {
        let node = t.node.map(|n| n.as_u128());
        let (spec, image) = (t.spec_version.0, &t.spec.container.image);
        format!(
            "slot {} node {node:?} spec {spec} {image} desired {:?} is {:?} {}",
            t.slot, t.desired, t.status.state, t.status.message
        )
    };
    let stored = c.state().service(service);
    let head =
        stored.map(|s| format!("{:?} spec {:?} {:?}\n", s.spec.mode, s.spec_version, s.spec.task.container.image));
    let lines: Vec<_> = c.state().tasks_of_service(service).map(line).collect();
    head.unwrap_or_default() + &lines.join("\n")
}

/// What each agent holds, without generations.
fn held(c: &Cluster) -> BTreeMap<NodeId, BTreeMap<AssignmentKey, Assignment>> {
    c.agents.iter().map(|(n, a)| (*n, a.set.items.clone())).collect()
}

/// The indexes that a leader keeps as it goes must be those that a new one builds from nothing.
fn a_new_leader_agrees(c: &mut Cluster, seed: u64) {
    let before = held(c);
    let tasks: Vec<_> = c.state().tasks().cloned().collect();
    let ended = tasks.iter().any(|t| matches!(t.spec.container.image.as_str(), "busybox:bad" | "busybox:once"));
    c.input(Input::Following { leader: None });
    let term = c.index + 2;
    c.input(Input::Leading { term });
    for n in 1..=NODES {
        c.connect(n);
    }
    if !ended {
        let after = held(c);
        for (node, items) in &after {
            let old = &before[node];
            let changed = items.iter().filter(|(k, v)| old.get(k) != Some(v)).map(|(k, _)| k);
            let gone = old.keys().filter(|k| !items.contains_key(k));
            let wrong: Vec<_> = changed.chain(gone).collect();
            assert!(wrong.is_empty(), "seed {seed}: {node} was not told of {wrong:?}");
        }
        // Those that wait say for the moment that nodes are not ready.
        let settled = c.state().tasks().filter(|t| t.status.state >= TaskState::Assigned);
        let changed: Vec<_> = settled.filter(|t| !tasks.contains(t)).map(|t| brief(c, t.service)).collect();
        let gone = tasks.iter().filter(|t| c.state().task(t.id).is_none()).count();
        assert!(
            changed.is_empty() && gone == 0,
            "seed {seed}: the new leader changed tasks ({gone} gone): {}",
            changed.join("\n")
        );
    }
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let mut c = Cluster::new(NODES - 1);
    c.network("shop");
    let mut last = BTreeMap::new();
    for _ in 0..STEPS {
        step(&mut c, &mut dice);
        check(&c, &mut last);
    }
    heal(&mut c);
    check(&c, &mut last);
    converged(&c, seed);
    a_new_leader_agrees(&mut c, seed);
    let restored = muster_state::State::restore(c.state().pairs()).expect("own pairs restore");
    assert_eq!(restored.hash(), c.state().hash());
}

/// How many seeds: `CHAOS_SEEDS`, or a number that takes some seconds.
fn chaos_seeds() -> u64 {
    std::env::var("CHAOS_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(15)
}

#[test]
fn whatever_happens_the_cluster_heals_to_what_the_specs_say() {
    let only = std::env::var("CHAOS_SEED").ok().and_then(|s| s.parse().ok());
    let seeds = only.map_or(0..chaos_seeds(), |seed| seed..seed + 1);
    seeds.for_each(run);
}
