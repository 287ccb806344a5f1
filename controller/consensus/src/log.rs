//! The log as `raft` reads it: in memory, from the last compaction on. The disk's copy is the journal's business.

use crate::convert::{hard_state_to_raft, membership_to_raft, snapshot_to_raft};
use crate::types::{HardState, Membership, SnapshotMeta};
use raft::eraftpb;
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::collections::VecDeque;

/// Entries `base.index + 1 ..`, the position before them, and where the state machine stands.
pub(crate) struct Log {
    start: RaftState,
    base_index: u64,
    base_term: u64,
    entries: VecDeque<eraftpb::Entry>,
    /// The state as applied: what a snapshot taken now would be.
    applied: SnapshotMeta,
}

impl Log {
    pub(crate) fn new(hard: HardState, snapshot: SnapshotMeta, entries: VecDeque<eraftpb::Entry>) -> Self {
        let conf = membership_to_raft(&snapshot.membership);
        Self {
            start: RaftState::new(hard_state_to_raft(hard), conf),
            base_index: snapshot.index,
            base_term: snapshot.term,
            entries,
            applied: snapshot,
        }
    }

    fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    fn at(&self, index: u64) -> Option<&eraftpb::Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.base_index + 1)?).ok()?)
    }

    /// Replaces from the first entry's index on. `raft` never hands out entries with a hole before them, or committed
    /// ones again.
    pub(crate) fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base_index && first.index <= self.last() + 1, "raft appended with a hole");
        self.entries.truncate((first.index - self.base_index - 1) as usize);
        self.entries.extend(entries.iter().cloned());
    }

    /// Drops everything: the log now starts behind the snapshot.
    pub(crate) fn restore(&mut self, meta: &SnapshotMeta) {
        self.entries.clear();
        self.base_index = meta.index;
        self.base_term = meta.term;
    }

    /// The state machine has taken everything up to here.
    pub(crate) fn set_applied(&mut self, index: u64, term: u64, membership: Membership) {
        self.applied = SnapshotMeta { index, term, membership };
    }

    pub(crate) fn applied(&self) -> &SnapshotMeta {
        &self.applied
    }

    /// Forgets entries up to `through`, at most what is applied.
    pub(crate) fn compact(&mut self, through: u64) {
        let through = through.min(self.applied.index);
        let Some(entry) = self.at(through) else { return };
        self.base_term = entry.term;
        self.entries.drain(..(through - self.base_index) as usize);
        self.base_index = through;
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<eraftpb::Entry>> {
        if low <= self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let from = (low - self.base_index - 1) as usize;
        let to = (high - self.base_index - 1) as usize;
        let budget = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0u64;
        let mut out = Vec::new();
        for entry in self.entries.range(from..to) {
            size = size.saturating_add(weight(entry));
            if size > budget && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base_index {
            return Ok(self.base_term);
        }
        if index < self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.at(index).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<eraftpb::Snapshot> {
        if self.applied.index == 0 || self.applied.index < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(snapshot_to_raft(&self.applied))
    }
}

/// What an entry costs on the wire, about.
fn weight(entry: &eraftpb::Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + 32
}
