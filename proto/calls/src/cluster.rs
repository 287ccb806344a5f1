//! The control plane's calls: services, tasks, nodes, networks that span hosts, and being a member at all.

use crate::{Ask, Error, LogChunk, Logs, Placed, Result, Stream};
use async_trait::async_trait;
use muster_model::{
    ClusterId, NetworkId, NodeId, ServiceId, TaskId,
    cluster::{ClusterSpec, Network, Node, OperatorCertificate, Service, Task, Version},
    spec::{NetworkSpec, NodeSpec, Role, ServiceSpec},
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What this host is in a cluster. Answered by every host, member or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// `None`: not a member of any cluster.
    pub member: Option<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub role: Role,
    /// Where this node is reached by the others.
    pub addr: SocketAddr,
    /// The managers this node knows.
    pub managers: Vec<(NodeId, SocketAddr)>,
    /// This node's control plane serves calls.
    pub control_available: bool,
    /// Counted from the cluster's state; 0 where it cannot be asked.
    pub nodes: u32,
    pub manager_count: u32,
    /// What is wrong, for people; empty: nothing.
    pub error: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitCluster {
    /// Address that other nodes reach this one at; `None`: the configured one.
    pub advertise_addr: Option<String>,
    pub listen_addr: Option<String>,
    /// Start anew from this manager's data as the only manager.
    pub force_new_cluster: bool,
    /// Pool that subnets of networks are cut from; `None`: the default.
    pub address_pool: Option<muster_model::net::Subnet>,
    pub subnet_prefix: Option<u8>,
    /// `None`: the defaults.
    #[serde(default)]
    pub spec: Option<ClusterSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCluster {
    pub token: String,
    /// Managers to ask, in order.
    pub managers: Vec<String>,
    pub advertise_addr: Option<String>,
    pub listen_addr: Option<String>,
}

/// The join tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokens {
    pub worker: String,
    pub manager: String,
}

/// A service with how it fares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    pub service: Service,
    pub running_tasks: u64,
    pub desired_tasks: u64,
    pub completed_tasks: u64,
}

/// A node with what only the leader knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    pub node: Node,
    pub leader: bool,
    /// For managers: the others hear of it.
    pub reachable: bool,
}

/// The id of a made object and what the user should know about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made<I> {
    pub id: I,
    pub warnings: Vec<String>,
}

/// Which tasks. Empty lists: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskQuery {
    pub services: Vec<ServiceId>,
    pub nodes: Vec<NodeId>,
    pub ids: Vec<TaskId>,
}

/// Which service logs, whose line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLog {
    pub service: ServiceId,
    pub task: TaskId,
    pub node: NodeId,
    pub chunk: LogChunk,
}

/// The calls of a cluster, answered by any node (a worker asks a manager, a follower the leader).
///
/// `name` arguments take a name, an id or an unambiguous prefix of one. Where the host is no member, everything but
/// `membership`, `init` and `join` answers `Unavailable`.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    async fn membership(&self) -> Result<Membership>;
    async fn init(&self, init: InitCluster) -> Result<NodeId>;
    async fn join(&self, join: JoinCluster) -> Result<NodeId>;
    /// `Conflict` for a manager unless `force`.
    async fn leave(&self, force: bool) -> Result<()>;
    async fn cluster(&self) -> Result<muster_model::cluster::Cluster>;
    /// Changes the settings of the whole cluster; `version`: of the one they were read from.
    async fn cluster_update(&self, version: Version, spec: ClusterSpec) -> Result<()>;
    async fn join_tokens(&self) -> Result<JoinTokens>;
    async fn rotate_join_tokens(&self, worker: bool, manager: bool) -> Result<JoinTokens>;

    async fn node_list(&self) -> Result<Vec<NodeView>>;
    async fn node_inspect(&self, name: &str) -> Result<NodeView>;
    async fn node_update(&self, id: NodeId, version: Version, spec: NodeSpec) -> Result<()>;
    /// Calls operators' certificates back: the one of a serial, or all of a name. Answers with those.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for what is neither.
    async fn operator_revoke(&self, name: &str) -> Result<Vec<OperatorCertificate>> {
        let _ = name;
        Err(Error::unimplemented("revoking operators' certificates"))
    }
    async fn node_remove(&self, name: &str, force: bool) -> Result<()>;

    async fn service_create(&self, spec: ServiceSpec) -> Result<Made<ServiceId>>;
    async fn service_list(&self) -> Result<Vec<ServiceView>>;
    async fn service_inspect(&self, name: &str) -> Result<ServiceView>;
    async fn service_update(&self, id: ServiceId, version: Version, spec: ServiceSpec) -> Result<Made<ServiceId>>;
    /// Back to the spec before the last update.
    async fn service_rollback(&self, id: ServiceId, version: Version) -> Result<Made<ServiceId>>;
    async fn service_remove(&self, name: &str) -> Result<()>;
    async fn service_logs(&self, name: &str, options: Logs) -> Result<Stream<TaskLog>>;

    async fn task_list(&self, query: TaskQuery) -> Result<Vec<Task>>;
    async fn task_inspect(&self, id: &str) -> Result<Task>;
    async fn task_logs(&self, id: &str, options: Logs) -> Result<Stream<TaskLog>>;

    /// Finds a node for a container of no service, by the rules of services' tasks, and claims its name and room.
    ///
    /// # Errors
    /// `Conflict` when no node suits it, with the reasons filter by filter, or when its name is being taken.
    async fn place(&self, ask: Ask) -> Result<Placed> {
        let _ = ask;
        Err(Error::unimplemented("placing a container"))
    }
    /// What became of a claim: the id of the container that was made, or nothing: then its name is free again.
    async fn settle(&self, claim: u64, container: Option<String>) -> Result<()> {
        let _ = (claim, container);
        Err(Error::unimplemented("placing a container"))
    }

    async fn network_create(&self, spec: NetworkSpec) -> Result<Made<NetworkId>>;
    async fn network_list(&self) -> Result<Vec<Network>>;
    async fn network_inspect(&self, name: &str) -> Result<Network>;
    async fn network_remove(&self, name: &str) -> Result<()>;
}
