//! Rolling updates: slots whose task was made from an older spec get a new one, some at a time, watched.
//!
//! Progress is read from the tasks: a slot is in hand while its new task does not run yet or its old one has not ended,
//! and for the delay after. How long a task runs is judged by the time at which the state learnt it, not by its host's
//! clock.

use crate::{
    draft::{ServiceDraft, Slot, TaskDraft},
    endpoint,
    planner::Context,
    replicated::first_desire,
    restart, schedule,
    service::new_task,
};
use muster_model::{
    Timestamp,
    cluster::{Service, Task, TaskState, UpdateState, UpdateStatus},
    spec::{FailureAction, UpdateConfig, UpdateOrder},
};
use std::sync::Arc;

/// Whether a task was made from another spec than the service has now.
pub(crate) fn is_dirty(task: &Task, service: &Service) -> bool {
    let other_spec = task.spec_version != service.spec_version && *task.spec != service.spec.task;
    other_spec || endpoint::differs(task, &service.spec)
}

fn rolling_back(service: &Service) -> bool {
    service
        .update_status
        .as_ref()
        .is_some_and(|u| matches!(u.state, UpdateState::RollbackStarted | UpdateState::RollbackPaused))
}

fn config(service: &Service) -> UpdateConfig {
    if rolling_back(service) { service.spec.rollback } else { service.spec.update }
}

fn state(service: &Service) -> Option<UpdateState> {
    service.update_status.as_ref().map(|u| u.state)
}

/// Counts failures of an update under way and acts on too many. `true`: the service goes back to its old spec, and
/// nothing else may be decided from the new one.
pub(crate) fn judge(draft: &mut ServiceDraft, cx: &Context<'_>, service: &Service) -> bool {
    let Some(status) = service.update_status.as_ref() else { return false };
    if !matches!(status.state, UpdateState::Updating | UpdateState::RollbackStarted) {
        return false;
    }
    let failed = |t: &Task| {
        matches!(t.status.state, TaskState::Failed | TaskState::Rejected)
            && t.meta.created_at >= status.started_at
            && !is_dirty(t, service)
    };
    let failures: Vec<_> = draft.tasks.iter().filter(|t| !t.deleted && failed(&t.task)).map(|t| t.task.id).collect();
    let slots = draft.slots().len().max(1) as u64;
    let config = config(service);
    let Some(last) =
        failures.last().filter(|_| failures.len() as u64 * 1_000_000 > u64::from(config.max_failure_ppm) * slots)
    else {
        return false;
    };
    let back = rolling_back(service);
    match (config.failure_action, &service.previous_spec) {
        (FailureAction::Continue, _) => false,
        (FailureAction::Rollback, Some(previous)) if !back => {
            let mut old = Service::clone(service);
            old.spec = muster_model::spec::ServiceSpec::clone(previous);
            old.previous_spec = None;
            let message = format!("update rolled back due to failure or early termination of task {last}");
            old.update_status = Some(begun(UpdateState::RollbackStarted, cx.now, &message));
            draft.service = Some(Arc::new(old));
            true
        }
        _ => {
            let (state, what) =
                if back { (UpdateState::RollbackPaused, "rollback") } else { (UpdateState::Paused, "update") };
            let message = format!("{what} paused due to failure or early termination of task {last}");
            set_status(draft, UpdateStatus { state, message, ..status.clone() });
            false
        }
    }
}

fn begun(state: UpdateState, now: Timestamp, message: &str) -> UpdateStatus {
    UpdateStatus { state, started_at: now, completed_at: Timestamp::ZERO, message: message.to_owned() }
}

fn set_status(draft: &mut ServiceDraft, status: UpdateStatus) {
    if let Some(service) = &mut draft.service
        && service.update_status.as_ref() != Some(&status)
    {
        Arc::make_mut(service).update_status = Some(status);
    }
}

/// How far the slots are.
#[derive(Default)]
struct Progress {
    /// Slots that are being replaced now.
    in_hand: u64,
    /// Slots still to be replaced, those that do not run first.
    todo: Vec<(bool, Slot, Vec<usize>)>,
    /// All new tasks have run for as long as they are watched.
    good: bool,
}

/// Takes the update on: starts more slots, ends old tasks whose successor runs, says when it is done.
pub(crate) fn advance(draft: &mut ServiceDraft, cx: &mut Context<'_>, service: &Service) {
    let config = config(service);
    settle_slots(draft, service, config.order);
    let mut progress = look(draft, cx, service, &config);
    // `judge` may have paused it in this very plan.
    let status = draft.service.as_ref().and_then(|s| state(s));
    if progress.todo.is_empty() {
        if progress.good && progress.in_hand == 0 {
            complete(draft, cx, service);
        }
        return;
    }
    match status {
        Some(UpdateState::Paused | UpdateState::RollbackPaused) => return,
        Some(UpdateState::Updating | UpdateState::RollbackStarted) => {}
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted) => {
            set_status(draft, begun(UpdateState::Updating, cx.now, "update in progress"));
        }
    }
    let room = match config.parallelism {
        0 => usize::MAX,
        n => usize::try_from(n.saturating_sub(progress.in_hand)).unwrap_or(usize::MAX),
    };
    progress.todo.sort();
    for (_, slot, members) in progress.todo.into_iter().take(room) {
        replace(draft, cx, service, (slot, &members), config.order);
    }
}

