//! The planner: which services need a decision, and the indexes that decisions read.

use crate::{IdSource, attach, draft::ServiceDraft, hosts::Hosts, ipam::Ipam, service};
use muster_model::{
    AttachmentId, NodeId, ServiceId, TaskId, Timestamp,
    cluster::{ClusterSpec, Node, Task},
    spec::Mode,
};
use muster_state::{Event, Group, Key, Object, State};
use std::collections::{BTreeMap, BTreeSet};

/// A plan carries about this many changes; the rest follows in the next one. Some 500 bytes each: an entry stays well
/// below the size that a transport's message may have.
pub(crate) const CHANGES: usize = 5_000;

/// What a group of a plan decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Attachment(AttachmentId),
    Service(ServiceId),
}

/// What to propose: one group per subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of subjects.
    pub groups: Vec<(Subject, Group)>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// Decides what to do next. See the crate's head.
#[derive(Debug)]
pub struct Planner {
    hosts: Hosts,
    ipam: Ipam,
    /// Services that something has happened to.
    dirty: BTreeSet<ServiceId>,
    /// Places of containers that have no address yet.
    attachments: BTreeSet<AttachmentId>,
    /// Services with something that waits for room.
    waiting: BTreeSet<ServiceId>,
    global: BTreeSet<ServiceId>,
    wakes: Wakes,
    /// Lost tasks of which their node has said, after its return, that they have ended.
    confirmed: BTreeSet<TaskId>,
    traces: BTreeMap<ServiceId, String>,
}

/// What rooms may use while they work on one service.
pub(crate) struct Context<'a> {
    pub state: &'a State,
    pub now: Timestamp,
    pub settings: &'a ClusterSpec,
    pub ids: &'a mut IdSource,
    pub hosts: &'a mut Hosts,
    pub ipam: &'a mut Ipam,
    pub confirmed: &'a BTreeSet<TaskId>,
}

impl Planner {
    /// For a state as it is; every service is looked at in the first plan.
    pub fn new(state: &State) -> Self {
        let mut planner = Self {
            hosts: Hosts::new(state),
            ipam: Ipam::new(state),
            dirty: state.services().map(|s| s.id).collect(),
            attachments: state.attachments().filter(|a| a.is_pending()).map(|a| a.id).collect(),
            waiting: BTreeSet::new(),
            global: BTreeSet::new(),
            wakes: Wakes::default(),
            confirmed: BTreeSet::new(),
            traces: BTreeMap::new(),
        };
        planner.dirty.extend(state.tasks().map(|t| t.service));
        planner.global.extend(state.services().filter(|s| s.spec.mode == Mode::Global).map(|s| s.id));
        planner
    }

    /// Takes in what an applied entry changed. `state` is as after all of it.
    pub fn observe(&mut self, state: &State, events: &[Event]) {
        for event in events {
            self.hosts.observe(event);
            self.ipam.observe(event);
            match event.key {
                Key::Service(id) => self.service_changed(id, event),
                Key::Task(id) => self.task_changed(id, event),
                Key::Node(id) => self.node_changed(state, id, event),
                Key::Network(_) => self.dirty.extend(&self.waiting),
                Key::Attachment(id) => self.attachment_changed(id, event),
                Key::Cluster => self.dirty.extend(state.services().map(|s| s.id)),
            }
        }
    }

    fn service_changed(&mut self, id: ServiceId, event: &Event) {
        self.dirty.insert(id);
        match &event.after {
            Some(Object::Service(s)) if s.spec.mode == Mode::Global => {
                self.global.insert(id);
            }
            Some(_) => {
                self.global.remove(&id);
            }
            None => {
                self.global.remove(&id);
                self.waiting.remove(&id);
                self.wakes.set(id, None);
            }
        }
        if event.after.is_none() {
            // Its addresses and ports are free again.
            self.dirty.extend(&self.waiting);
        }
    }

    fn task_changed(&mut self, id: TaskId, event: &Event) {
        let task = |o: &Option<Object>| if let Some(Object::Task(t)) = o { Some(t.clone()) } else { None };
        let (before, after) = (task(&event.before), task(&event.after));
        if let Some(t) = after.as_ref().or(before.as_ref()) {
            self.dirty.insert(t.service);
        }
        if after.is_none() {
            self.confirmed.remove(&id);
        }
        let holds = |t: &Task| !t.status.state.is_terminal();
        if before.as_deref().is_some_and(holds) && !after.as_deref().is_some_and(holds) {
            self.dirty.extend(&self.waiting);
        }
    }

