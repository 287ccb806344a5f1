//! One service, through all rooms, in this order.

use crate::{
    draft::ServiceDraft, endpoint, enforce, global, planner::Context, reap, replicated, restart, schedule, update,
};
use muster_model::{cluster::TaskState, spec::Mode};
use std::sync::Arc;

/// Decides what is to be done for one service; the decision is the draft.
pub(crate) fn decide(draft: &mut ServiceDraft, cx: &mut Context<'_>) {
    enforce::lost_nodes(draft, cx);
    match draft.service.clone() {
        Some(service) if !service.removing => {
            enforce::placement(draft, cx);
            enforce::ended(draft);
            if update::judge(draft, cx, &service) {
                // The service goes back to its old spec. Its version, which new tasks carry, is known when that is applied.
                return;
            }
            match service.spec.mode {
                Mode::Replicated { replicas } => replicated::orchestrate(draft, cx, &service, replicas),
                Mode::Global => global::orchestrate(draft, cx, &service),
            }
            update::advance(draft, cx, &service);
            restart::release(draft, cx, &service);
            if let Some(service) = endpoint::allocate(draft, cx) {
                endpoint::addresses(draft, cx, &service);
            }
            schedule::place(draft, cx);
        }
        _ => draft.tasks.iter_mut().for_each(|t| t.desire(TaskState::Remove)),
    }
    reap::reap(draft, cx);
    if draft.service.as_ref().is_some_and(|s| s.removing) && draft.tasks.iter().all(|t| t.deleted) {
        draft.delete_service = true;
    }
}

/// A new task for a slot of the service.
pub(crate) fn new_task(
    draft: &mut ServiceDraft,
    cx: &mut Context<'_>,
    service: &muster_model::cluster::Service,
    slot: crate::draft::Slot,
    desired: TaskState,
) {
    use crate::draft::Slot;
    use muster_model::cluster::{Meta, Task, TaskStatus};
    let (slot, node) = match slot {
        Slot::Number(n) => (n, None),
        Slot::Node(node) => (0, Some(node)),
    };
    let spec: Arc<_> = draft.shared_spec(service);
    let task = Task {
        id: cx.ids.id(),
        meta: Meta::default(),
        service: service.id,
        service_name: service.spec.name.clone(),
        slot,
        node,
        spec,
        spec_version: service.spec_version,
        desired,
        status: TaskStatus { state: TaskState::New, at: cx.now, ..TaskStatus::default() },
        addresses: Vec::new(),
        host_ports: endpoint::host_ports(&service.spec).collect(),
        trace_parent: draft.trace_parent.clone(),
    };
    draft.add(task);
}
