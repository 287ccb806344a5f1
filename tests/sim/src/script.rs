//! The clients: lines of things that are asked for one after the other, each until it is answered.
//!
//! A line founds the cluster, others make, change and remove services. An answer that does not come, or says that the
//! outcome is unknown, is followed by asking again: everything here may be asked twice.

use crate::agents::description;
use crate::check::Broken;
use crate::doors::Waiter;
use crate::places;
use crate::rng::Rng;
use crate::time::{MS, SECOND, Time};
use crate::world::{Event, FOUNDED, World, trace};
use muster_controller_core::{Call, CallError, NewCluster, Registration, Reply};
use muster_model::{
    ClusterId,
    cluster::ClusterSpec,
    net::Subnet,
    spec::{
        Availability, ContainerSpec, EndpointSpec, Labels, Mode, NetworkAttachment, NetworkSpec, NodeSpec, Quantity,
        Resources, RestartPolicy, Role, ServiceSpec, TaskSpec, UpdateConfig,
    },
};
use muster_state::State;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long a client waits for an answer.
const PATIENCE: Time = 3 * SECOND;

/// One thing to ask for.
#[derive(Clone, Debug)]
pub enum Ask {
    Init,
    Register {
        host: usize,
    },
    Network {
        name: String,
        /// Containers of no service may join it.
        attachable: bool,
    },
    Create {
        name: String,
        replicas: u64,
        network: Option<String>,
    },
    Replicas {
        name: String,
        replicas: u64,
    },
    Image {
        name: String,
        image: String,
    },
    Remove {
        name: String,
    },
    Availability {
        host: usize,
        availability: Availability,
    },
    /// A manager becomes a worker.
    Demote {
        host: usize,
    },
}

/// One client.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// With the time before which it is not asked.
    asks: Vec<(Time, Ask)>,
    next: usize,
    attempt: u64,
    /// The next ask was sent and may have happened.
    open: bool,
}

/// What a service must be, as far as it was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    pub name: String,
    pub replicas: u64,
    pub image: String,
}

/// All clients.
#[derive(Clone, Debug, Default)]
pub struct Script {
    lines: Vec<Line>,
}

impl Script {
    pub fn draw(rng: &mut Rng, managers: usize, hosts: usize, heal_at: Time) -> Self {
        let mut founding = vec![(0, Ask::Init)];
        founding.extend((1..hosts).map(|host| (100 * MS, Ask::Register { host })));
        founding.push((0, Ask::Network { name: "shop".into(), attachable: false }));
        founding.push((0, Ask::Network { name: places::NETWORK.into(), attachable: true }));
        let mut lines = vec![Line { asks: founding, ..Line::default() }];
        for at in 0..rng.between(1, 3) {
            lines.push(Line { asks: service(rng, &format!("svc{at}"), heal_at), ..Line::default() });
        }
        if rng.percent(40) {
            let host = rng.below(hosts.max(managers) as u64) as usize;
            let begin = rng.between(FOUNDED + SECOND, heal_at);
            let mut asks = vec![(begin, Ask::Availability { host, availability: Availability::Drain })];
            if rng.percent(50) {
                let end = begin + rng.between(1, 5) * SECOND;
                asks.push((end, Ask::Availability { host, availability: Availability::Active }));
            }
            lines.push(Line { asks, ..Line::default() });
        }
        if rng.percent(20) {
            let host = rng.below(managers as u64) as usize;
            let asks = vec![(rng.between(FOUNDED + SECOND, heal_at), Ask::Demote { host })];
            lines.push(Line { asks, ..Line::default() });
        }
        Self { lines }
    }

    /// A service with two tasks for each host, and one change that is asked for soon after `at`.
    pub fn around_a_loss(hosts: usize, at: Time) -> Self {
        let mut founding = vec![(0, Ask::Init)];
        founding.extend((1..hosts).map(|host| (100 * MS, Ask::Register { host })));
        let replicas = 2 * hosts as u64;
        founding.push((FOUNDED, Ask::Create { name: "web".into(), replicas, network: None }));
        let change = vec![(at + 100 * MS, Ask::Network { name: "after".into(), attachable: false })];
        Self { lines: [founding, change].map(|asks| Line { asks, ..Line::default() }).into() }
    }

