//! Looking at a node: who leads, how far it is, what a leader knows of the others.

use crate::convert::membership_from_raft;
use crate::machine::Consensus;
use crate::ready::Role;
use crate::types::{Membership, PeerId, SnapshotMeta};
use raft::{ProgressState, StateRole};

/// What one node is and knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub id: PeerId,
    pub role: Role,
    pub leader: Option<PeerId>,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    /// First and last entry in memory.
    pub first_index: u64,
    pub last_index: u64,
    /// The last entry that this node's disk holds for sure.
    pub persisted: u64,
    pub membership: Membership,
    /// A leader's view of all members, sorted by id; empty on others.
    pub peers: Vec<PeerStatus>,
}

/// A leader's view of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub id: PeerId,
    pub voter: bool,
    /// The last entry known to be on its disk. A learner is ready to vote when this is near the leader's last index.
    pub matched: u64,
    /// Heard from within the last election timeout.
    pub active: bool,
    /// Waits for the end of a snapshot transfer.
    pub in_snapshot: bool,
}

impl Consensus {
    pub fn id(&self) -> PeerId {
        self.config.id
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whom this node takes for the leader.
    pub fn leader(&self) -> Option<PeerId> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0)
    }

    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        }
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The managers as of the last applied entry.
    pub fn membership(&self) -> Membership {
        membership_from_raft(&self.raw.raft.prs().conf().to_conf_state())
    }

    pub(crate) fn member_count(&self) -> usize {
        self.raw.raft.prs().iter().count()
    }

    /// The state machine's position: what a checkpoint taken now must be labelled with.
    pub fn applied(&self) -> &SnapshotMeta {
        self.raw.store().applied()
    }

    /// Everything worth showing. Allocates: not for the hot path.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let membership = self.membership();
        Status {
            id: self.config.id,
            role: self.role(),
            leader: self.leader(),
            term: raft.term,
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            persisted: raft.raft_log.persisted,
            peers: if self.is_leader() { self.peers(&membership) } else { Vec::new() },
            membership,
        }
    }

    fn peers(&self, membership: &Membership) -> Vec<PeerStatus> {
        let mut peers: Vec<_> = self
            .raw
            .raft
            .prs()
            .iter()
            .map(|(id, progress)| PeerStatus {
                id: *id,
                voter: membership.is_voter(*id),
                matched: progress.matched,
                active: *id == self.config.id || progress.recent_active,
                in_snapshot: progress.state == ProgressState::Snapshot,
            })
            .collect();
        peers.sort_by_key(|peer| peer.id);
        peers
    }
}
