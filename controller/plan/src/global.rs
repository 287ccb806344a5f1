//! Global services: one task on every node that is eligible.

use crate::{
    draft::{ServiceDraft, Slot},
    planner::Context,
    replicated::first_desire,
    restart, schedule,
    service::new_task,
};
use muster_model::{cluster::Service, cluster::TaskState};

pub(crate) fn orchestrate(draft: &mut ServiceDraft, cx: &mut Context<'_>, service: &Service) {
    let slots = draft.slots();
    for (slot, members) in slots.iter() {
        let gone = match slot {
            Slot::Node(node) => cx.state.node(node).is_none(),
            // Left from when the service was replicated.
            Slot::Number(_) => true,
        };
        if gone {
            members.iter().for_each(|i| draft.tasks[*i].desire(TaskState::Remove));
        } else if !suits(slot, cx, service) {
            // The service's placement was changed.
            members.iter().for_each(|i| draft.tasks[*i].desire(TaskState::Shutdown));
        }
    }
    let eligible: Vec<_> =
        schedule::open_rows(cx.hosts, &service.spec.task).map(|(node, _)| Slot::Node(node)).collect();
    for slot in eligible {
        let members = slots.members(slot);
        let filled = members.iter().any(|i| draft.tasks[*i].active());
        if filled
            || !restart::allowed(members.iter().map(|i| &draft.tasks[*i]), service)
            || restart::waits(draft, members, cx.now, service)
        {
            continue;
        }
        let desired = first_desire(draft, members);
        new_task(draft, cx, service, slot, desired);
    }
}

fn suits(slot: Slot, cx: &Context<'_>, service: &Service) -> bool {
    let Slot::Node(id) = slot else { return false };
    cx.state.node(id).is_some_and(|node| schedule::eligible(node, &service.spec.task))
}
