//! Raft's messages on the wire. Kinds are numbered as raft-rs' `MessageType`; each field goes over one by one, and what a
//! message of a kind has no field for is not looked at.

use bytes::Bytes;
use muster_consensus::{Body, Change, Entry, EntryBody, Membership, Message, Reject, SnapshotMeta};
use muster_proto::v1;

const APPEND: u32 = 3;
const APPEND_REPLY: u32 = 4;
const VOTE: u32 = 5;
const VOTE_REPLY: u32 = 6;
const SNAPSHOT: u32 = 7;
const HEARTBEAT: u32 = 8;
const HEARTBEAT_REPLY: u32 = 9;
const TIMEOUT_NOW: u32 = 14;
const PRE_VOTE: u32 = 17;
const PRE_VOTE_REPLY: u32 = 18;

const ENTRY_NORMAL: u32 = 0;
const ENTRY_EMPTY: u32 = 16;
const ENTRY_ADD_VOTER: u32 = 17;
const ENTRY_ADD_LEARNER: u32 = 18;
const ENTRY_REMOVE: u32 = 19;

/// The context of a vote that the leader asked for.
const TRANSFER: &[u8] = b"transfer";

/// What on the wire is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("kind {0} of a raft message is not known here")]
    Kind(u32),
    #[error("kind {0} of a raft entry is not known here")]
    EntryKind(u32),
    #[error("raft message: {0} is missing or malformed")]
    Field(&'static str),
}

pub(crate) fn to_wire(m: &Message) -> v1::RaftMessage {
    let mut w = v1::RaftMessage { from: m.from, to: m.to, term: m.term, ..Default::default() };
    match &m.body {
        Body::Append { prev_index, prev_term, commit, entries } => {
            (w.kind, w.index, w.log_term, w.commit) = (APPEND, *prev_index, *prev_term, *commit);
            w.entries = entries.iter().map(entry_to_wire).collect();
        }
        Body::AppendReply { index, commit, reject } => {
            (w.kind, w.index, w.commit) = (APPEND_REPLY, *index, *commit);
            if let Some(r) = reject {
                (w.reject, w.reject_hint, w.log_term) = (true, r.hint_index, r.hint_term);
            }
        }
        Body::Vote { pre, last_index, last_term, commit, commit_term, transfer } => {
            w.kind = if *pre { PRE_VOTE } else { VOTE };
            (w.index, w.log_term, w.commit, w.commit_term) = (*last_index, *last_term, *commit, *commit_term);
            if *transfer {
                w.context = Bytes::from_static(TRANSFER);
            }
        }
        Body::VoteReply { pre, reject, commit, commit_term } => {
            w.kind = if *pre { PRE_VOTE_REPLY } else { VOTE_REPLY };
            (w.reject, w.commit, w.commit_term) = (*reject, *commit, *commit_term);
        }
        Body::Heartbeat { commit, read } => (w.kind, w.commit, w.context) = (HEARTBEAT, *commit, read_to_wire(*read)),
        Body::HeartbeatReply { commit, read } => {
            (w.kind, w.commit, w.context) = (HEARTBEAT_REPLY, *commit, read_to_wire(*read));
        }
        Body::Snapshot(meta) => {
            w.kind = SNAPSHOT;
            w.snapshot = Some(meta_to_wire(meta));
        }
        Body::TimeoutNow => w.kind = TIMEOUT_NOW,
    }
    w
}

/// # Errors
/// [`WireError`]: the message is to be refused. What is in range is checked by consensus.
pub(crate) fn from_wire(w: v1::RaftMessage) -> Result<Message, WireError> {
    let body = match w.kind {
        APPEND => Body::Append {
            prev_index: w.index,
            prev_term: w.log_term,
            commit: w.commit,
            entries: w.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?,
        },
        APPEND_REPLY => Body::AppendReply {
            index: w.index,
            commit: w.commit,
            reject: w.reject.then_some(Reject { hint_index: w.reject_hint, hint_term: w.log_term }),
        },
        VOTE | PRE_VOTE => Body::Vote {
            pre: w.kind == PRE_VOTE,
            last_index: w.index,
            last_term: w.log_term,
            commit: w.commit,
            commit_term: w.commit_term,
            transfer: w.context == TRANSFER,
        },
        VOTE_REPLY | PRE_VOTE_REPLY => Body::VoteReply {
            pre: w.kind == PRE_VOTE_REPLY,
            reject: w.reject,
            commit: w.commit,
            commit_term: w.commit_term,
        },
        HEARTBEAT => Body::Heartbeat { commit: w.commit, read: read_from_wire(&w.context)? },
        HEARTBEAT_REPLY => Body::HeartbeatReply { commit: w.commit, read: read_from_wire(&w.context)? },
        SNAPSHOT => Body::Snapshot(meta_from_wire(w.snapshot.ok_or(WireError::Field("snapshot"))?)?),
        TIMEOUT_NOW => Body::TimeoutNow,
        other => return Err(WireError::Kind(other)),
    };
    Ok(Message { from: w.from, to: w.to, term: w.term, body })
}

fn read_to_wire(read: Option<u64>) -> Bytes {
    read.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_le_bytes()))
}

fn read_from_wire(context: &[u8]) -> Result<Option<u64>, WireError> {
    match context {
        [] => Ok(None),
        bytes => Ok(Some(u64::from_le_bytes(bytes.try_into().map_err(|_| WireError::Field("context"))?))),
    }
}

