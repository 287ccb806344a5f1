//! The asynchronous face of a log: batches of entries, waiting for more where that was asked for.

use std::io;
use std::path::Path;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::source::{Batch, Source};
use super::watch::Watch;
use super::{Entry, ReadOptions};
use crate::error::{Error, Result};

/// Reads one container's log.
///
/// Dropping it ends it; a read that is going on in a blocking thread ends by itself after one chunk.
#[derive(Debug)]
pub struct Reader {
    path: std::path::PathBuf,
    state: State,
    watch: Option<Watch>,
    /// True once the process has ended and everything it wrote is in the files.
    ended: watch::Receiver<bool>,
    /// The end was seen before the last read began: when that read finds nothing, nothing will follow.
    final_pass: bool,
}

enum State {
    Idle(Box<Source>),
    Reading(JoinHandle<(Box<Source>, io::Result<Batch>)>),
    Done,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Idle(_) => "Idle",
            State::Reading(_) => "Reading",
            State::Done => "Done",
        })
    }
}

impl Reader {
    /// Opens the log whose current file is `path`. A file that does not exist yet is an empty log.
    ///
    /// With `follow`, reading goes on until `ended` says true (or its sender is gone) and the files are read to their end:
    /// the caller sets it after [`crate::Runtime::wait`] has answered. Without, `ended` is not looked at.
    ///
    /// # Errors
    /// [`Error::Io`] when the files cannot be opened or their folder cannot be watched.
    pub async fn open(path: &Path, options: ReadOptions, ended: watch::Receiver<bool>) -> Result<Reader> {
        // Watched before the first read, so that no growth falls between the two.
        let watch = if options.follow { Some(watch_folder(path)?) } else { None };
        let owned = path.to_path_buf();
        let opened = tokio::task::spawn_blocking(move || Source::open(&owned, options)).await;
        let source = opened.map_err(|error| Error::io("open log", path)(io::Error::other(error)))?;
        let source = source.map_err(Error::io("open log", path))?;
        let state = State::Idle(Box::new(source));
        Ok(Reader { path: path.to_path_buf(), state, watch, ended, final_pass: false })
    }

    /// The next entries, in order, at least one; `None` at the end. May be cancelled without losing entries.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; the reader is at its end then.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<Entry>>> {
        loop {
            let Some(batch) = self.read().await? else { return Ok(None) };
            let last = batch.past_until || (batch.at_end && (self.watch.is_none() || self.final_pass));
            if last {
                self.state = State::Done;
            }
            if !batch.entries.is_empty() {
                return Ok(Some(batch.entries));
            }
            if last {
                return Ok(None);
            }
            if batch.at_end {
                self.grown().await;
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Batch>> {
        let state = std::mem::replace(&mut self.state, State::Done);
        self.state = match state {
            State::Done => return Ok(None),
            State::Reading(handle) => State::Reading(handle),
            State::Idle(mut source) => {
                // has_changed fails when the sender is gone: nobody will ever say "ended".
                self.final_pass = *self.ended.borrow() || self.ended.has_changed().is_err();
                State::Reading(tokio::task::spawn_blocking(move || {
                    let batch = source.read();
                    (source, batch)
                }))
            }
        };
        let State::Reading(handle) = &mut self.state else { return Ok(None) };
        let joined = handle.await;
        self.state = State::Done;
        let (source, batch) = joined.map_err(|error| Error::io("read log", &self.path)(io::Error::other(error)))?;
        let batch = batch.map_err(Error::io("read log", &self.path))?;
        self.state = State::Idle(source);
        Ok(Some(batch))
    }

    /// Waits until something happened in the folder or the process has ended.
    async fn grown(&mut self) {
        let Some(watch) = &self.watch else { return };
        tokio::select! {
            () = watch.changed() => {}
            // An error means that the sender is gone: the next pass is the last.
            _ = self.ended.wait_for(|ended| *ended) => {}
        }
    }
}

fn watch_folder(path: &Path) -> Result<Watch> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Watch::new(folder).map_err(Error::io("watch log folder", folder))
}
