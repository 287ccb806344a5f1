//! Whether a slot whose task has ended gets another one, and when that may run.
//!
//! Everything is read from the tasks themselves, which the reaper keeps as long as they count. So a new leader comes to
//! the same answer.

use crate::{draft::ServiceDraft, draft::TaskDraft, planner::Context};
use muster_model::{
    Timestamp,
    cluster::{Service, Task, TaskState},
    spec::{RestartCondition, RestartPolicy},
};

/// Ended on its own account, and not because it was told to or its node was lost.
pub(crate) fn ended_by_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected)
}

/// Whether an empty slot gets a new task. `members` are the slot's tasks from the oldest to the newest.
pub(crate) fn allowed<'a>(members: impl Iterator<Item = &'a TaskDraft> + Clone, service: &Service) -> bool {
    let Some(last) = members.clone().filter(|t| !t.unsent()).last().map(|t| &*t.task) else { return true };
    if !ended_by_itself(last) {
        return true;
    }
    let policy = &service.spec.task.restart;
    let by_condition = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => last.status.state != TaskState::Complete,
        RestartCondition::None => false,
    };
    by_condition && attempts_left(members.map(|t| &*t.task), last, service)
}

/// Counts back from the last end: a slot that was given up stays so, however much time passes.
fn attempts_left<'a>(members: impl Iterator<Item = &'a Task>, last: &Task, service: &Service) -> bool {
    let RestartPolicy { max_attempts, window, .. } = service.spec.task.restart;
    if max_attempts == 0 {
        return true;
    }
    let counts = |t: &&Task| {
        let recent = window.is_zero() || last.meta.updated_at.since(t.meta.updated_at) < window;
        ended_by_itself(t) && t.spec_version == service.spec_version && recent
    };
    members.filter(counts).count() as u64 <= max_attempts
}

/// When the member at `position`, which takes the place of one before it, may run: after the restart delay, if that one ended
/// by itself. `None`: as soon as nothing else of the slot is left.
fn due<'a>(
    members: impl DoubleEndedIterator<Item = &'a TaskDraft> + Clone,
    position: usize,
    now: Timestamp,
    service: &Service,
) -> Option<Timestamp> {
    let task = &members.clone().nth(position)?.task;
    let made = if task.meta.created_at.is_zero() { now } else { task.meta.created_at };
    let before = members.take(position).filter(|t| !t.unsent()).last()?;
    ended_by_itself(&before.task).then(|| made.after(service.spec.task.restart.delay))
}

/// Whether an empty slot waits: its last task ended before it was to run, being prepared ahead of its time. The next is made
/// when that one would have run, else an image that cannot be had would be asked for without a pause. One of another spec is
/// replaced at once.
pub(crate) fn waits(draft: &mut ServiceDraft, members: &[usize], now: Timestamp, service: &Service) -> bool {
    let tasks = members.iter().map(|i| &draft.tasks[*i]);
    let Some(position) = tasks.clone().rposition(|t| !t.unsent()) else { return false };
    let last = &draft.tasks[members[position]].task;
    if !ended_by_itself(last) || last.spec_version != service.spec_version {
        return false;
    }
    match due(tasks, position, now, service).filter(|at| *at > now) {
        Some(at) => {
            draft.wake_at(at);
            true
        }
        None => false,
    }
}

/// Lets tasks that wait (desired `Ready`: everything prepared, nothing started) run: when nothing of the slot is left, and
/// the restart delay is over if the one before ended by itself.
pub(crate) fn release(draft: &mut ServiceDraft, cx: &Context<'_>, service: &Service) {
    for (_, members) in draft.slots().iter() {
        for (position, i) in members.iter().enumerate() {
            let t = &draft.tasks[*i];
            if !t.active() || t.task.desired != TaskState::Ready {
                continue;
            }
            if members.iter().any(|other| other != i && draft.tasks[*other].alive()) {
                continue;
            }
            let tasks = members.iter().map(|m| &draft.tasks[*m]);
            let due = due(tasks, position, cx.now, service).unwrap_or(cx.now);
            if due <= cx.now {
                draft.tasks[*i].desire(TaskState::Running);
            } else {
                draft.wake_at(due);
            }
        }
    }
}
