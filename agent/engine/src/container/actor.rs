//! The owner of one container: a task that alone changes it. Requests come through its inbox, one after the other; the end
//! of the process, deadlines and probes come in between. So start, stop, kill and remove cannot race.
//!
//! States and what moves them: see [`Phase`]. What each request does: `acts.rs`; what an exit does: `exit.rs`.

use super::{
    handle::{Handle, View},
    up,
};
use crate::{
    adopt,
    engine::Shared,
    logging::{self, forward::Forwarder},
    record::{Durability, Phase, Place, Record},
};
use futures_util::FutureExt;
use muster_calls::{Error, RemoveContainer, Result};
use muster_model::engine::{ContainerUpdate, Health};
use muster_runtime::{AttachOptions, Attachment, ExitStatus, ProcessRef};
use std::{any::Any, panic::AssertUnwindSafe, path::PathBuf, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::Instant,
};

use tracing::Instrument as _;

/// Requests that may wait in an inbox: more callers than that wait for room.
const INBOX: usize = 64;

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What can be asked of the owner of a container.
pub(crate) enum Command {
    Start {
        /// The caller's: what starting takes is part of its trace.
        span: tracing::Span,
        reply: Reply<()>,
    },
    Stop {
        signal: Option<i32>,
        timeout_s: Option<i64>,
        reply: Reply<()>,
    },
    Restart {
        signal: Option<i32>,
        timeout_s: Option<i64>,
        reply: Reply<()>,
    },
    Kill {
        signal: i32,
        reply: Reply<()>,
    },
    Pause(Reply<()>),
    Unpause(Reply<()>),
    Rename {
        name: String,
        reply: Reply<()>,
    },
    Update {
        update: Box<ContainerUpdate>,
        /// Warnings.
        reply: Reply<Vec<String>>,
    },
    Remove {
        options: RemoveContainer,
        reply: Reply<()>,
    },
    Connect {
        place: Box<Place>,
        reply: Reply<()>,
    },
    Disconnect {
        network: String,
        reply: Reply<()>,
    },
    /// Forgets what this container calls another.
    Unlink {
        alias: String,
        reply: Reply<()>,
    },
    /// Hands over a connection now or, if it does not run, as soon as it is started.
    Attach {
        options: AttachOptions,
        slot: oneshot::Sender<Attachment>,
        reply: Reply<()>,
    },
    /// Lends the root file system, mounted even if the container does not run.
    Lend(Reply<RootLease>),
    /// A lease ended.
    GiveBack,
    /// A probe of the container's health ended.
    Health {
        pid: u32,
        health: Health,
    },
}

/// The root file system of a container stays mounted as long as this lives.
#[derive(Debug)]
pub(crate) struct RootLease {
    pub path: PathBuf,
    owner: mpsc::WeakSender<Command>,
}

impl Drop for RootLease {
    fn drop(&mut self) {
        if let (Some(owner), Ok(runtime)) = (self.owner.upgrade(), tokio::runtime::Handle::try_current()) {
            // Ends as soon as the owner has room in its inbox; when the owner is gone, so is the mount.
            runtime.spawn(async move { owner.send(Command::GiveBack).await });
        }
    }
}

/// A client that attached before the container was started.
pub(crate) struct Waiting {
    pub options: AttachOptions,
    pub slot: oneshot::Sender<Attachment>,
}

/// A stop under way.
#[derive(Default)]
pub(crate) struct Stopping {
    /// When patience ends; `None`: never.
    pub kill_at: Option<Instant>,
    pub replies: Vec<Reply<()>>,
    /// Those who want it started again.
    pub restarts: Vec<Reply<()>>,
}

pub(crate) struct Actor {
    pub(super) shared: Arc<Shared>,
    pub(super) record: Record,
    pub(super) health: Option<Health>,
    pub(super) exits: u64,
    pub(super) exit_error: String,
    pub(super) removed: bool,
    pub(super) waiting: Vec<Waiting>,
    pub(super) stopping: Option<Stopping>,
    /// Who wait for a forced removal; the container goes as soon as its process has ended.
    pub(super) removal: Option<(RemoveContainer, Vec<Reply<()>>)>,
    pub(super) restart_at: Option<Instant>,
    pub(super) probe: Option<AbortHandle>,
    pub(super) leases: usize,
    /// Sends its log away, where its log driver does.
    pub(super) forwarder: Option<Forwarder>,
    /// Ends with the process; aborted with this task.
    exit: Option<AbortOnDrop>,
    view: watch::Sender<View>,
    inbox: mpsc::Receiver<Command>,
    this: mpsc::WeakSender<Command>,
}

