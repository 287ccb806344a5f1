//! Replicated services: as many filled slots as replicas are asked for.

use crate::{
    draft::{ServiceDraft, Slot, Slots},
    planner::{CHANGES, Context},
    restart,
    service::new_task,
};
use muster_model::{
    NodeId,
    cluster::{Service, TaskState},
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn orchestrate(draft: &mut ServiceDraft, cx: &mut Context<'_>, service: &Service, replicas: u64) {
    let slots = draft.slots();
    let mut filled = BTreeSet::new();
    let mut vacant = Vec::new();
    for (slot, members) in slots.iter() {
        let active = members.iter().any(|i| draft.tasks[*i].active());
        // A slot whose task is not to be replaced, or not yet, counts as filled.
        if active
            || !restart::allowed(members.iter().map(|i| &draft.tasks[*i]), service)
            || restart::waits(draft, members, cx.now, service)
        {
            filled.insert(slot);
        } else {
            vacant.push(slot);
        }
    }
    let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    if filled.len() > replicas {
        let extra = filled.len() - replicas;
        for slot in least_useful(draft, &slots, &filled, extra) {
            remove_slot(draft, slots.members(slot));
        }
    }
    let missing = replicas.saturating_sub(filled.len());
    let (again, given_up) = vacant.split_at(missing.min(vacant.len()));
    for slot in given_up {
        remove_slot(draft, slots.members(*slot));
    }
    let fresh = (1..).map(Slot::Number).filter(|s| slots.members(*s).is_empty()).take(missing - again.len());
    let new: Vec<Slot> = again.iter().copied().chain(fresh).take(CHANGES).collect();
    for slot in new {
        let desired = first_desire(draft, slots.members(slot));
        new_task(draft, cx, service, slot, desired);
    }
}

/// A task waits until what it replaces has ended, or for the restart delay; else it runs at once.
pub(crate) fn first_desire(draft: &ServiceDraft, members: &[usize]) -> TaskState {
    let waits = members.iter().any(|i| draft.tasks[*i].alive() && !draft.tasks[*i].unsent())
        || members.last().is_some_and(|i| restart::ended_by_itself(&draft.tasks[*i].task));
    if waits { TaskState::Ready } else { TaskState::Running }
}

fn remove_slot(draft: &mut ServiceDraft, members: &[usize]) {
    for i in members {
        draft.tasks[*i].desire(TaskState::Remove);
    }
}

/// Slots to give up first: those that do not run, then those on nodes with most tasks of the service, then the highest.
fn least_useful(draft: &ServiceDraft, slots: &Slots, filled: &BTreeSet<Slot>, extra: usize) -> Vec<Slot> {
    let node_of = |slot: &Slot| {
        slots.members(*slot).iter().map(|i| &draft.tasks[*i]).filter(|t| t.active()).find_map(|t| t.task.node)
    };
    let mut per_node: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in filled.iter().filter_map(node_of) {
        *per_node.entry(node).or_default() += 1;
    }
    let mut candidates: Vec<Slot> = filled.iter().copied().collect();
    let mut chosen = Vec::with_capacity(extra);
    let runs = |slot: &Slot| slots.members(*slot).iter().any(|i| draft.tasks[*i].running());
    // Sorted once by what does not change; the load of nodes is looked at for each choice only among those that run.
    candidates.sort_by_key(|s| (runs(s), *s));
    let idle = candidates.iter().take_while(|s| !runs(s)).count().min(extra);
    for slot in candidates.drain(..idle) {
        if let Some(n) = node_of(&slot).and_then(|n| per_node.get_mut(&n)) {
            *n -= 1;
        }
        chosen.push(slot);
    }
    let mut by_node: BTreeMap<Option<NodeId>, Vec<Slot>> = BTreeMap::new();
    for slot in candidates {
        by_node.entry(node_of(&slot)).or_default().push(slot);
    }
    while chosen.len() < extra {
        // The fullest node gives up its highest slot; equal nodes: the one with the highest slot of all.
        let fullest = by_node.iter().max_by_key(|(_, s)| (s.len(), s.last().copied())).map(|(n, _)| *n);
        match fullest.and_then(|n| by_node.get_mut(&n)).and_then(Vec::pop) {
            Some(slot) => chosen.push(slot),
            None => break,
        }
    }
    chosen
}
