//! One task on this node: where it is, and what follows from what is wanted of it.

use muster_model::{
    TaskId, Timestamp,
    cluster::{Task, TaskState, TaskStatus},
    spec::AuthForm,
};
use std::sync::Arc;

/// What the shell is doing for a task, or what is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Known, nothing done; here it waits for its registry credentials after a restart. -> `Preparing`, or `Ended` when it
    /// is told to stop first.
    Idle,
    /// Image, networks and container are being made. -> `Prepared`, `Ended` (rejected).
    Preparing,
    /// A container exists and could start. -> `Starting`, `Ended` (told to stop).
    Prepared,
    /// -> `Running`, `Ended` (failed).
    Starting,
    /// -> `Stopping`, `Ended` (by itself).
    Running,
    /// Told to stop. -> `Ended`.
    Stopping,
    /// Nothing runs; the container may be there still, for its logs. -> `Removing` when no longer assigned.
    Ended,
    /// The container is being removed; then the task is forgotten.
    Removing,
}

/// What an engine says of a task's container when the agent looks at it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    Created,
    Running {
        pid: u32,
    },
    Exited {
        exit_code: i32,
        error: String,
    },
    /// There is none.
    Missing,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub task: Arc<Task>,
    pub phase: Phase,
    pub status: TaskStatus,
    /// The leader knows `status`.
    pub reported: bool,
    /// In the current assignment set.
    pub assigned: bool,
    /// A running preparation was told to give up.
    pub cancelled: bool,
}

/// What an entry wants done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Prepare,
    Start,
    Stop,
    Cancel,
    Remove,
}

impl Entry {
    pub fn new(task: Arc<Task>, now: Timestamp) -> Self {
        // A task that is told to have ended is not started again by a node that lost its records.
        let (phase, status) = match task.status.state.is_terminal() {
            true => (Phase::Ended, task.status.clone()),
            false => (Phase::Idle, TaskStatus { state: TaskState::Accepted, at: now, ..task.status.clone() }),
        };
        Self { task, phase, status, reported: phase == Phase::Ended, assigned: true, cancelled: false }
    }

    pub fn id(&self) -> TaskId {
        self.task.id
    }

    fn wants_stop(&self) -> bool {
        !self.assigned || self.task.desired > TaskState::Running
    }

    /// It has registry credentials that only managers know: the whole set of the next session brings them. A pull without
    /// them would be refused, and the task be rejected for nothing.
    fn lacks_credentials(&self) -> bool {
        self.task.spec.container.registry_auth.as_ref().is_some_and(|auth| auth.form() == AuthForm::Own)
    }

    /// The next step of this task. Every step is taken once: the phase moves with it.
    pub fn advance(&mut self, now: Timestamp) -> Option<Step> {
        let stop = self.wants_stop();
        match self.phase {
            Phase::Idle if stop => {
                self.end(now, TaskState::Shutdown, None, "");
                self.advance(now)
            }
            Phase::Idle if self.lacks_credentials() => None,
            Phase::Idle => {
                self.phase = Phase::Preparing;
                self.enter(now, TaskState::Preparing, "preparing");
                Some(Step::Prepare)
            }
            Phase::Preparing if stop && !self.cancelled => {
                self.cancelled = true;
                Some(Step::Cancel)
            }
            Phase::Prepared if stop => {
                self.end(now, TaskState::Shutdown, None, "");
                self.advance(now)
            }
            Phase::Prepared if self.task.desired == TaskState::Running => {
                self.phase = Phase::Starting;
                self.enter(now, TaskState::Starting, "starting");
                Some(Step::Start)
            }
            Phase::Running if stop => {
                self.phase = Phase::Stopping;
                Some(Step::Stop)
            }
            Phase::Ended if !self.assigned => {
                self.phase = Phase::Removing;
                Some(Step::Remove)
            }
            _ => None,
        }
    }

    /// Moves the observed state forward; never back.
    pub fn enter(&mut self, now: Timestamp, state: TaskState, message: &str) {
        if state > self.status.state || (state == self.status.state && message != self.status.message) {
            self.status.state = state;
            self.status.at = now;
            self.status.message = message.to_owned();
            self.reported = false;
        }
    }

    /// Nothing of it runs any more.
    pub fn end(&mut self, now: Timestamp, state: TaskState, exit_code: Option<i32>, error: &str) {
        self.phase = Phase::Ended;
        self.status.exit_code = exit_code.or(self.status.exit_code);
        self.status.pid = 0;
        if !error.is_empty() {
            self.status.error = error.to_owned();
        }
        self.enter(now, state, state.as_str());
    }

    /// A container ended by itself, or as it was told.
    pub fn exited(&mut self, now: Timestamp, exit_code: i32, error: &str) {
        let told = self.phase == Phase::Stopping || self.wants_stop();
        let state = match (told, exit_code, error.is_empty()) {
            (true, ..) => TaskState::Shutdown,
            (false, 0, true) => TaskState::Complete,
            _ => TaskState::Failed,
        };
        let said = format!("task: non-zero exit ({exit_code})");
        let error = match (state, error.is_empty()) {
            (TaskState::Failed, true) => said.as_str(),
            (TaskState::Failed, false) => error,
            _ => "",
        };
        self.end(now, state, Some(exit_code), error);
    }
}
