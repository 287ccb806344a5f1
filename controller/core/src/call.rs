//! Requests that change the cluster, their answers, and why they are refused.

use muster_model::{
    AttachmentId, ClusterId, NetworkId, NodeId, ServiceId,
    cluster::{AttachRequest, ClusterSpec, NodeDescription, OperatorCertificate, Version},
    net::Subnet,
    spec::{Availability, Invalid, Labels, NetworkSpec, NodeSpec, RegistryAuth, Role, ServiceSpec},
};
use muster_state::{FindError, Key};
use std::net::SocketAddr;

/// A request. `name` takes a name, an id or an unambiguous beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The first call of a cluster: its object and its first manager.
    Init {
        cluster: Box<NewCluster>,
        first: Registration,
    },
    ClusterUpdate {
        version: Version,
        spec: ClusterSpec,
    },
    /// New secrets of the join tokens, drawn by the shell. `None`: stays.
    SetJoinSecrets {
        worker: Option<String>,
        manager: Option<String>,
    },
    /// An operator is about to be given this certificate.
    RecordOperator {
        certificate: Box<OperatorCertificate>,
    },
    /// Operators' certificates are called back: the one of a serial, or all of a name.
    RevokeOperator {
        name: String,
    },
    /// A node joined with a token, or a promoted node says where its control plane listens. Repeating it changes nothing.
    Register(Registration),
    NodeUpdate {
        id: NodeId,
        version: Version,
        spec: NodeSpec,
    },
    Promote {
        name: String,
    },
    Demote {
        name: String,
    },
    /// A node that is down, unless `force`; never a manager.
    NodeRemove {
        name: String,
        force: bool,
    },
    /// The node itself says that it leaves: it counts as down at once. A manager has to be demoted first, unless `force`.
    Leave {
        node: NodeId,
        force: bool,
    },
    ServiceCreate {
        spec: Box<ServiceSpec>,
    },
    ServiceUpdate {
        id: ServiceId,
        version: Version,
        spec: Box<ServiceSpec>,
    },
    /// Back to the spec before the last update.
    ServiceRollback {
        id: ServiceId,
        version: Version,
    },
    ServiceRemove {
        name: String,
    },
    /// Registry credentials that an earlier build kept as a client gave them are kept sealed from now on. `seals`: each of the
    /// service's with what takes its place. Repeating it changes nothing.
    SealCredentials {
        service: ServiceId,
        seals: Vec<(RegistryAuth, RegistryAuth)>,
    },
    NetworkCreate {
        spec: NetworkSpec,
    },
    NetworkRemove {
        name: String,
    },
    /// A node wants a place on a network for one of its containers.
    Attach {
        node: NodeId,
        request: Box<AttachRequest>,
    },
    /// A node gives places back. Those that are gone are no error.
    Detach {
        node: NodeId,
        ids: Vec<AttachmentId>,
    },
}

/// What a cluster is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    pub id: ClusterId,
    pub spec: ClusterSpec,
    pub ca_cert_pem: String,
    pub ca_key_sealed: Vec<u8>,
    pub worker_secret: String,
    pub manager_secret: String,
    pub address_pool: Subnet,
    /// The prefix length of networks without a subnet of their own.
    pub subnet_prefix: u8,
}

/// A node that becomes a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub node: NodeId,
    /// What its certificate says.
    pub role: Role,
    pub availability: Availability,
    pub labels: Labels,
    pub description: NodeDescription,
    /// For managers: where the other managers reach it. With it the node becomes a member of consensus.
    pub manager_addr: Option<SocketAddr>,
}

/// What a call answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    Node(NodeId),
    Service {
        id: ServiceId,
        version: Version,
        warnings: Vec<String>,
    },
    Network(NetworkId),
    Operators(Vec<OperatorCertificate>),
    /// The reports are part of the state.
    Reported,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    NotFound(FindError),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// What exists does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Those that are left of the managers that answer could not decide.
    #[error("without node {0} the managers that answer would be no majority: bring others back or promote one first")]
    NoMajorityWithout(NodeId),
    /// Nobody may do this.
    #[error("{0}")]
    Forbidden(String),
    /// The update was made from an older version of the object.
    #[error("update out of sequence: {key} has version {}, the update was made from {}", found.0, expected.0)]
    OutOfSequence { key: Key, expected: Version, found: Version },
    #[error("this manager is not the leader")]
    NotLeader { leader: Option<NodeId> },
    /// Not now; nothing was changed.
    #[error("{0}")]
    Unavailable(String),
    /// The leadership was lost while it was in flight: it may or may not happen.
    #[error("the leadership changed while the request was in flight: its outcome is unknown")]
    Interrupted,
}

impl From<FindError> for CallError {
    fn from(e: FindError) -> Self {
        match e {
            FindError::NotFound { .. } => Self::NotFound(e),
            FindError::Ambiguous { .. } => Self::Conflict(e.to_string()),
        }
    }
}
