//! One process at a time in a folder.

use crate::error::Error;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Held while this process works in a folder. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// # Errors
    /// [`Error::Locked`] when another process (or another opening in this one) holds it.
    pub(crate) fn take(dir: &Path) -> Result<Self, Error> {
        let path: PathBuf = dir.join("LOCK");
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path }),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
        }
    }
}