/// A task that ends when it is no longer waited for.
struct AbortOnDrop(tokio::task::JoinHandle<muster_runtime::Result<ExitStatus>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Wake {
    Command(Command),
    Exit(muster_runtime::Result<ExitStatus>),
    Deadline,
    Shutdown,
}

/// How the owner of a container finds it.
pub(crate) enum Begin {
    /// It does not run; its policy may be about to start it.
    AtRest,
    /// Adopted, alive.
    Running,
    /// It ran when there was a daemon last, and has ended since: what follows an exit follows now.
    Ended(Box<ExitStatus>),
}

/// Starts the owner of a container and enters the container into the engine's index.
pub(crate) fn spawn(shared: &Arc<Shared>, record: Record, begin: Begin) -> Arc<Handle> {
    let (sender, inbox) = mpsc::channel(INBOX);
    let health = record.state.health.clone();
    let first = View { record: Arc::new(record.clone()), health: health.clone(), ..View::default() };
    let (view, watch) = watch::channel(first);
    let this = sender.downgrade();
    let handle = Arc::new(Handle::new(record.id.clone(), sender, watch, shared.stop.clone()));
    let mut actor = Actor {
        shared: shared.clone(),
        record,
        health,
        exits: 0,
        exit_error: String::new(),
        removed: false,
        waiting: Vec::new(),
        stopping: None,
        removal: None,
        restart_at: None,
        probe: None,
        leases: 0,
        forwarder: logging::forward::start(shared, &handle),
        exit: None,
        view,
        inbox,
        this,
    };
    let mut ended = None;
    match begin {
        Begin::Running => {
            actor.watch_process();
            actor.publish();
        }
        Begin::Ended(status) => ended = Some(*status),
        Begin::AtRest if actor.record.state.phase == Phase::Restarting => {
            // A wait that had begun goes on.
            actor.restart_at = Some(Instant::now() + actor.record.state.restart_at.since(crate::clock::now()));
        }
        Begin::AtRest => {}
    }
    shared.containers.insert(handle.clone());
    shared.spawn("container", actor.run(ended));
    handle
}

impl Actor {
    /// What acts take is boxed: a container at rest, of which there may be thousands, holds no room for it.
    async fn run(mut self, mut ended: Option<ExitStatus>) {
        let mut failures = 0;
        while !self.removed {
            let first = ended.take();
            match AssertUnwindSafe(self.turn(first)).catch_unwind().await {
                Ok(true) => failures = 0,
                Ok(false) => break,
                // A bug, and no reason for this container to be out of reach for as long as the daemon runs.
                Err(panic) => {
                    let id = &self.record.id;
                    tracing::error!(container.id = %id, error = words(&*panic), "an act on a container broke off; its owner begins anew");
                    failures += 1;
                    ended = Box::pin(self.begin_anew(failures > 1)).await;
                }
            }
        }
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
    }

    /// Does the next thing there is to do; `false` when the engine shuts down.
    async fn turn(&mut self, ended: Option<ExitStatus>) -> bool {
        if let Some(status) = ended {
            Box::pin(self.on_exit(Ok(status))).await;
            return true;
        }
        match self.next().await {
            Wake::Command(command) => Box::pin(self.act(command)).await,
            Wake::Exit(status) => Box::pin(self.on_exit(status)).await,
            Wake::Deadline => Box::pin(self.on_deadline()).await,
            Wake::Shutdown => return false,
        }
        true
    }

    /// What memory says may be half true: begins from the record on disk and from what the runtime says. Those who wait for
    /// an answer are told that there is none. Answers with an exit that is still to be dealt with; where that has just
    /// `failed`, it is noted only.
    async fn begin_anew(&mut self, failed: bool) -> Option<ExitStatus> {
        (self.stopping, self.removal, self.restart_at, self.exit) = (None, None, None, None);
        self.waiting.clear();
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
        let found = match adopt::again(&self.shared, &self.record.id).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.gone().await;
                return None;
            }
            Err(e) => {
                tracing::error!(container.id = %self.record.id, error = %e, "what became of a container cannot be told");
                self.watch_process();
                return None;
            }
        };
        let before = std::mem::replace(&mut self.record, found.record);
        let ran = matches!(before.state.phase, Phase::Running | Phase::Starting | Phase::Restarting);
        if found.alive {
            self.watch_process();
        } else if found.ended.is_none() && ran {
            up::bring_down(&self.shared, &before, self.leases > 0).await;
        }
        let mut ended = found.ended;
        if let Some(status) = ended.take_if(|_| failed) {
            self.record.state.phase = Phase::Exited;
            (self.record.state.pid, self.record.state.exit_code) = (0, status.code);
            self.exits += 1;
        }
        // One that a user stopped stays so until the daemon starts.
        if found.start && ran {
            self.record.state.phase = Phase::Restarting;
            self.restart_at = Some(Instant::now());
        }
        self.publish();
        ended
    }

    async fn next(&mut self) -> Wake {
        let deadline = self.deadline();
        let shutdown = self.shared.stop.clone();
        let exit = async {
            match &mut self.exit {
                Some(exit) => {
                    (&mut exit.0).await.unwrap_or_else(|e| Err(muster_runtime::Error::Protocol(e.to_string())))
                }
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Wake::Shutdown,
            status = exit => { self.exit = None; Wake::Exit(status) }
            // The engine's index holds a sender as long as the container is in it.
            Some(command) = self.inbox.recv() => Wake::Command(command),
            () = timer => Wake::Deadline,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let kill_at = self.stopping.as_ref().and_then(|s| s.kill_at);
        [kill_at, self.restart_at].into_iter().flatten().min()
    }

    async fn on_deadline(&mut self) {
        let now = Instant::now();
        if let Some(stopping) = self.stopping.as_mut().filter(|s| s.kill_at.is_some_and(|at| at <= now)) {
            stopping.kill_at = None;
            self.signal(libc::SIGKILL)
                .await
                .unwrap_or_else(|e| tracing::warn!(container.id = %self.record.id, error = %e, "cannot kill"));
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.record.state.restart_count += 1;
            if let Err(e) = self.bring_up().await {
                tracing::warn!(container.id = %self.record.id, error = %e, "cannot restart");
                self.after_failed_restart().await;
            }
        }
    }

    async fn act(&mut self, command: Command) {
        // A caller that hung up is no reason to stop: answers may go nowhere.
        match command {
            Command::Start { span, reply } => drop(reply.send(self.start().instrument(span).await)),
            Command::Stop { signal, timeout_s, reply } => self.stop(signal, timeout_s, reply).await,
            Command::Restart { signal, timeout_s, reply } => self.restart(signal, timeout_s, reply).await,
            Command::Kill { signal, reply } => drop(reply.send(self.kill(signal).await)),
            Command::Pause(reply) => drop(reply.send(self.pause().await)),
            Command::Unpause(reply) => drop(reply.send(self.unpause().await)),
            Command::Rename { name, reply } => drop(reply.send(self.rename(name).await)),
            Command::Update { update, reply } => drop(reply.send(self.update(*update).await)),
            Command::Remove { options, reply } => self.remove(options, reply).await,
            Command::Connect { place, reply } => drop(reply.send(self.connect(*place).await)),
            Command::Disconnect { network, reply } => drop(reply.send(self.disconnect(&network).await)),
            Command::Unlink { alias, reply } => drop(reply.send(self.unlink(&alias).await)),
            Command::Attach { options, slot, reply } => drop(reply.send(self.attach(options, slot).await)),
            Command::Lend(reply) => drop(reply.send(self.lend().await)),
            Command::GiveBack => self.give_back().await,
            Command::Health { pid, health } => self.on_health(pid, health).await,
        }
    }

    /// Begins to wait for the end of the process that runs.
    pub(super) fn watch_process(&mut self) {
        let (runtime, id) = (self.shared.config.runtime.clone(), self.record.id.clone());
        let wait = async move { runtime.wait(ProcessRef::Container(&id)).await };
        self.exit = Some(AbortOnDrop(tokio::spawn(wait)));
        self.start_probing();
    }

    /// Shows the world how the container is now.
    pub(super) fn publish(&self) {
        self.view.send_replace(View {
            record: Arc::new(self.record.clone()),
            health: self.health.clone(),
            exits: self.exits,
            exit_error: self.exit_error.clone(),
            removed: self.removed,
        });
    }

    /// Writes the record.
    pub(super) async fn persist(&self, durability: Durability) -> Result<()> {
        self.shared.write_record(&self.record, durability).await
    }

    async fn attach(&mut self, options: AttachOptions, slot: oneshot::Sender<Attachment>) -> Result<()> {
        if !self.record.state.is_running() {
            self.waiting.retain(|w| !w.slot.is_closed());
            self.waiting.push(Waiting { options, slot });
            return Ok(());
        }
        let process = ProcessRef::Container(&self.record.id);
        let attachment = self.shared.config.runtime.attach(process, options).await.map_err(crate::error::runtime)?;
        let _ = slot.send(attachment); // The client may have gone.
        Ok(())
    }

    async fn lend(&mut self) -> Result<RootLease> {
        let path = self.shared.roots.mount(&self.record.id).await?;
        self.leases += 1;
        Ok(RootLease { path, owner: self.this.clone() })
    }

    async fn give_back(&mut self) {
        self.leases = self.leases.saturating_sub(1);
        if self.leases == 0 && !self.record.state.is_running() {
            self.shared.unmount_images(&self.record).await;
            self.shared.roots.unmount(&self.record.id).await;
        }
    }

    pub(super) fn sender(&self) -> Option<mpsc::Sender<Command>> {
        self.this.upgrade()
    }

    /// Tells everybody that nothing is left of it.
    pub(super) async fn gone(&mut self) {
        self.shared.containers.remove(&self.record.id);
        self.shared.forget_execs(&self.record.id).await;
        self.removed = true;
        self.waiting.clear();
        self.publish();
        self.shared.container_event(&self.record, "destroy", &[]);
        self.shared.changed(&self.record.id, crate::Change::Removed);
    }

    /// The error of an act that needs a running container.
    pub(super) fn not_running(&self) -> Error {
        Error::conflict(format!("container {} is not running", self.record.id))
    }
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}
