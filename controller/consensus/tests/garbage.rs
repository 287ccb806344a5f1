//! Whatever arrives, nothing panics, and what is committed stays.

mod net;

use muster_consensus::{Body, Bytes, Change, Entry, EntryBody, Membership, Message, Reject, SnapshotMeta, Start};
use net::Node;
use proptest::prelude::*;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..8u64, 1 => Just(1 << 62), 1 => any::<u64>()]
}

fn entry() -> impl Strategy<Value = Entry> {
    let body = prop_oneof![
        Just(EntryBody::Empty),
        Just(EntryBody::Normal(Bytes::from_static(b"x"))),
        (0..5u64, 0..3u8).prop_map(|(id, kind)| EntryBody::Membership {
            change: [Change::AddVoter(id), Change::AddLearner(id), Change::Remove(id)][usize::from(kind)],
            context: Bytes::new(),
        }),
    ];
    (number(), 0..4u64, body).prop_map(|(index, term, body)| Entry { index, term, body })
}

/// Entries that follow each other from `first`, mostly.
fn entries(first: u64) -> impl Strategy<Value = Vec<Entry>> {
    (prop::collection::vec(entry(), 0..4), any::<bool>()).prop_map(move |(mut entries, tidy)| {
        if tidy {
            for (at, entry) in entries.iter_mut().enumerate() {
                entry.index = first.wrapping_add(1 + at as u64);
                entry.term = entry.term.max(1);
            }
            entries.sort_by_key(|e| e.index);
        }
        entries
    })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        (number(), 0..4u64, number()).prop_flat_map(|(prev_index, prev_term, commit)| entries(prev_index)
            .prop_map(move |entries| Body::Append { prev_index, prev_term, commit, entries })),
        (number(), number(), proptest::option::of((number(), number()))).prop_map(|(index, commit, reject)| {
            let reject = reject.map(|(hint_index, hint_term)| Reject { hint_index, hint_term });
            Body::AppendReply { index, commit, reject }
        }),
        (any::<bool>(), number(), number(), number(), number(), any::<bool>()).prop_map(
            |(pre, last_index, last_term, commit, commit_term, transfer)| Body::Vote {
                pre,
                last_index,
                last_term,
                commit,
                commit_term,
                transfer
            }
        ),
        (any::<bool>(), any::<bool>(), number(), number())
            .prop_map(|(pre, reject, commit, commit_term)| Body::VoteReply { pre, reject, commit, commit_term }),
        (number(), proptest::option::of(number())).prop_map(|(commit, read)| Body::Heartbeat { commit, read }),
        (number(), proptest::option::of(number())).prop_map(|(commit, read)| Body::HeartbeatReply { commit, read }),
        (number(), number(), prop::collection::vec(1..5u64, 0..4)).prop_map(|(index, term, voters)| {
            let membership = Membership::new(voters, vec![]).unwrap_or_default();
            Body::Snapshot(SnapshotMeta { index, term, membership })
        }),
        Just(Body::TimeoutNow),
    ]
}

#[derive(Clone, Debug)]
enum Act {
    Step(Message),
    Tick(u8),
    Propose,
    Change(Change),
    Campaign,
    Flush,
    Hold,
    Compact,
    Snapshot(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..5u64, 1..2u64, prop_oneof![6 => 1..5u64, 1 => number()], body())
            .prop_map(|(from, to, term, body)| Act::Step(Message { from, to, term, body })),
        2 => (1..25u8).prop_map(Act::Tick),
        1 => Just(Act::Propose),
        1 => (2..6u64).prop_map(|id| Act::Change(Change::AddLearner(id))),
        1 => (2..6u64).prop_map(|id| Act::Change(Change::Remove(id))),
        1 => Just(Act::Campaign),
        2 => Just(Act::Flush),
        1 => Just(Act::Hold),
        1 => Just(Act::Compact),
        1 => any::<bool>().prop_map(Act::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_message_makes_a_node_panic_or_take_back_what_it_committed(
        voters in prop::collection::vec(1..5u64, 0..4),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let start = Membership::new(voters, vec![]).map_or_else(|_| Start::join(), Start::bootstrap);
        let start = if start.snapshot.membership.voters().is_empty() { Start::join() } else { start };
        let mut node = Node::new(1, start);
        for act in acts {
            match act {
                Act::Step(message) => drop(node.raft.step(message)),
                Act::Tick(n) => (0..n).for_each(|_| { node.raft.tick(); node.work(); }),
                Act::Propose => drop(node.raft.propose("p")),
                Act::Change(change) => drop(node.raft.propose_membership(change, "")),
                Act::Campaign => node.raft.campaign(),
                Act::Flush => node.hold_disk = false,
                Act::Hold => node.hold_disk = true,
                Act::Compact => { let at = node.raft.applied().index; node.raft.compact(at); }
                Act::Snapshot(arrived) => node.raft.report_snapshot(2, arrived),
            }
            node.work();
        }
        let mut last = 0;
        for entry in &node.committed {
            prop_assert!(entry.index > last);
            last = entry.index;
        }
    }
}
