//! The control plane as a worker's host reaches it with an operator's credential: some manager that answers.
//!
//! What only reads goes to the next manager when one does not answer. What changes something is sent once, to a manager that
//! answered a moment before: whether a change that got no answer was made cannot be known from here.

use super::member::Member;
use crate::operator::Operator;
use async_trait::async_trait;
use muster_calls::*;
use muster_model::{
    NetworkId, NodeId, ServiceId,
    cluster::{ClusterSpec, Network, OperatorCertificate, Task, Version},
    spec::{NetworkSpec, NodeSpec, ServiceSpec},
};
use muster_proto::RemoteCluster;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long a manager may take to say that it is there.
const HELLO: Duration = Duration::from_secs(3);

/// How long all of them together may take to answer what only reads. A manager that finds no leader looks for one for ten
/// seconds; this leaves time for another one, on the other side of a cut, and not for each in turn.
const READ: Duration = Duration::from_secs(15);

/// Some manager of the cluster.
pub struct Managers {
    member: Arc<Member>,
    operator: Arc<Operator>,
}

/// Why nobody could be asked.
fn nobody(away: Vec<String>) -> Error {
    Error::unavailable(format!("no manager of the cluster answers: {}", away.join("; ")))
}

impl Managers {
    pub fn new(member: Arc<Member>, operator: Arc<Operator>) -> Self {
        Self { member, operator }
    }

    fn addresses(&self) -> Vec<String> {
        self.operator.managers(self.member.managers().into_iter())
    }

    /// A connection to the manager at an address.
    async fn dialled(&self, addr: &str) -> Result<RemoteCluster> {
        let dialled = tokio::time::timeout(HELLO, self.operator.manager(addr)).await;
        let channel = dialled.map_err(|_| Error::unavailable(format!("{addr}: no answer within {HELLO:?}")))?;
        channel.map(RemoteCluster::new).map_err(|e| Error::unavailable(e.to_string()))
    }

    /// A manager that is there and says so.
    async fn greeted(&self, addr: &str) -> Result<RemoteCluster> {
        let manager = self.dialled(addr).await?;
        let hello = tokio::time::timeout(HELLO, manager.membership()).await;
        let hello = hello.map_err(|_| Error::unavailable(format!("{addr}: no answer within {HELLO:?}")))?;
        match hello?.member {
            Some(member) if member.control_available => Ok(manager),
            _ => Err(Error::unavailable(format!("{addr}: its control plane does not run"))),
        }
    }

    /// Asks one manager after the other until one answers, for [`READ`] at most.
    async fn read<T, F>(&self, ask: impl Fn(RemoteCluster) -> F) -> Result<T>
    where
        F: std::future::Future<Output = Result<T>>,
    {
        let (mut away, until) = (Vec::new(), Instant::now() + READ);
        for addr in self.addresses() {
            let asked = async { ask(self.dialled(&addr).await?).await };
            let answer = tokio::time::timeout_at(until, asked).await;
            let late = |_| Err(Error::unavailable(format!("{addr}: no answer within {READ:?} of the first question")));
            match answer.unwrap_or_else(late) {
                Err(e) if e.kind == Kind::Unavailable => away.push(self.lost(&addr, e)),
                answer => {
                    self.operator.answered(&addr);
                    return answer;
                }
            }
        }
        Err(nobody(away))
    }

    /// Has the first manager that is there make a change.
    async fn change<T, F>(&self, ask: impl FnOnce(RemoteCluster) -> F) -> Result<T>
    where
        F: std::future::Future<Output = Result<T>>,
    {
        let mut away = Vec::new();
        for addr in self.addresses() {
            match self.greeted(&addr).await {
                Ok(manager) => {
                    self.operator.answered(&addr);
                    return ask(manager).await;
                }
                Err(e) if e.kind == Kind::Unavailable => away.push(self.lost(&addr, e)),
                Err(e) => return Err(e),
            }
        }
        Err(nobody(away))
    }

    /// A manager that does not answer is dialled anew the next time.
    fn lost(&self, addr: &str, e: Error) -> String {
        self.operator.lost(addr);
        e.message
    }
}

/// See `forwarded` in `host.rs`: each call from one row.
macro_rules! asked {
    (
        named { $($nm:ident() -> $nr:ty;)* }
        reads { $($m:ident ( $($a:ident : $t:ty),* ) -> $r:ty;)* }
        changes { $($cm:ident ( $($ca:ident : $ct:ty),* ) -> $cr:ty;)* }
        { $($rest:tt)* }
    ) => {
        #[async_trait]
        impl Cluster for Managers {
            $(async fn $nm(&self, name: &str) -> Result<$nr> {
                self.read(|manager| async move { manager.$nm(name).await }).await
            })*
            $(async fn $m(&self, $($a: $t),*) -> Result<$r> {
                self.read(|manager| {
                    $(let $a = $a.clone();)*
                    async move { manager.$m($($a),*).await }
                }).await
            })*
            $(async fn $cm(&self, $($ca: $ct),*) -> Result<$cr> {
                self.change(|manager| async move { manager.$cm($($ca),*).await }).await
            })*
            $($rest)*
        }
    };
}

asked! {
    named {
        node_inspect() -> NodeView;
        service_inspect() -> ServiceView;
        task_inspect() -> Task;
        network_inspect() -> Network;
    }
    reads {
        cluster() -> muster_model::cluster::Cluster;
        join_tokens() -> JoinTokens;
        node_list() -> Vec<NodeView>;
        service_list() -> Vec<ServiceView>;
        task_list(query: TaskQuery) -> Vec<Task>;
        network_list() -> Vec<Network>;
    }
    changes {
        cluster_update(version: Version, spec: ClusterSpec) -> ();
        rotate_join_tokens(worker: bool, manager: bool) -> JoinTokens;
        node_update(id: NodeId, version: Version, spec: NodeSpec) -> ();
        operator_revoke(name: &str) -> Vec<OperatorCertificate>;
        node_remove(name: &str, force: bool) -> ();
        service_create(spec: ServiceSpec) -> Made<ServiceId>;
        service_update(id: ServiceId, version: Version, spec: ServiceSpec) -> Made<ServiceId>;
        service_rollback(id: ServiceId, version: Version) -> Made<ServiceId>;
        service_remove(name: &str) -> ();
        place(ask: Ask) -> Placed;
        settle(claim: u64, container: Option<String>) -> ();
        network_create(spec: NetworkSpec) -> Made<NetworkId>;
        network_remove(name: &str) -> ();
    }
    {
        /// This host's own: what it is does not depend on a manager's word.
        async fn membership(&self) -> Result<Membership> {
            self.member.membership().await
        }

        async fn init(&self, _: InitCluster) -> Result<NodeId> {
            Err(Error::conflict("this node is already part of a cluster: leave it first"))
        }

        async fn join(&self, _: JoinCluster) -> Result<NodeId> {
            Err(Error::conflict("this node is already part of a cluster: leave it first"))
        }

        async fn leave(&self, _: bool) -> Result<()> {
            Err(Error::unimplemented("leaving for another node"))
        }

        async fn service_logs(&self, _: &str, _: Logs) -> Result<Stream<TaskLog>> {
            Err(Error::unimplemented("service logs from the control plane alone"))
        }

        async fn task_logs(&self, _: &str, _: Logs) -> Result<Stream<TaskLog>> {
            Err(Error::unimplemented("task logs from the control plane alone"))
        }
    }
}
