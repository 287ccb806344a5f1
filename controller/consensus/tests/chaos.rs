//! Many small wars of chance on consensus alone: a network that loses, doubles and reorders, disks that lag and lose what
//! was not written, compaction, snapshots, and managers that come and go. Committed stays committed, everywhere the same.

mod net;

use muster_consensus::{Body, Change, Committed, Message, PeerId, Role, Start};
use net::{Net, Node};
use std::collections::BTreeMap;

/// Splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

struct War {
    net: Net,
    rng: Rng,
    flying: Vec<Message>,
    loss: u64,
    calm: bool,
    /// What is committed at each index: term and content.
    truth: BTreeMap<u64, Committed>,
    /// Per node: how many of its committed entries were looked at, and the last index.
    seen: BTreeMap<PeerId, (usize, u64)>,
    leaders: BTreeMap<u64, PeerId>,
    /// Peers that were taken out: never to come back under the same id.
    removed: Vec<PeerId>,
    proposed: u64,
}

impl War {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let ids: Vec<PeerId> = (1..=3 + 2 * rng.below(2)).collect();
        let loss = [0, 1, 5, 20][rng.below(4) as usize];
        Self {
            net: Net::bootstrap(&ids),
            rng,
            flying: Vec::new(),
            loss,
            calm: false,
            truth: BTreeMap::new(),
            seen: BTreeMap::new(),
            leaders: BTreeMap::new(),
            removed: Vec::new(),
            proposed: 0,
        }
    }

    fn any(&mut self) -> PeerId {
        let ids: Vec<PeerId> = self.net.nodes.keys().copied().collect();
        ids[self.rng.below(ids.len() as u64) as usize]
    }

    fn leader(&self) -> Option<PeerId> {
        self.net.leaders().into_iter().max_by_key(|id| self.net.nodes[id].raft.term())
    }

    /// Lets a node work, and looks at what it says is committed.
    fn work(&mut self, id: PeerId) {
        let out = self.net.node(id).work();
        self.flying.extend(out);
        self.look(id);
    }

    fn look(&mut self, id: PeerId) {
        let node = &self.net.nodes[&id];
        let (count, mut last) = self.seen.get(&id).copied().unwrap_or_default();
        for entry in &node.committed[count..] {
            assert!(entry.index > last, "node {id} hands out {} after {last}", entry.index);
            last = entry.index;
            let first = self.truth.entry(entry.index).or_insert_with(|| entry.clone());
            assert_eq!(first, entry, "node {id} has another entry at {}", entry.index);
        }
        self.seen.insert(id, (node.committed.len(), last));
        if node.raft.role() == Role::Leader {
            let first = *self.leaders.entry(node.raft.term()).or_insert(id);
            assert_eq!(first, id, "two leaders in term {}", node.raft.term());
        }
    }

    fn deliver(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        // Any of them: order means nothing.
        let at = if self.calm { 0 } else { self.rng.below(self.flying.len() as u64) as usize };
        let message = self.flying.remove(at);
        let (from, to) = (message.from, message.to);
        let snapshot = matches!(message.body, Body::Snapshot(_));
        let cut = self.net.cut.contains(&from) || self.net.cut.contains(&to) || !self.net.nodes.contains_key(&to);
        let lost = cut || (!self.calm && self.rng.percent(self.loss));
        if snapshot && let Some(sender) = self.net.nodes.get_mut(&from) {
            sender.raft.report_snapshot(to, !lost);
        }
        if lost {
            return;
        }
        if !self.calm && !snapshot && self.rng.percent(5) {
            self.flying.push(message.clone());
        }
        match self.net.node(to).raft.step(message) {
            Err(e @ muster_consensus::StepError::LogLost { .. }) => panic!("{e}"),
            // Late answers of those that were removed.
            _ => self.work(to),
        }
        self.work_if_there(from);
    }

    fn work_if_there(&mut self, id: PeerId) {
        if self.net.nodes.contains_key(&id) {
            self.work(id);
        }
    }

    fn act(&mut self) {
        let id = self.any();
        match self.rng.below(100) {
            0..=17 => self.net.node(id).raft.tick(),
            18..=49 => return (0..6).for_each(|_| self.deliver()),
            50..=64 => {
                let id = self.leader().unwrap_or(id);
                self.proposed += 1;
                let data = format!("p{}", self.proposed);
                let _ = self.net.node(id).raft.propose(data);
                self.work(id);
            }
            65..=70 => self.net.node(id).hold_disk = true,
            71..=80 => self.net.node(id).hold_disk = false,
            81..=84 => self.restart(id),
            85..=87 => {
                let applied = self.net.node(id).raft.applied().index;
                self.net.node(id).raft.compact(applied);
            }
            88 => {
                self.net.cut.insert(id);
            }
            89..=93 => self.net.cut.clear(),
            94 => {
                let to = self.any();
                let _ = self.net.node(id).raft.transfer_leader(to);
            }
            95..=96 => self.net.node(id).raft.report_unreachable(1),
            _ => self.change(),
        }
        self.work(id);
    }

    /// A crash: some of what was on its way to the disk is there, in order; the state starts anew from the disk.
    fn restart(&mut self, id: PeerId) {
        let node = self.net.node(id);
        let keep = self.rng.below(node.held.len() as u64 + 1) as usize;
        node.held.truncate(keep);
        // Nobody hears of it: what may be sent now is lost with the crash.
        let _ = node.flush();
        node.restart();
        let base = self.net.nodes[&id].disk.snapshot.index;
        self.seen.insert(id, (0, base));
    }

    fn change(&mut self) {
        let Some(leader) = self.leader() else { return };
        let membership = self.net.nodes[&leader].raft.membership();
        let change = match self.rng.below(3) {
            0 => {
                let id = 10 + self.rng.below(3);
                if self.removed.contains(&id) || self.net.nodes.contains_key(&id) {
                    return;
                }
                self.net.nodes.insert(id, Node::new(id, Start::join()));
                Change::AddLearner(id)
            }
            1 => match membership.learners().first() {
                Some(id) => Change::AddVoter(*id),
                None => return,
            },
            _ => {
                let id = self.any();
                if membership.voters().len() < 3 || id == leader {
                    return;
                }
                self.removed.push(id);
                Change::Remove(id)
            }
        };
        let _ = self.net.node(leader).raft.propose_membership(change, "");
        self.work(leader);
    }

    /// Peace: everybody who is a member agrees in bounded time.
    fn settle(&mut self) {
        self.calm = true;
        self.net.cut.clear();
        self.net.nodes.values_mut().for_each(|node| node.hold_disk = false);
        for _ in 0..300 {
            for id in self.net.nodes.keys().copied().collect::<Vec<_>>() {
                self.net.node(id).raft.tick();
                self.work(id);
            }
            while !self.flying.is_empty() {
                self.deliver();
            }
            if self.agreed() {
                return;
            }
        }
        let all: Vec<_> = self.net.nodes.values().map(|n| n.raft.status()).collect();
        panic!("no agreement: {all:#?}");
    }

    fn agreed(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let status = self.net.nodes[&leader].raft.status();
        let members = status.membership.voters().iter().chain(status.membership.learners());
        status.commit == status.last_index
            && members.filter_map(|id| self.net.nodes.get(id)).all(|n| n.raft.status().applied == status.last_index)
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the number of wars is the caller's choice")]
fn committed_entries_survive_any_war() {
    let seeds = std::env::var("CHAOS_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(150);
    let mut commits = 0;
    for seed in 1..=seeds {
        let run = std::panic::catch_unwind(|| {
            let mut war = War::new(seed);
            war.net.elect(1);
            for _ in 0..1500 {
                war.act();
            }
            war.settle();
            war.truth.len()
        });
        commits += run.unwrap_or_else(|_| panic!("seed {seed} failed"));
    }
    println!("{seeds} seeds, {commits} entries committed");
    assert!(commits > 0, "wars in which nothing is ever committed prove nothing");
}
