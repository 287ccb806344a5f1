//! Work orders: what the shell must persist, send and apply, and what became of proposals.

use crate::message::Message;
use crate::types::{Change, Entry, HardState, Membership, PeerId, SnapshotMeta};
use bytes::Bytes;

/// One work order. Its parts may be done in any order, except that the next order's come after it; see the crate's head.
#[derive(Debug, Default)]
pub struct Ready {
    /// Names the order to [`crate::Consensus::persisted`]. Grows, with gaps.
    pub number: u64,
    /// May be sent at once.
    pub messages: Vec<Message>,
    /// Must be durable before `persisted(number)` is called. `None`: nothing to write, and no call is due.
    pub persist: Option<Persist>,
    /// Committed entries, in order and without holes, each handed out once per start.
    pub committed: Vec<Committed>,
    /// Peers that need the state itself, since the log no longer reaches back to where they are.
    pub snapshots: Vec<SnapshotOrder>,
    /// Reads that may be answered once the state includes `index`.
    pub reads: Vec<Read>,
    /// Set when leader, term or own role are others than before.
    pub role: Option<RoleChange>,
}

/// What the disk must hold before anybody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// The hard state after this write, always whole.
    pub hard_state: HardState,
    /// To be appended; an entry replaces the one of the same index and everything behind that.
    pub entries: Vec<Entry>,
    /// When set: make the received state of exactly this snapshot durable first, then drop the whole log, let it start
    /// behind `index`, and replace the state machine. `entries` follow it.
    pub snapshot: Option<SnapshotMeta>,
}

/// One committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub index: u64,
    pub term: u64,
    pub payload: Payload,
}

/// What a committed entry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Empty,
    Normal(Bytes),
    /// Consensus has already changed over. `membership` is what holds from this entry on; `accepted` is false when the
    /// change was impossible (the last voter's removal) and nothing changed. Every node comes to the same verdict.
    Membership {
        change: Change,
        context: Bytes,
        membership: Membership,
        accepted: bool,
    },
}

/// Send this message together with the state as it is after this order's `committed`, at exactly the index it names.
/// Call [`crate::Consensus::report_snapshot`] when the transfer has ended, either way: until then the peer gets nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOrder {
    pub to: PeerId,
    pub meta: SnapshotMeta,
    pub message: Message,
}

/// A confirmed read: whoever was promised `id` sees all writes acknowledged before it asked, once `index` is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub id: u64,
    pub index: u64,
}

/// Who leads. A follower that becomes leader drops nothing; a leader that becomes anything else fails all its open
/// proposals as *unknown* (they may yet commit) and all its open reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    pub role: Role,
    pub leader: Option<PeerId>,
    pub term: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// Where a proposal will stand if it commits. See [`Token::outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    pub index: u64,
    pub term: u64,
}

/// What a committed entry tells about an open proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is it.
    Committed,
    /// Another leader's entry stands in its place: it never will.
    Lost,
    /// The entry lies before it.
    Pending,
}

impl Token {
    /// Compares an open proposal with an entry as committed.
    pub fn outcome(self, committed: &Committed) -> Outcome {
        if committed.index == self.index && committed.term == self.term {
            Outcome::Committed
        } else if committed.index >= self.index || committed.term > self.term {
            Outcome::Lost
        } else {
            Outcome::Pending
        }
    }
}

/// Why a proposal was not taken. Nothing of it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("not the leader (leader: {leader:?})")]
    NotLeader { leader: Option<PeerId> },
    #[error("leadership is being transferred to {to}")]
    Transferring { to: PeerId },
    /// Too many bytes wait for a majority. Try again after the next commit.
    #[error("too many uncommitted bytes")]
    Overloaded,
    #[error("another membership change is not finished")]
    ChangePending,
    /// The leader's own removal: transfer the leadership first, then ask the new leader.
    #[error("a leader does not remove or demote itself: transfer the leadership first")]
    RemovesLeader,
    #[error("peer {0} is the last voter")]
    LastVoter(PeerId),
    #[error("peer {0} is no member")]
    NotMember(PeerId),
    #[error("peer {0} already is what the change would make it")]
    NoChange(PeerId),
    #[error("peer id 0 is reserved")]
    ZeroPeer,
    #[error("an empty proposal means nothing")]
    Empty,
    /// A new leader must commit an entry of its own term before it can tell what is committed (raft thesis 6.4).
    #[error("the leader has not committed an entry of its term yet")]
    NotReady,
}
