//! What a node is told when it takes its seat.

use crate::types::{Entry, HardState, LIMIT, Membership, PeerId, SnapshotMeta};

/// How one node takes part. Durations are in ticks, whose length is the caller's choice.
#[derive(Clone, Debug)]
pub struct Config {
    pub id: PeerId,
    /// Chance, for election timeouts. Nodes may share it: their ids differ.
    pub seed: u64,
    /// A follower campaigns after `election_ticks..2 * election_ticks` without a leader. Must be longer than the disk's
    /// worst stall and several heartbeats.
    pub election_ticks: u32,
    pub heartbeat_ticks: u32,
    /// Upper bound of one append's entries, except that one entry always goes.
    pub max_message_bytes: u64,
    /// Appends under way to one peer before it must answer.
    pub max_inflight: usize,
    /// Proposals wait at the door ([`ProposeError::Overloaded`]) while this much is uncommitted.
    pub max_uncommitted_bytes: u64,
    /// Upper bound of one [`Ready::committed`], except that one entry always goes.
    pub max_committed_bytes: u64,
}

impl Config {
    /// Defaults: 10 election ticks, 1 heartbeat tick, 1 MiB messages, 256 in flight, 64 MiB uncommitted, 8 MiB per order.
    pub fn new(id: PeerId, seed: u64) -> Self {
        Self {
            id,
            seed,
            election_ticks: 10,
            heartbeat_ticks: 1,
            max_message_bytes: 1 << 20,
            max_inflight: 256,
            max_uncommitted_bytes: 64 << 20,
            max_committed_bytes: 8 << 20,
        }
    }

    /// For a state machine that contains everything up to `applied`.
    pub(crate) fn to_raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.id,
            election_tick: self.election_ticks as usize,
            heartbeat_tick: self.heartbeat_ticks as usize,
            applied,
            max_size_per_msg: self.max_message_bytes,
            max_inflight_msgs: self.max_inflight,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: self.max_uncommitted_bytes,
            max_committed_size_per_ready: self.max_committed_bytes,
            ..Default::default()
        }
    }
}

/// What a node knows when it starts: what its disk held, or what a new cluster or node begins with. A new cluster's start
/// must be made durable (a checkpoint at `snapshot`, the hard state) like any other before the node runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    pub hard_state: HardState,
    /// The state machine's checkpoint that the log continues.
    pub snapshot: SnapshotMeta,
    /// From `snapshot.index + 1` on, without holes.
    pub entries: Vec<Entry>,
}

impl Start {
    /// A new cluster of these voters, which all start with the same (initial) state, at index 1: so a node that joins
    /// later begins with a snapshot instead of a log whose first entries know nothing of the first members.
    pub fn bootstrap(membership: Membership) -> Self {
        Self {
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            snapshot: SnapshotMeta { index: 1, term: 1, membership },
            entries: Vec::new(),
        }
    }

    /// A node that knows nothing yet and waits for a leader to find it.
    pub fn join() -> Self {
        Self::default()
    }
}

/// Why a node cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("consensus config: {0}")]
    Invalid(String),
    #[error("log: entry {found} where {expected} was expected")]
    Hole { found: u64, expected: u64 },
    #[error("log: entry {index} has term {term}, outside of {low}..={high}")]
    Term { index: u64, term: u64, low: u64, high: u64 },
    #[error("hard state: commit {commit} lies outside of {first}..={last}, what snapshot and log hold")]
    Commit { commit: u64, first: u64, last: u64 },
}

/// Whether log, hard state and snapshot fit together.
pub(crate) fn check_start(start: &Start) -> Result<(), ConfigError> {
    let (first, hard) = (start.snapshot.index, start.hard_state);
    let mut low = start.snapshot.term;
    for (at, entry) in start.entries.iter().enumerate() {
        let expected = first + 1 + at as u64;
        if entry.index != expected {
            return Err(ConfigError::Hole { found: entry.index, expected });
        }
        if entry.term < low || entry.term > hard.term {
            return Err(ConfigError::Term { index: entry.index, term: entry.term, low, high: hard.term });
        }
        low = entry.term;
    }
    if hard.term < low || hard.term > LIMIT {
        return Err(ConfigError::Term { index: first, term: low, low: 0, high: hard.term.min(LIMIT) });
    }
    let last = first + start.entries.len() as u64;
    if hard.commit < first || hard.commit > last {
        return Err(ConfigError::Commit { commit: hard.commit, first, last });
    }
    Ok(())
}
