//! The containers of one host: they live on while the daemon is away, and are gone when the power was.

use muster_agent_core::Container;
use muster_model::TaskId;
use std::collections::{BTreeMap, BTreeSet};

/// What the engine of one host has.
#[derive(Debug, Default)]
pub struct Runtime {
    containers: BTreeMap<TaskId, Container>,
    /// Preparations that were given up.
    cancelled: BTreeSet<TaskId>,
    next_pid: u32,
}

/// A step that takes time, done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Prepare {
        ok: bool,
    },
    Start {
        ok: bool,
    },
    /// Stopped as told, or ended by itself.
    Exit {
        code: i32,
    },
    Remove,
}

impl Runtime {
    pub fn look(&self, task: TaskId) -> Container {
        self.containers.get(&task).cloned().unwrap_or(Container::Missing)
    }

    /// A preparation under way will make nothing.
    pub fn cancel(&mut self, task: TaskId) {
        self.cancelled.insert(task);
    }

    /// Makes it so. `None`: there is nothing to do it to (any more).
    pub fn finish(&mut self, task: TaskId, step: Step) -> Option<Container> {
        match step {
            Step::Prepare { ok: true } => {
                if self.cancelled.remove(&task) {
                    return None;
                }
                self.containers.insert(task, Container::Created);
            }
            Step::Prepare { ok: false } => {}
            Step::Start { ok } => {
                let container = self.containers.get_mut(&task)?;
                if *container != Container::Created {
                    return None;
                }
                if ok {
                    self.next_pid += 1;
                    *container = Container::Running { pid: self.next_pid };
                }
            }
            Step::Exit { code } => {
                let container = self.containers.get_mut(&task)?;
                if !matches!(container, Container::Running { .. }) {
                    return None;
                }
                *container = Container::Exited { exit_code: code, error: String::new() };
            }
            Step::Remove => {
                self.containers.remove(&task);
            }
        }
        Some(self.look(task))
    }

    pub fn power_cut(&mut self) {
        for container in self.containers.values_mut() {
            if matches!(container, Container::Running { .. }) {
                *container = Container::Exited { exit_code: 137, error: String::new() };
            }
        }
    }

    pub fn running(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.containers.iter().filter(|(_, c)| matches!(c, Container::Running { .. })).map(|(id, _)| *id)
    }

    pub fn all(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.containers.keys().copied()
    }
}
