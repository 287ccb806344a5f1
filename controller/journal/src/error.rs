//! What can go wrong on a disk, by what the operator can do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the disk did not do it. Unless said otherwise the call has had no effect and may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No space, or the quota is used up. Nothing is half-done; free some and try again.
    #[error("{path}: no space left to {op}")]
    DiskFull { op: &'static str, path: PathBuf },
    #[error("{path}: cannot {op}")]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another process works in this folder.
    #[error("{path}: locked by another process; two daemons cannot share a data folder")]
    Locked { path: PathBuf },
    /// Bytes that were durable are not what was written: a fault of the disk, of memory, or of somebody with an editor.
    #[error("{path}: damaged at offset {offset}: {what}")]
    Damaged { path: PathBuf, offset: u64, what: String },
    #[error("{path}: missing; the log needs it")]
    MissingSegment { path: PathBuf },
    /// Written by a newer version of this program.
    #[error("{path}: format {found} is not known here (known: {known})")]
    Format { path: PathBuf, found: u32, known: u32 },
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
    /// Of a checkpoint's database: a key came twice, or sled refuses.
    #[error(transparent)]
    Generations(muster_generations::Error),
    /// No checkpoint is sound from which the log goes on. The state cannot be rebuilt here: restore a backup, or let the
    /// node join anew and take the state from the others.
    #[error("{dir}: the log starts behind {log_base}, and no sound checkpoint reaches it: {reason}")]
    Uncovered { dir: PathBuf, log_base: u64, reason: String },
    /// The log is known to have been committed further than what is there.
    #[error("{dir}: the log ends at {last}, but was committed up to {commit}: acknowledged records are missing")]
    Truncated { dir: PathBuf, last: u64, commit: u64 },
}

impl Error {
    /// An I/O error with what was tried and where; a full disk is told apart.
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { op, path },
            _ => Error::Io { op, path, source },
        }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Error::Damaged { path: path.to_owned(), offset, what: what.into() }
    }
}

impl From<muster_generations::Error> for Error {
    fn from(error: muster_generations::Error) -> Self {
        use muster_generations::Error as E;
        match error {
            E::DiskFull { op, path } => Error::DiskFull { op, path },
            E::Io { op, path, source } => Error::Io { op, path, source },
            E::Damaged { path, offset, what } => Error::Damaged { path, offset, what },
            E::Format { path, found, known } => Error::Format { path, found, known },
            other => Error::Generations(other),
        }
    }
}
