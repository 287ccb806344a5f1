//! Field by field between our types and those of `raft`. The only file that touches protobuf bytes, and they are its own.

use crate::message::{Body, Message, Reject};
use crate::types::{Change, Entry, EntryBody, HardState, Membership, SnapshotMeta};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb;

/// The mark that `raft` puts into the votes of a leadership transfer.
const TRANSFER: &[u8] = b"CampaignTransfer";

pub(crate) fn entry_to_raft(entry: Entry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry { index: entry.index, term: entry.term, ..Default::default() };
    match entry.body {
        EntryBody::Empty => {}
        EntryBody::Normal(data) => out.data = data,
        EntryBody::Membership { change, context } => {
            out.set_entry_type(eraftpb::EntryType::EntryConfChange);
            out.data = change_to_raft(change)
                .write_to_bytes()
                .expect("two integers always fit into a protobuf message in memory")
                .into();
            out.context = context;
        }
    }
    out
}

pub(crate) fn change_to_raft(change: Change) -> eraftpb::ConfChange {
    use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    let mut out = eraftpb::ConfChange { node_id: change.peer(), ..Default::default() };
    out.set_change_type(match change {
        Change::AddVoter(_) => AddNode,
        Change::AddLearner(_) => AddLearnerNode,
        Change::Remove(_) => RemoveNode,
    });
    out
}

pub(crate) fn entry_from_raft(entry: &eraftpb::Entry) -> Entry {
    let body = match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal if entry.data.is_empty() => EntryBody::Empty,
        eraftpb::EntryType::EntryNormal => EntryBody::Normal(entry.data.clone()),
        _ => EntryBody::Membership { change: change_from_raft(&entry.data), context: entry.context.clone() },
    };
    Entry { index: entry.index, term: entry.term, body }
}

fn change_from_raft(data: &Bytes) -> Change {
    use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    let change = eraftpb::ConfChange::parse_from_bytes(data)
        .expect("membership entries enter the log only through entry_to_raft, which encoded these bytes");
    match change.get_change_type() {
        AddNode => Change::AddVoter(change.node_id),
        AddLearnerNode => Change::AddLearner(change.node_id),
        RemoveNode => Change::Remove(change.node_id),
    }
}

pub(crate) fn hard_state_to_raft(hard: HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: hard.term, vote: hard.vote, commit: hard.commit, ..Default::default() }
}

pub(crate) fn hard_state_from_raft(hard: &eraftpb::HardState) -> HardState {
    HardState { term: hard.term, vote: hard.vote, commit: hard.commit }
}

pub(crate) fn membership_to_raft(membership: &Membership) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: membership.voters().to_vec(),
        learners: membership.learners().to_vec(),
        ..Default::default()
    }
}

pub(crate) fn membership_from_raft(conf: &eraftpb::ConfState) -> Membership {
    Membership::new(conf.voters.clone(), conf.learners.clone())
        .expect("raft keeps its lists disjoint and was given no 0; more than 64 members are refused at the proposal")
}

pub(crate) fn snapshot_to_raft(meta: &SnapshotMeta) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot::default();
    let inner = out.mut_metadata();
    inner.index = meta.index;
    inner.term = meta.term;
    inner.set_conf_state(membership_to_raft(&meta.membership));
    out
}

pub(crate) fn snapshot_from_raft(snapshot: &eraftpb::Snapshot) -> SnapshotMeta {
    let meta = snapshot.get_metadata();
    SnapshotMeta { index: meta.index, term: meta.term, membership: membership_from_raft(meta.get_conf_state()) }
}

pub(crate) fn message_to_raft(message: Message) -> eraftpb::Message {
    use eraftpb::MessageType as T;
    let mut out = eraftpb::Message { from: message.from, to: message.to, term: message.term, ..Default::default() };
    match message.body {
        Body::Append { prev_index, prev_term, commit, entries } => {
            out.set_msg_type(T::MsgAppend);
            out.index = prev_index;
            out.log_term = prev_term;
            out.commit = commit;
            out.set_entries(entries.into_iter().map(entry_to_raft).collect::<Vec<_>>().into());
        }
        Body::AppendReply { index, commit, reject } => {
            out.set_msg_type(T::MsgAppendResponse);
            out.index = index;
            out.commit = commit;
            if let Some(reject) = reject {
                out.reject = true;
                out.reject_hint = reject.hint_index;
                out.log_term = reject.hint_term;
            }
        }
        Body::Vote { pre, last_index, last_term, commit, commit_term, transfer } => {
            out.set_msg_type(if pre { T::MsgRequestPreVote } else { T::MsgRequestVote });
            out.index = last_index;
            out.log_term = last_term;
            out.commit = commit;
            out.commit_term = commit_term;
            if transfer {
                out.context = Bytes::from_static(TRANSFER);
            }
        }
        Body::VoteReply { pre, reject, commit, commit_term } => {
            out.set_msg_type(if pre { T::MsgRequestPreVoteResponse } else { T::MsgRequestVoteResponse });
            out.reject = reject;
            out.commit = commit;
            out.commit_term = commit_term;
        }
        Body::Heartbeat { commit, read } => {
            out.set_msg_type(T::MsgHeartbeat);
            out.commit = commit;
            out.context = read_to_raft(read);
        }
        Body::HeartbeatReply { commit, read } => {
            out.set_msg_type(T::MsgHeartbeatResponse);
            out.commit = commit;
            out.context = read_to_raft(read);
        }
        Body::Snapshot(meta) => {
            out.set_msg_type(T::MsgSnapshot);
            out.set_snapshot(snapshot_to_raft(&meta));
        }
        Body::TimeoutNow => out.set_msg_type(T::MsgTimeoutNow),
    }
    out
}

