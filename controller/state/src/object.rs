//! The objects of the tables, and what names one.

use muster_model::{
    AttachmentId, NetworkId, NodeId, ServiceId, TaskId,
    cluster::{Attachment, Cluster, Network, Node, Service, Task, Version},
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// One stored object. Shared: a clone is a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Cluster(Arc<Cluster>),
    Node(Arc<Node>),
    Service(Arc<Service>),
    Network(Arc<Network>),
    Task(Arc<Task>),
    Attachment(Arc<Attachment>),
}

/// Names one object. The cluster is the only one of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    Cluster,
    Node(NodeId),
    Service(ServiceId),
    Network(NetworkId),
    Task(TaskId),
    Attachment(AttachmentId),
}

/// Kinds of objects whose names are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Service,
    Network,
}

impl Object {
    pub fn key(&self) -> Key {
        match self {
            Self::Cluster(_) => Key::Cluster,
            Self::Node(o) => Key::Node(o.id),
            Self::Service(o) => Key::Service(o.id),
            Self::Network(o) => Key::Network(o.id),
            Self::Task(o) => Key::Task(o.id),
            Self::Attachment(o) => Key::Attachment(o.id),
        }
    }

    /// The version of the desired half.
    pub fn version(&self) -> Version {
        match self {
            Self::Cluster(o) => o.meta.version,
            Self::Node(o) => o.meta.version,
            Self::Service(o) => o.meta.version,
            Self::Network(o) => o.meta.version,
            Self::Task(o) => o.meta.version,
            Self::Attachment(o) => o.meta.version,
        }
    }

    /// The name that has to be unique among objects of its kind. A service that is being removed has given its up.
    pub fn unique_name(&self) -> Option<(Kind, &str)> {
        match self {
            Self::Service(o) if o.removing => None,
            Self::Service(o) => Some((Kind::Service, &o.spec.name)),
            Self::Network(o) => Some((Kind::Network, &o.spec.name)),
            Self::Cluster(_) | Self::Node(_) | Self::Task(_) | Self::Attachment(_) => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("the cluster"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Service(id) => write!(f, "service {id}"),
            Self::Network(id) => write!(f, "network {id}"),
            Self::Task(id) => write!(f, "task {id}"),
            Self::Attachment(id) => write!(f, "attachment {id}"),
        }
    }
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Network => "network",
        }
    }
}

macro_rules! into_object {
    ($($kind:ident),*) => {$(
        impl From<Arc<$kind>> for Object {
            fn from(o: Arc<$kind>) -> Self {
                Self::$kind(o)
            }
        }
        impl From<$kind> for Object {
            fn from(o: $kind) -> Self {
                Self::$kind(Arc::new(o))
            }
        }
    )*};
}

into_object!(Cluster, Node, Service, Network, Task, Attachment);
