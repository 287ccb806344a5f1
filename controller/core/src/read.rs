//! Answers that follow from the state alone: for lists and inspections, on any manager.

use muster_model::{
    ServiceId,
    cluster::{NodeState, Service, Task, TaskState},
    spec::Mode,
};
use muster_state::State;
use std::{cmp::Reverse, sync::Arc};

/// How a service fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Tasks that run and are to keep running, on nodes that are not down.
    pub running: u64,
    /// Replicas asked for, or for a global service the nodes that are to have a task.
    pub desired: u64,
    /// Tasks of the current spec that ended with success and are not replaced.
    pub completed: u64,
}

/// Services for people: without those that are being removed, by name.
pub fn cluster_services(state: &State) -> Vec<Arc<Service>> {
    let mut all: Vec<_> = state.services().filter(|s| !s.removing).cloned().collect();
    all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    all
}

/// Counts the tasks of a service. All zero when there is no such service.
pub fn service_status(state: &State, service: ServiceId) -> ServiceStatus {
    let Some(object) = state.service(service) else { return ServiceStatus::default() };
    let mut status = ServiceStatus::default();
    let mut wanted = 0;
    for task in state.tasks_of_service(service) {
        let lost = task.node.and_then(|n| state.node(n)).is_some_and(|n| n.status.state == NodeState::Down);
        if task.desired <= TaskState::Running {
            wanted += 1;
            if task.status.state == TaskState::Running && !lost {
                status.running += 1;
            }
        }
        if task.status.state == TaskState::Complete && task.spec_version == object.spec_version {
            status.completed += 1;
        }
    }
    status.desired = match object.spec.mode {
        Mode::Replicated { replicas } => replicas,
        Mode::Global => wanted,
    };
    status
}

/// Tasks in the order in which `service ps` shows them: by service name, then slot, the newest attempt first.
pub fn tasks_for_people<'a>(tasks: impl IntoIterator<Item = &'a Arc<Task>>) -> Vec<Arc<Task>> {
    let mut all: Vec<Arc<Task>> = tasks.into_iter().cloned().collect();
    all.sort_by(|a, b| {
        let key = |t: &Task| (t.slot, t.node.filter(|_| t.slot == 0), Reverse(t.meta.created_at), t.id);
        a.service_name.cmp(&b.service_name).then_with(|| key(a).cmp(&key(b)))
    });
    all
}
