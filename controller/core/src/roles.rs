//! Managers come and go: consensus follows what the nodes' specs say, one step at a time.
//!
//! Level-triggered: each turn compares the specs with the membership, so it does not matter who began a change or which
//! leader finishes it.

use crate::{Effect, Effects, Now, PeerChange, members::Members};
use muster_model::{NodeId, cluster::Node, spec::Role};
use muster_state::{Change, Expect, Group, Key, State};
use std::{collections::BTreeMap, sync::Arc};

/// Takes the next step of consensus' membership, if one is wanted and safe. `false`: none is, until something changes.
pub(crate) fn step(state: &State, own: NodeId, members: &mut Members, now: Now, out: &mut Effects) -> bool {
    let wanted = if members.is_voter(own.raft_id()) { next(state, own, members) } else { None };
    let Some(effect) = wanted else { return false };
    if now.mono >= members.ready_at() {
        members.started(now.mono);
        out.push(effect);
    }
    true
}

fn next(state: &State, own: NodeId, members: &Members) -> Option<Effect> {
    let managers: BTreeMap<u64, &Arc<Node>> =
        state.nodes().filter(|n| n.spec.role == Role::Manager).map(|n| (n.id.raft_id(), n)).collect();
    // Before the first manager is registered nobody may be thrown out.
    if managers.is_empty() {
        return None;
    }
    let own = own.raft_id();
    let unwanted: Vec<u64> =
        members.all().filter(|p| !managers.contains_key(p) && members.survives_without(*p, own)).collect();
    // Oneself last: the successor then finishes it.
    if let Some(peer) = unwanted.iter().find(|p| **p != own) {
        return Some(Effect::ChangeMembership(PeerChange::Remove { peer: *peer }));
    }
    for peer in members.learners().filter(|p| members.caught_up(*p)) {
        if let Some(node) = managers.get(&peer)
            && let Some(addr) = node.manager_addr
        {
            return Some(Effect::ChangeMembership(PeerChange::AddVoter { node: node.id, addr }));
        }
    }
    for (peer, node) in &managers {
        if let Some(addr) = node.manager_addr.filter(|_| !members.contains(*peer)) {
            return Some(Effect::ChangeMembership(PeerChange::AddLearner { node: node.id, addr }));
        }
    }
    unwanted.iter().find(|p| **p == own)?;
    let successor = members.successor(own)?;
    managers.get(&successor).map(|node| Effect::TransferLeadership { to: node.id })
}

/// Nodes that were managers and have left consensus become workers in name too.
pub(crate) fn followed(state: &State, own: NodeId, members: &Members) -> Vec<Group> {
    // Who is in consensus is not known yet, or is not this manager's to say.
    if !members.is_voter(own.raft_id()) {
        return Vec::new();
    }
    let left = |n: &&Arc<Node>| {
        let was = n.role == Role::Manager || n.manager_addr.is_some();
        n.spec.role == Role::Worker && was && !members.contains(n.id.raft_id())
    };
    let worker = |n: &Arc<Node>| {
        let mut node = Node::clone(n);
        node.role = Role::Worker;
        node.manager_addr = None;
        Group {
            expects: vec![Expect::version(Key::Node(n.id), n.meta.version)],
            changes: vec![Change::put(node)],
            trace_parent: None,
        }
    };
    state.nodes().filter(left).map(worker).collect()
}
