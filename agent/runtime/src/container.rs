//! What the engine says of a container or an exec when it creates one, and what it is told back.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// A process that the runtime holds the stdio of: a container's init or one exec in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessRef<'a> {
    /// The init process of the container of this id.
    Container(&'a str),
    /// Exec `exec` in container `container`.
    Exec { container: &'a str, exec: &'a str },
}

impl<'a> ProcessRef<'a> {
    /// Id of the container that the process is in.
    pub fn container(&self) -> &'a str {
        match self {
            ProcessRef::Container(id) => id,
            ProcessRef::Exec { container, .. } => container,
        }
    }

    /// Id of the process itself: the exec's, or the container's for its init.
    pub fn id(&self) -> &'a str {
        match self {
            ProcessRef::Container(id) => id,
            ProcessRef::Exec { exec, .. } => exec,
        }
    }
}

/// Everything that [`crate::Runtime::create`] needs. The spec comes from [`crate::spec::build`].
#[derive(Debug, Clone)]
pub struct CreateSpec {
    /// Id of the container (Docker: 64 hex digits).
    pub id: String,
    /// Folder that `config.json` is written into; created if missing. May be equal to `state_dir`.
    pub bundle: PathBuf,
    /// The container's durable folder, where the shim records the exit in a file named `exit`; created if missing.
    pub state_dir: PathBuf,
    /// The OCI spec, its `root.path` absolute.
    pub spec: oci_spec::runtime::Spec,
    /// How the standard streams are held.
    pub stdio: Stdio,
    /// Where output is logged to.
    pub log: LogConfig,
}

/// How the standard streams of a process are held by its shim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// A pseudo terminal in place of three pipes; must equal `process.terminal` of the spec.
    pub tty: bool,
    /// Whether standard input stays open for attached clients (Docker's `OpenStdin`); otherwise it is `/dev/null`.
    pub open_stdin: bool,
    /// First size of the terminal; the kernel's 0x0 otherwise.
    pub size: Option<TtySize>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Which log the shim writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's `json-file` lines; `local` uses the same form under another name.
    JsonFile,
    /// No log at all.
    None,
}

/// The log of one container. Rotated files are named as Docker names them: `path`, `path.1` (newer) ... `path.N-1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// What is written.
    pub driver: LogDriver,
    /// The file; unused with [`LogDriver::None`]. Its folder must exist.
    pub path: PathBuf,
    /// Bytes after which a new file is begun; no bound when `None`.
    pub max_size: Option<u64>,
    /// Number of files kept, the current one included; at least 1.
    pub max_file: u32,
    /// Compress those that were rotated away: `path.N.gz`.
    pub compress: bool,
}

impl LogConfig {
    /// No log.
    pub fn none() -> Self {
        LogConfig { driver: LogDriver::None, path: PathBuf::new(), max_size: None, max_file: 1, compress: false }
    }

    /// One `json-file` log without rotation.
    pub fn json_file(path: impl Into<PathBuf>) -> Self {
        LogConfig { driver: LogDriver::JsonFile, path: path.into(), max_size: None, max_file: 1, compress: false }
    }
}

/// A container that has been created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Pid of its init in the host's pid namespace; `/proc/PID/ns/net` is its network namespace.
    pub pid: u32,
}

/// A process to run in a running container.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// The OCI process, from [`crate::spec::exec_process`].
    pub process: oci_spec::runtime::Process,
    /// How its standard streams are held; `tty` must equal `process.terminal`.
    pub stdio: Stdio,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code as Docker shows it: the process's own, or 128 + signal.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// When it ended (wall clock).
    pub at: SystemTime,
    /// Whether the kernel's OOM killer killed a process of the container's cgroup.
    pub oom_killed: bool,
    /// Set when the exit was not seen but concluded, for instance "the shim died".
    pub error: Option<String>,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Created, the user's command does not run yet. Moves to running by start, to stopped by kill.
    Created,
    /// The user's command runs. Moves to paused by pause, to stopped when init ends.
    Running,
    /// Frozen. Moves to running by resume, to stopped by SIGKILL.
    Paused,
    /// Init has ended. Final.
    Stopped,
}

/// Answer of [`crate::Runtime::state`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What it is doing.
    pub status: Status,
    /// Pid of init; 0 once stopped.
    pub pid: u32,
    /// How it ended, once stopped.
    pub exit: Option<ExitStatus>,
}

/// Answer of [`crate::Runtime::adopt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// It lives: created, running or paused. Call [`crate::Runtime::wait`] for its end.
    Alive { status: Status, pid: u32 },
    /// It has ended, now or while the daemon was away. [`crate::Runtime::delete`] has still to be called.
    Exited(ExitStatus),
    /// The runtime has nothing of it and there is no exit record: never created, or deleted before.
    Unknown,
}
