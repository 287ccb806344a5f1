//! The small arguments of engine calls.

use bytes::Bytes;
use muster_model::{Timestamp, engine::AuthConfig};
use serde::{Deserialize, Serialize};

pub use muster_model::engine::Filters;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListContainers {
    /// Those that do not run, too.
    pub all: bool,
    /// The newest so many, whatever their state. 0: no bound.
    pub limit: u32,
    /// Fill in `SizeRw` and `SizeRootFs`.
    pub size: bool,
    pub filters: Filters,
}

/// A list that may have been gathered from many nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed<T> {
    pub items: Vec<T>,
    /// Nodes that did not answer in time: what they have is not in `items`.
    #[serde(default)]
    pub unreached: Vec<Unreached>,
}

/// A node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// Its hostname, or its id where the name is not known.
    pub node: String,
    pub reason: String,
}

impl<T> From<Vec<T>> for Listed<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, unreached: Vec::new() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemoveContainer {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes, too.
    pub volumes: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopContainer {
    /// `SIGTERM`, `TERM` or a number; `None`: the container's own stop signal.
    pub signal: Option<String>,
    /// Seconds until it is killed; negative: never. `None`: the container's own, else 10.
    pub timeout_s: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitCondition {
    /// Answers at once if it does not run.
    #[default]
    NotRunning,
    NextExit,
    Removed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logs {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    /// Lines before this time are left out. Zero: from the start.
    pub since: Timestamp,
    /// Lines from this time on are left out. Zero: to the end.
    pub until: Timestamp,
    /// The last so many lines of what is there; `None`: all.
    pub tail: Option<u64>,
    /// The engine prefixes nothing: the time of each line rides in [`LogChunk::time`].
    pub timestamps: bool,
    pub details: bool,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            stdout: true,
            stderr: true,
            follow: false,
            since: Timestamp::ZERO,
            until: Timestamp::ZERO,
            tail: None,
            timestamps: false,
            details: false,
        }
    }
}

/// Which of the container's streams bytes belong to. The numbers are those of Docker's stream framing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdStream {
    Stdin = 0,
    #[default]
    Stdout = 1,
    Stderr = 2,
    /// A message of the engine about the stream itself.
    System = 3,
}

/// A piece of live output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub stream: StdStream,
    pub data: Bytes,
}

/// One logged line (or part of a long one), newline included when it had one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    pub stream: StdStream,
    pub time: Timestamp,
    pub data: Bytes,
    /// `key=value` attributes the log driver was told to keep; empty unless asked for by `details`.
    pub attrs: Vec<(String, String)>,
}

/// What `logs` answers: whether the container has a terminal (then a face writes no frames), and the lines.
pub struct LogStream {
    pub tty: bool,
    pub lines: crate::Stream<LogChunk>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Send what was logged already, first.
    pub logs: bool,
    /// Go on with live output.
    pub stream: bool,
    /// E.g. `ctrl-p,ctrl-q`; `None`: the default keys. The engine watches stdin for them and ends the stream.
    pub detach_keys: Option<String>,
}

/// Something sent into an attached process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Data(Bytes),
    /// The client shut its side: close the process's stdin.
    Close,
}

/// A live connection to a process. Dropping it detaches; the process goes on.
pub struct Attached {
    pub tty: bool,
    /// Ends when the process has ended and all its output was sent, or at the detach keys.
    pub output: crate::Stream<Output>,
    /// Bounded: a full channel is back-pressure. Closed when nobody reads stdin any more.
    pub input: tokio::sync::mpsc::Sender<Input>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecStart {
    pub detach: bool,
    pub tty: bool,
    /// Height, width.
    pub console_size: Option<(u16, u16)>,
    pub detach_keys: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pull {
    /// Name with tag or digest, as the user wrote it.
    pub reference: String,
    /// `os/arch[/variant]`; empty: this host's.
    pub platform: String,
    /// Every tag of the repository; that of `reference` does not count then.
    pub all_tags: bool,
    pub auth: Option<AuthConfig>,
}

/// A root file system that becomes an image of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Import {
    /// Where the host finds the tar, by http or https; empty: the caller sends it.
    pub url: String,
    /// Name of the image; empty: none.
    pub repo: String,
    pub tag: String,
    /// Of its history; empty: where it came from.
    pub message: String,
    /// Instructions of a Dockerfile, as `docker commit -c` takes them.
    pub changes: Vec<String>,
    /// `os/arch[/variant]`; empty: this host's.
    pub platform: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    /// Zero: only events from now on.
    pub since: Timestamp,
    /// Zero: for ever.
    pub until: Timestamp,
    pub filters: Filters,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Commit {
    pub container: String,
    pub repo: String,
    pub tag: String,
    pub comment: String,
    pub author: String,
    /// Pause while reading.
    pub pause: bool,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
}

/// `docker cp` asks this of a path first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathStat {
    pub name: String,
    pub size: i64,
    /// Go's `os.FileMode` bits.
    pub mode: u32,
    pub mtime: Timestamp,
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}
