//! The two threads that may wait for the disk: one appends to the log, one writes checkpoints. Each owns what it writes,
//! has at most one job, and tells the turn loop when it is done; what comes meanwhile waits in the loop and is joined into
//! the next job, so that a slow disk makes batches instead of a queue.

use crate::{
    StartError,
    storage::{entry_to_disk, hard_to_disk, meta_of, position_of},
    turn::Inbox,
};
use muster_consensus::{Persist, SnapshotMeta};
use muster_journal::{Checkpoints, DiskError, Error, Floor, HardState, Journal, Position, Record};
use muster_state::State;
use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::mpsc;

/// How long a full disk is given before the next try.
const RETRY: Duration = Duration::from_millis(500);

/// What a thread says to the turn loop.
#[derive(Debug)]
pub(crate) enum Done {
    /// Everything up to the work order of this number is durable.
    Persisted(u64),
    Compacted,
    Checkpointed {
        index: u64,
        floor: Floor,
    },
    /// The thread has stopped: what the disk holds is unknown.
    Failed(String),
}

enum LogJob {
    Append {
        number: u64,
        records: Vec<Record>,
        hard: HardState,
    },
    /// The log starts anew behind a received snapshot, whose checkpoint is durable.
    Reset {
        number: u64,
        base: Position,
        records: Vec<Record>,
        hard: HardState,
    },
    Compact(Floor),
}

struct CheckpointJob {
    meta: SnapshotMeta,
    state: State,
}

/// The turn loop's side of both threads.
pub(crate) struct Disk {
    log: SyncSender<LogJob>,
    checkpoint: SyncSender<CheckpointJob>,
    log_busy: bool,
    checkpoint_busy: bool,
    queue: VecDeque<Order>,
    compact: Option<Floor>,
}

struct Order {
    number: u64,
    persist: Persist,
    /// The state of `persist.snapshot`; taken when the checkpoint thread gets it.
    state: Option<State>,
    /// Waits for the checkpoint thread.
    installing: bool,
}

impl Disk {
    /// Starts both threads. They end when the answer is dropped and their job is done.
    pub(crate) fn start(
        journal: Journal,
        checkpoints: Checkpoints,
        inbox: mpsc::Sender<Inbox>,
    ) -> Result<(Self, Vec<JoinHandle<()>>), StartError> {
        // One job each: the loop hands out the next only when the last is done.
        let (log, log_jobs) = sync_channel(1);
        let (checkpoint, checkpoint_jobs) = sync_channel(1);
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(StartError::Thread)
        };
        let log_inbox = inbox.clone();
        let threads = vec![
            spawn("journal", Box::new(move || log_thread(journal, &log_jobs, &log_inbox)))?,
            spawn("checkpoint", Box::new(move || checkpoint_thread(checkpoints, &checkpoint_jobs, &inbox)))?,
        ];
        let queue = VecDeque::new();
        Ok((Self { log, checkpoint, log_busy: false, checkpoint_busy: false, queue, compact: None }, threads))
    }

    /// Takes a work order's writing; `state` with a snapshot.
    pub(crate) fn persist(&mut self, number: u64, persist: Persist, state: Option<State>) {
        self.queue.push_back(Order { number, persist, state, installing: false });
        self.give();
    }

    /// Writes a checkpoint unless one is being written. Answers whether it was begun.
    pub(crate) fn checkpoint(&mut self, meta: SnapshotMeta, state: State) -> bool {
        let installing = self.queue.iter().any(|o| o.persist.snapshot.is_some());
        if self.checkpoint_busy || installing {
            return false;
        }
        self.give_checkpoint(CheckpointJob { meta, state })
    }

    /// A thread has done its job.
    pub(crate) fn done(&mut self, done: &Done) {
        match done {
            Done::Persisted(_) | Done::Compacted => self.log_busy = false,
            Done::Checkpointed { index, floor } => {
                self.checkpoint_busy = false;
                if let Some(front) = self.queue.front_mut().filter(|o| o.installing)
                    && front.persist.snapshot.as_ref().is_some_and(|s| s.index == *index)
                {
                    front.installing = false;
                } else {
                    self.compact = Some(*floor);
                }
            }
            Done::Failed(_) => return,
        }
        self.give();
    }

    fn give(&mut self) {
        if self.log_busy {
            return;
        }
        let job = match self.queue.front_mut() {
            Some(front) if front.persist.snapshot.is_some() => {
                if let Some(state) = front.state.take_if(|_| !self.checkpoint_busy) {
                    front.installing = true;
                    let meta = front.persist.snapshot.clone().unwrap_or_default();
                    self.give_checkpoint(CheckpointJob { meta, state });
                    return;
                }
                if front.installing || front.state.is_some() {
                    return;
                }
                self.queue.pop_front().map(reset)
            }
            Some(_) => self.appends(),
            None => self.compact.take().map(LogJob::Compact),
        };
        if let Some(job) = job {
            // The thread is idle, so there is room; it is gone only when it has told of its failure.
            self.log_busy = self.log.try_send(job).is_ok();
        }
    }

    /// All orders up to the next snapshot, as one write.
    fn appends(&mut self) -> Option<LogJob> {
        let run = self.queue.iter().take_while(|o| o.persist.snapshot.is_none()).count();
        let (mut number, mut hard, mut records) = (0, HardState::default(), Vec::new());
        for order in self.queue.drain(..run) {
            number = order.number;
            hard = hard_to_disk(order.persist.hard_state);
            records.extend(order.persist.entries.iter().map(entry_to_disk));
        }
        Some(LogJob::Append { number, records, hard })
    }

    fn give_checkpoint(&mut self, job: CheckpointJob) -> bool {
        self.checkpoint_busy = self.checkpoint.try_send(job).is_ok();
        self.checkpoint_busy
    }
}

