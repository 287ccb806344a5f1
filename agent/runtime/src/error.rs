//! Why a call to the runtime failed, in terms that the engine can turn into Docker's answers.

use std::io;
use std::path::PathBuf;

use crate::spec;

/// Result of everything in this crate that talks to a runtime.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. The texts are fit to be shown to a user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id is empty, too long, or holds a character that may not be in a file name of ours.
    #[error("invalid container or exec id {id:?}: letters, digits, '_', '.' and '-' only, at most 128")]
    BadId { id: String },
    /// The runtime knows no such container or exec.
    #[error("no such container in the runtime: {id}")]
    NotFound { id: String },
    /// A container or exec of that id exists in the run folder.
    #[error("container {id} already exists in the runtime")]
    AlreadyExists { id: String },
    /// The user's command does not exist in the container: Docker's exit code 127.
    #[error("{message}")]
    CommandNotFound { message: String },
    /// The user's command exists but cannot be executed (no x bit, a directory): Docker's exit code 126.
    #[error("{message}")]
    CommandNotExecutable { message: String },
    /// The runtime binary refused; `message` is its own last error.
    #[error("runtime {op} failed: {message}")]
    Runtime { op: &'static str, message: String },
    /// The process has ended or has not been started.
    #[error("container {id} is not running")]
    NotRunning { id: String },
    /// A delete without force of a container that still runs.
    #[error("container {id} is still running")]
    StillRunning { id: String },
    /// A resize of a process without a terminal.
    #[error("{id} has no tty")]
    NoTty { id: String },
    /// The shim of the container has died; the container is being ended.
    #[error("the shim of {id} is gone")]
    ShimGone { id: String },
    /// The shim answered something that this version does not understand.
    #[error("shim protocol: {0}")]
    Protocol(String),
    /// The shim refused the request.
    #[error("shim: {message}")]
    Shim { message: String },
    /// Something that was asked for cannot be done here; `field` names it.
    #[error("{field}: {reason}")]
    Unsupported { field: &'static str, reason: String },
    /// The OCI spec could not be built.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// A system call failed; `op` says what was being done and `path` to what.
    #[error("{op} {}: {source}", path.display())]
    Io { op: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// The exit code that Docker records for a container or exec whose start failed with this error: 127 when the command
    /// was not found or a file met a folder, 126 when it could not be executed, 128 for every other failure of the runtime.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::CommandNotFound { .. } => 127,
            Error::CommandNotExecutable { .. } => 126,
            _ if self.is_not_a_directory() => 127,
            _ => 128,
        }
    }

    /// The same for an exec: 126 where nothing better is known.
    pub fn exec_exit_code(&self) -> i32 {
        if matches!(self, Error::CommandNotFound { .. }) { 127 } else { 126 }
    }

    /// What the runtime itself said, without our own words around it.
    pub fn said(&self) -> String {
        match self {
            Error::Runtime { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }

    /// Whether a file met a folder, as when one is mounted on the other.
    pub fn is_not_a_directory(&self) -> bool {
        matches!(self, Error::Runtime { message, .. } if message.contains("not a directory"))
    }

    /// Wraps an I/O error with what was being done to which path.
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { op, path, source }
    }
}