    /// Everything was asked for and answered.
    pub fn is_done(&self) -> bool {
        self.lines.iter().all(|line| line.next == line.asks.len())
    }

    /// What must be there, and what must not be there (any more). Services whose next change is under way are in neither.
    pub fn promises(&self) -> (Vec<Promise>, Vec<String>) {
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for line in &self.lines {
            let mut promise = None;
            for (_, ask) in &line.asks[..line.next] {
                match ask {
                    Ask::Create { name, replicas, .. } => {
                        promise = Some(Promise { name: name.clone(), replicas: *replicas, image: "web:1".into() });
                    }
                    Ask::Replicas { replicas, .. } => {
                        if let Some(promise) = &mut promise {
                            promise.replicas = *replicas;
                        }
                    }
                    Ask::Image { image, .. } => {
                        if let Some(promise) = &mut promise {
                            promise.image.clone_from(image);
                        }
                    }
                    Ask::Remove { name } => {
                        promise = None;
                        gone.push(name.clone());
                    }
                    _ => {}
                }
            }
            if !line.open {
                there.extend(promise);
            }
        }
        (there, gone)
    }
}

fn service(rng: &mut Rng, name: &str, heal_at: Time) -> Vec<(Time, Ask)> {
    let name = name.to_owned();
    let mut at = rng.between(FOUNDED, heal_at - SECOND);
    let network = rng.percent(60).then(|| "shop".to_owned());
    let mut asks = vec![(at, Ask::Create { name: name.clone(), replicas: rng.between(1, 4), network })];
    for _ in 0..rng.between(0, 2) {
        at += rng.between(200, 3000) * MS;
        asks.push(match rng.below(3) {
            0 => (at, Ask::Replicas { name: name.clone(), replicas: rng.between(1, 4) }),
            1 => (at, Ask::Image { name: name.clone(), image: format!("web:{}", rng.between(2, 9)) }),
            _ => (at, Ask::Replicas { name: name.clone(), replicas: rng.between(0, 5) }),
        });
    }
    if rng.percent(25) {
        asks.push((at + rng.between(500, 4000) * MS, Ask::Remove { name }));
    }
    asks
}

impl World {
    pub(crate) fn start_script(&mut self) {
        for line in 0..self.script.lines.len() {
            self.ask_later(line, MS);
        }
    }

    fn ask_later(&mut self, line: usize, delay: Time) {
        let entry = &mut self.script.lines[line];
        let Some((not_before, _)) = entry.asks.get(entry.next) else { return };
        entry.attempt += 1;
        let delay = delay.max(not_before.saturating_sub(self.now));
        let attempt = entry.attempt;
        self.after(delay, Event::Client { line, attempt });
    }

    fn current(&self, line: usize, attempt: u64) -> Option<Ask> {
        let entry = &self.script.lines[line];
        (entry.attempt == attempt).then(|| entry.asks.get(entry.next).map(|(_, ask)| ask.clone()))?
    }

    /// A client asks a manager that it finds; who does not lead says who does, and it goes there.
    pub(crate) fn client(&mut self, line: usize, attempt: u64) -> Result<(), Broken> {
        let Some(ask) = self.current(line, attempt) else { return Ok(()) };
        let leader = (0..self.hosts.len()).find(|at| self.leads(*at));
        let managers: Vec<usize> = (0..self.hosts.len()).filter(|at| self.hosts[*at].manager.is_some()).collect();
        let target = match leader {
            Some(leader) if self.rng.percent(80) => leader,
            _ if managers.is_empty() => {
                self.ask_later(line, 300 * MS);
                return Ok(());
            }
            _ => *self.rng.pick(&managers),
        };
        if !self.leads(target) {
            self.ask_later(line, 200 * MS);
            return Ok(());
        }
        let Some(call) = self.prepare(target, &ask) else {
            // A leader that was replaced and has not heard of it proves nothing by what it knows.
            if !self.is_newest(target) {
                self.ask_later(line, 200 * MS);
                return Ok(());
            }
            return self.step_on(line, "nothing is to be done");
        };
        trace!(self, "client {line} asks {} for {ask:?}", self.hosts[target].name);
        self.script.lines[line].open = true;
        self.after(PATIENCE, Event::GiveUp { line, attempt });
        self.call(target, Waiter::Client { line, attempt }, call)
    }

