//! A task as it is written down: its spec apart, so that what a thousand tasks share is written once and shared again
//! when it is read.

use muster_model::{
    NodeId, ServiceId, TaskId,
    cluster::{AllocatedPort, Meta, Task, TaskAddress, TaskState, TaskStatus, Version},
    spec::TaskSpec,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Specs by whose they are. Two tasks of one service made from one version of it have the same spec.
pub(crate) type SpecKey = (ServiceId, Version);

/// [`Task`] without its spec. `own_spec` is set where the spec is not the one listed for its service and version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    id: TaskId,
    meta: Meta,
    service: ServiceId,
    service_name: String,
    slot: u64,
    #[serde(default)]
    node: Option<NodeId>,
    spec_version: Version,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own_spec: Option<Arc<TaskSpec>>,
    desired: TaskState,
    status: TaskStatus,
    #[serde(default)]
    addresses: Vec<TaskAddress>,
    #[serde(default)]
    host_ports: Vec<AllocatedPort>,
    #[serde(default)]
    trace_parent: Option<String>,
}

/// A spec that many records refer to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SharedSpec {
    pub service: ServiceId,
    pub version: Version,
    pub spec: Arc<TaskSpec>,
}

impl TaskRecord {
    pub(crate) fn new(task: &Task, own_spec: bool) -> Self {
        Self {
            id: task.id,
            meta: task.meta,
            service: task.service,
            service_name: task.service_name.clone(),
            slot: task.slot,
            node: task.node,
            spec_version: task.spec_version,
            own_spec: own_spec.then(|| task.spec.clone()),
            desired: task.desired,
            status: task.status.clone(),
            addresses: task.addresses.clone(),
            host_ports: task.host_ports.clone(),
            trace_parent: task.trace_parent.clone(),
        }
    }

    pub(crate) fn id(&self) -> TaskId {
        self.id
    }

    /// `None`: the spec it refers to is not listed.
    pub(crate) fn into_task(self, specs: &BTreeMap<SpecKey, Arc<TaskSpec>>) -> Option<Task> {
        let spec = match self.own_spec {
            Some(own) => own,
            None => specs.get(&(self.service, self.spec_version))?.clone(),
        };
        Some(Task {
            id: self.id,
            meta: self.meta,
            service: self.service,
            service_name: self.service_name,
            slot: self.slot,
            node: self.node,
            spec,
            spec_version: self.spec_version,
            desired: self.desired,
            status: self.status,
            addresses: self.addresses,
            host_ports: self.host_ports,
            trace_parent: self.trace_parent,
        })
    }
}
