//! What is kept: entries, hard state, membership, snapshot metadata.

use bytes::Bytes;

/// A manager as raft knows it (`NodeId::raft_id`). Never 0: raft keeps that for "nobody".
pub type PeerId = u64;

/// The largest term or index that is believed. Beyond it a number is an attack or a fault, and adding one to it might wrap.
pub const LIMIT: u64 = 1 << 62;

/// What a node must never forget: its term, whom it voted for in that term (0: nobody), and how far the log is known to
/// be committed. Losing `term` or `vote` can elect two leaders in one term; an old `commit` is only slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    pub vote: PeerId,
    pub commit: u64,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log, from 1, without holes.
    pub index: u64,
    /// The term of the leader that appended it; never falls along the log.
    pub term: u64,
    pub body: EntryBody,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryBody {
    /// A new leader's first entry: commits what earlier terms left behind.
    Empty,
    /// A proposal of the state machine, opaque here.
    Normal(Bytes),
    /// A change of the set of managers; `context` is the proposer's, opaque here (say, the new manager's addresses).
    Membership { change: Change, context: Bytes },
}

/// One step from one membership to the next. Single steps need no joint consensus (raft thesis, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Adds a voter, or makes a learner one.
    AddVoter(PeerId),
    /// Adds a learner: it gets the log and has no vote. A voter becomes a learner.
    AddLearner(PeerId),
    /// Takes a voter or learner out.
    Remove(PeerId),
}

impl Change {
    /// Whom the change is about.
    pub fn peer(self) -> PeerId {
        match self {
            Change::AddVoter(id) | Change::AddLearner(id) | Change::Remove(id) => id,
        }
    }
}

/// The set of managers at one index of the log. Both lists are sorted, disjoint, and hold no 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    voters: Vec<PeerId>,
    learners: Vec<PeerId>,
}

/// Why two lists are no membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("membership: peer id 0 is reserved")]
    Zero,
    #[error("membership: peer {0} is listed twice")]
    Twice(PeerId),
    #[error("membership: learners without a voter")]
    NoVoter,
    #[error("membership: {0} peers, at most 64 are allowed")]
    TooMany(usize),
}

impl Membership {
    /// Checks and sorts the two lists. Both may be empty: a node that has not joined yet.
    ///
    /// # Errors
    /// [`MembershipError`] names the peer that is 0, listed twice, or learning from nobody.
    pub fn new(mut voters: Vec<PeerId>, mut learners: Vec<PeerId>) -> Result<Self, MembershipError> {
        voters.sort_unstable();
        learners.sort_unstable();
        let mut all: Vec<PeerId> = voters.iter().chain(&learners).copied().collect();
        all.sort_unstable();
        if all.first() == Some(&0) {
            return Err(MembershipError::Zero);
        }
        if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(MembershipError::Twice(pair[0]));
        }
        if voters.is_empty() && !learners.is_empty() {
            return Err(MembershipError::NoVoter);
        }
        if all.len() > 64 {
            return Err(MembershipError::TooMany(all.len()));
        }
        Ok(Self { voters, learners })
    }

    pub fn voters(&self) -> &[PeerId] {
        &self.voters
    }

    pub fn learners(&self) -> &[PeerId] {
        &self.learners
    }

    pub fn is_voter(&self, id: PeerId) -> bool {
        self.voters.binary_search(&id).is_ok()
    }

    pub fn is_learner(&self, id: PeerId) -> bool {
        self.learners.binary_search(&id).is_ok()
    }

    pub fn contains(&self, id: PeerId) -> bool {
        self.is_voter(id) || self.is_learner(id)
    }

    /// How many voters make a majority.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }
}

/// Where a snapshot stands. The bytes of the state travel apart; raft needs only this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry that the snapshot contains.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The managers as of that entry.
    pub membership: Membership,
}