fn meta_to_wire(meta: &SnapshotMeta) -> v1::RaftSnapshotMeta {
    let conf_state = v1::RaftConfState {
        voters: meta.membership.voters().to_vec(),
        learners: meta.membership.learners().to_vec(),
        ..Default::default()
    };
    v1::RaftSnapshotMeta { conf_state: Some(conf_state), index: meta.index, term: meta.term }
}

fn meta_from_wire(w: v1::RaftSnapshotMeta) -> Result<SnapshotMeta, WireError> {
    let field = WireError::Field("snapshot.conf_state");
    let conf = w.conf_state.ok_or(field.clone())?;
    if conf.auto_leave || !conf.voters_outgoing.is_empty() || !conf.learners_next.is_empty() {
        return Err(field);
    }
    let membership = Membership::new(conf.voters, conf.learners).map_err(|_| field)?;
    Ok(SnapshotMeta { index: w.index, term: w.term, membership })
}

fn entry_to_wire(entry: &Entry) -> v1::RaftEntry {
    let mut w = v1::RaftEntry { index: entry.index, term: entry.term, ..Default::default() };
    match &entry.body {
        EntryBody::Empty => w.kind = ENTRY_EMPTY,
        EntryBody::Normal(data) => (w.kind, w.data) = (ENTRY_NORMAL, data.clone()),
        EntryBody::Membership { change, context } => {
            w.kind = match change {
                Change::AddVoter(_) => ENTRY_ADD_VOTER,
                Change::AddLearner(_) => ENTRY_ADD_LEARNER,
                Change::Remove(_) => ENTRY_REMOVE,
            };
            w.data = Bytes::copy_from_slice(&change.peer().to_le_bytes());
            w.context = context.clone();
        }
    }
    w
}

fn entry_from_wire(w: v1::RaftEntry) -> Result<Entry, WireError> {
    let body = match w.kind {
        ENTRY_EMPTY => EntryBody::Empty,
        ENTRY_NORMAL => EntryBody::Normal(w.data),
        ENTRY_ADD_VOTER | ENTRY_ADD_LEARNER | ENTRY_REMOVE => {
            let peer = w.data[..].try_into().map(u64::from_le_bytes).map_err(|_| WireError::Field("entries.data"))?;
            let change = match w.kind {
                ENTRY_ADD_VOTER => Change::AddVoter(peer),
                ENTRY_ADD_LEARNER => Change::AddLearner(peer),
                _ => Change::Remove(peer),
            };
            EntryBody::Membership { change, context: w.context }
        }
        other => return Err(WireError::EntryKind(other)),
    };
    Ok(Entry { index: w.index, term: w.term, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_wire() {
        let entries = vec![
            Entry { index: 4, term: 2, body: EntryBody::Empty },
            Entry { index: 5, term: 2, body: EntryBody::Normal(Bytes::from_static(b"x")) },
            Entry {
                index: 6,
                term: 3,
                body: EntryBody::Membership { change: Change::AddVoter(9), context: Bytes::from_static(b"c") },
            },
            Entry {
                index: 7,
                term: 3,
                body: EntryBody::Membership { change: Change::AddLearner(9), context: Bytes::new() },
            },
            Entry {
                index: 8,
                term: 3,
                body: EntryBody::Membership { change: Change::Remove(9), context: Bytes::new() },
            },
        ];
        let membership = Membership::new(vec![1, 2], vec![3]).expect("valid");
        let mut bodies = vec![
            Body::Append { prev_index: 3, prev_term: 2, commit: 3, entries },
            Body::AppendReply { index: 8, commit: 7, reject: None },
            Body::AppendReply { index: 8, commit: 7, reject: Some(Reject { hint_index: 2, hint_term: 1 }) },
            Body::Heartbeat { commit: 3, read: None },
            Body::Heartbeat { commit: 3, read: Some(77) },
            Body::HeartbeatReply { commit: 0, read: Some(u64::MAX) },
            Body::Snapshot(SnapshotMeta { index: 9, term: 3, membership }),
            Body::TimeoutNow,
        ];
        for pre in [false, true] {
            for flag in [false, true] {
                bodies.push(Body::Vote { pre, last_index: 1, last_term: 2, commit: 3, commit_term: 4, transfer: flag });
                bodies.push(Body::VoteReply { pre, reject: flag, commit: 3, commit_term: 4 });
            }
        }
        for body in bodies {
            let message = Message { from: 1, to: 2, term: 5, body };
            assert_eq!(from_wire(to_wire(&message)), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_refused_by_name() {
        let w = |kind| v1::RaftMessage { kind, ..Default::default() };
        assert_eq!(from_wire(w(99)), Err(WireError::Kind(99)));
        assert_eq!(from_wire(w(SNAPSHOT)), Err(WireError::Field("snapshot")));
        let odd = v1::RaftMessage { context: Bytes::from_static(b"odd"), ..w(HEARTBEAT) };
        assert_eq!(from_wire(odd), Err(WireError::Field("context")));
        let entry = v1::RaftEntry { kind: 5, ..Default::default() };
        assert_eq!(from_wire(v1::RaftMessage { entries: vec![entry], ..w(APPEND) }), Err(WireError::EntryKind(5)));
    }
}
