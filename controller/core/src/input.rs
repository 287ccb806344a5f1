//! What a manager is told.

use crate::Call;
use muster_model::{NodeId, Timestamp, assignment::TaskReport, cluster::NodeDescription};
use muster_state::{Entry, State};
use std::time::Duration;

/// The time of an input: `mono` never goes back and measures timeouts (its origin is the shell's choice); `wall` is what
/// entries and people see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Duration,
    pub wall: Timestamp,
}

/// Names a request of the shell's; comes back in [`crate::Effect::Reply`] exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names a proposal: the `number` of its entry's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// One agent's session; the shell gives each a number of its own, never used twice in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What a manager is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// This manager.
    pub node: NodeId,
    /// Random bits: ids are drawn from them. Two managers, or two lives of one, must never be given the same.
    pub seed: [u64; 4],
    /// A state hash rides on the first proposal after this many entries; 0: never.
    pub hash_every: u64,
}

impl Config {
    pub fn new(node: NodeId, seed: [u64; 4]) -> Self {
        Self { node, seed, hash_every: 256 }
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The next committed entry, in order, each once. Entries of consensus' own (empty, membership) are not told.
    Committed {
        index: u64,
        entry: Entry,
    },
    /// The state was replaced by a leader's snapshot.
    Restored(Box<State>),
    /// Consensus made this manager the leader of `term`, and everything committed before has been told.
    Leading {
        term: u64,
    },
    /// It is not, or no longer, the leader. Every open proposal's fate is unknown.
    Following {
        leader: Option<NodeId>,
    },
    /// Who is in consensus, by [`NodeId::raft_id`]. At start and after each change.
    Membership {
        voters: Vec<u64>,
        learners: Vec<u64>,
    },
    /// What the leader's consensus knows of another member: it follows the log closely (`caught_up`), it answers
    /// (`active`). Told when it changes, or with each tick.
    Progress {
        peer: u64,
        caught_up: bool,
        active: bool,
    },
    /// Consensus did not take a proposal: nothing of it is in the log, and [`Input::Committed`] will never tell of it.
    ProposalFailed {
        proposal: ProposalId,
        why: Refusal,
    },
    /// Consensus did not take, or did not carry out, a membership change, or a transfer of leadership failed. It is
    /// tried again later.
    MembershipFailed,
    /// A request that changes something. Answered by [`crate::Effect::Reply`] with the same token.
    Call {
        token: Token,
        call: Box<Call>,
        trace_parent: Option<String>,
    },
    /// An agent, known by its certificate, opened a session with this leader.
    SessionOpened {
        node: NodeId,
        session: SessionId,
        description: Box<NodeDescription>,
    },
    /// It ended, for whatever reason. The node is lost when it does not come back in time.
    SessionClosed {
        node: NodeId,
        session: SessionId,
    },
    Heartbeat {
        node: NodeId,
        session: SessionId,
    },
    /// What an agent says of its tasks. Answered when the state holds it, so that the agent may stop repeating it.
    Reports {
        node: NodeId,
        session: SessionId,
        token: Token,
        reports: Vec<TaskReport>,
    },
    /// The agent could not apply a delta: it is sent the whole set.
    Resync {
        node: NodeId,
        session: SessionId,
    },
    /// Time passed: due at [`crate::Manager::deadline`].
    Tick,
    /// More random bits, mixed into the source of ids.
    Entropy([u64; 4]),
}

/// Why consensus did not take a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotLeader,
    /// Too much is in flight.
    Overloaded,
}
