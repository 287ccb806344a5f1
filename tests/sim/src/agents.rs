//! The agent's half of a daemon: the shell around [`Worker`], its session, its containers.

use crate::check::Broken;
use crate::runtime::Step;
use crate::time::{MS, SECOND, Time};
use crate::world::{Event, World, trace};
use muster_agent_core::{Container, Effect, Input, Worker, attach::Attachments};
use muster_controller_core::SessionId;
use muster_model::{
    AttachmentId, NodeId, TaskId, Timestamp,
    assignment::{AssignmentUpdate, TaskReport},
    cluster::{AttachRequest, NodeDescription},
    spec::Role,
};
use std::net::Ipv4Addr;

/// Silence after which the other end counts as gone.
const PATIENCE: Time = 4 * SECOND;
const HEARTBEAT: Time = SECOND;

/// From an agent to its leader.
#[derive(Clone, Debug)]
pub enum Up {
    Open(Box<NodeDescription>),
    Heartbeat,
    Reports(Vec<TaskReport>),
    Resync,
    Attach(Vec<AttachRequest>),
    Detach(Vec<AttachmentId>),
    Close,
}

/// From a leader to an agent.
#[derive(Clone, Debug)]
pub enum Down {
    Accepted,
    /// The answer to a heartbeat.
    Alive,
    Update(AssignmentUpdate),
    Reported(Vec<TaskReport>),
    /// A place is not given.
    Refused(AttachmentId),
    /// The end, and who leads instead.
    Closed {
        leader: Option<NodeId>,
    },
}

/// A stream to one manager: in order, or broken.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub manager: usize,
    pub accepted: bool,
    heard: Time,
    beat_at: Time,
    /// What is sent later arrives later.
    up_at: Time,
    down_at: Time,
    /// The connection is lost and nobody has noticed yet.
    broken: bool,
}

/// What dies with the daemon.
#[derive(Debug)]
pub struct AgentHalf {
    pub worker: Worker,
    pub places: Attachments,
    /// The assignments are those of this session.
    pub current: bool,
    pub session: Option<Session>,
    retry_at: Time,
    hint: Option<usize>,
}

impl AgentHalf {
    /// A session opened or ended: the leader, if there is one, knows nothing of what is wanted here.
    fn session_changed(&mut self) {
        self.current = false;
        self.places.session_changed();
    }
}

/// What a host says of itself.
pub fn description(host: usize, name: &str) -> NodeDescription {
    NodeDescription {
        hostname: name.to_owned(),
        os: "linux".into(),
        arch: "x86_64".into(),
        nano_cpus: 4_000_000_000,
        memory_bytes: 4 << 30,
        engine_version: "1".into(),
        vtep: Some(Ipv4Addr::new(192, 168, 0, host as u8 + 1)),
        api_addr: Some(([192, 168, 0, host as u8 + 1], 7000).into()),
        ..NodeDescription::default()
    }
}

impl World {
    fn wall(&self, host: usize) -> Timestamp {
        self.clock(host).wall
    }

    pub(crate) fn boot_agent(&mut self, host: usize) -> Result<(), Broken> {
        let now = self.wall(host);
        let target = &self.hosts[host];
        let worker = Worker::recover(now, target.ledger.clone(), |task| target.runtime.look(task));
        let retry_at = self.now;
        let places = Attachments::default();
        self.hosts[host].agent =
            Some(AgentHalf { worker, places, current: false, session: None, retry_at, hint: None });
        let mut effects = Vec::new();
        if let Some(agent) = &mut self.hosts[host].agent {
            agent.worker.resume(now, &mut effects);
        }
        self.boot_places(host)?;
        self.perform_agent(host, effects)
    }

