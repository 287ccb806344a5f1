//! What one node must run and know: the whole set, or the difference to the generation it has.

use crate::{
    AttachmentId, NetworkId, NodeId, ServiceId, TaskId,
    cluster::{AllocatedPort, Attachment, Task, TaskStatus},
    net::{Mac, Subnet},
    spec::EndpointMode,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// Everything a node was given. Ordered, so that equal sets compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentSet {
    /// Grows with each change that this leader sends to this node in one session.
    pub generation: u64,
    pub items: BTreeMap<AssignmentKey, Assignment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AssignmentKey {
    Node(NodeId),
    Network(NetworkId),
    Service(ServiceId),
    /// One endpoint elsewhere: a task's address on one network.
    Endpoint(NetworkId, Ipv4Addr),
    Task(TaskId),
    Attachment(AttachmentId),
}

/// One thing a node must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Assignment {
    Node(NodeAssignment),
    Network(NetworkAssignment),
    Service(ServiceAssignment),
    Endpoint(EndpointAssignment),
    /// A task of this node. Its spec's networks are ids.
    Task(Arc<Task>),
    /// A place of a container of this node, given or refused.
    Attachment(Arc<Attachment>),
}

/// A member of the cluster, this node included: calls are passed on to it, its tunnel is let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAssignment {
    pub id: NodeId,
    pub hostname: String,
    /// Where its `muster.v1` answers.
    pub api_addr: Option<SocketAddr>,
    pub vtep: Option<Ipv4Addr>,
    /// The leader has a session with it.
    pub ready: bool,
}

/// A network that has a task here, or that a port published here leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAssignment {
    pub id: NetworkId,
    pub name: String,
    pub vni: u32,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    pub internal: bool,
}

/// A service whose name, virtual address or published port this node must answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAssignment {
    pub id: ServiceId,
    pub name: String,
    pub mode: EndpointMode,
    pub vips: BTreeMap<NetworkId, Ipv4Addr>,
    /// Extra names on a network.
    pub aliases: BTreeMap<NetworkId, BTreeSet<String>>,
    /// Addresses of tasks that run and are to keep running, per network: the backends.
    pub backends: BTreeMap<NetworkId, BTreeSet<Ipv4Addr>>,
    /// Ingress ports, answered on every node.
    pub ports: Vec<AllocatedPort>,
    /// The network that ingress ports lead through: the service's first, else the ingress network.
    pub ingress_network: Option<NetworkId>,
}

/// The address of a task or of a container of no service on another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAssignment {
    pub network: NetworkId,
    pub ip: Ipv4Addr,
    pub mac: Mac,
    pub node: NodeId,
    pub vtep: Ipv4Addr,
    /// What a container of no service is called on the network. Tasks are found by their services' names.
    #[serde(default)]
    pub names: Vec<String>,
}

/// What a leader sends down a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignmentUpdate {
    /// Replaces all that the node had.
    Whole(AssignmentSet),
    /// Applies on exactly `base`; anything else makes the node ask for the whole set.
    Delta { base: u64, generation: u64, put: Vec<Assignment>, removed: Vec<AssignmentKey> },
}

/// What an agent says of one of its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    pub task: TaskId,
    pub status: TaskStatus,
}

impl Assignment {
    pub fn key(&self) -> AssignmentKey {
        match self {
            Self::Node(n) => AssignmentKey::Node(n.id),
            Self::Network(n) => AssignmentKey::Network(n.id),
            Self::Service(s) => AssignmentKey::Service(s.id),
            Self::Endpoint(e) => AssignmentKey::Endpoint(e.network, e.ip),
            Self::Task(t) => AssignmentKey::Task(t.id),
            Self::Attachment(a) => AssignmentKey::Attachment(a.id),
        }
    }
}

/// A delta that does not fit the set it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the delta applies on generation {base}, this node has {have}")]
pub struct WrongBase {
    pub base: u64,
    pub have: u64,
}

impl AssignmentSet {
    /// # Errors
    /// [`WrongBase`] when a delta was made for another generation; the set is unchanged.
    pub fn apply(&mut self, update: AssignmentUpdate) -> Result<(), WrongBase> {
        match update {
            AssignmentUpdate::Whole(set) => *self = set,
            AssignmentUpdate::Delta { base, generation, put, removed } => {
                if base != self.generation {
                    return Err(WrongBase { base, have: self.generation });
                }
                for key in removed {
                    self.items.remove(&key);
                }
                for item in put {
                    self.items.insert(item.key(), item);
                }
                self.generation = generation;
            }
        }
        Ok(())
    }

    /// What turns `self` into `next`. `None` when nothing but the generation differs.
    pub fn delta_to(&self, next: &AssignmentSet) -> Option<AssignmentUpdate> {
        let put: Vec<_> =
            next.items.iter().filter(|(k, v)| self.items.get(k) != Some(v)).map(|(_, v)| v.clone()).collect();
        let removed: Vec<_> = self.items.keys().filter(|k| !next.items.contains_key(k)).copied().collect();
        if put.is_empty() && removed.is_empty() {
            return None;
        }
        Some(AssignmentUpdate::Delta { base: self.generation, generation: next.generation, put, removed })
    }
}
