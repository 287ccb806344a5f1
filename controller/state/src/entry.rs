//! What is proposed, agreed on and applied.

use crate::{Key, Kind, Object, StateHash};
use muster_model::{
    NetworkId, NodeId, TaskId, Timestamp,
    cluster::{NodeDescription, NodeStatus, TaskStatus, Version},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One entry of the log: what a leader proposed at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The leader's wall clock. Applying forces it to grow.
    pub time: Timestamp,
    /// Whose proposal this is, so that the proposer knows it again.
    pub origin: Origin,
    /// Atomic each, independent of one another, applied in order.
    pub groups: Vec<Group>,
    /// What the leader's state was at some earlier index, for replicas to compare.
    pub check: Option<HashCheck>,
}

/// Names one proposal: `epoch` is drawn anew each time a manager takes office, `number` counts within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    pub epoch: u64,
    pub number: u64,
}

/// "After the entry at `index` my state had this hash."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashCheck {
    pub index: u64,
    pub hash: StateHash,
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// What must hold when the entry is applied.
    pub expects: Vec<Expect>,
    /// Applied in order.
    pub changes: Vec<Change>,
    /// The W3C `traceparent` of the request behind it.
    pub trace_parent: Option<String>,
}

/// What a decision was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The object has this version; [`Version::ABSENT`]: it does not exist.
    Version { key: Key, version: Version },
    /// The object exists, whatever its version.
    Exists(Key),
    /// No object of this kind has this name.
    NameFree { kind: Kind, name: String },
    /// No service names this network, no task has an address on it.
    NetworkUnused(NetworkId),
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes the object, or replaces its desired half. `Meta` is filled in by applying. The observed half of an object
    /// that exists (a task's status; a node's description and status) stays as it is.
    Put(Object),
    /// An observation of a task. A stale one is ignored, see [`crate::Ignored`].
    TaskStatus { task: TaskId, status: TaskStatus },
    /// An observation of a node; `None`: the description stays.
    NodeStatus { node: NodeId, status: NodeStatus, description: Option<Arc<NodeDescription>> },
    /// Nothing happens when it is gone already.
    Delete(Key),
}

impl Expect {
    pub fn version(key: Key, version: Version) -> Self {
        Self::Version { key, version }
    }

    pub fn absent(key: Key) -> Self {
        Self::Version { key, version: Version::ABSENT }
    }

    /// The object as it was seen.
    pub fn seen(object: &Object) -> Self {
        Self::Version { key: object.key(), version: object.version() }
    }
}

impl Change {
    pub fn put(object: impl Into<Object>) -> Self {
        Self::Put(object.into())
    }

    pub fn key(&self) -> Key {
        match self {
            Self::Put(object) => object.key(),
            Self::TaskStatus { task, .. } => Key::Task(*task),
            Self::NodeStatus { node, .. } => Key::Node(*node),
            Self::Delete(key) => *key,
        }
    }
}
