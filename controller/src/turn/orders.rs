//! Carrying out what consensus orders: send, persist, apply, stream snapshots.

use super::Turn;
use crate::{peers::Addresses, snapshots};
use muster_consensus::{Committed, Payload, Persist, Ready, Role, RoleChange, SnapshotOrder};
use muster_controller_core::Input;
use muster_model::NodeId;
use muster_state::Entry;
use std::collections::BTreeMap;
use tracing::{info, info_span};

/// A follower this close to the end of the log may vote: it is a few messages behind, not a snapshot.
const CAUGHT_UP: u64 = 64;

impl Turn {
    pub(super) fn carry_out(&mut self, ready: Ready) {
        self.changed |= ready.role.is_some() || !ready.committed.is_empty();
        // A leader's appends; followers' promises come out of `persisted`.
        self.send(ready.messages);
        if let Some(persist) = ready.persist {
            self.persist(ready.number, persist);
        }
        for committed in ready.committed {
            self.apply(committed);
            self.perform_effects();
        }
        for order in ready.snapshots {
            self.send_snapshot(order);
        }
        for read in ready.reads {
            self.reads.confirmed(read);
        }
        if let Some(change) = ready.role {
            self.role_changed(change);
        }
    }

    fn persist(&mut self, number: u64, persist: Persist) {
        let state = persist.snapshot.as_ref().and_then(|meta| {
            let (found, state) = self.arrived.take()?;
            (found == *meta).then_some(state)
        });
        match (&persist.snapshot, &state) {
            (Some(meta), Some(state)) => {
                info!(index = meta.index, "the state was replaced by the leader's");
                self.since_checkpoint = (0, 0);
                self.input(Input::Restored(Box::new(state.snapshot())));
                self.tell_membership();
                self.refresh_addresses();
                self.changed = true;
            }
            (Some(meta), None) => {
                // Consensus takes only a snapshot that was stepped in, and that is done only with its state at hand.
                return self.stop(format!("the state of the snapshot at {} is not at hand", meta.index));
            }
            (None, _) => {}
        }
        self.disk.persist(number, persist, state);
    }

    fn apply(&mut self, committed: Committed) {
        let Committed { index, term, payload } = committed;
        self.since_checkpoint.0 += 1;
        match payload {
            Payload::Empty => {}
            Payload::Normal(bytes) => {
                self.since_checkpoint.1 += bytes.len() as u64;
                match Entry::decode(&bytes) {
                    Ok(entry) => self.apply_entry(index, entry),
                    Err(e) => return self.stop(format!("entry {index}: {e}")),
                }
            }
            Payload::Membership { change, membership, accepted, .. } => {
                info!(index, ?change, accepted, voters = ?membership.voters(), learners = ?membership.learners(), "managers changed");
                if !accepted {
                    self.input(Input::MembershipFailed);
                }
                self.tell_membership();
                self.refresh_addresses();
                self.tell_managers(None);
            }
        }
        // Its first own entry committed: everything before has been told, so it may speak for the cluster.
        if self.office.is_none() && self.consensus.is_leader() && term == self.consensus.term() {
            self.office = Some(term);
            self.past.get_or_insert(index);
            info!(term, "this manager leads");
            self.input(Input::Leading { term });
            // A new office knows nothing of the others: all is told anew.
            self.progress = BTreeMap::new();
            self.tell_progress();
            self.seal_credentials();
        }
    }

    /// What an earlier build kept unsealed is sealed by the first leader that can. One that fails leaves it to the next.
    fn seal_credentials(&mut self) {
        match self.sealer.unsealed(self.manager.state()) {
            Ok(calls) => {
                for call in calls {
                    info!("registry credentials of an earlier build are sealed");
                    let token = self.token();
                    self.input(Input::Call { token, call: Box::new(call), trace_parent: None });
                }
            }
            Err(error) => tracing::error!(%error, "registry credentials of an earlier build stay unsealed"),
        }
    }

