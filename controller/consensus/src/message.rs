//! What managers say to each other, and the checks that a message passes before the algorithm sees it.

use crate::types::{Entry, LIMIT, PeerId, SnapshotMeta};

/// One message between two managers. May be lost, doubled, delayed or reordered at will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender, which the transport has checked against its certificate.
    pub from: PeerId,
    pub to: PeerId,
    /// The sender's term; for a pre-vote the term it would like to have. Never 0.
    pub term: u64,
    pub body: Body,
}

/// The kinds of message (raft thesis, figures 3.1, 3.13 and section 9.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Leader: put `entries` after the entry (`prev_index`, `prev_term`); everything up to `commit` is committed.
    Append {
        prev_index: u64,
        prev_term: u64,
        commit: u64,
        entries: Vec<Entry>,
    },
    /// Follower: without `reject`, my durable log equals yours up to `index`; with it, I lack the entry at `index`.
    AppendReply {
        index: u64,
        commit: u64,
        reject: Option<Reject>,
    },
    /// Candidate: vote for me (`pre`: would you?). Its last entry and what it knows to be committed. `transfer`: the
    /// leader asked for this election, so do not defend its lease.
    Vote {
        pre: bool,
        last_index: u64,
        last_term: u64,
        commit: u64,
        commit_term: u64,
        transfer: bool,
    },
    /// Answer to a vote. `commit` and `commit_term` help a stale candidate forward when it is refused.
    VoteReply {
        pre: bool,
        reject: bool,
        commit: u64,
        commit_term: u64,
    },
    /// Leader: I am alive. `read` asks to confirm my leadership for the reads up to that number.
    Heartbeat {
        commit: u64,
        read: Option<u64>,
    },
    HeartbeatReply {
        commit: u64,
        read: Option<u64>,
    },
    /// Leader: your log is too far behind, take this state. Step it in only after its bytes are here, complete.
    Snapshot(SnapshotMeta),
    /// Leader: campaign now, without waiting (leadership transfer).
    TimeoutNow,
}

/// Where the leader should look for common ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The last index that may agree, 0 for an empty log.
    pub hint_index: u64,
    /// The term at that index.
    pub hint_term: u64,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("message from {from}: {malformed}")]
    Malformed { from: PeerId, malformed: Malformed },
    /// Not for this node, or from itself.
    #[error("message from {from} to {to} does not belong to node {me}")]
    Misaddressed { me: PeerId, from: PeerId, to: PeerId },
    /// An answer from a node that is no member: it was removed, or lies.
    #[error("answer from {from}, which is no member")]
    NotMember { from: PeerId },
    /// The leader knows entries to be on this node's disk which are not there. The node has lost acknowledged data; it
    /// must stop, and join again as a new node.
    #[error(
        "log ends at {last_index}, but the leader {leader} holds our acknowledgement of {acknowledged}: acknowledged entries were lost here"
    )]
    LogLost { leader: PeerId, last_index: u64, acknowledged: u64 },
}

/// What is wrong with a message, by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    #[error("term is 0")]
    NoTerm,
    #[error("entries[{at}].index is {found}, expected {expected}")]
    Index { at: usize, found: u64, expected: u64 },
    #[error("entries[{at}].term is {found}, outside of {low}..={high}")]
    Term { at: usize, found: u64, low: u64, high: u64 },
    #[error("entries[{at}]: a change of peer 0")]
    ZeroPeer { at: usize },
    #[error("the acknowledged index {index} lies beyond the log's end {last}")]
    BeyondLog { index: u64, last: u64 },
    #[error("snapshot.membership has no voter")]
    NoVoter,
}

impl Message {
    /// Checks all that can be checked without knowing the log.
    ///
    /// # Errors
    /// [`Malformed`] names the first field that cannot be right.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.term == 0 {
            return Err(Malformed::NoTerm);
        }
        in_range("term", self.term)?;
        match &self.body {
            Body::Append { prev_index, prev_term, commit, entries } => {
                in_range("prev_index", *prev_index)?;
                in_range("commit", *commit)?;
                // raft answers 0 for the term of an entry that it does not have, which must not count as a match.
                if (*prev_index == 0) != (*prev_term == 0) || *prev_term > self.term {
                    return Err(Malformed::OutOfRange("prev_term"));
                }
                check_entries(entries, *prev_index, *prev_term, self.term)
            }
            Body::AppendReply { index, commit, reject } => {
                in_range("index", *index)?;
                in_range("commit", *commit)?;
                let Some(reject) = reject else { return Ok(()) };
                in_range("reject.hint_index", reject.hint_index)?;
                in_range("reject.hint_term", reject.hint_term)
            }
            Body::Vote { last_index, last_term, commit, commit_term, .. } => {
                in_range("last_index", *last_index)?;
                in_range("last_term", *last_term)?;
                in_range("commit", *commit)?;
                in_range("commit_term", *commit_term)
            }
            Body::VoteReply { commit, commit_term, .. } => {
                in_range("commit", *commit)?;
                in_range("commit_term", *commit_term)
            }
            Body::Heartbeat { commit, .. } | Body::HeartbeatReply { commit, .. } => in_range("commit", *commit),
            Body::Snapshot(meta) => check_snapshot(meta, self.term),
            Body::TimeoutNow => Ok(()),
        }
    }
}

fn in_range(field: &'static str, value: u64) -> Result<(), Malformed> {
    if value <= LIMIT { Ok(()) } else { Err(Malformed::OutOfRange(field)) }
}

fn check_entries(entries: &[Entry], prev_index: u64, prev_term: u64, term: u64) -> Result<(), Malformed> {
    let mut low = prev_term.max(1);
    for (at, entry) in entries.iter().enumerate() {
        let expected = prev_index + 1 + at as u64;
        if entry.index != expected {
            return Err(Malformed::Index { at, found: entry.index, expected });
        }
        if entry.term < low || entry.term > term {
            return Err(Malformed::Term { at, found: entry.term, low, high: term });
        }
        if let crate::EntryBody::Membership { change, .. } = entry.body
            && change.peer() == 0
        {
            return Err(Malformed::ZeroPeer { at });
        }
        low = entry.term;
    }
    Ok(())
}

fn check_snapshot(meta: &SnapshotMeta, term: u64) -> Result<(), Malformed> {
    in_range("snapshot.index", meta.index)?;
    if meta.index == 0 {
        return Err(Malformed::OutOfRange("snapshot.index"));
    }
    if meta.term == 0 || meta.term > term {
        return Err(Malformed::OutOfRange("snapshot.term"));
    }
    if meta.membership.voters().is_empty() {
        return Err(Malformed::NoVoter);
    }
    Ok(())
}