    pub(crate) fn agent_tick(&mut self, host: usize) -> Result<(), Broken> {
        let now = self.now;
        let Some(agent) = &mut self.hosts[host].agent else { return Ok(()) };
        match &mut agent.session {
            None if now >= agent.retry_at => self.open_session(host),
            None => {}
            Some(session) if now >= session.heard + PATIENCE => return self.close_session(host, None),
            Some(session) if session.accepted && now >= session.beat_at => {
                session.beat_at = now + HEARTBEAT;
                self.up(host, Up::Heartbeat);
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn open_session(&mut self, host: usize) {
        let managers: Vec<usize> = (0..self.hosts.len()).filter(|at| self.hosts[*at].role == Role::Manager).collect();
        let drawn = *self.rng.pick(&managers);
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let now = self.now;
        let about = description(host, &self.hosts[host].name);
        let Some(agent) = &mut self.hosts[host].agent else { return };
        let manager = agent.hint.take().unwrap_or(drawn);
        agent.session = Some(Session {
            id,
            manager,
            accepted: false,
            heard: now,
            beat_at: now + HEARTBEAT,
            up_at: now,
            down_at: now,
            broken: false,
        });
        self.up(host, Up::Open(Box::new(about)));
    }

    /// The session is over, as this side sees it.
    fn close_session(&mut self, host: usize, hint: Option<usize>) -> Result<(), Broken> {
        let retry_at = self.now + if hint.is_some() { 10 * MS } else { self.rng.between(100 * MS, SECOND) };
        let Some(agent) = &mut self.hosts[host].agent else { return Ok(()) };
        let Some(session) = agent.session.take() else { return Ok(()) };
        agent.hint = hint;
        agent.retry_at = retry_at;
        agent.session_changed();
        match session.accepted {
            true => self.worker(host, Input::SessionClosed),
            false => Ok(()),
        }
    }

    /// Breaks the stream under both ends; they find out in time.
    pub(crate) fn break_session(&mut self, host: usize) {
        if let Some(session) = self.hosts[host].agent.as_mut().and_then(|agent| agent.session.as_mut()) {
            session.broken = true;
        }
    }

    /// Sends up the session, in order.
    pub(crate) fn up(&mut self, host: usize, up: Up) {
        let node = self.hosts[host].node;
        let delay = self.net.delay(&mut self.rng);
        let lost = self.rng.ppm(self.net.quality.loss / 10);
        let Some(session) = self.hosts[host].agent.as_mut().and_then(|agent| agent.session.as_mut()) else { return };
        session.broken |= lost || !self.net.reaches(host, session.manager);
        if session.broken {
            return;
        }
        session.up_at = session.up_at.max(self.now + delay);
        let (at, id, manager) = (session.up_at, session.id, session.manager);
        self.after(at - self.now, Event::ToManager { host: manager, session: id, node, up });
    }

    /// Sends down a session, in order.
    pub(crate) fn down(&mut self, manager: usize, id: SessionId, down: Down) {
        let Some(&host) = self.hosts[manager].manager.as_ref().and_then(|half| half.sessions.get(&id)) else { return };
        let delay = self.net.delay(&mut self.rng);
        let lost = self.rng.ppm(self.net.quality.loss / 10);
        let reaches = self.net.reaches(manager, host);
        let now = self.now;
        let session = self.hosts[host].agent.as_mut().and_then(|agent| agent.session.as_mut()).filter(|s| s.id == id);
        let Some(session) = session else { return };
        session.broken |= lost || !reaches;
        if session.broken {
            return;
        }
        session.down_at = session.down_at.max(now + delay);
        let at = session.down_at;
        self.after(at - now, Event::ToAgent { host, session: id, down });
    }

    pub(crate) fn at_agent(&mut self, host: usize, id: SessionId, down: Down) -> Result<(), Broken> {
        let now = self.now;
        let Some(agent) = self.hosts[host].agent.as_mut() else { return Ok(()) };
        let Some(session) = agent.session.as_mut().filter(|session| session.id == id) else { return Ok(()) };
        session.heard = now;
        match down {
            Down::Accepted => {
                session.accepted = true;
                agent.session_changed();
                self.worker(host, Input::SessionOpened)
            }
            Down::Alive => Ok(()),
            Down::Update(update) => {
                agent.current |= matches!(update, AssignmentUpdate::Whole(_));
                self.worker(host, Input::Update(update))
            }
            Down::Reported(reports) => self.worker(host, Input::Reported(reports)),
            Down::Refused(place) => self.refuse_place(host, place),
            Down::Closed { leader } => {
                let hint = leader.and_then(|node| self.host_of(node));
                self.close_session(host, hint)
            }
        }
    }

    fn worker(&mut self, host: usize, input: Input) -> Result<(), Broken> {
        let now = self.wall(host);
        let mut effects = Vec::new();
        if let Some(agent) = &mut self.hosts[host].agent {
            agent.worker.handle(now, input, &mut effects);
        }
        self.perform_agent(host, effects)
    }

    fn perform_agent(&mut self, host: usize, effects: Vec<Effect>) -> Result<(), Broken> {
        for effect in effects {
            match effect {
                Effect::Prepare(task) => {
                    let ok = self.healed || !self.rng.percent(3);
                    let delay = self.rng.between(20 * MS, 400 * MS);
                    self.begin(host, true, delay, task.id, Step::Prepare { ok });
                }
                Effect::Start(task) => {
                    let ok = self.healed || !self.rng.percent(3);
                    let delay = self.rng.between(10 * MS, 100 * MS);
                    self.begin(host, true, delay, task, Step::Start { ok });
                }
                Effect::Stop(task) => {
                    let delay = self.rng.between(10 * MS, 500 * MS);
                    // The signal is sent: it ends whatever becomes of the daemon.
                    self.begin(host, false, delay, task, Step::Exit { code: 143 });
                }
                Effect::Cancel(task) => {
                    self.hosts[host].runtime.cancel(task);
                    self.begin(host, true, 5 * MS, task, Step::Prepare { ok: false });
                }
                Effect::Remove(task) => {
                    let delay = self.rng.between(5 * MS, 50 * MS);
                    self.begin(host, true, delay, task, Step::Remove);
                }
                Effect::Report(reports) => self.up(host, Up::Reports(reports)),
                Effect::NeedWhole => self.up(host, Up::Resync),
                Effect::Save => {
                    if let Some(agent) = &self.hosts[host].agent {
                        self.hosts[host].ledger = agent.worker.ledger();
                    }
                }
                Effect::ViewChanged => self.places_assigned(host)?,
            }
        }
        Ok(())
    }

    fn begin(&mut self, host: usize, needs_daemon: bool, delay: Time, task: TaskId, step: Step) {
        let life = needs_daemon.then_some(self.hosts[host].life);
        self.after(delay, Event::Container { host, life, task, step });
    }

    /// A container's step is done; the daemon hears of it if it is there.
    pub(crate) fn container(&mut self, host: usize, life: Option<u64>, task: TaskId, step: Step) -> Result<(), Broken> {
        if life.is_some_and(|life| !self.alive(host, life)) {
            return Ok(());
        }
        let Some(container) = self.hosts[host].runtime.finish(task, step) else { return Ok(()) };
        trace!(self, "{} container {} {step:?} -> {container:?}", self.hosts[host].name, task.short());
        let input = match (step, container) {
            (Step::Prepare { ok: true }, _) => Input::Prepared { task, result: Ok(format!("{task}")) },
            (Step::Prepare { ok: false }, _) => Input::Prepared { task, result: Err("no such image".into()) },
            (Step::Start { .. }, Container::Running { pid }) => Input::Started { task, result: Ok(pid) },
            (Step::Start { .. }, _) => Input::Started { task, result: Err("exec format error".into()) },
            (Step::Exit { code }, _) => Input::Exited { task, exit_code: code, error: String::new() },
            (Step::Remove, _) => Input::Removed { task },
        };
        self.worker(host, input)
    }
}
