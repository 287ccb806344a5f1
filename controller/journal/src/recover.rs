//! After a restart: which checkpoint, and which records continue it.

use crate::checkpoint::{Checkpoints, Generation};
use crate::error::Error;
use crate::frame::{HardState, Position, Record};
use crate::journal::{Contents, Journal, Options};
use crate::lock::Lock;
use crate::scan::TornTail;
use muster_generations::disk;
use std::path::Path;
use std::sync::Arc;

/// A manager's folder, open, and what was in it. The journal and the checkpoints may go to different threads.
#[derive(Debug)]
pub struct Opened {
    pub journal: Journal,
    pub checkpoints: Checkpoints,
    pub recovered: Recovered,
}

/// What the folder held.
#[derive(Debug)]
pub struct Recovered {
    /// The state to start from; `None` in a folder that never had any.
    pub checkpoint: Option<Generation>,
    pub hard_state: HardState,
    /// The records behind the checkpoint, without holes.
    pub records: Vec<Record>,
    /// A last write that was cut short.
    pub torn: Option<TornTail>,
}

impl Recovered {
    /// Nothing was here: a node that has to found a cluster or join one.
    pub fn is_new(&self) -> bool {
        self.checkpoint.is_none() && self.records.is_empty() && self.hard_state == HardState::default()
    }
}

/// Opens a manager's folder, creating it when it is not there. Blocks while it reads; everything that is returned is
/// durable.
///
/// # Errors
/// [`Error::Locked`]: another process has it. [`Error::Disk`], [`Error::MissingSegment`], [`Error::Uncovered`],
/// [`Error::Truncated`]: acknowledged data is not there any more. Nothing is changed then.
pub fn open(dir: &Path, options: Options) -> Result<Opened, Error> {
    let (log_dir, checkpoint_dir) = (dir.join("log"), dir.join("checkpoints"));
    disk::create_dir(dir)?;
    let lock = Arc::new(Lock::take(dir)?);
    disk::create_dir(&log_dir)?;
    disk::create_dir(&checkpoint_dir)?;
    // A folder whose creator died before its sync looks complete, and must be from here on.
    disk::sync_dir(dir)?;
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        disk::sync_dir(parent)?;
    }
    let (mut journal, contents) = Journal::open(&log_dir, options, lock.clone())?;
    let cache_bytes = options.checkpoint_cache_bytes;
    let (checkpoints, checkpoint) = Checkpoints::open(&checkpoint_dir, cache_bytes, contents.base, lock)?;
    let at = checkpoint.as_ref().map_or(Position::default(), |generation| generation.meta().position());
    let torn = contents.torn.clone();
    let (hard_state, records) = continue_from(at, contents, &mut journal, dir)?;
    Ok(Opened { journal, checkpoints, recovered: Recovered { checkpoint, hard_state, records, torn } })
}

/// Finds the records behind the checkpoint. A log that does not know the checkpoint's last entry is from before a received
/// snapshot: the crash came after the checkpoint and before [`Journal::reset`], which is done now.
fn continue_from(
    at: Position,
    contents: Contents,
    journal: &mut Journal,
    dir: &Path,
) -> Result<(HardState, Vec<Record>), Error> {
    let Contents { base, mut hard, mut records, .. } = contents;
    let last = journal.last();
    let known = if at.index == base.index {
        at.term == base.term
    } else {
        records.get((at.index - base.index - 1) as usize).is_some_and(|record| record.term == at.term)
    };
    if known {
        if hard.commit > last.index {
            return Err(Error::Truncated { dir: dir.to_owned(), last: last.index, commit: hard.commit });
        }
        records.drain(..(at.index - base.index) as usize);
        hard.commit = hard.commit.max(at.index);
        return Ok((hard, records));
    }
    if hard.commit > at.index {
        // The log was committed beyond the checkpoint, and yet knows another entry in its place.
        return Err(Error::Truncated { dir: dir.to_owned(), last: last.index, commit: hard.commit });
    }
    if hard.term < at.term {
        hard = HardState { term: at.term, vote: 0, commit: 0 };
    }
    hard.commit = at.index;
    journal.reset(at, hard)?;
    Ok((hard, Vec::new()))
}