    fn leads(&self, host: usize) -> bool {
        self.hosts[host].manager.as_ref().is_some_and(|half| half.manager.is_leader())
    }

    fn is_newest(&self, host: usize) -> bool {
        let newest = self.checker.newest_term();
        self.hosts[host].manager.as_ref().is_some_and(|half| half.consensus.term() == newest)
    }

    /// The call that does what is asked for, given what this manager knows. `None`: it is so already.
    fn prepare(&self, host: usize, ask: &Ask) -> Option<Call> {
        let state = self.hosts[host].manager.as_ref().map(|half| half.manager.state())?;
        match ask {
            Ask::Init if state.cluster().is_some() => None,
            Ask::Init => Some(Call::Init { cluster: Box::new(new_cluster()), first: self.registration(0) }),
            Ask::Register { host } => Some(Call::Register(self.registration(*host))),
            Ask::Network { name, .. } if state.network_by_name(name).is_some() => None,
            Ask::Network { name, attachable } => {
                let subnet = attachable.then(|| Subnet::containing(Ipv4Addr::from(places::SUBNET), 24));
                let spec =
                    NetworkSpec { name: name.clone(), attachable: *attachable, subnet, ..NetworkSpec::default() };
                Some(Call::NetworkCreate { spec })
            }
            Ask::Create { name, .. } if state.service_by_name(name).is_some() => None,
            Ask::Create { name, replicas, network } => {
                Some(Call::ServiceCreate { spec: Box::new(service_spec(name, *replicas, network.as_deref())) })
            }
            Ask::Replicas { name, replicas } => {
                update(state, name, |spec| spec.mode = Mode::Replicated { replicas: *replicas })
            }
            Ask::Image { name, image } => update(state, name, |spec| spec.task.container.image.clone_from(image)),
            Ask::Remove { name } => {
                state.service_by_name(name).map(|service| Call::ServiceRemove { name: service.spec.name.clone() })
            }
            Ask::Demote { host } => {
                let node = state.node(self.hosts[*host].node)?;
                (node.spec.role == Role::Manager).then(|| Call::Demote { name: self.hosts[*host].name.clone() })
            }
            Ask::Availability { host, availability } => {
                let node = state.node(self.hosts[*host].node)?;
                let spec = NodeSpec { availability: *availability, ..node.spec.clone() };
                (spec != node.spec).then_some(Call::NodeUpdate { id: node.id, version: node.meta.version, spec })
            }
        }
    }

    fn registration(&self, host: usize) -> Registration {
        let target = &self.hosts[host];
        Registration {
            node: target.node,
            role: target.role,
            availability: Availability::Active,
            labels: Labels::default(),
            description: description(host, &target.name),
            manager_addr: (target.role == Role::Manager).then(|| ([192, 168, 0, host as u8 + 1], 7001).into()),
        }
    }

    pub(crate) fn answer(&mut self, line: usize, attempt: u64, result: Result<Reply, CallError>) -> Result<(), Broken> {
        if self.current(line, attempt).is_none() {
            return Ok(());
        }
        match result {
            Ok(_) => self.step_on(line, "done"),
            Err(CallError::Invalid(e)) => Err(format!("client {line}: a sound request was refused: {e}")),
            Err(e) => {
                trace!(self, "client {line} is told: {e}");
                self.ask_later(line, 200 * MS);
                Ok(())
            }
        }
    }

