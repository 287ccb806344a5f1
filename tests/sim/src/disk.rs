//! A manager's disk: writes take time, happen in order, and those that are not done are lost when the power goes.

use crate::time::Time;
use muster_consensus::{Entry, HardState, Persist, SnapshotMeta, Start};
use muster_state::State;
use std::collections::VecDeque;

/// One write under way.
#[derive(Debug)]
struct Write {
    number: u64,
    persist: Persist,
    /// The state that a received snapshot stands for.
    install: Option<State>,
}

/// What is on the platter, and what is on its way there.
#[derive(Debug, Default)]
pub struct Disk {
    hard: HardState,
    checkpoint: SnapshotMeta,
    state: State,
    entries: Vec<Entry>,
    pending: VecDeque<Write>,
    /// When the last write of the queue will be done.
    pub busy_until: Time,
}

impl Disk {
    /// A disk as a founding left it.
    pub fn found(start: Start) -> Self {
        Self { hard: start.hard_state, checkpoint: start.snapshot, entries: start.entries, ..Self::default() }
    }

    pub fn write(&mut self, number: u64, persist: Persist, install: Option<State>) {
        self.pending.push_back(Write { number, persist, install });
    }

    /// The write of this number has reached the platter.
    pub fn done(&mut self, number: u64) {
        while self.pending.front().is_some_and(|write| write.number <= number) {
            if let Some(write) = self.pending.pop_front() {
                self.settle(write);
            }
        }
    }

    /// The power goes: the first `survivors` writes under way happened to be done. A write is whole or not there at all,
    /// and none is there without those before it: that is what the journal promises, and is tested there.
    pub fn crash(&mut self, survivors: usize) {
        for _ in 0..survivors {
            if let Some(write) = self.pending.pop_front() {
                self.settle(write);
            }
        }
        self.pending.clear();
        self.busy_until = 0;
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn settle(&mut self, write: Write) {
        let Persist { hard_state, entries, snapshot } = write.persist;
        if let Some(meta) = snapshot {
            self.checkpoint = meta;
            self.state = write.install.unwrap_or_default();
            self.entries.clear();
        }
        for entry in entries {
            // A checkpoint may have passed entries that were still on their way; they say the same.
            let Some(at) = entry.index.checked_sub(self.checkpoint.index + 1) else { continue };
            self.entries.truncate(at as usize);
            self.entries.push(entry);
        }
        self.hard = hard_state;
    }

    /// A checkpoint is durable.
    pub fn checkpointed(&mut self, meta: SnapshotMeta, state: State) {
        if meta.index > self.checkpoint.index {
            self.entries.retain(|entry| entry.index > meta.index);
            self.checkpoint = meta;
            self.state = state;
        }
    }

    /// What a start finds.
    pub fn recover(&self) -> (Start, State) {
        let mut hard_state = self.hard;
        hard_state.commit = hard_state.commit.max(self.checkpoint.index);
        let start = Start { hard_state, snapshot: self.checkpoint.clone(), entries: self.entries.clone() };
        (start, self.state.snapshot())
    }
}
