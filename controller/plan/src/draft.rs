//! One service as it is while a plan is made: what the state says, with the changes decided so far.

use crate::planner::CHANGES;
use muster_model::{
    NetworkId, NodeId, ServiceId, Timestamp,
    cluster::{Network, Service, Task, TaskState},
    spec::TaskSpec,
};
use muster_state::{Change, Expect, Group, Key, Object, State};
use std::{collections::BTreeSet, ops::Range, rc::Rc, sync::Arc};

/// One task in the making.
#[derive(Debug)]
pub(crate) struct TaskDraft {
    pub task: Arc<Task>,
    before: Option<Arc<Task>>,
    pub deleted: bool,
}

impl TaskDraft {
    fn existing(task: &Arc<Task>) -> Self {
        Self { task: task.clone(), before: Some(task.clone()), deleted: false }
    }

    fn new(task: Task) -> Self {
        Self { task: Arc::new(task), before: None, deleted: false }
    }

    /// Raises the desired state; never lowers it.
    pub fn desire(&mut self, desired: TaskState) {
        if self.task.desired < desired {
            Arc::make_mut(&mut self.task).desired = desired;
        }
    }

    /// Moves the observed state, which the controller may do up to `Assigned` and to `Orphaned`.
    pub fn observe(&mut self, state: TaskState, now: Timestamp, message: &str) {
        if self.task.status.state == state && self.task.status.message == message {
            return;
        }
        let status = &mut Arc::make_mut(&mut self.task).status;
        if status.state != state {
            status.state = state;
            status.at = now;
        } else {
            status.at = status.at.max(now);
        }
        status.message = message.to_owned();
    }

    /// May still hold something somewhere.
    pub fn alive(&self) -> bool {
        !self.deleted && !self.task.status.state.is_terminal()
    }

    /// Is to run and has not ended: fills its slot.
    pub fn active(&self) -> bool {
        self.alive() && self.task.desired <= TaskState::Running
    }

    pub fn running(&self) -> bool {
        self.active() && self.task.status.state == TaskState::Running
    }

    /// No agent was told of it: it can go without anybody's leave.
    pub fn unsent(&self) -> bool {
        self.task.status.state < TaskState::Assigned
    }

    fn changes(&self, expects: &mut Vec<Expect>, changes: &mut Vec<Change>) {
        let Some(before) = &self.before else {
            if !self.deleted {
                changes.push(Change::Put(Object::Task(self.task.clone())));
            }
            return;
        };
        let key = Key::Task(before.id);
        if self.deleted {
            expects.push(Expect::version(key, before.meta.version));
            changes.push(Change::Delete(key));
            return;
        }
        if Arc::ptr_eq(before, &self.task) {
            return;
        }
        if !same_desired_half(before, &self.task) {
            expects.push(Expect::version(key, before.meta.version));
            changes.push(Change::Put(Object::Task(self.task.clone())));
        }
        if before.status != self.task.status {
            changes.push(Change::TaskStatus { task: before.id, status: self.task.status.clone() });
        }
    }
}

fn same_desired_half(a: &Task, b: &Task) -> bool {
    a.desired == b.desired && a.node == b.node && a.addresses == b.addresses && a.host_ports == b.host_ports
}

/// Where attempts of one task follow each other: a number, or for global services a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    Number(u64),
    Node(NodeId),
}

pub(crate) fn slot_of(task: &Task) -> Slot {
    match (task.slot, task.node) {
        (0, Some(node)) => Slot::Node(node),
        (n, _) => Slot::Number(n),
    }
}

/// One service with its tasks.
#[derive(Debug)]
pub(crate) struct ServiceDraft {
    pub id: ServiceId,
    /// `None`: tasks were left behind by a service that is gone.
    pub service: Option<Arc<Service>>,
    before: Option<Arc<Service>>,
    pub delete_service: bool,
    pub tasks: Vec<TaskDraft>,
    /// Networks that have to be made for it.
    pub networks: Vec<Network>,
    /// Networks that the draft relies on.
    pub needs: Vec<NetworkId>,
    /// When to look again though nothing has happened.
    pub wake: Option<Timestamp>,
    /// Something waits for a node, an address or a port.
    pub waiting: bool,
    /// The trace of the request that made the last change.
    pub trace_parent: Option<String>,
    spec: Option<Arc<TaskSpec>>,
    slots: Option<Rc<Slots>>,
}