    fn attachment_changed(&mut self, id: AttachmentId, event: &Event) {
        match &event.after {
            Some(Object::Attachment(a)) if a.is_pending() => {
                self.attachments.insert(id);
            }
            Some(_) => {
                self.attachments.remove(&id);
            }
            None => {
                self.attachments.remove(&id);
                // Its address is free again.
                self.dirty.extend(&self.waiting);
            }
        }
    }

    fn node_changed(&mut self, state: &State, id: NodeId, event: &Event) {
        let node = |o: &Option<Object>| if let Some(Object::Node(n)) = o { Some(n.clone()) } else { None };
        if let (Some(before), Some(after)) = (node(&event.before), node(&event.after))
            && same_for_planning(&before, &after)
        {
            return;
        }
        self.dirty.extend(state.tasks_on_node(id).map(|t| t.service));
        self.dirty.extend(&self.waiting);
        self.dirty.extend(&self.global);
    }

    /// A group of the last plan was refused: its subject is to be decided again.
    pub fn retry(&mut self, subject: Subject) {
        match subject {
            Subject::Service(id) => self.dirty.insert(id),
            Subject::Attachment(id) => self.attachments.insert(id),
        };
    }

    /// The node of a lost task is back and says that the task has ended, so that nothing of it is left anywhere.
    pub fn confirm_gone(&mut self, task: &Task) {
        self.confirmed.insert(task.id);
        self.dirty.insert(task.service);
    }

    /// The trace of the request that changed this service: tasks of the next plan belong to it.
    pub fn note_trace(&mut self, service: ServiceId, trace_parent: String) {
        self.traces.insert(service, trace_parent);
    }

    /// When something is due though nothing has happened; a time in the past: now.
    pub fn deadline(&self) -> Option<Timestamp> {
        if !self.dirty.is_empty() || !self.attachments.is_empty() {
            return Some(Timestamp::ZERO);
        }
        self.wakes.first()
    }

    /// What to propose now. Made from `state` alone: the caller proposes it and observes the events, or drops it and calls
    /// [`Planner::retry`] for each of its subjects.
    pub fn plan(&mut self, state: &State, now: Timestamp, ids: &mut IdSource) -> Plan {
        self.dirty.extend(self.wakes.due(now));
        let settings = state.cluster().map_or_else(ClusterSpec::default, |c| c.spec.clone());
        let mut plan = Plan::default();
        let mut changes = 0;
        let mut context = Context {
            state,
            now,
            settings: &settings,
            ids,
            hosts: &mut self.hosts,
            ipam: &mut self.ipam,
            confirmed: &self.confirmed,
        };
        while changes < CHANGES
            && let Some(id) = self.attachments.pop_first()
        {
            if let Some(group) = attach::decide(id, &mut context) {
                changes += group.changes.len();
                plan.groups.push((Subject::Attachment(id), group));
            }
        }
        let mut drafts = Vec::new();
        while changes < CHANGES
            && let Some(id) = self.dirty.pop_first()
        {
            let mut draft = ServiceDraft::new(state, id, self.traces.remove(&id));
            service::decide(&mut draft, &mut context);
            drafts.push((id, draft.wake, draft.waiting));
            if let Some(group) = draft.into_group() {
                changes += group.changes.len();
                plan.groups.push((Subject::Service(id), group));
            }
        }
        for (id, wake, waiting) in drafts {
            self.remember(id, wake, waiting);
        }
        self.hosts.undo();
        self.ipam.undo();
        plan
    }

    fn remember(&mut self, id: ServiceId, wake: Option<Timestamp>, waiting: bool) {
        self.wakes.set(id, wake);
        if waiting {
            self.waiting.insert(id);
        } else {
            self.waiting.remove(&id);
        }
    }
}

/// When services want to be looked at though nothing happens to them.
#[derive(Debug, Default)]
struct Wakes {
    by_service: BTreeMap<ServiceId, Timestamp>,
    by_time: BTreeSet<(Timestamp, ServiceId)>,
}

impl Wakes {
    fn set(&mut self, id: ServiceId, at: Option<Timestamp>) {
        if let Some(old) = self.by_service.remove(&id) {
            self.by_time.remove(&(old, id));
        }
        if let Some(at) = at {
            self.by_service.insert(id, at);
            self.by_time.insert((at, id));
        }
    }

    fn first(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }

    fn due(&self, now: Timestamp) -> impl Iterator<Item = ServiceId> {
        self.by_time.iter().take_while(move |(at, _)| *at <= now).map(|(_, id)| *id)
    }
}

/// Whether nothing changed that a decision could depend on.
fn same_for_planning(a: &Node, b: &Node) -> bool {
    a.spec == b.spec && a.role == b.role && a.status.state == b.status.state && a.description == b.description
}
