//! Reading a blob while it is still being fetched, so that a layer is unpacked as it comes.
//!
//! Who fetches writes the file and says how far it got; who unpacks reads up to there and waits. What was read before the
//! blob's digest was compared counts for nothing until it was: the reader's result is thrown away with a wrong blob.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How far a blob is.
#[derive(Default)]
pub(crate) struct Follow {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    written: u64,
    /// Counts how often the blob began anew: what was read before is not part of it.
    began: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    GivenUp,
}

/// The error inside of an [`io::Error`] when the blob began anew or does not come.
#[derive(Debug, thiserror::Error)]
#[error("the blob that was read did not come to its end")]
pub(crate) struct Broken;

/// Ends a blob as given up when it was not ended otherwise: the future that fetched it may be dropped at any time.
pub(crate) struct Following(pub(crate) Arc<Follow>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.end(End::GivenUp);
    }
}

impl Follow {
    /// The first `written` bytes are in the file.
    pub(crate) fn reached(&self, written: u64) {
        self.locked().written = written;
        self.changed.notify_all();
    }

    /// The file is about to be emptied.
    pub(crate) fn begin_anew(&self) {
        let mut state = self.locked();
        (state.written, state.began) = (0, state.began + 1);
        drop(state);
        self.changed.notify_all();
    }

    /// All of it is there, and is what it should be.
    pub(crate) fn whole(&self) {
        self.end(End::Whole);
    }

    fn end(&self, end: End) {
        self.locked().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Reads `file` as it grows.
    pub(crate) fn reader(self: &Arc<Self>, file: File) -> Reader {
        let began = self.locked().began;
        Reader { follow: self.clone(), file, at: 0, began }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob's bytes as they come. Blocks for those that did not come yet.
pub(crate) struct Reader {
    follow: Arc<Follow>,
    file: File,
    at: u64,
    began: u64,
}

impl Reader {
    /// How many bytes after `at` may be read now; 0 at the end.
    fn wait(&self) -> io::Result<u64> {
        let mut state = self.follow.locked();
        loop {
            if state.began != self.began {
                return Err(io::Error::other(Broken));
            }
            match (state.written.saturating_sub(self.at), state.end) {
                (0, None) => {}
                (0, Some(End::GivenUp)) => return Err(io::Error::other(Broken)),
                (more, _) => return Ok(more),
            }
            state = self.follow.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let more = usize::try_from(self.wait()?).unwrap_or(usize::MAX).min(buffer.len());
        if more == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..more], self.at)?;
        if read == 0 {
            // It was emptied in between.
            return Err(io::Error::other(Broken));
        }
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_reader_gets_what_was_written_and_the_end_only_when_it_is_whole() -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        let follow = Arc::new(Follow::default());
        let mut reader = follow.reader(file.reopen()?);
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        for part in [&b"one "[..], b"two"] {
            file.write_all(part)?;
            follow.reached(file.as_file().metadata()?.len());
        }
        follow.whole();
        assert_eq!(reading.join().expect("it does not panic")?, b"one two");
        Ok(())
    }

    #[test]
    fn a_reader_of_a_blob_that_is_given_up_or_begins_anew_fails() -> io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        for end in [|follow: Arc<Follow>| drop(Following(follow)), |follow: Arc<Follow>| follow.begin_anew()] {
            let follow = Arc::new(Follow::default());
            let mut reader = follow.reader(file.reopen()?);
            end(follow);
            assert!(reader.read(&mut [0; 4]).is_err());
        }
        Ok(())
    }
}
