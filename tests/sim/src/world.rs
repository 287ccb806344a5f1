//! The hosts, the queue of what is to happen, and the loop that makes it happen.

use crate::agents::{AgentHalf, Down, Up};
use crate::check::{Broken, Checker};
use crate::disk::Disk;
use crate::faults::{self, Fault};
use crate::managers::ManagerHalf;
use crate::net::Net;
use crate::places::{self, Boxed};
use crate::rng::Rng;
use crate::runtime::{Runtime, Step};
use crate::script::Script;
use crate::time::{MS, Queue, SECOND, Time};
use crate::{Options, Report};
use muster_agent_core::Ledger;
use muster_consensus::{Membership, Message, PeerId, SnapshotMeta, Start};
use muster_controller_core::{CallError, Now, Reply, SessionId};
use muster_model::{AttachmentId, NodeId, TaskId, Timestamp, cluster::AttachRequest, spec::Role};
use muster_state::{Entry, State};
use std::collections::BTreeMap;
use std::time::Duration;

/// Length of a raft tick, and how often a host looks at its clock.
pub const TICK: Time = 100 * MS;
/// Nothing goes wrong before this: the cluster is being founded.
pub const FOUNDED: Time = 2 * SECOND;
/// The longest that a cluster may take to settle once nothing goes wrong any more.
pub const SETTLE: Time = 60 * SECOND;

/// One thing that is to happen.
#[derive(Debug)]
pub enum Event {
    /// A host's clock, of one life of its daemon.
    Tick {
        host: usize,
        life: u64,
    },
    Raft {
        to: usize,
        message: Message,
    },
    /// A snapshot with its state has arrived whole.
    Snapshot {
        from: usize,
        life: u64,
        to: usize,
        message: Message,
        state: Box<State>,
    },
    /// The sender learns what became of its snapshot.
    SnapshotEnd {
        host: usize,
        life: u64,
        to: PeerId,
        arrived: bool,
    },
    DiskDone {
        host: usize,
        life: u64,
        number: u64,
    },
    Checkpointed {
        host: usize,
        life: u64,
        meta: SnapshotMeta,
        state: Box<State>,
    },
    ToManager {
        host: usize,
        session: SessionId,
        node: NodeId,
        up: Up,
    },
    ToAgent {
        host: usize,
        session: SessionId,
        down: Down,
    },
    /// A container's step is done. `life`: it needs the daemon that began it.
    Container {
        host: usize,
        life: Option<u64>,
        task: TaskId,
        step: Step,
    },
    /// A user starts a container of no service.
    Begin {
        host: usize,
        request: Box<AttachRequest>,
    },
    /// One ends.
    End {
        host: usize,
        id: AttachmentId,
    },
    Client {
        line: usize,
        attempt: u64,
    },
    Answer {
        line: usize,
        attempt: u64,
        result: Result<Reply, CallError>,
    },
    /// The client waits no longer.
    GiveUp {
        line: usize,
        attempt: u64,
    },
    Fault(Fault),
    /// From here on nothing goes wrong.
    Heal,
    Settle,
}

/// A host's clocks, wrong as they may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Off from true time, in milliseconds.
    pub wall_ms: i64,
    /// Too fast by so many millionths.
    pub drift_ppm: i64,
}

/// One machine.
#[derive(Debug)]
pub struct Host {
    pub node: NodeId,
    pub name: String,
    pub role: Role,
    /// Counts the daemon's starts.
    pub life: u64,
    pub up: bool,
    pub clock: Clock,
    pub manager: Option<ManagerHalf>,
    pub agent: Option<AgentHalf>,
    pub disk: Disk,
    pub ledger: Ledger,
    pub runtime: Runtime,
    /// Containers of no service.
    pub boxes: BTreeMap<AttachmentId, Boxed>,
    /// The disk is slow until then.
    pub stalled_until: Time,
    /// The next write is met by a crash; `true`: of the whole host.
    pub crash_in_write: Option<bool>,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub now: Time,
    pub rng: Rng,
    pub hosts: Vec<Host>,
    pub net: Net,
    pub checker: Checker,
    pub script: Script,
    pub options: Options,
    pub report: Report,
    /// When the faults end.
    pub heal_at: Time,
    pub healed: bool,
    pub next_session: u64,
    /// Entries by index and term.
    pub decoded: BTreeMap<(u64, u64), Entry>,
    queue: Queue<Event>,
    trace: Vec<String>,
    settled: bool,
}