/// `None` for kinds that never leave a node in this crate's use of `raft` (local ones, forwarded proposals and reads).
pub(crate) fn message_from_raft(m: &eraftpb::Message) -> Option<Message> {
    use eraftpb::MessageType as T;
    let kind = m.get_msg_type();
    let body = match kind {
        T::MsgAppend => Body::Append {
            prev_index: m.index,
            prev_term: m.log_term,
            commit: m.commit,
            entries: m.entries.iter().map(entry_from_raft).collect(),
        },
        T::MsgAppendResponse => Body::AppendReply {
            index: m.index,
            commit: m.commit,
            reject: m.reject.then_some(Reject { hint_index: m.reject_hint, hint_term: m.log_term }),
        },
        T::MsgRequestVote | T::MsgRequestPreVote => Body::Vote {
            pre: kind == T::MsgRequestPreVote,
            last_index: m.index,
            last_term: m.log_term,
            commit: m.commit,
            commit_term: m.commit_term,
            transfer: m.context == TRANSFER,
        },
        T::MsgRequestVoteResponse | T::MsgRequestPreVoteResponse => Body::VoteReply {
            pre: kind == T::MsgRequestPreVoteResponse,
            reject: m.reject,
            commit: m.commit,
            commit_term: m.commit_term,
        },
        T::MsgHeartbeat => Body::Heartbeat { commit: m.commit, read: read_from_raft(&m.context) },
        T::MsgHeartbeatResponse => Body::HeartbeatReply { commit: m.commit, read: read_from_raft(&m.context) },
        T::MsgSnapshot => Body::Snapshot(snapshot_from_raft(m.get_snapshot())),
        T::MsgTimeoutNow => Body::TimeoutNow,
        _ => return None,
    };
    Some(Message { from: m.from, to: m.to, term: m.term, body })
}

fn read_to_raft(read: Option<u64>) -> Bytes {
    read.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_le_bytes()))
}

/// A read's number from the context that this crate gave to `raft`.
pub(crate) fn read_from_raft(context: &[u8]) -> Option<u64> {
    context.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_conversion() {
        let entries = vec![
            Entry { index: 5, term: 2, body: EntryBody::Empty },
            Entry { index: 6, term: 3, body: EntryBody::Normal(Bytes::from_static(b"x")) },
            Entry {
                index: 7,
                term: 3,
                body: EntryBody::Membership { change: Change::AddLearner(9), context: Bytes::from_static(b"c") },
            },
        ];
        let membership = Membership::new(vec![1, 2], vec![3]).expect("valid");
        let bodies = [
            Body::Append { prev_index: 4, prev_term: 2, commit: 3, entries },
            Body::AppendReply { index: 4, commit: 3, reject: None },
            Body::AppendReply { index: 4, commit: 3, reject: Some(Reject { hint_index: 2, hint_term: 1 }) },
            Body::Vote { pre: true, last_index: 4, last_term: 2, commit: 3, commit_term: 2, transfer: false },
            Body::Vote { pre: false, last_index: 4, last_term: 2, commit: 3, commit_term: 2, transfer: true },
            Body::VoteReply { pre: true, reject: true, commit: 3, commit_term: 2 },
            Body::VoteReply { pre: false, reject: false, commit: 0, commit_term: 0 },
            Body::Heartbeat { commit: 3, read: Some(0) },
            Body::HeartbeatReply { commit: 3, read: None },
            Body::Snapshot(SnapshotMeta { index: 9, term: 2, membership }),
            Body::TimeoutNow,
        ];
        for body in bodies {
            let message = Message { from: 1, to: 2, term: 7, body };
            assert_eq!(message_from_raft(&message_to_raft(message.clone())), Some(message));
        }
    }
}
