//! Spans of what the pure cores do: they know no clock, so the shell says when it was.

use muster_controller_core::Effect;
use muster_model::{
    Timestamp,
    cluster::{Task, TaskState},
};
use muster_state::{Applied, Event, Object};
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A `plan` in the trace of each request that the plans among these effects follow from.
pub(super) fn planned(effects: &[Effect], began: SystemTime) {
    for effect in effects {
        let Effect::Propose { planned: true, entry, .. } = effect else { continue };
        let traces: BTreeSet<_> = entry.groups.iter().filter_map(|g| g.trace_parent.as_deref()).collect();
        for trace in traces {
            let groups = entry.groups.iter().filter(|g| g.trace_parent.as_deref() == Some(trace));
            let changes = groups.map(|g| g.changes.len()).sum::<usize>();
            muster_telemetry::record("plan", trace, began, &[("changes", changes.to_string())]);
        }
    }
}

/// A `running` for each task that is now known to run: from when its node saw it to now.
pub(super) fn running(applied: &Applied) {
    let now = SystemTime::now();
    for task in applied.events.iter().filter_map(runs_now) {
        let Some(trace) = &task.trace_parent else { continue };
        let node = task.node.map(|n| n.to_string()).unwrap_or_default();
        let said = [("task.id", task.id.to_string()), ("service.name", task.service_name.clone()), ("node.id", node)];
        muster_telemetry::record("running", trace, seen(task.status.at, now), &said);
    }
}

fn runs_now(event: &Event) -> Option<&Task> {
    let ran = |object: &Object| matches!(object, Object::Task(t) if t.status.state >= TaskState::Running);
    match &event.after {
        Some(Object::Task(task)) if task.status.state == TaskState::Running => {
            (!event.before.as_ref().is_some_and(ran)).then_some(&**task)
        }
        _ => None,
    }
}

/// By the node's clock, which may not be ours.
fn seen(at: Timestamp, now: SystemTime) -> SystemTime {
    let at = u64::try_from(at.0).map_or(now, |at| UNIX_EPOCH + Duration::from_nanos(at));
    at.min(now)
}
