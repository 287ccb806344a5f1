//! Sending one container's log: a task that reads the log file behind the shim and hands lines to the sink, from the
//! container's first start until its removal.

use super::{
    Wanted,
    sink::{self, Sink},
};
use crate::{
    container::{Handle, View, is_live},
    engine::Shared,
    record::{Durability, durable},
};
use muster_runtime::logs::{Entry, ReadOptions, Reader};
use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch, task::AbortHandle, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of lines in memory where the file is the buffer.
const IN_HAND: u64 = 256 * 1024;
/// Lines sent at once.
const CHUNK: usize = 512;
/// Waits between tries to reach a sink: the first, doubled up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(10);
/// How long a container's removal waits for its last lines to be sent.
const LAST_LINES: Duration = Duration::from_secs(3);
/// The file beside the log that says how far it was sent.
const POSITION: &str = "log-sent";

/// How far a log was sent: every line before this time, and so many of exactly this time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    time_ns: i64,
    count: u64,
}

impl Position {
    fn decode(text: &str) -> Option<Self> {
        let (time, count) = text.trim().split_once(' ')?;
        Some(Self { time_ns: time.parse().ok()?, count: count.parse().ok()? })
    }

    fn pass(&mut self, entry: &Entry) {
        if entry.time_ns == self.time_ns {
            self.count += 1;
        } else {
            *self = Self { time_ns: entry.time_ns, count: 1 };
        }
    }
}

/// The task of one container, to those who end it.
#[derive(Debug)]
pub(crate) struct Forwarder {
    finish: watch::Sender<bool>,
    /// Its sender goes with the task and the last of what that writes.
    done: watch::Receiver<()>,
    task: AbortHandle,
}

impl Forwarder {
    /// Lets the last lines be sent, for a bounded time. When this has answered, nothing more is written beside the log.
    pub async fn finish(self) {
        let Self { finish, mut done, task } = self;
        let _ = finish.send(true); // It may have ended by itself.
        if tokio::time::timeout(LAST_LINES, done.changed()).await.is_err() {
            tracing::warn!("a container goes whose last log lines its sink has not taken");
            task.abort();
            let _ = done.changed().await; // An error says that the sender is gone: that is what is waited for.
        }
    }
}

/// Starts sending a container's log if its driver sends.
pub(crate) fn start(shared: &Arc<Shared>, handle: &Handle) -> Option<Forwarder> {
    let wanted = Wanted::parse(&handle.record().host.log_config).ok()?;
    wanted.forward.as_ref()?;
    let (finish, finishing) = watch::channel(false);
    let (told, done) = watch::channel(());
    let task = Task {
        told: Arc::new(told),
        shared: shared.clone(),
        id: handle.id.clone(),
        view: handle.watch(),
        wanted,
        position: Position::default(),
        queue: Queue::default(),
        finishing,
    };
    let task = shared.spawn("log forwarding", task.run());
    Some(Forwarder { finish, done, task })
}

struct Task {
    shared: Arc<Shared>,
    id: String,
    view: watch::Receiver<View>,
    wanted: Wanted,
    position: Position,
    queue: Queue,
    finishing: watch::Receiver<bool>,
    told: Arc<watch::Sender<()>>,
}

/// Lines that were read and not sent, and how many were dropped since that was last said.
#[derive(Default)]
struct Queue {
    lines: VecDeque<Entry>,
    bytes: u64,
    dropped: u64,
}

impl Queue {
    /// Takes lines in; with a bound, those that do not fit are dropped, as Docker drops them.
    fn push(&mut self, lines: Vec<Entry>, bound: Option<u64>) {
        for line in lines {
            let size = line.line.len() as u64;
            if bound.is_some_and(|bound| !self.lines.is_empty() && self.bytes + size > bound) {
                self.dropped += 1;
                continue;
            }
            self.bytes += size;
            self.lines.push_back(line);
        }
    }

    fn take(&mut self) -> Vec<Entry> {
        let count = self.lines.len().min(CHUNK);
        let chunk: Vec<Entry> = self.lines.drain(..count).collect();
        self.bytes -= chunk.iter().map(|line| line.line.len() as u64).sum::<u64>();
        chunk
    }
}

/// A sink and the lines that it is sending.
type Sent = (Box<dyn Sink>, Vec<Entry>);

