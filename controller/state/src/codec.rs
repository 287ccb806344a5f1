//! Entries as bytes: MessagePack with named fields, so that a newer manager may add a field and an older one reads on.

use crate::{
    Change, Entry, Expect, Group, HashCheck, Key, Object, Origin,
    record::{SharedSpec, SpecKey, TaskRecord},
};
use muster_model::{
    NodeId, TaskId, Timestamp,
    cluster::{Attachment, Cluster, Network, Node, NodeDescription, NodeStatus, Service, Task, TaskStatus},
    spec::TaskSpec,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Raised when older managers could no longer read what newer ones write.
const FORMAT: u32 = 1;

/// Bytes that are no entry of a format this build knows. A replica that meets one must stop: it cannot apply it.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the entry does not decode")]
    Malformed(#[from] rmp_serde::decode::Error),
    #[error("the entry has format {found}; this build reads up to {FORMAT}")]
    TooNew { found: u32 },
    #[error("task {0} of the entry refers to a spec that the entry does not carry")]
    NoSpec(TaskId),
}

#[derive(Serialize, Deserialize)]
struct WireEntry {
    format: u32,
    time: Timestamp,
    #[serde(default)]
    origin: Origin,
    /// Specs of the tasks in `groups`, each once.
    #[serde(default)]
    specs: Vec<SharedSpec>,
    groups: Vec<WireGroup>,
    #[serde(default)]
    check: Option<HashCheck>,
}

#[derive(Serialize, Deserialize)]
struct WireGroup {
    #[serde(default)]
    expects: Vec<Expect>,
    #[serde(default)]
    changes: Vec<WireChange>,
    #[serde(default)]
    trace_parent: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum WireChange {
    Cluster(Arc<Cluster>),
    Node(Arc<Node>),
    Service(Arc<Service>),
    Network(Arc<Network>),
    Task(Box<TaskRecord>),
    Attachment(Arc<Attachment>),
    TaskStatus { task: TaskId, status: TaskStatus },
    NodeStatus { node: NodeId, status: NodeStatus, description: Option<Arc<NodeDescription>> },
    Delete(Key),
}

impl Entry {
    pub fn encode(&self) -> Vec<u8> {
        let mut specs = BTreeMap::new();
        let groups = self.groups.iter().map(|g| wire_group(g, &mut specs)).collect();
        let specs = specs.into_iter().map(|((service, version), spec)| SharedSpec { service, version, spec }).collect();
        let wire = WireEntry { format: FORMAT, time: self.time, origin: self.origin, specs, groups, check: self.check };
        rmp_serde::to_vec_named(&wire)
            .expect("model types have string keys and known lengths: encoding to memory cannot fail")
    }

    /// # Errors
    /// [`DecodeError`]: not an entry, or one of a later format.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: WireEntry = rmp_serde::from_slice(bytes)?;
        if wire.format > FORMAT {
            return Err(DecodeError::TooNew { found: wire.format });
        }
        let specs = wire.specs.into_iter().map(|s| ((s.service, s.version), s.spec)).collect();
        let groups = wire.groups.into_iter().map(|g| read_group(g, &specs)).collect::<Result<_, _>>()?;
        Ok(Self { time: wire.time, origin: wire.origin, groups, check: wire.check })
    }
}

fn wire_group(group: &Group, specs: &mut BTreeMap<SpecKey, Arc<TaskSpec>>) -> WireGroup {
    WireGroup {
        expects: group.expects.clone(),
        changes: group.changes.iter().map(|c| wire_change(c, specs)).collect(),
        trace_parent: group.trace_parent.clone(),
    }
}

fn wire_change(change: &Change, specs: &mut BTreeMap<SpecKey, Arc<TaskSpec>>) -> WireChange {
    match change {
        Change::Put(Object::Cluster(o)) => WireChange::Cluster(o.clone()),
        Change::Put(Object::Node(o)) => WireChange::Node(o.clone()),
        Change::Put(Object::Service(o)) => WireChange::Service(o.clone()),
        Change::Put(Object::Network(o)) => WireChange::Network(o.clone()),
        Change::Put(Object::Task(o)) => wire_task(o, specs),
        Change::Put(Object::Attachment(o)) => WireChange::Attachment(o.clone()),
        Change::TaskStatus { task, status } => WireChange::TaskStatus { task: *task, status: status.clone() },
        Change::NodeStatus { node, status, description } => {
            WireChange::NodeStatus { node: *node, status: status.clone(), description: description.clone() }
        }
        Change::Delete(key) => WireChange::Delete(*key),
    }
}

fn wire_task(task: &Task, specs: &mut BTreeMap<SpecKey, Arc<TaskSpec>>) -> WireChange {
    let listed = specs.entry((task.service, task.spec_version)).or_insert_with(|| task.spec.clone());
    let own = !Arc::ptr_eq(listed, &task.spec) && *listed != task.spec;
    WireChange::Task(Box::new(TaskRecord::new(task, own)))
}

fn read_group(group: WireGroup, specs: &BTreeMap<SpecKey, Arc<TaskSpec>>) -> Result<Group, DecodeError> {
    let changes = group.changes.into_iter().map(|c| read_change(c, specs)).collect::<Result<_, _>>()?;
    Ok(Group { expects: group.expects, changes, trace_parent: group.trace_parent })
}

fn read_change(change: WireChange, specs: &BTreeMap<SpecKey, Arc<TaskSpec>>) -> Result<Change, DecodeError> {
    Ok(match change {
        WireChange::Cluster(o) => Change::put(o),
        WireChange::Node(o) => Change::put(o),
        WireChange::Service(o) => Change::put(o),
        WireChange::Network(o) => Change::put(o),
        WireChange::Task(record) => {
            let id = record.id();
            Change::put(record.into_task(specs).ok_or(DecodeError::NoSpec(id))?)
        }
        WireChange::Attachment(o) => Change::put(o),
        WireChange::TaskStatus { task, status } => Change::TaskStatus { task, status },
        WireChange::NodeStatus { node, status, description } => Change::NodeStatus { node, status, description },
        WireChange::Delete(key) => Change::Delete(key),
    })
}
