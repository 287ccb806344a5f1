//! The machine: assignment set, tasks, reports.

use crate::task::{Container, Entry, Phase, Step};
use muster_model::{
    TaskId, Timestamp,
    assignment::{Assignment, AssignmentSet, AssignmentUpdate, TaskReport},
    cluster::{Task, TaskState, TaskStatus},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// What survives the daemon: enough to go on without managers. A task whose registry credentials are only said to be there
/// ([`AuthForm::Own`](muster_model::spec::AuthForm::Own)) is not prepared before the leader has told them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    pub set: AssignmentSet,
    /// Last observed status of each task that is not forgotten, assigned or not.
    pub statuses: BTreeMap<TaskId, TaskStatus>,
    /// Tasks no longer assigned whose containers are not removed yet.
    pub leaving: Vec<Arc<Task>>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The session to a leader opened: it knows nothing of us.
    SessionOpened,
    SessionClosed,
    Update(AssignmentUpdate),
    /// The leader took these reports.
    Reported(Vec<TaskReport>),
    /// A `Prepare` ended: the container's id, or why there is none.
    Prepared {
        task: TaskId,
        result: Result<String, String>,
    },
    /// A `Start` ended: the process id, or why it does not run.
    Started {
        task: TaskId,
        result: Result<u32, String>,
    },
    /// While it prepares: what is being done, for people.
    Progress {
        task: TaskId,
        message: String,
    },
    /// The task's container ended, however.
    Exited {
        task: TaskId,
        exit_code: i32,
        error: String,
    },
    /// A `Remove` ended: nothing of it is left.
    Removed {
        task: TaskId,
    },
}

/// What the shell is to do. Results come back as inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Prepare(Arc<Task>),
    Start(TaskId),
    Stop(TaskId),
    /// Give up a preparation; it answers `Prepared` with an error.
    Cancel(TaskId),
    Remove(TaskId),
    /// To the leader, if there is a session; answered by `Reported`.
    Report(Vec<TaskReport>),
    /// Ask the leader for the whole set.
    NeedWhole,
    /// Write [`Worker::ledger`] before anything is reported.
    Save,
    /// The assignments changed: compute the view and the names again.
    ViewChanged,
}

/// The tasks of this node.
#[derive(Debug, Default)]
pub struct Worker {
    set: AssignmentSet,
    tasks: BTreeMap<TaskId, Entry>,
    session: bool,
    /// Reports on their way; the next batch waits for them.
    in_flight: bool,
}

impl Worker {
    /// Goes on from a ledger and from what the engine has. `look` is asked once for each task.
    pub fn recover(now: Timestamp, ledger: Ledger, look: impl Fn(TaskId) -> Container) -> Self {
        let mut worker = Self { set: ledger.set, ..Self::default() };
        let assigned = tasks_of(&worker.set).map(|t| (t, true)).collect::<Vec<_>>();
        let leaving = ledger.leaving.into_iter().map(|t| (t, false));
        for (task, assigned) in assigned.into_iter().chain(leaving) {
            let status = ledger.statuses.get(&task.id).cloned();
            let mut entry = Entry::new(task, now);
            entry.assigned = assigned;
            if let Some(status) = status {
                entry.status = status;
            }
            let container = look(entry.id());
            adopt(&mut entry, now, container);
            worker.tasks.insert(entry.id(), entry);
        }
        worker
    }

    pub fn ledger(&self) -> Ledger {
        Ledger {
            set: self.set.clone(),
            statuses: self.tasks.iter().map(|(id, e)| (*id, e.status.clone())).collect(),
            leaving: self.tasks.values().filter(|e| !e.assigned).map(|e| e.task.clone()).collect(),
        }
    }

    pub fn assignments(&self) -> &AssignmentSet {
        &self.set
    }

    /// Every task that is not forgotten, with its last status.
    pub fn tasks(&self) -> impl Iterator<Item = (&Arc<Task>, &TaskStatus, Phase)> {
        self.tasks.values().map(|e| (&e.task, &e.status, e.phase))
    }

    /// Takes one input; what is to be done is pushed to `out`, in order.
    pub fn handle(&mut self, now: Timestamp, input: Input, out: &mut Vec<Effect>) {
        let mut dirty = false;
        match input {
            Input::SessionOpened => {
                self.session = true;
                self.in_flight = false;
                for entry in self.tasks.values_mut() {
                    entry.reported = false;
                }
            }
            Input::SessionClosed => {
                self.session = false;
                self.in_flight = false;
            }
            Input::Update(update) => match self.set.apply(update) {
                Ok(()) => {
                    self.take_set(now);
                    out.push(Effect::ViewChanged);
                    dirty = true;
                }
                Err(_) => out.push(Effect::NeedWhole),
            },
            Input::Reported(reports) => self.reported(&reports),
            other => dirty = self.progress(now, other),
        }
        dirty |= self.advance(now, out);
        if dirty {
            out.push(Effect::Save);
        }
        self.report(out);
    }