    fn apply_entry(&mut self, index: u64, entry: Entry) {
        let trace = entry.groups.iter().find_map(|g| g.trace_parent.as_deref());
        let span = trace.map(|trace| {
            // On the leader, what follows from the change is planned in the same turn.
            let span = info_span!("raft.apply", index, leader = self.office.is_some());
            muster_telemetry::continue_from(&span, trace);
            span
        });
        let _entered = span.as_ref().map(|s| s.enter());
        if self.office.is_some() {
            self.close_proposal(entry.origin.number);
        }
        self.input(Input::Committed { index, entry });
    }

    fn role_changed(&mut self, change: RoleChange) {
        let RoleChange { role, leader, term } = change;
        let lost = self.office.is_some_and(|office| role != Role::Leader || office != term);
        if lost {
            info!(term, "this manager leads no more");
            self.office = None;
            self.reads.lost(self.not_leader());
        }
        if self.office.is_none() {
            let leader =
                leader.filter(|_| role != Role::Leader).and_then(|id| self.peers.address(id)).map(|(node, _)| node);
            self.input(Input::Following { leader });
        }
        self.perform_effects();
        if lost {
            self.proposals.clear();
        }
    }

    fn send_snapshot(&mut self, order: SnapshotOrder) {
        let Some((node, addr)) = self.peers.address(order.to) else {
            return self.consensus.report_snapshot(order.to, false);
        };
        let state = self.manager.state().snapshot();
        self.snapshots.spawn(snapshots::send(self.tls.clone(), node, addr, order, state, self.inbox.clone()));
    }

    pub(super) fn tell_membership(&mut self) {
        let now = self.consensus.membership();
        self.changed = true;
        self.input(Input::Membership { voters: now.voters().to_vec(), learners: now.learners().to_vec() });
    }

    /// What the leader's raft knows of the others, as far as it is news.
    pub(super) fn tell_progress(&mut self) {
        let status = self.consensus.status();
        let mut now = BTreeMap::new();
        for peer in status.peers.iter().filter(|p| p.id != status.id) {
            let caught_up = !peer.in_snapshot && peer.matched + CAUGHT_UP >= status.last_index;
            now.insert(peer.id, (caught_up, peer.active));
        }
        for (peer, (caught_up, active)) in &now {
            if self.progress.get(peer) != Some(&(*caught_up, *active)) {
                self.input(Input::Progress { peer: *peer, caught_up: *caught_up, active: *active });
            }
        }
        self.progress = now;
    }

    /// Addresses of managers: hints from joining, overruled by the state.
    pub(super) fn refresh_addresses(&mut self) {
        let mut all: Addresses = self.hints.clone();
        for node in self.manager.state().nodes() {
            match node.manager_addr {
                Some(addr) => all.insert(node.id.raft_id(), (node.id, addr)),
                None => all.remove(&node.id.raft_id()),
            };
        }
        all.remove(&self.me.raft_id());
        self.peers.set_addresses(all);
    }

    pub(super) fn peers_known(&self) -> Addresses {
        let mut known = self.peers.known().clone();
        let own = self.manager.state().node(self.me).and_then(|n| n.manager_addr);
        if let Some(addr) = own {
            known.insert(self.me.raft_id(), (self.me, addr));
        }
        known
    }

    pub(super) fn checkpoint_if_due(&mut self) {
        let (entries, bytes) = self.since_checkpoint;
        if entries < self.storage.checkpoint_entries && bytes < self.storage.checkpoint_bytes {
            return;
        }
        let meta = self.consensus.applied().clone();
        if self.disk.checkpoint(meta, self.manager.state().snapshot()) {
            self.since_checkpoint = (0, 0);
        }
    }

    pub(super) fn not_leader(&self) -> muster_controller_core::CallError {
        let leader: Option<NodeId> = self.leader().filter(|id| *id != self.me);
        muster_controller_core::CallError::NotLeader { leader }
    }
}
