//! What can go wrong on a disk, by what the operator can do about it.

pub use muster_generations::Error as DiskError;
use std::io;
use std::path::{Path, PathBuf};

/// Why the disk did not do it. Unless said otherwise the call has had no effect and may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A fault of the disk: it is full, does not answer, or holds what was not written; or sled refuses.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process works in this folder.
    #[error("{path}: locked by another process; two daemons cannot share a data folder")]
    Locked { path: PathBuf },
    #[error("{path}: missing; the log needs it")]
    MissingSegment { path: PathBuf },
    /// A sync failed: what the disk holds is unknown (the kernel may have dropped the dirty pages), so nothing more is
    /// written. Open anew to find out.
    #[error("{path}: an earlier sync failed; the journal must be opened anew")]
    Poisoned { path: PathBuf },
    #[error("record {index} does not follow the log, which ends at {last}")]
    Hole { index: u64, last: u64 },
    #[error("record {index} would replace one at or below {base}, which are compacted away")]
    BelowBase { index: u64, base: u64 },
    #[error("a write of {bytes} bytes is more than the limit of {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("a checkpoint at {index} must lie behind the last one at {last}")]
    NotNewer { index: u64, last: u64 },
    /// No checkpoint is sound from which the log goes on. The state cannot be rebuilt here: restore a backup, or let the
    /// node join anew and take the state from the others.
    #[error("{dir}: the log starts behind {log_base}, and no sound checkpoint reaches it: {reason}")]
    Uncovered { dir: PathBuf, log_base: u64, reason: String },
    /// The log is known to have been committed further than what is there.
    #[error("{dir}: the log ends at {last}, but was committed up to {commit}: acknowledged records are missing")]
    Truncated { dir: PathBuf, last: u64, commit: u64 },
}

impl Error {
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        DiskError::io(op, path, source).into()
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        DiskError::damaged(path, offset, what).into()
    }
}