    /// The current ask is answered for good.
    fn step_on(&mut self, line: usize, how: &str) -> Result<(), Broken> {
        trace!(self, "client {line}: {how}");
        let entry = &mut self.script.lines[line];
        if let Some((_, Ask::Demote { host })) = entry.asks.get(entry.next) {
            self.hosts[*host].role = Role::Worker;
        }
        entry.next += 1;
        entry.open = false;
        self.ask_later(line, MS);
        Ok(())
    }

    pub(crate) fn give_up(&mut self, line: usize, attempt: u64) {
        if self.current(line, attempt).is_some() {
            trace!(self, "client {line} waits no longer");
            self.ask_later(line, 50 * MS);
        }
    }

    /// A new leader knows all that was acknowledged.
    pub(crate) fn acknowledged_writes_are_there(&self, host: usize) -> Result<(), Broken> {
        let Some(half) = &self.hosts[host].manager else { return Ok(()) };
        kept(half.manager.state(), &self.script)
    }
}

/// Whether a state holds what was acknowledged.
pub fn kept(state: &State, script: &Script) -> Result<(), Broken> {
    let (there, gone) = script.promises();
    for promise in there {
        let Some(service) = state.service_by_name(&promise.name) else {
            return Err(format!("service {} was acknowledged and is not there", promise.name));
        };
        let replicas = match service.spec.mode {
            Mode::Replicated { replicas } => replicas,
            Mode::Global => 0,
        };
        let image = &service.spec.task.container.image;
        if (replicas, image) != (promise.replicas, &promise.image) {
            return Err(format!("service {} is {replicas} x {image}, acknowledged was {promise:?}", promise.name));
        }
    }
    for name in gone {
        if state.service_by_name(&name).is_some_and(|service| !service.removing) {
            return Err(format!("the removal of service {name} was acknowledged, and it is there"));
        }
    }
    Ok(())
}

fn update(state: &State, name: &str, change: impl FnOnce(&mut ServiceSpec)) -> Option<Call> {
    let service = state.service_by_name(name)?;
    let mut spec = service.spec.clone();
    change(&mut spec);
    (spec != service.spec).then(|| Call::ServiceUpdate {
        id: service.id,
        version: service.meta.version,
        spec: Box::new(spec),
    })
}

fn service_spec(name: &str, replicas: u64, network: Option<&str>) -> ServiceSpec {
    let attach = |target: &str| NetworkAttachment { target: target.to_owned(), aliases: Vec::new() };
    ServiceSpec {
        name: name.to_owned(),
        labels: Labels::default(),
        mode: Mode::Replicated { replicas },
        task: TaskSpec {
            container: ContainerSpec { image: "web:1".into(), ..ContainerSpec::default() },
            resources: Resources {
                reservations: Quantity { nano_cpus: 500_000_000, memory_bytes: 256 << 20, ..Quantity::default() },
                ..Resources::default()
            },
            restart: RestartPolicy { delay: Duration::from_millis(500), ..RestartPolicy::default() },
            networks: network.map(attach).into_iter().collect(),
            ..TaskSpec::default()
        },
        endpoint: EndpointSpec::default(),
        update: UpdateConfig {
            monitor: Duration::from_millis(500),
            failure_action: muster_model::spec::FailureAction::Continue,
            ..UpdateConfig::default()
        },
        rollback: UpdateConfig::default(),
        networks_beside: false,
    }
}

fn new_cluster() -> NewCluster {
    NewCluster {
        id: ClusterId::from_u128(42),
        spec: ClusterSpec::default(),
        ca_cert_pem: "ca".into(),
        ca_key_sealed: vec![1],
        worker_secret: "worker".into(),
        manager_secret: "manager".into(),
        address_pool: Subnet::containing(Ipv4Addr::new(10, 0, 0, 0), 8),
        subnet_prefix: 24,
    }
}