impl Task {
    async fn run(mut self) {
        let stop = self.shared.stop.clone();
        self.position = self.load().await;
        let Some(mut sink) = self.open() else { return };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                again = self.round(sink) => match again {
                    Some(next) => sink = next,
                    None => return,
                },
            }
            if !self.wait_for_more().await {
                return;
            }
        }
    }

    fn open(&self) -> Option<Box<dyn Sink>> {
        let record = self.view.borrow().record.clone();
        let forward = self.wanted.forward.as_ref()?;
        sink::open(&self.shared, &record, forward)
            .inspect_err(|reason| tracing::error!(container.id = %self.id, %reason, "its log cannot be sent"))
            .ok()
    }

    /// Waits until the container runs again; false: it is gone, or is to go.
    async fn wait_for_more(&mut self) -> bool {
        let mut finishing = self.finishing.clone();
        tokio::select! {
            view = self.view.wait_for(|v| v.removed || is_live(&v.record)) => view.is_ok_and(|v| !v.removed),
            _ = finishing.wait_for(|finish| *finish) => false,
            () = self.shared.stop.cancelled() => false,
        }
    }

    /// Sends everything up to the end of the container's run; gives the sink back, or `None` when time is over.
    async fn round(&mut self, sink: Box<dyn Sink>) -> Option<Box<dyn Sink>> {
        let (ended_now, ended) = watch::channel(false);
        let options = ReadOptions {
            since_ns: Some(self.position.time_ns).filter(|n| *n != 0),
            follow: true,
            ..ReadOptions::default()
        };
        let path = self.shared.log_path(&self.id);
        let mut reader = match Reader::open(&path, options, ended).await {
            Ok(reader) => Some(reader),
            Err(e) => {
                // The folder goes with the container; else it is tried again, and not at once.
                tracing::debug!(container.id = %self.id, error = %e, "no log to send");
                let mut finishing = self.finishing.clone();
                tokio::select! {
                    () = tokio::time::sleep(LAST_WAIT) => {}
                    () = told(&mut finishing) => {}
                }
                return Some(sink);
            }
        };
        let (mut view, mut skip) = (self.view.clone(), self.position);
        let mut ended_told = false;
        let mut idle = Some(sink);
        let mut sending: Option<AbortOnDropHandle<Sent>> = None;
        loop {
            if sending.is_none()
                && !self.queue.lines.is_empty()
                && let Some(sink) = idle.take()
            {
                sending = Some(self.send(sink));
            }
            let room = self.wanted.non_blocking.is_some() || self.queue.bytes < IN_HAND;
            tokio::select! {
                sent = next(&mut sending) => {
                    sending = None;
                    let (sink, lines) = sent?;
                    self.note(&lines).await;
                    idle = Some(sink);
                }
                batch = read(&mut reader), if room && reader.is_some() => match batch {
                    Some(mut lines) => {
                        lines.retain(|line| !passed(&mut skip, line));
                        self.queue.push(lines, self.wanted.non_blocking);
                    }
                    None => reader = None,
                },
                () = at_rest(&mut view), if !ended_told => {
                    ended_told = true;
                    let _ = ended_now.send(true); // The reader has the other end.
                }
            }
            if reader.is_none() && sending.is_none() && self.queue.lines.is_empty() {
                return idle;
            }
        }
    }

    /// Sends a chunk in a task of its own, which tries until all is sent. It ends with the engine.
    fn send(&mut self, mut sink: Box<dyn Sink>) -> AbortOnDropHandle<Sent> {
        let (lines, id, stop) = (self.queue.take(), self.id.clone(), self.shared.stop.clone());
        let finishing = self.finishing.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let sent = tokio::select! {
                () = stop.cancelled() => 0,
                sent = deliver(&mut sink, &lines, &id, finishing) => sent,
            };
            let mut lines = lines;
            lines.truncate(sent);
            (sink, lines)
        }))
    }

    /// Notes what was sent; says how many lines were dropped.
    async fn note(&mut self, lines: &[Entry]) {
        let dropped = std::mem::take(&mut self.queue.dropped);
        if dropped > 0 {
            tracing::warn!(container.id = %self.id, dropped, "log lines were dropped: the sink is slower than the container");
        }
        lines.iter().for_each(|line| self.position.pass(line));
        let (path, position) = (self.position_path(), self.position);
        let (text, told) = (format!("{} {}\n", position.time_ns, position.count), self.told.clone());
        let written = crate::error::blocking(move || {
            let _told = told; // A write that has begun ends, whatever becomes of the task.
            durable::write(&path, text.as_bytes(), Durability::Process).map_err(crate::error::disk)
        });
        if let Err(e) = written.await {
            // A full disk, or the container's folder is gone: at worst lines are sent twice.
            tracing::debug!(container.id = %self.id, error = %e, "cannot note how far a log was sent");
        }
    }

    fn position_path(&self) -> PathBuf {
        self.shared.folder(&self.id).join(POSITION)
    }

    async fn load(&self) -> Position {
        let path = self.position_path();
        let read = crate::error::blocking(move || durable::read(&path).map_err(crate::error::disk)).await;
        let text = read.ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
        text.and_then(|text| Position::decode(&text)).unwrap_or_default()
    }
}

