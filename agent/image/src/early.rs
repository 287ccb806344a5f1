//! Having the kernel write large files to the disk while they are being made, so that little is left for the flush at the end.

use std::{fs::File, os::fd::AsRawFd};

/// Bytes after which the kernel is told again.
const STRIDE: u64 = 8 << 20;

/// How far the writing of a file has been begun.
#[derive(Debug, Default)]
pub(crate) struct Early {
    begun: u64,
}

impl Early {
    /// `file` is written up to `end`. Nothing is waited for but room in the disk's queue, and nothing is durable by it.
    pub(crate) fn reached(&mut self, file: &File, end: u64) {
        if end < self.begun + STRIDE {
            return;
        }
        let (Ok(from), Ok(bytes)) = (i64::try_from(self.begun), i64::try_from(end - self.begun)) else { return };
        // SAFETY: the descriptor is open, and no memory is touched (sync_file_range(2)).
        // A file system that refuses has more to do at the flush, which says what went wrong.
        let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), from, bytes, libc::SYNC_FILE_RANGE_WRITE) };
        self.begun = end;
    }
}
