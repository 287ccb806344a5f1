//! What every node has and what of it is taken, as columns: filters and spreading run over plain arrays.

use crate::{draft::TaskDraft, schedule, single::Extra};
use muster_model::{
    NodeId,
    cluster::{Node, NodeState, Task, TaskState},
    net::Protocol,
    spec::{Availability, PublishMode},
};
use muster_state::{Event, Object, State};
use std::{collections::BTreeMap, sync::Arc};

/// A row of the columns below.
pub(crate) type Row = usize;

/// Nodes by row. A row whose node is gone is used again.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    rows: BTreeMap<NodeId, Row>,
    vacant: Vec<Row>,
    /// Ready and active: may be given a task. The one column that every placement reads first.
    pub open: Vec<bool>,
    /// Can carry networks that span hosts.
    pub overlay: Vec<bool>,
    /// Capacity less reservations; negative when a host shrank.
    pub free_cpu: Vec<i64>,
    pub free_memory: Vec<i64>,
    /// Tasks that hold something there.
    pub load: Vec<u32>,
    pub id: Vec<NodeId>,
    /// `None`: vacant.
    pub node: Vec<Option<Arc<Node>>>,
    /// Host ports that are taken. A node has few: a list is enough.
    pub ports: Vec<Vec<(Protocol, u16)>>,
    /// Tasks of the service being placed, and how often it failed there; all zero in between.
    pub own: Vec<u32>,
    pub failures: Vec<u32>,
    /// What the plan in the making has taken.
    taken: Vec<(Row, Claim)>,
}

/// What one task holds on its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    pub cpu: i64,
    pub memory: i64,
    pub ports: Vec<(Protocol, u16)>,
}

impl Claim {
    /// A claim of these sizes: billionths of a CPU and bytes.
    pub fn sized(nano_cpus: u64, memory_bytes: u64, ports: Vec<(Protocol, u16)>) -> Self {
        Self { cpu: amount(nano_cpus), memory: amount(memory_bytes), ports }
    }

    pub fn of(task: &Task) -> Self {
        let r = &task.spec.resources.reservations;
        Self {
            cpu: amount(r.nano_cpus),
            memory: amount(r.memory_bytes),
            ports: task
                .host_ports
                .iter()
                .filter(|p| p.mode == PublishMode::Host && p.published != 0)
                .map(|p| (p.protocol, p.published))
                .collect(),
        }
    }
}

