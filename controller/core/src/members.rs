//! Who is in consensus, and how far the others are, as the shell told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A change that consensus does not report back on is tried again after this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a refusal.
const BACKOFF: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    caught_up: bool,
    active: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Members {
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    progress: BTreeMap<u64, Progress>,
    /// No step before this time: one is under way, or was refused.
    not_before: Duration,
    /// Something is other than when the leader looked last.
    changed: bool,
}

impl Members {
    pub fn set(&mut self, voters: Vec<u64>, learners: Vec<u64>) {
        self.voters = voters.into_iter().collect();
        self.learners = learners.into_iter().collect();
        self.not_before = Duration::ZERO;
        self.changed = true;
    }

    pub fn progress(&mut self, peer: u64, caught_up: bool, active: bool) {
        let now = Progress { caught_up, active };
        self.changed |= self.progress.insert(peer, now) != Some(now);
    }

    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub fn failed(&mut self, now: Duration) {
        self.not_before = now + BACKOFF;
        self.changed = true;
    }

    /// A new leader knows nothing of the others yet.
    pub fn reset(&mut self) {
        self.progress.clear();
        self.not_before = Duration::ZERO;
        self.changed = true;
    }

    pub fn started(&mut self, now: Duration) {
        self.not_before = now + PATIENCE;
    }

    pub fn ready_at(&self) -> Duration {
        self.not_before
    }

    pub fn contains(&self, peer: u64) -> bool {
        self.voters.contains(&peer) || self.learners.contains(&peer)
    }

    pub fn is_voter(&self, peer: u64) -> bool {
        self.voters.contains(&peer)
    }

    pub fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }

    pub fn learners(&self) -> impl Iterator<Item = u64> + '_ {
        self.learners.iter().copied()
    }

    pub fn caught_up(&self, peer: u64) -> bool {
        self.progress.get(&peer).is_some_and(|p| p.caught_up)
    }

    fn active(&self, peer: u64, own: u64) -> bool {
        peer == own || self.progress.get(&peer).is_some_and(|p| p.active)
    }

    /// An active voter besides `own`, the one that is most likely to be able to lead.
    pub fn successor(&self, own: u64) -> Option<u64> {
        let active = |p: &&u64| **p != own && self.active(**p, own);
        self.voters.iter().filter(active).max_by_key(|p| self.caught_up(**p)).copied()
    }

    /// Whether the voters that answer are still a majority without `peer`.
    pub fn survives_without(&self, peer: u64, own: u64) -> bool {
        if !self.voters.contains(&peer) {
            return true;
        }
        let rest = self.voters.iter().filter(|p| **p != peer);
        let active = rest.clone().filter(|p| self.active(**p, own)).count();
        let total = rest.count();
        total > 0 && active > total / 2
    }
}