/// Whether a line was sent before the task began: as many of the position's own time as it counts.
fn passed(skip: &mut Position, line: &Entry) -> bool {
    let passed = skip.count > 0 && line.time_ns == skip.time_ns;
    if passed {
        skip.count -= 1;
    }
    passed
}

/// Ends when the container does not run any more.
async fn at_rest(view: &mut watch::Receiver<View>) {
    let _ = view.wait_for(|v| v.removed || !is_live(&v.record)).await; // One that nobody publishes any more is at rest too.
}

async fn next(sending: &mut Option<AbortOnDropHandle<Sent>>) -> Option<Sent> {
    match sending {
        Some(task) => task.await.ok(),
        None => std::future::pending().await,
    }
}

async fn read(reader: &mut Option<Reader>) -> Option<Vec<Entry>> {
    match reader {
        Some(reader) => reader.next_batch().await.ok().flatten(),
        None => None,
    }
}

/// Ends when the container's removal has begun; never when nobody can say so any more.
async fn told(finishing: &mut watch::Receiver<bool>) {
    if finishing.wait_for(|finish| *finish).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Sends lines, again and again where the sink does not take them; answers how many it took. Fewer than all only when the
/// container goes and its time is over.
async fn deliver(sink: &mut Box<dyn Sink>, lines: &[Entry], id: &str, mut finishing: watch::Receiver<bool>) -> usize {
    let (mut sent, mut wait, mut failing) = (0, FIRST_WAIT, false);
    let mut deadline: Option<Instant> = None;
    loop {
        match sink.send(&lines[sent..]).await {
            Ok(()) => {
                if failing {
                    tracing::info!(container.id = %id, "the sink of its log takes lines again");
                }
                return lines.len();
            }
            Err(stopped) => {
                sent += stopped.sent;
                if !failing {
                    tracing::warn!(container.id = %id, reason = %stopped.reason, "the sink of its log takes no lines; trying on");
                }
                failing = true;
            }
        }
        if *finishing.borrow() {
            let end = *deadline.get_or_insert_with(|| Instant::now() + LAST_LINES);
            if Instant::now() >= end {
                return sent;
            }
            wait = wait.min(FIRST_WAIT * 2);
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = told(&mut finishing), if deadline.is_none() => {}
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_runtime::logs::Stream;

    fn line(time_ns: i64, text: &str) -> Entry {
        Entry { time_ns, stream: Stream::Stdout, line: text.to_owned().into() }
    }

    #[test]
    fn a_position_passes_just_the_lines_that_were_sent() {
        let mut position = Position::default();
        for entry in [line(5, "a"), line(7, "b"), line(7, "c")] {
            position.pass(&entry);
        }
        let read = Position::decode(&format!("{} {}\n", position.time_ns, position.count)).expect("reads back");
        assert_eq!(read, position);
        let mut skip = read;
        let left: Vec<bool> =
            [line(7, "b"), line(7, "c"), line(7, "d"), line(8, "e")].iter().map(|l| passed(&mut skip, l)).collect();
        assert_eq!(left, [true, true, false, false]);
        assert_eq!(Position::decode("x"), None);
    }

    #[test]
    fn a_bounded_queue_drops_what_does_not_fit_and_counts_it() {
        let mut queue = Queue::default();
        queue.push(vec![line(1, "12345"), line(2, "12345"), line(3, "1")], Some(8));
        assert_eq!((queue.lines.len(), queue.bytes, queue.dropped), (2, 6, 1));
        let all = queue.take();
        assert_eq!((all.len(), queue.bytes), (2, 0));
        queue.push(vec![line(1, &"x".repeat(100))], Some(8));
        assert_eq!(queue.lines.len(), 1, "a line longer than the bound is sent by itself");
    }
}