/// Adds a line to the trace; costs nothing when nobody reads it.
macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.options.trace {
            let line = format!($($arg)*);
            $world.note(line);
        }
    };
}
pub(crate) use trace;

impl World {
    pub fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let managers = if rng.percent(15) { 5 } else { 3 };
        let workers = rng.between(0, 2) as usize;
        let hosts = (0..managers + workers).map(|at| new_host(at, at < managers, &mut rng)).collect();
        let heal_at = FOUNDED + rng.between(3, 10) * SECOND;
        let mut world = Self {
            now: 0,
            hosts,
            net: Net::default(),
            checker: Checker::default(),
            script: Script::default(),
            options,
            report: Report::default(),
            heal_at,
            healed: false,
            next_session: 1,
            decoded: BTreeMap::new(),
            queue: Queue::default(),
            trace: Vec::new(),
            settled: false,
            rng,
        };
        world.script = Script::draw(&mut world.rng, managers, world.hosts.len(), heal_at);
        world
    }

    /// To the end, or to the first broken promise.
    pub fn run(&mut self) -> Result<Report, Broken> {
        trace!(self, "{} hosts, faults from {} to {} s", self.hosts.len(), FOUNDED / SECOND, self.heal_at / SECOND);
        for host in 0..self.hosts.len() {
            self.boot(host)?;
        }
        self.start_script();
        for (at, fault) in faults::draw(&mut self.rng, self.hosts.len(), self.heal_at) {
            self.queue.add(at, Event::Fault(fault));
        }
        for (at, event) in places::draw(&mut self.rng, self.hosts.len(), self.heal_at) {
            self.queue.add(at, event);
        }
        self.queue.add(self.heal_at, Event::Heal);
        while !self.settled {
            self.next_event()?;
        }
        self.report.virtual_us = self.now;
        self.report.commits = self.checker.commits;
        Ok(self.report)
    }

    /// The next thing happens.
    pub(crate) fn next_event(&mut self) -> Result<(), Broken> {
        let Some((at, event)) = self.queue.pop() else { return Err("nothing is left to happen".into()) };
        self.now = at;
        self.report.events += 1;
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Tick { host, life } if self.alive(host, life) => self.tick(host),
            Event::Raft { to, message } => self.raft(to, message),
            Event::Snapshot { from, life, to, message, state } => self.snapshot(from, life, to, message, *state),
            Event::SnapshotEnd { host, life, to, arrived } if self.alive(host, life) => {
                self.snapshot_end(host, to, arrived)
            }
            Event::DiskDone { host, life, number } if self.alive(host, life) => self.disk_done(host, number),
            Event::Checkpointed { host, life, meta, state } if self.alive(host, life) => {
                self.checkpointed(host, meta, *state);
                Ok(())
            }
            Event::ToManager { host, session, node, up } => self.at_manager(host, session, node, up),
            Event::ToAgent { host, session, down } => self.at_agent(host, session, down),
            Event::Container { host, life, task, step } => self.container(host, life, task, step),
            Event::Begin { host, request } => self.begin_box(host, *request),
            Event::End { host, id } => self.end_box(host, id),
            Event::Client { line, attempt } => self.client(line, attempt),
            Event::Answer { line, attempt, result } => self.answer(line, attempt, result),
            Event::GiveUp { line, attempt } => {
                self.give_up(line, attempt);
                Ok(())
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Heal => self.heal(),
            Event::Settle => {
                self.settled = self.settle()?;
                if !self.settled {
                    self.after(SECOND / 2, Event::Settle);
                }
                Ok(())
            }
            // Of a life that is over.
            _ => Ok(()),
        }
    }

    fn tick(&mut self, host: usize) -> Result<(), Broken> {
        let life = self.hosts[host].life;
        // A fast clock ticks early.
        let drift = self.hosts[host].clock.drift_ppm;
        let gap = (TICK as i64 - TICK as i64 * drift / 1_000_000) as Time;
        self.after(gap, Event::Tick { host, life });
        self.manager_tick(host)?;
        self.agent_tick(host)
    }

    pub fn after(&mut self, delay: Time, event: Event) {
        self.queue.add(self.now + delay, event);
    }

    pub fn alive(&self, host: usize, life: u64) -> bool {
        self.hosts[host].up && self.hosts[host].life == life
    }

    /// The time as a host sees it.
    pub fn clock(&self, host: usize) -> Now {
        let clock = self.hosts[host].clock;
        let mono = self.now as i128 + self.now as i128 * i128::from(clock.drift_ppm) / 1_000_000;
        let wall = 1_700_000_000_000 + (self.now / MS) as i64 + clock.wall_ms;
        Now { mono: Duration::from_micros(mono as u64), wall: Timestamp::from_millis(wall) }
    }

    pub fn host_of(&self, node: NodeId) -> Option<usize> {
        self.hosts.iter().position(|host| host.node == node)
    }

    pub fn host_of_peer(&self, peer: PeerId) -> Option<usize> {
        self.hosts.iter().position(|host| host.node.raft_id() == peer)
    }

    /// The daemon starts with what its disk holds.
    pub fn boot(&mut self, host: usize) -> Result<(), Broken> {
        self.hosts[host].life += 1;
        self.hosts[host].up = true;
        let life = self.hosts[host].life;
        trace!(self, "{} starts, life {life}", self.hosts[host].name);
        let first = self.rng.below(TICK);
        self.after(first, Event::Tick { host, life });
        self.boot_agent(host)?;
        self.boot_manager(host)
    }

    /// The daemon dies; `power`: the whole host.
    pub fn crash(&mut self, host: usize, power: bool) {
        if !self.hosts[host].up {
            return;
        }
        self.report.crashes += 1;
        let pending = self.hosts[host].disk.pending() as u64;
        let survivors = self.rng.below(pending + 1) as usize;
        let target = &mut self.hosts[host];
        target.up = false;
        target.manager = None;
        target.agent = None;
        target.disk.crash(survivors);
        // A start that waits is the daemon's.
        target.boxes.retain(|_, b| b.ip.is_some() && !power);
        if power {
            target.runtime.power_cut();
        }
        let kind = if power { "loses power" } else { "crashes" };
        trace!(self, "{} {kind}; {survivors} of {pending} writes had reached the disk", self.hosts[host].name);
    }

    pub fn note(&mut self, line: String) {
        let at = self.now as f64 / 1e6;
        self.trace.push(format!("{at:>11.6} {line}"));
    }

    pub fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }
}

fn new_host(at: usize, manager: bool, rng: &mut Rng) -> Host {
    let node = NodeId::from_u128(rng.u128());
    let role = if manager { Role::Manager } else { Role::Worker };
    let disk = if at == 0 {
        let founders = Membership::new(vec![node.raft_id()], vec![]).unwrap_or_default();
        Disk::found(Start::bootstrap(founders))
    } else {
        Disk::default()
    };
    Host {
        node,
        name: format!("n{}", at + 1),
        role,
        life: 0,
        up: false,
        clock: Clock { wall_ms: rng.between(0, 4000) as i64 - 2000, drift_ppm: rng.between(0, 20_000) as i64 - 10_000 },
        manager: None,
        agent: None,
        disk,
        ledger: Ledger::default(),
        runtime: Runtime::default(),
        boxes: BTreeMap::new(),
        stalled_until: 0,
        crash_in_write: None,
    }
}
