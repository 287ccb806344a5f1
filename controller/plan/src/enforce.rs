//! What the nodes' condition does to tasks: lost, drained, or no longer what the placement asks for.

use crate::{draft::ServiceDraft, planner::Context, schedule};
use muster_model::{
    cluster::{NodeState, TaskState},
    spec::{Availability, Constraint},
};

/// Tasks of a node that is down or gone are orphaned: what became of them is unknown, and they fill no slot any more.
pub(crate) fn lost_nodes(draft: &mut ServiceDraft, cx: &Context<'_>) {
    for t in &mut draft.tasks {
        let Some(id) = t.task.node.filter(|_| t.alive()) else { continue };
        let message = match cx.state.node(id) {
            None => "the node was removed".to_owned(),
            Some(node) if node.status.state == NodeState::Down => {
                format!("node {} is down", schedule::node_name(node))
            }
            Some(_) => continue,
        };
        t.desire(TaskState::Shutdown);
        if t.unsent() {
            t.desire(TaskState::Remove);
        } else {
            t.observe(TaskState::Orphaned, cx.now, &message);
        }
    }
}

/// Tasks leave a node that is drained or does not meet the constraints any more. (`pause` keeps what it has.)
pub(crate) fn placement(draft: &mut ServiceDraft, cx: &Context<'_>) {
    for t in &mut draft.tasks {
        if !t.active() {
            continue;
        }
        let Some(node) = t.task.node.and_then(|id| cx.state.node(id)) else { continue };
        // Judged by the task's own spec: a new one is the updater's business.
        let unmet = || {
            let parsed = t.task.spec.placement.constraints.iter().filter_map(|c| Constraint::parse(c).ok());
            parsed.into_iter().any(|c| !schedule::meets(&c, node))
        };
        if node.spec.availability == Availability::Drain || unmet() {
            t.desire(if t.unsent() { TaskState::Remove } else { TaskState::Shutdown });
        }
    }
}

/// A task that has ended is not wanted any more: whether another takes its slot is the restart policy's question.
pub(crate) fn ended(draft: &mut ServiceDraft) {
    for t in &mut draft.tasks {
        if !t.deleted && t.task.status.state.is_terminal() {
            t.desire(TaskState::Shutdown);
        }
    }
}