/// Slots with several tasks that are to run. The old one goes when the new one runs (start-first). Where a spec went back
/// and forth, two of the current spec may share a slot: one is kept, one that runs, else the oldest; and the kept one may
/// wait for an old one that nobody has told to end: which of them gives way, the order says.
fn settle_slots(draft: &mut ServiceDraft, service: &Service, order: UpdateOrder) {
    for (_, members) in draft.slots().iter() {
        let active = members.iter().copied().filter(|i| draft.tasks[*i].active());
        let (old, mut clean): (Vec<usize>, Vec<usize>) = active.partition(|i| is_dirty(&draft.tasks[*i].task, service));
        clean.sort_by_key(|i| !draft.tasks[*i].running());
        let Some(kept) = clean.first().copied() else { continue };
        let waits = !old.is_empty() && draft.tasks[kept].task.desired == TaskState::Ready;
        if waits && order == UpdateOrder::StartFirst {
            draft.tasks[kept].desire(TaskState::Running);
        }
        let old_goes = draft.tasks[kept].running() || (waits && order == UpdateOrder::StopFirst);
        let surplus = clean.iter().skip(1).chain(old.iter().filter(|_| old_goes));
        for i in surplus {
            let t = &mut draft.tasks[*i];
            t.desire(if t.unsent() { TaskState::Remove } else { TaskState::Shutdown });
        }
    }
}

fn look(draft: &mut ServiceDraft, cx: &Context<'_>, service: &Service, config: &UpdateConfig) -> Progress {
    let mut progress = Progress { good: true, ..Progress::default() };
    let mut wakes = Vec::new();
    let updating = state(service).is_some_and(|s| matches!(s, UpdateState::Updating | UpdateState::RollbackStarted));
    for (slot, members) in draft.slots().iter() {
        let of_slot = || members.iter().map(|i| &draft.tasks[*i]);
        if of_slot().all(|t| t.task.desired == TaskState::Remove) {
            continue;
        }
        let clean = of_slot().filter(|t| t.active()).find(|t| !is_dirty(&t.task, service));
        let Some(new) = clean else {
            if open(slot, cx, service) && to_replace(of_slot(), service) {
                progress.todo.push((of_slot().any(|t| t.running()), slot, members.to_vec()));
            }
            continue;
        };
        let old_left = of_slot().any(|t| t.alive() && is_dirty(&t.task, service));
        let since = new.task.meta.updated_at;
        let replaced = of_slot().any(|t| is_dirty(&t.task, service));
        if old_left || !new.running() || (replaced && updating && since.after(config.delay) > cx.now) {
            progress.in_hand += 1;
            progress.good = false;
            if new.running() && !old_left {
                wakes.push(since.after(config.delay));
            }
        } else if updating && since.after(config.monitor) > cx.now {
            progress.good = false;
            wakes.push(since.after(config.monitor));
        }
    }
    wakes.into_iter().for_each(|w| draft.wake_at(w));
    progress
}

/// A node that takes no tasks keeps its old one.
fn open(slot: Slot, cx: &Context<'_>, service: &Service) -> bool {
    match slot {
        Slot::Number(_) => true,
        Slot::Node(id) => {
            let takes = cx.hosts.row(id).is_some_and(|row| cx.hosts.open[row]);
            takes && cx.state.node(id).is_some_and(|n| schedule::eligible(n, &service.spec.task))
        }
    }
}

/// Whether a slot without a task of the current spec is the updater's: one that runs an older spec, or that was done
/// with it. (An empty one that may be filled is the orchestrator's.)
fn to_replace<'a>(members: impl Iterator<Item = &'a TaskDraft> + Clone, service: &Service) -> bool {
    let active = members.clone().any(|t| t.active());
    let last_dirty = members.clone().last().is_some_and(|t| is_dirty(&t.task, service));
    last_dirty && (active || !restart::allowed(members, service))
}

fn replace(
    draft: &mut ServiceDraft,
    cx: &mut Context<'_>,
    service: &Service,
    (slot, members): (Slot, &[usize]),
    order: UpdateOrder,
) {
    if order == UpdateOrder::StopFirst {
        for i in members {
            let t = &mut draft.tasks[*i];
            if t.active() {
                t.desire(if t.unsent() { TaskState::Remove } else { TaskState::Shutdown });
            }
        }
    }
    let desired = match order {
        UpdateOrder::StopFirst => first_desire(draft, members),
        UpdateOrder::StartFirst => TaskState::Running,
    };
    new_task(draft, cx, service, slot, desired);
}

fn complete(draft: &mut ServiceDraft, cx: &Context<'_>, service: &Service) {
    let Some(status) = &service.update_status else { return };
    let (state, message) = match status.state {
        UpdateState::Updating => (UpdateState::Completed, "update completed"),
        UpdateState::RollbackStarted => (UpdateState::RollbackCompleted, "rollback completed"),
        _ => return,
    };
    set_status(
        draft,
        UpdateStatus { state, completed_at: cx.now, message: message.to_owned(), started_at: status.started_at },
    );
}
