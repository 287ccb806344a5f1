//! What can go wrong on a disk, by what the operator can do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the disk did not do it. The call has had no effect and may be tried again.
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
    /// Bytes that were durable are not what was written: a fault of the disk, of memory, or of somebody with an editor.
    #[error("{path}: damaged at offset {offset}: {what}")]
    Damaged { path: PathBuf, offset: u64, what: String },
    /// Written by a newer version of this program.
    #[error("{path}: format {found} is not known here (known: {known})")]
    Format { path: PathBuf, found: u32, known: u32 },
    /// The same key came twice.
    #[error("{path}: {expected} keys were written, {found} are there")]
    KeyCount { path: PathBuf, expected: u64, found: u64 },
    #[error("{path}: sled cannot {op}")]
    Sled {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: sled::Error,
    },
}

impl Error {
    /// An I/O error with what was tried and where; a full disk is told apart.
    pub fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { op, path },
            _ => Error::Io { op, path, source },
        }
    }

    /// Bytes at `offset` of a file are not what was written.
    pub fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Error::Damaged { path: path.to_owned(), offset, what: what.into() }
    }

    pub(crate) fn sled(op: &'static str, path: &Path, source: sled::Error) -> Self {
        match source {
            sled::Error::Io(source) => Error::io(op, path, source),
            source => Error::Sled { op, path: path.to_owned(), source },
        }
    }
}