fn amount(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Whether a task holds something on its node.
fn holds(task: &Task) -> bool {
    task.node.is_some() && task.status.state >= TaskState::Assigned && !task.status.state.is_terminal()
}

impl Hosts {
    pub fn new(state: &State) -> Self {
        let mut hosts = Self::default();
        for node in state.nodes() {
            hosts.put(node);
        }
        for task in state.tasks() {
            hosts.add(task);
        }
        hosts
    }

    pub fn observe(&mut self, event: &Event) {
        match (&event.before, &event.after) {
            (before, Some(Object::Node(new))) => {
                let known = matches!(before, Some(Object::Node(_)));
                if known { self.update(new) } else { self.put(new) }
            }
            (Some(Object::Node(old)), None) => self.vacate(old.id),
            (before, after) => {
                if let Some(Object::Task(t)) = before {
                    self.drop_task(t);
                }
                if let Some(Object::Task(t)) = after {
                    self.add(t);
                }
            }
        }
    }

    pub fn row(&self, node: NodeId) -> Option<Row> {
        self.rows.get(&node).copied()
    }

    /// Rows that have a node, in the order of node ids.
    pub fn rows(&self) -> impl Iterator<Item = (NodeId, Row)> + '_ {
        self.rows.iter().map(|(id, row)| (*id, *row))
    }

    fn put(&mut self, node: &Arc<Node>) {
        let row = match self.vacant.pop() {
            Some(row) => row,
            None => self.grow(),
        };
        self.rows.insert(node.id, row);
        self.id[row] = node.id;
        self.free_cpu[row] = 0;
        self.free_memory[row] = 0;
        self.load[row] = 0;
        self.ports[row].clear();
        self.update(node);
    }

    fn grow(&mut self) -> Row {
        self.open.push(false);
        self.overlay.push(false);
        self.free_cpu.push(0);
        self.free_memory.push(0);
        self.load.push(0);
        self.id.push(NodeId::default());
        self.node.push(None);
        self.ports.push(Vec::new());
        self.own.push(0);
        self.failures.push(0);
        self.id.len() - 1
    }

    fn update(&mut self, node: &Arc<Node>) {
        let Some(row) = self.row(node.id) else { return };
        let (old_cpu, old_memory) = self.node[row]
            .as_ref()
            .map_or((0, 0), |n| (amount(n.description.nano_cpus), amount(n.description.memory_bytes)));
        self.free_cpu[row] = self.free_cpu[row].saturating_add(amount(node.description.nano_cpus) - old_cpu);
        self.free_memory[row] =
            self.free_memory[row].saturating_add(amount(node.description.memory_bytes) - old_memory);
        self.open[row] = node.status.state == NodeState::Ready && node.spec.availability == Availability::Active;
        self.overlay[row] = schedule::has_overlay(node);
        self.node[row] = Some(node.clone());
    }

    fn vacate(&mut self, node: NodeId) {
        if let Some(row) = self.rows.remove(&node) {
            self.open[row] = false;
            self.node[row] = None;
            self.vacant.push(row);
        }
    }

    fn add(&mut self, task: &Task) {
        if let Some(row) = task.node.filter(|_| holds(task)).and_then(|n| self.row(n)) {
            self.claim(row, &Claim::of(task));
        }
    }

    fn drop_task(&mut self, task: &Task) {
        if let Some(row) = task.node.filter(|_| holds(task)).and_then(|n| self.row(n)) {
            self.release(row, &Claim::of(task));
        }
    }

    /// Counts what containers hold on a node that are no tasks.
    pub fn burden(&mut self, node: NodeId, extra: &Extra) {
        if let Some(row) = self.row(node) {
            self.claim(row, &Claim::sized(extra.nano_cpus, extra.memory_bytes, extra.ports.clone()));
            self.load[row] = self.load[row].saturating_add(extra.containers).saturating_sub(1);
        }
    }

    fn claim(&mut self, row: Row, claim: &Claim) {
        self.free_cpu[row] = self.free_cpu[row].saturating_sub(claim.cpu);
        self.free_memory[row] = self.free_memory[row].saturating_sub(claim.memory);
        self.load[row] += 1;
        self.ports[row].extend(&claim.ports);
    }

    fn release(&mut self, row: Row, claim: &Claim) {
        self.free_cpu[row] = self.free_cpu[row].saturating_add(claim.cpu);
        self.free_memory[row] = self.free_memory[row].saturating_add(claim.memory);
        self.load[row] = self.load[row].saturating_sub(1);
        for port in &claim.ports {
            if let Some(at) = self.ports[row].iter().position(|p| p == port) {
                self.ports[row].swap_remove(at);
            }
        }
    }

    /// Takes room for the plan in the making.
    pub fn take(&mut self, row: Row, claim: &Claim) {
        self.claim(row, claim);
        self.taken.push((row, claim.clone()));
    }

    /// Gives back what the plan took: if it is applied, its events take it again.
    pub fn undo(&mut self) {
        while let Some((row, claim)) = self.taken.pop() {
            self.release(row, &claim);
        }
    }

    /// Fills the columns `own` and `failures` for one service.
    pub fn begin(&mut self, tasks: &[TaskDraft]) {
        for t in tasks {
            if let Some(row) = t.task.node.and_then(|n| self.row(n)) {
                if t.active() {
                    self.own[row] += 1;
                } else if matches!(t.task.status.state, TaskState::Failed | TaskState::Rejected) && !t.deleted {
                    self.failures[row] += 1;
                }
            }
        }
    }

    /// Clears them.
    pub fn end(&mut self, tasks: &[TaskDraft]) {
        for t in tasks {
            if let Some(row) = t.task.node.and_then(|n| self.row(n)) {
                self.own[row] = 0;
                self.failures[row] = 0;
            }
        }
    }
}