fn reset(order: Order) -> LogJob {
    let base = order.persist.snapshot.as_ref().map(position_of).unwrap_or_default();
    LogJob::Reset {
        number: order.number,
        base,
        records: order.persist.entries.iter().map(entry_to_disk).collect(),
        hard: hard_to_disk(order.persist.hard_state),
    }
}

fn log_thread(mut journal: Journal, jobs: &Receiver<LogJob>, inbox: &mpsc::Sender<Inbox>) {
    while let Ok(job) = jobs.recv() {
        let done = match job {
            LogJob::Append { number, records, hard } => {
                patiently(inbox, || journal.append(&records, hard)).map(|()| Done::Persisted(number))
            }
            LogJob::Reset { number, base, records, hard } => patiently(inbox, || journal.reset(base, hard))
                .and_then(|()| match records.is_empty() {
                    true => Ok(()),
                    false => patiently(inbox, || journal.append(&records, hard)),
                })
                .map(|()| Done::Persisted(number)),
            // What is not deleted now is deleted next time.
            LogJob::Compact(floor) => {
                if let Err(error) = journal.compact(floor) {
                    tracing::warn!(error = full_text(&error), "the log was not compacted");
                }
                Ok(Done::Compacted)
            }
        };
        if !tell(inbox, done) {
            return;
        }
    }
}

fn checkpoint_thread(mut checkpoints: Checkpoints, jobs: &Receiver<CheckpointJob>, inbox: &mpsc::Sender<Inbox>) {
    while let Ok(CheckpointJob { meta, state }) = jobs.recv() {
        let begun = std::time::Instant::now();
        let written = patiently(inbox, || checkpoints.write(&meta_of(&meta), state.pairs()));
        let done = written.map(|()| {
            tracing::debug!(index = meta.index, seconds = begun.elapsed().as_secs_f64(), "checkpoint written");
            Done::Checkpointed { index: meta.index, floor: checkpoints.floor() }
        });
        if !tell(inbox, done) {
            return;
        }
    }
}

/// Tries again while the disk is full or refuses: nothing was acknowledged, so nothing is lost by waiting.
fn patiently(inbox: &mpsc::Sender<Inbox>, mut act: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    loop {
        match act() {
            Err(error @ Error::Disk(DiskError::DiskFull { .. } | DiskError::Io { .. })) if !inbox.is_closed() => {
                tracing::error!(
                    error = full_text(&error),
                    "the control plane's disk does not take a write; trying again"
                );
                std::thread::sleep(RETRY);
            }
            other => return other,
        }
    }
}

/// Answers whether to go on.
fn tell(inbox: &mpsc::Sender<Inbox>, done: Result<Done, Error>) -> bool {
    let (done, go_on) = match done {
        Ok(done) => (done, true),
        Err(error) => (Done::Failed(full_text(&error)), false),
    };
    inbox.blocking_send(Inbox::Disk(done)).is_ok() && go_on
}

/// An error with its causes, in one line.
pub(crate) fn full_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
