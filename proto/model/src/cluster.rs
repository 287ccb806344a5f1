//! The objects of the cluster: what the controller stores, what every manager agrees on.

use crate::{
    AttachmentId, ClusterId, NetworkId, NodeId, ServiceId, TaskId, Timestamp,
    net::{Mac, Protocol, Subnet},
    spec::{Invalid, Labels, NetworkSpec, NodeSpec, PublishMode, Role, ServiceSpec, TaskSpec},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

/// The raft index of the entry that wrote an object last. `0`: it does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    pub const ABSENT: Version = Version(0);
}

/// What every stored object carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Raised by each change of the desired half.
    pub version: Version,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The one cluster object: identity, secrets of joining, policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub id: ClusterId,
    pub meta: Meta,
    pub spec: ClusterSpec,
    /// The certificate authority, PEM. The key is sealed with the managers' key; opaque here.
    pub ca_cert_pem: String,
    #[serde(with = "serde_bytes")]
    pub ca_key_sealed: Vec<u8>,
    /// The secret part of the join token of each role.
    pub worker_secret: String,
    pub manager_secret: String,
    /// Where subnets of networks without one of their own are cut from, and how long their prefix is.
    pub address_pool: Subnet,
    pub subnet_prefix: u8,
    /// Operators' certificates that were given and have not ended, and those that were revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<OperatorCertificate>,
}

/// A certificate that the cluster gave to an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCertificate {
    /// Lower-case hexadecimal digits, without leading zeros: see [`OperatorCertificate::serial_of`].
    pub serial: String,
    /// What its holder's context was called; empty where nobody said, or where it is of an earlier build.
    pub name: String,
    pub issued: Timestamp,
    pub not_after: Timestamp,
    /// Nobody is let in by it any more.
    pub revoked: Option<Timestamp>,
}

impl OperatorCertificate {
    /// A serial as it is compared: however people and tools write it.
    pub fn serial_of(text: &str) -> String {
        let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        digits.trim_start_matches('0').to_owned()
    }
}

impl Cluster {
    /// The serials of certificates that are refused.
    pub fn revoked_serials(&self) -> impl Iterator<Item = &str> {
        self.operators.iter().filter(|c| c.revoked.is_some()).map(|c| c.serial.as_str())
    }
}

/// Cluster-wide settings that an operator may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// How often an agent reports that it lives.
    pub heartbeat_period: Duration,
    /// A node that was silent for this long is lost; its tasks are replaced.
    pub node_timeout: Duration,
    /// Dead tasks kept per slot, for `service ps`.
    pub task_history_limit: u32,
    /// How long certificates are valid.
    pub certificate_lifetime: Duration,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            heartbeat_period: Duration::from_secs(1),
            // Three missed heartbeats and a margin for a slow disk: tasks of a lost node run elsewhere within 10 s.
            node_timeout: Duration::from_secs(5),
            task_history_limit: 5,
            certificate_lifetime: Duration::from_secs(90 * 24 * 3600),
        }
    }
}

impl ClusterSpec {
    /// What a heartbeat's period may be: more often is all that a manager would do, more rarely tells nobody anything.
    const HEARTBEATS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
    const NODE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(24 * 3600);
    /// The longest is half of what the authority itself has.
    const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(10 * 365 * 24 * 3600);

    /// A silent node is lost after this long; agents say as often that they live as that needs.
    #[must_use]
    pub fn with_node_timeout(self, timeout: Duration) -> Self {
        let period = (timeout / 5).clamp(*Self::HEARTBEATS.start(), Duration::from_secs(5));
        Self { heartbeat_period: period, node_timeout: timeout, ..self }
    }

    /// Agents say so often that they live; three that are missed make a node lost, as in Docker.
    #[must_use]
    pub fn with_heartbeat_period(self, period: Duration) -> Self {
        Self { heartbeat_period: period, node_timeout: period.saturating_mul(3), ..self }
    }

    /// # Errors
    /// The first setting that is out of its bounds, with these.
    pub fn validate(&self) -> Result<(), Invalid> {
        let within = |field: &str, value: Duration, bounds: &RangeInclusive<Duration>| {
            let why = || format!("{value:?}: expected {:?} to {:?}", bounds.start(), bounds.end());
            if bounds.contains(&value) { Ok(()) } else { Err(Invalid::new(field, why())) }
        };
        within("Dispatcher.HeartbeatPeriod", self.heartbeat_period, &Self::HEARTBEATS)?;
        within("NodeTimeout", self.node_timeout, &Self::NODE_TIMEOUTS)?;
        if self.node_timeout < self.heartbeat_period * 2 {
            let why = format!("{:?}: expected at least twice the period of heartbeats", self.node_timeout);
            return Err(Invalid::new("NodeTimeout", why));
        }
        within("CAConfig.NodeCertExpiry", self.certificate_lifetime, &Self::LIFETIMES)
    }
}

/// A host that is a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub meta: Meta,
    pub spec: NodeSpec,
    /// The role of the certificate it carries now; `spec.role` is the role it is to have.
    pub role: Role,
    /// Observed: what it said of itself at its last session.
    pub description: NodeDescription,
    /// Observed: whether it lives.
    pub status: NodeStatus,
    /// Set while it is a raft member: where the other managers reach it.
    pub manager_addr: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    pub hostname: String,
    pub os: String,
    pub arch: String,
    /// What tasks may reserve.
    pub nano_cpus: u64,
    pub memory_bytes: u64,
    pub engine_version: String,
    #[serde(default)]
    pub engine_labels: Labels,
    /// Where `muster.v1` answers.
    pub api_addr: Option<SocketAddr>,
    /// The tunnel address of its data plane.
    pub vtep: Option<Ipv4Addr>,
    /// Networks the host itself has routes to; no overlay may overlap them.
    #[serde(default)]
    pub routes: Vec<Subnet>,
    /// Names of engine features that tasks may need, e.g. `ebpf-overlay`.
    #[serde(default)]
    pub features: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Known, but no session since the leader took office.
    #[default]
    Unknown,
    /// Has a session.
    Ready,
    /// Was silent for longer than the node timeout, or was shut down.
    Down,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub state: NodeState,
    pub message: String,
    pub since: Timestamp,
}

