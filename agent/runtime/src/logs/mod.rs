//! Reading a container's log files back: the last N lines, a span of time, and following them as they grow.
//!
//! The files are Docker's `json-file` (one JSON object a line: `log`, `stream`, `time`), written by the shim, which also rotates
//! them (`path`, `path.1` newer, ... older). A [`Reader`] holds the file that it reads open, so a rotation loses it nothing as
//! long as the next older file still exists when it gets there.

mod entry;
mod follow;
mod source;
mod watch;

pub use entry::{Entry, Stream};
pub use follow::Reader;
pub use muster_shim::clock::{format as format_time, parse as parse_time};

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// Only the last so many entries (before the other conditions are applied, as in Docker); all when `None`.
    pub tail: Option<usize>,
    /// Only the first entry at or after this time, in nanoseconds since 1970, and what stands behind it: where the clock was set
    /// back meanwhile, that is earlier.
    pub since_ns: Option<i64>,
    /// Only entries at or before this time; reading ends at the first later one.
    pub until_ns: Option<i64>,
    /// Go on as the log grows, until the process has ended.
    pub follow: bool,
    /// Deliver standard output.
    pub stdout: bool,
    /// Deliver standard error.
    pub stderr: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { tail: None, since_ns: None, until_ns: None, follow: false, stdout: true, stderr: true }
    }
}

/// Deletes a container's log files: `path` and its rotated companions.
///
/// # Errors
/// The first removal that failed for another reason than the file's absence.
pub fn remove(path: &std::path::Path) -> std::io::Result<()> {
    source::all_paths(path)?.into_iter().try_for_each(|path| match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
}

/// Bytes that a container's log files take.
pub fn size(path: &std::path::Path) -> std::io::Result<u64> {
    Ok(source::all_paths(path)?.iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum())
}