    /// What a recovered worker does first.
    pub fn resume(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        out.push(Effect::ViewChanged);
        if self.advance(now, out) {
            out.push(Effect::Save);
        }
    }

    fn take_set(&mut self, now: Timestamp) {
        for entry in self.tasks.values_mut() {
            entry.assigned = false;
        }
        let tasks: Vec<_> = tasks_of(&self.set).collect();
        for task in tasks {
            match self.tasks.get_mut(&task.id) {
                Some(entry) => {
                    entry.assigned = true;
                    // Desired states only rise: an older leader's word does not bring a task back.
                    if task.desired >= entry.task.desired {
                        entry.task = task;
                    }
                }
                None => {
                    self.tasks.insert(task.id, Entry::new(task, now));
                }
            }
        }
    }

    fn reported(&mut self, reports: &[TaskReport]) {
        self.in_flight = false;
        for report in reports {
            if let Some(entry) = self.tasks.get_mut(&report.task)
                && entry.status == report.status
            {
                entry.reported = true;
            }
        }
    }

    /// Whether anything changed that must be saved.
    fn progress(&mut self, now: Timestamp, input: Input) -> bool {
        let (Input::Prepared { task, .. }
        | Input::Started { task, .. }
        | Input::Progress { task, .. }
        | Input::Exited { task, .. }
        | Input::Removed { task }) = &input
        else {
            return false;
        };
        let id = *task;
        let Some(entry) = self.tasks.get_mut(&id) else { return false };
        match input {
            Input::Progress { message, .. } if entry.phase == Phase::Preparing => {
                entry.enter(now, TaskState::Preparing, &message);
                return false;
            }
            Input::Prepared { result, .. } if entry.phase == Phase::Preparing => match result {
                Ok(container) => {
                    entry.phase = Phase::Prepared;
                    entry.status.container_id = container;
                    entry.enter(now, TaskState::Ready, "ready to start");
                }
                Err(_) if entry.cancelled => entry.end(now, TaskState::Shutdown, None, ""),
                Err(error) => entry.end(now, TaskState::Rejected, None, &error),
            },
            Input::Started { result, .. } if entry.phase == Phase::Starting => match result {
                Ok(pid) => {
                    entry.phase = Phase::Running;
                    entry.status.pid = pid;
                    entry.enter(now, TaskState::Running, "started");
                }
                Err(error) => entry.end(now, TaskState::Failed, None, &error),
            },
            Input::Exited { exit_code, error, .. }
                if matches!(entry.phase, Phase::Starting | Phase::Running | Phase::Stopping) =>
            {
                entry.exited(now, exit_code, &error);
            }
            Input::Removed { .. } if entry.phase == Phase::Removing => {
                self.tasks.remove(&id);
            }
            _ => return false,
        }
        true
    }

    fn advance(&mut self, now: Timestamp, out: &mut Vec<Effect>) -> bool {
        let mut moved = false;
        for entry in self.tasks.values_mut() {
            while let Some(step) = entry.advance(now) {
                moved = true;
                let id = entry.id();
                out.push(match step {
                    Step::Prepare => Effect::Prepare(entry.task.clone()),
                    Step::Start => Effect::Start(id),
                    Step::Stop => Effect::Stop(id),
                    Step::Cancel => Effect::Cancel(id),
                    Step::Remove => Effect::Remove(id),
                });
            }
        }
        moved
    }

    fn report(&mut self, out: &mut Vec<Effect>) {
        if !self.session || self.in_flight {
            return;
        }
        let reports: Vec<_> = self
            .tasks
            .values()
            .filter(|e| !e.reported && e.assigned)
            .map(|e| TaskReport { task: e.id(), status: e.status.clone() })
            .collect();
        if !reports.is_empty() {
            self.in_flight = true;
            out.push(Effect::Report(reports));
        }
    }
}

fn tasks_of(set: &AssignmentSet) -> impl Iterator<Item = Arc<Task>> {
    set.items.values().filter_map(|a| match a {
        Assignment::Task(t) => Some(t.clone()),
        _ => None,
    })
}

/// Where a task is, judged by its container and not by what was written down: the container is the truth.
fn adopt(entry: &mut Entry, now: Timestamp, container: Container) {
    if entry.status.state.is_terminal() {
        entry.phase = Phase::Ended;
        return;
    }
    match container {
        Container::Running { pid } => {
            entry.phase = Phase::Running;
            entry.status.pid = pid;
            entry.enter(now, TaskState::Running, "started");
        }
        Container::Exited { exit_code, error } => entry.exited(now, exit_code, &error),
        Container::Created if entry.status.state < TaskState::Starting => entry.phase = Phase::Prepared,
        // Told to start before the crash, and it is not known whether it ran: a task is attempted once.
        Container::Created => entry.end(now, TaskState::Failed, None, "the agent ended while the task was starting"),
        Container::Missing if entry.status.state < TaskState::Starting => entry.phase = Phase::Idle,
        Container::Missing => entry.end(now, TaskState::Failed, None, "the container is gone"),
    }
}
