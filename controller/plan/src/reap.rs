//! What may be forgotten: tasks whose end is certain and which no history keeps.

use crate::{draft::ServiceDraft, planner::Context};
use muster_model::cluster::TaskState;

pub(crate) fn reap(draft: &mut ServiceDraft, cx: &Context<'_>) {
    let mut any = false;
    for t in &mut draft.tasks {
        let task = &t.task;
        let node_gone = task.node.is_some_and(|n| cx.state.node(n).is_none());
        let removable = task.desired == TaskState::Remove && (task.status.state.is_terminal() || t.unsent());
        // Replaced before any agent heard of it: nothing to remember.
        let never_was = task.desired >= TaskState::Shutdown && t.unsent();
        let lost = task.status.state == TaskState::Orphaned && (node_gone || cx.confirmed.contains(&task.id));
        if removable || never_was || lost {
            t.deleted = true;
            any = true;
        }
    }
    if any {
        draft.forget_slots();
    }
    history(draft, cx);
}

/// Dead tasks of a slot that are kept in any case: the last says whether the slot is done, and the one before it whether the
/// next has to wait for the restart delay.
const NEEDED: u64 = 2;

/// Keeps the newest dead tasks of each slot: as many as are configured, and as many as the restart policy counts.
fn history(draft: &mut ServiceDraft, cx: &Context<'_>) {
    let attempts = draft.service.as_ref().map_or(0, |s| s.spec.task.restart.max_attempts);
    let counted = if attempts == 0 { 0 } else { attempts.saturating_add(1) };
    let kept = counted.max(cx.settings.task_history_limit.into()).max(NEEDED);
    let kept = usize::try_from(kept).unwrap_or(usize::MAX);
    for (_, members) in draft.slots().iter() {
        let dead: Vec<usize> = members
            .iter()
            .copied()
            .filter(|i| {
                let t = &draft.tasks[*i];
                t.task.status.state.is_terminal() && t.task.desired >= TaskState::Shutdown
            })
            .collect();
        let too_many = dead.len().saturating_sub(kept);
        for i in dead.iter().take(too_many) {
            draft.tasks[*i].deleted = true;
        }
    }
}
