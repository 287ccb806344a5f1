//! A handful of nodes in one thread: their disks, and a network that delivers in order unless cut.

#![allow(dead_code)]

use muster_consensus::{
    Bytes, Committed, Config, Consensus, Entry, HardState, Membership, Message, PeerId, Persist, Ready, RoleChange,
    SnapshotMeta, SnapshotOrder, Start,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One node with a disk that is either instant or held.
pub struct Node {
    pub raft: Consensus,
    pub disk: Start,
    pub committed: Vec<Committed>,
    pub reads: Vec<(u64, u64)>,
    pub roles: Vec<RoleChange>,
    pub held: VecDeque<(u64, Persist)>,
    pub hold_disk: bool,
    pub snapshots: Vec<SnapshotOrder>,
}

impl Node {
    pub fn new(id: PeerId, start: Start) -> Self {
        let raft = Consensus::new(Config::new(id, 1), start.clone()).expect("a sound start");
        Self {
            raft,
            disk: start,
            committed: Vec::new(),
            reads: Vec::new(),
            roles: Vec::new(),
            held: VecDeque::new(),
            hold_disk: false,
            snapshots: Vec::new(),
        }
    }

    /// Does all work there is; returns what may be sent.
    pub fn work(&mut self) -> Vec<Message> {
        let mut out = Vec::new();
        loop {
            while let Some(ready) = self.raft.ready() {
                self.take(ready, &mut out);
            }
            if self.hold_disk || self.held.is_empty() {
                return out;
            }
            out.extend(self.flush());
        }
    }

    fn take(&mut self, ready: Ready, out: &mut Vec<Message>) {
        out.extend(ready.messages);
        self.held.extend(ready.persist.map(|persist| (ready.number, persist)));
        self.committed.extend(ready.committed);
        self.reads.extend(ready.reads.iter().map(|read| (read.id, read.index)));
        self.roles.extend(ready.role);
        for order in ready.snapshots {
            assert_eq!(&order.meta, self.raft.applied(), "the order names the state as it is now");
            out.push(order.message.clone());
            self.snapshots.push(order);
        }
    }

    /// The disk finishes everything that was given to it.
    pub fn flush(&mut self) -> Vec<Message> {
        let mut number = 0;
        for (n, persist) in self.held.drain(..) {
            write(&mut self.disk, persist);
            number = n;
        }
        self.raft.persisted(number)
    }

    /// What a restart finds: the disk, not what was held back.
    pub fn restart(&mut self) {
        let held = std::mem::take(&mut self.snapshots);
        let id = self.raft.id();
        *self = Self { snapshots: held, ..Self::new(id, self.disk.clone()) };
    }
}

fn write(disk: &mut Start, persist: Persist) {
    if let Some(meta) = persist.snapshot {
        disk.snapshot = meta;
        disk.entries.clear();
    }
    for entry in persist.entries {
        disk.entries.truncate((entry.index - disk.snapshot.index - 1) as usize);
        disk.entries.push(entry);
    }
    disk.hard_state = persist.hard_state;
}

/// All nodes.
pub struct Net {
    pub nodes: BTreeMap<PeerId, Node>,
    pub cut: BTreeSet<PeerId>,
    /// Every message sent, for tests that look.
    pub log: Vec<Message>,
}

impl Net {
    pub fn bootstrap(ids: &[PeerId]) -> Self {
        let start = Start::bootstrap(Membership::new(ids.to_vec(), vec![]).expect("valid"));
        let nodes = ids.iter().map(|id| (*id, Node::new(*id, start.clone()))).collect();
        Self { nodes, cut: BTreeSet::new(), log: Vec::new() }
    }

    pub fn node(&mut self, id: PeerId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the test")
    }

    /// Delivers until nobody has anything to say.
    pub fn settle(&mut self) {
        loop {
            let mut flying: Vec<Message> = self.nodes.values_mut().flat_map(Node::work).collect();
            if flying.is_empty() {
                return;
            }
            self.log.extend(flying.iter().cloned());
            flying.retain(|m| !self.cut.contains(&m.from) && !self.cut.contains(&m.to));
            for message in flying {
                if let Some(node) = self.nodes.get_mut(&message.to) {
                    // Answers of removed members are refused, and that is fine here.
                    let _ = node.raft.step(message);
                }
            }
        }
    }

    pub fn tick(&mut self, times: usize) {
        for _ in 0..times {
            self.nodes.values_mut().for_each(|node| node.raft.tick());
            self.settle();
        }
    }

    /// Lets `id` win an election.
    pub fn elect(&mut self, id: PeerId) {
        self.node(id).raft.campaign();
        self.settle();
        assert!(self.node(id).raft.is_leader(), "{id} won");
    }

    pub fn leaders(&self) -> Vec<PeerId> {
        self.nodes.iter().filter(|(_, node)| node.raft.is_leader()).map(|(id, _)| *id).collect()
    }

    /// The data committed on a node.
    pub fn data(&self, id: PeerId) -> Vec<Bytes> {
        let payloads = self.nodes[&id].committed.iter().map(|c| c.payload.clone());
        payloads
            .filter_map(|p| match p {
                muster_consensus::Payload::Normal(data) => Some(data),
                _ => None,
            })
            .collect()
    }
}

pub fn hard(term: u64, vote: PeerId, commit: u64) -> HardState {
    HardState { term, vote, commit }
}

pub fn meta(index: u64, term: u64, voters: &[PeerId]) -> SnapshotMeta {
    SnapshotMeta { index, term, membership: Membership::new(voters.to_vec(), vec![]).expect("valid") }
}

pub fn normal(index: u64, term: u64, data: &'static str) -> Entry {
    Entry { index, term, body: muster_consensus::EntryBody::Normal(Bytes::from_static(data.as_bytes())) }
}