impl ServiceDraft {
    pub fn new(state: &State, id: ServiceId, trace_parent: Option<String>) -> Self {
        let service = state.service(id).cloned();
        Self {
            id,
            before: service.clone(),
            service,
            delete_service: false,
            tasks: state.tasks_of_service(id).map(TaskDraft::existing).collect(),
            networks: Vec::new(),
            needs: Vec::new(),
            wake: None,
            waiting: false,
            trace_parent,
            spec: None,
            slots: None,
        }
    }

    /// Asks to be looked at again at this time.
    pub fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    /// The spec that new tasks share, with each other and with those that exist.
    pub fn shared_spec(&mut self, service: &Service) -> Arc<TaskSpec> {
        if let Some(spec) = &self.spec {
            return spec.clone();
        }
        let same = self
            .tasks
            .iter()
            .find(|t| t.task.spec_version == service.spec_version && *t.task.spec == service.spec.task);
        let spec = same.map_or_else(|| Arc::new(service.spec.task.clone()), |t| t.task.spec.clone());
        self.spec = Some(spec.clone());
        spec
    }

    /// Adds a task that did not exist.
    pub fn add(&mut self, task: Task) {
        self.tasks.push(TaskDraft::new(task));
        self.slots = None;
    }

    /// Tasks were deleted.
    pub fn forget_slots(&mut self) {
        self.slots = None;
    }

    /// The tasks by slot, as they are now.
    pub fn slots(&mut self) -> Rc<Slots> {
        self.slots.get_or_insert_with(|| Rc::new(Slots::new(&self.tasks))).clone()
    }

    /// The changes as one atomic group. `None`: there are none. A service with very many is cut short: tasks that exist come
    /// first, and the next plan, made from what was applied, goes on.
    pub fn into_group(self) -> Option<Group> {
        let mut group = Group { trace_parent: self.trace_parent, ..Group::default() };
        let made: BTreeSet<NetworkId> = self.networks.iter().map(|n| n.id).collect();
        let needs: BTreeSet<NetworkId> = self.needs.into_iter().filter(|n| !made.contains(n)).collect();
        group.changes.extend(self.networks.into_iter().map(Change::put));
        if let Some(before) = &self.before {
            group.expects.push(Expect::version(Key::Service(self.id), before.meta.version));
            match &self.service {
                Some(after) if !Arc::ptr_eq(before, after) && before != after => {
                    group.changes.push(Change::Put(Object::Service(after.clone())));
                }
                _ => {}
            }
        }
        let mut cut = false;
        for task in &self.tasks {
            cut = group.changes.len() >= CHANGES;
            if cut {
                break;
            }
            task.changes(&mut group.expects, &mut group.changes);
        }
        if self.delete_service && !cut {
            group.changes.push(Change::Delete(Key::Service(self.id)));
        }
        if group.changes.is_empty() {
            return None;
        }
        group.expects.extend(needs.into_iter().map(|n| Expect::Exists(Key::Network(n))));
        Some(group)
    }
}

/// Indexes of tasks, grouped by slot.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Sorted by slot, within a slot from the oldest to the newest.
    order: Vec<usize>,
    bounds: Vec<(Slot, Range<usize>)>,
}

impl Slots {
    fn new(tasks: &[TaskDraft]) -> Self {
        let mut order: Vec<usize> = (0..tasks.len()).filter(|i| !tasks[*i].deleted).collect();
        // New tasks have no `created_at` yet and are the newest.
        let key = |i: &usize| {
            let t = &tasks[*i];
            (slot_of(&t.task), t.before.is_none(), t.task.meta.created_at, t.task.id)
        };
        order.sort_by_key(key);
        let mut bounds: Vec<(Slot, Range<usize>)> = Vec::new();
        for (at, i) in order.iter().enumerate() {
            let slot = slot_of(&tasks[*i].task);
            match bounds.last_mut().filter(|(last, _)| *last == slot) {
                Some((_, range)) => range.end = at + 1,
                None => bounds.push((slot, at..at + 1)),
            }
        }
        Self { order, bounds }
    }

    pub fn len(&self) -> usize {
        self.bounds.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slot, &[usize])> {
        self.bounds.iter().map(|(slot, range)| (*slot, &self.order[range.clone()]))
    }

    /// Empty when the slot has no tasks.
    pub fn members(&self, slot: Slot) -> &[usize] {
        match self.bounds.binary_search_by_key(&slot, |(s, _)| *s) {
            Ok(at) => &self.order[self.bounds[at].1.clone()],
            Err(_) => &[],
        }
    }
}
