//! The cluster's API as this host offers it: on a manager over its controller, on a worker refused by name unless an
//! operator's credential is there to be used, on a host outside of any cluster only founding and joining one.

use super::{logs, member::Member, remote::Managers};
use crate::host::{Host, Rights};
use async_trait::async_trait;
use muster_calls::*;
use muster_controller::NOT_LEADER;
use muster_model::{
    NetworkId, NodeId, ServiceId, Timestamp,
    cluster::{ClusterSpec, Network, OperatorCertificate, Task, Version},
    spec::{NetworkSpec, NodeSpec, ServiceSpec},
};
use std::sync::Arc;

/// The API with one caller's rights.
#[derive(Clone)]
pub struct HostCluster {
    host: Arc<Host>,
    rights: Rights,
}

impl HostCluster {
    pub fn new(host: Arc<Host>, rights: Rights) -> Self {
        Self { host, rights }
    }

    fn member(&self) -> Result<Arc<Member>> {
        self.host.member().ok_or_else(|| {
            self.not_a_manager(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            )
        })
    }

    /// A manager that passed a call on took this host for the leader, which it was a moment ago: it looks for the next one.
    fn not_a_manager(&self, why: &str) -> Error {
        Error::unavailable(if self.rights.caller.via.is_some() { NOT_LEADER } else { why })
    }

    /// The control plane: this host's own, or a manager's that an operator may ask.
    fn control(&self) -> Result<Arc<dyn Cluster>> {
        let member = self.member()?;
        if let Some(controller) = member.controller() {
            return Ok(Arc::new(controller.face(self.rights.caller)));
        }
        match self.host.operator_of(&member, self.rights)? {
            Some(operator) => Ok(Arc::new(Managers::new(member, operator))),
            None => Err(self.not_a_manager(
                "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.",
            )),
        }
    }

    async fn logs(&self, tasks: Vec<Task>, options: Logs) -> Result<Stream<TaskLog>> {
        let member = self.member()?;
        let asker = self.host.asker(&member, self.rights)?;
        logs::of_tasks(member.directory(), tasks, &options, &asker).await
    }

    /// What this host is. With an operator's credential, a worker's host answers for the control plane, too.
    async fn standing(&self, member: &Arc<Member>) -> Result<Membership> {
        let mut membership = member.membership().await?;
        let Some(said) = membership.member.as_mut().filter(|m| !m.control_available) else { return Ok(membership) };
        match self.host.operator_of(member, self.rights) {
            Ok(None) => {}
            Ok(Some(_)) => {
                said.control_available = true;
                said.nodes = u32::try_from(member.directory().count()).unwrap_or(u32::MAX);
                said.manager_count = u32::try_from(said.managers.len()).unwrap_or(u32::MAX);
            }
            Err(e) => said.error = e.message,
        }
        Ok(membership)
    }
}

macro_rules! forwarded {
    ({ $($m:ident ( $($a:ident : $t:ty),* ) -> $r:ty;)* } { $($rest:tt)* }) => {
        #[async_trait]
        impl Cluster for HostCluster {
            $(async fn $m(&self, $($a: $t),*) -> Result<$r> {
                self.control()?.$m($($a),*).await
            })*
            $($rest)*
        }
    };
}

forwarded! { {
    cluster() -> muster_model::cluster::Cluster;
    join_tokens() -> JoinTokens;
    cluster_update(version: Version, spec: ClusterSpec) -> ();
    rotate_join_tokens(worker: bool, manager: bool) -> JoinTokens;
    node_list() -> Vec<NodeView>;
    node_inspect(name: &str) -> NodeView;
    node_update(id: NodeId, version: Version, spec: NodeSpec) -> ();
    operator_revoke(name: &str) -> Vec<OperatorCertificate>;
    node_remove(name: &str, force: bool) -> ();
    service_create(spec: ServiceSpec) -> Made<ServiceId>;
    service_list() -> Vec<ServiceView>;
    service_inspect(name: &str) -> ServiceView;
    service_update(id: ServiceId, version: Version, spec: ServiceSpec) -> Made<ServiceId>;
    service_rollback(id: ServiceId, version: Version) -> Made<ServiceId>;
    service_remove(name: &str) -> ();
    task_list(query: TaskQuery) -> Vec<Task>;
    task_inspect(id: &str) -> Task;
    place(ask: Ask) -> Placed;
    settle(claim: u64, container: Option<String>) -> ();
    network_create(spec: NetworkSpec) -> Made<NetworkId>;
    network_list() -> Vec<Network>;
    network_inspect(name: &str) -> Network;
    network_remove(name: &str) -> ();
    } {
        async fn membership(&self) -> Result<Membership> {
            match self.host.member() {
                None => Ok(Membership::default()),
                Some(member) => self.standing(&member).await,
            }
        }

        async fn init(&self, init: InitCluster) -> Result<NodeId> {
            self.host.clone().init(init).await
        }

        async fn join(&self, join: JoinCluster) -> Result<NodeId> {
            self.host.clone().join(join).await
        }

        async fn leave(&self, force: bool) -> Result<()> {
            // Passed on by another manager: it is that one that leaves, and this one only writes it down.
            match self.rights.caller.via {
                Some(_) => self.control()?.leave(force).await,
                None => self.host.clone().leave(force).await,
            }
        }

        async fn service_logs(&self, name: &str, options: Logs) -> Result<Stream<TaskLog>> {
            let service = self.service_inspect(name).await?.service.id;
            let tasks = self.task_list(TaskQuery { services: vec![service], ..Default::default() }).await?;
            // What is read up to a time is done with those that there are.
            if !options.follow || options.until > Timestamp::ZERO {
                return self.logs(tasks, options).await;
            }
            let member = self.member()?;
            let asker = self.host.asker(&member, self.rights)?;
            let now = match member.controller() {
                Some(controller) => logs::tasks_here(&controller, service),
                None => logs::tasks_elsewhere(self.control()?, service),
            };
            Ok(logs::follow(member, asker, options, &tasks, now))
        }

        async fn task_logs(&self, id: &str, options: Logs) -> Result<Stream<TaskLog>> {
            let task = self.task_inspect(id).await?;
            self.logs(vec![task], options).await
        }
    }
}
