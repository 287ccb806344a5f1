//! What a manager wants done.

use crate::{CallError, ProposalId, Reply, SessionId, Token};
use muster_model::{NodeId, assignment::AssignmentUpdate};
use muster_state::{Applied, ApplyError, Entry};
use std::net::SocketAddr;

/// Effects in the order in which they were decided. The shell drains it after each [`crate::Manager::handle`].
pub type Effects = Vec<Effect>;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Hand the entry to consensus. If it does not take it: [`crate::Input::ProposalFailed`]. `planned`: it is what the
    /// planner has just decided.
    Propose { proposal: ProposalId, planned: bool, entry: Entry },
    /// Answer a call or reports.
    Reply { token: Token, result: Result<Reply, CallError> },
    /// Send down this session. The order per session is the order of the effects.
    SendAssignments { node: NodeId, session: SessionId, update: AssignmentUpdate },
    /// End the session and every other connection of the node that lives by its membership.
    CloseSession { node: NodeId, session: SessionId, why: CloseReason },
    /// Propose a change of the members of consensus. One at a time; a failure is told by
    /// [`crate::Input::MembershipFailed`], success by [`crate::Input::Membership`].
    ChangeMembership(PeerChange),
    /// Hand the leadership to this manager.
    TransferLeadership { to: NodeId },
    /// An entry was applied: for those who watch the state. Comes first in a turn.
    Applied(Applied),
    /// This replica is not what the others are. Stop it; it must be rebuilt from another's state.
    Halt(ApplyError),
}

/// One step of consensus' membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// Gets the log, has no vote yet.
    AddLearner { node: NodeId, addr: SocketAddr },
    /// A learner that has caught up gets its vote.
    AddVoter { node: NodeId, addr: SocketAddr },
    /// By raft id: the node's object may be gone already.
    Remove { peer: u64 },
}

/// Why a session is ended by the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    #[error("this manager is not the leader any more")]
    NotLeader,
    /// The shell tells the agent not to come back with this identity.
    #[error("the node is no member of the cluster")]
    NotMember,
    #[error("the node opened another session")]
    Replaced,
    #[error("no heartbeat in time")]
    Silent,
    #[error("the node left the cluster")]
    Left,
}