/// A service as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub id: ServiceId,
    pub meta: Meta,
    pub spec: ServiceSpec,
    /// What the last update replaced, for rollback.
    pub previous_spec: Option<Arc<ServiceSpec>>,
    /// The version of the object when `spec.task` changed last: tasks of an older one are replaced.
    pub spec_version: Version,
    pub endpoint: Endpoint,
    pub update_status: Option<UpdateStatus>,
    /// `service rm` was asked: tasks go first, the object last.
    pub removing: bool,
}

/// What the allocator gave a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub vips: BTreeMap<NetworkId, Ipv4Addr>,
    pub ports: Vec<AllocatedPort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AllocatedPort {
    pub protocol: Protocol,
    pub target: u16,
    /// Never 0 in ingress mode.
    pub published: u16,
    pub mode: PublishMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    pub state: UpdateState,
    pub started_at: Timestamp,
    pub completed_at: Timestamp,
    pub message: String,
}

/// Where a task is in its life. The order is the order of life: an observed state never goes back.
///
/// The controller moves a task up to `Assigned`, its agent from there on; `Orphaned` is set by the controller for tasks of
/// a node that is lost. States and their order are SwarmKit's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Made by an orchestrator.
    #[default]
    New,
    /// Has its addresses, waits for a node that suits it; `TaskStatus::message` says why none does.
    Pending,
    /// Has a node.
    Assigned,
    /// The agent knows of it.
    Accepted,
    /// Image, networks and mounts are being made ready.
    Preparing,
    /// Could start now.
    Ready,
    Starting,
    Running,
    /// Ended by itself with exit code 0.
    Complete,
    /// Ended because it was told to.
    Shutdown,
    /// Ended by itself with an error.
    Failed,
    /// Could not be made ready.
    Rejected,
    /// Desired only: stop and forget.
    Remove,
    /// Its node is lost; what became of it is unknown.
    Orphaned,
}

impl TaskState {
    /// Ended, one way or another: holds no resources any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Shutdown | Self::Failed | Self::Rejected | Self::Remove | Self::Orphaned)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }
}

/// One attempt to fill a slot. Never moves, never restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub meta: Meta,
    pub service: ServiceId,
    /// Copied, so that a task outlives its service's name in lists.
    pub service_name: String,
    /// 1.. for replicated services, 0 for global ones (the node is the slot).
    pub slot: u64,
    /// `ASSIGNED` needs one; set once.
    pub node: Option<NodeId>,
    pub spec: Arc<TaskSpec>,
    pub spec_version: Version,
    /// Desired half: what the controller wants. Only ever raised.
    pub desired: TaskState,
    /// Observed half: what the agent says. One writer at a time: the controller up to `Assigned`, then the agent.
    pub status: TaskStatus,
    /// Addresses on the task's networks, in the order of `spec.networks`.
    pub addresses: Vec<TaskAddress>,
    /// Host-mode ports of this task.
    pub host_ports: Vec<AllocatedPort>,
    /// The W3C trace context (`traceparent`) of the request that made it, carried to the agent.
    pub trace_parent: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAddress {
    pub network: NetworkId,
    pub ip: Ipv4Addr,
    pub mac: Mac,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub state: TaskState,
    /// When the state was entered, by the clock of who observed it.
    pub at: Timestamp,
    /// For people: what is being done, or filter by filter why the task is pending.
    pub message: String,
    /// Why it failed or was rejected.
    pub error: String,
    pub container_id: String,
    pub pid: u32,
    pub exit_code: Option<i32>,
    /// Ports the host picked for host-mode publishing.
    #[serde(default)]
    pub host_ports: Vec<AllocatedPort>,
}

/// A network that spans hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub meta: Meta,
    pub spec: NetworkSpec,
    /// 1..2^24, unique in the cluster (RFC 7348 section 5).
    pub vni: u32,
    /// Unique in the cluster, no overlap with any host's own routes.
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    /// The network that published ports of services without a network of their own lead through.
    pub ingress: bool,
}

/// What a host asks for a container of no service: a place on a network that spans hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Drawn by the host. Asking again with the same one changes the names and nothing else.
    pub id: AttachmentId,
    /// Name, id or an unambiguous beginning of one.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// What it is called on the network.
    pub names: Vec<String>,
    /// `None`: any.
    pub ip: Option<Ipv4Addr>,
    pub mac: Option<Mac>,
}

/// A place on a network that spans hosts, given to a container of no service for as long as its host wants it.
///
/// Made without an address by the host's request; the planner gives one or says why not. Deleted when the host gives it
/// back, or with the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub id: AttachmentId,
    pub meta: Meta,
    pub network: NetworkId,
    pub node: NodeId,
    pub container: String,
    pub names: Vec<String>,
    pub wanted_ip: Option<Ipv4Addr>,
    pub wanted_mac: Option<Mac>,
    /// `None`: not given yet, or refused.
    pub ip: Option<Ipv4Addr>,
    /// Why there is no address; empty: there is, or will be.
    pub refusal: String,
}

impl Attachment {
    pub fn mac(&self) -> Option<Mac> {
        self.wanted_mac.or(self.ip.map(Mac::of))
    }

    /// Waits for the planner.
    pub fn is_pending(&self) -> bool {
        self.ip.is_none() && self.refusal.is_empty()
    }
}
