//! The cluster's API on a manager: checked, sent to the leader, answered from proven state.

use crate::{
    Controller,
    credentials::{hidden_service, hidden_task},
    errors,
    turn::View,
};
use async_trait::async_trait;
use muster_calls::{
    Ask, Cluster, Error, InitCluster, JoinCluster, JoinTokens, Kind, Logs, Made, Member, Membership, NodeView, Placed,
    Result, ServiceView, Stream, TaskLog, TaskQuery,
};
use muster_controller_core::{Call, Reply, cluster_services, service_status, tasks_for_people};
use muster_model::{
    NetworkId, NodeId, ServiceId,
    cluster::{ClusterSpec, Network, Node, OperatorCertificate, Service, Task, Version},
    spec::{NetworkSpec, NodeSpec, Role, ServiceSpec},
};
use muster_mtls::{Caller, CallerKind, CertRole, JoinToken, new_secret, require_of};
use muster_proto::{RemoteCluster, from_status};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Extensions, metadata::MetadataMap};
use tracing::Instrument;

/// Between two looks at who leads, while nobody does.
const LEADER_POLL: Duration = Duration::from_millis(20);

/// From a node's timeout to the state's saying that it is down: a write, on a busy machine.
const DECIDED: Duration = Duration::from_secs(1);
/// How long an answer of a leader that was deposed may still be on its way.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The API for one caller. Everything but `init`, `join`, `service_logs` and `task_logs`, which need the host.
#[derive(Clone)]
pub struct Face {
    controller: Controller,
    caller: Caller,
}

impl Controller {
    /// On whose behalf a request is made, if it may be: the certificate's role is one of `roles`, and whoever holds a
    /// node's certificate is still a member.
    ///
    /// # Errors
    /// `Unauthorized` without a valid certificate; `Forbidden` for other roles, forged callers and former members.
    pub fn authorize(&self, extensions: &Extensions, metadata: &MetadataMap, roles: &[CertRole]) -> Result<Caller> {
        let caller = require_of(extensions, metadata, roles).map_err(from_status)?;
        let published = self.published();
        let certified = match caller.kind {
            CallerKind::Certified { role: CertRole::Worker | CertRole::Manager, id } => Some(id),
            CallerKind::Certified { role: CertRole::Operator, .. } | CallerKind::Local => None,
        };
        for id in certified.into_iter().chain(caller.via) {
            // A manager that was just added may not have the state yet.
            if published.state.cluster().is_some() && published.state.node(id).is_none() {
                return Err(Error::forbidden(format!("node {id} is no member of the cluster")));
            }
        }
        Ok(caller)
    }

    /// The API on behalf of `caller`, who is allowed to use it: see [`Controller::authorize`].
    pub fn face(&self, caller: Caller) -> Face {
        Face { controller: self.clone(), caller }
    }

    /// The API for this host itself.
    pub fn local_face(&self) -> Face {
        self.face(Caller { kind: CallerKind::Local, via: None })
    }
}

enum Route {
    Here,
    There(NodeId, Box<RemoteCluster>),
}

/// How long to go on looking for the leader.
struct Search {
    until: Instant,
}

impl Search {
    /// Whether the call was certainly not carried out and should go to the next leader.
    async fn again<T>(&self, result: &Result<T>, harmless: bool) -> bool {
        let Err(e) = result else { return false };
        let retry = errors::was_not_done(e) || (harmless && e.kind == Kind::Unavailable);
        if !retry || Instant::now() >= self.until {
            return false;
        }
        sleep(LEADER_POLL).await;
        true
    }
}

impl Face {
    fn search(&self) -> Search {
        Search { until: Instant::now() + self.controller.config().timing.call_timeout }
    }

    /// Waits until a leader is known and can be reached.
    async fn route(&self, search: &Search) -> Result<Route> {
        loop {
            let why = match self.try_route().await {
                Ok(route) => return Ok(route),
                Err(e) => e,
            };
            // A call that was passed on already is passed back: its first manager looks for the leader.
            if self.caller.via.is_some() || Instant::now() >= search.until {
                return Err(why);
            }
            sleep(LEADER_POLL).await;
        }
    }

    async fn try_route(&self) -> Result<Route> {
        let published = self.controller.published();
        if published.leading {
            return Ok(Route::Here);
        }
        if self.caller.via.is_some() {
            return Err(Error::unavailable(errors::NOT_LEADER));
        }
        let leader = published.leader.ok_or_else(|| Error::unavailable("the cluster has no leader now"))?;
        let addr = published.addresses.get(&leader.raft_id()).map(|(_, addr)| *addr);
        let addr =
            addr.ok_or_else(|| Error::unavailable(format!("the address of the leader {leader} is not known here")))?;
        let channel = self.controller.links().to(leader, addr).await?;
        let remote = RemoteCluster::new(channel).on_behalf_of(Some(self.caller.kind.to_string()));
        Ok(Route::There(leader, Box::new(remote)))
    }

    /// A leader's answer, for as long as it leads: one that is cut off from the others never answers, and its connection
    /// shows that late. `again`: asking the next leader does no harm.
    async fn while_leading<T>(&self, leader: NodeId, again: bool, ask: impl Future<Output = Result<T>>) -> Result<T> {
        let mut published = self.controller.watch();
        let deposed = async {
            // The loop's end is told by the next look for a leader.
            let _ = published.wait_for(|p| p.leader.is_some_and(|l| l != leader)).await;
            // One that hands on in order answers what it has in hand.
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            answer = ask => answer.map_err(errors::of_lost_answer),
            () = deposed => {
                self.controller.links().forget(leader);
                Err(if again { Error::unavailable(errors::NOT_LEADER) } else { errors::outcome_unknown() })
            }
        }
    }

    async fn view(&self) -> Result<View> {
        self.controller.read().await
    }

    async fn done(&self, call: Call) -> Result<()> {
        self.controller.change(call).await.map(drop)
    }

    async fn service(&self, call: Call) -> Result<Made<ServiceId>> {
        match self.controller.change(call).await? {
            Reply::Service { id, warnings, .. } => Ok(Made { id, warnings }),
            other => Err(unexpected(&other)),
        }
    }

    /// A spec as it is kept: its registry credentials sealed. `of`: the service that it updates.
    async fn sealed(&self, spec: &ServiceSpec, of: Option<ServiceId>) -> Result<Box<ServiceSpec>> {
        let mut spec = Box::new(spec.clone());
        if spec.task.container.registry_auth.is_some() {
            let view = self.view().await?;
            // Of one that has changed meanwhile the change itself will tell.
            let current = of.map(|id| view.state.find_service(&id.to_string()).map_err(not_found)).transpose()?;
            self.controller.sealer().seal_spec(&mut spec, current.map(|s| &**s))?;
        }
        Ok(spec)
    }

    async fn network(&self, call: Call) -> Result<Made<NetworkId>> {
        match self.controller.change(call).await? {
            Reply::Network(id) => Ok(Made { id, warnings: Vec::new() }),
            other => Err(unexpected(&other)),
        }
    }

    async fn rotate(&self, worker: bool, manager: bool) -> Result<JoinTokens> {
        let draw = |wanted: bool| wanted.then(new_secret).transpose().map_err(|e| Error::internal(e.to_string()));
        self.done(Call::SetJoinSecrets { worker: draw(worker)?, manager: draw(manager)? }).await?;
        tokens(&self.view().await?)
    }

    /// A leader that is new in office has not heard from all nodes yet. Where only such a node suits it is waited for, until
    /// it has come or counts as down.
    async fn place_here(&self, ask: Ask) -> Result<Placed> {
        let mut published = self.controller.watch();
        let mut until = None;
        loop {
            // Before the state is read: what changes after that is not missed.
            published.mark_unchanged();
            let view = self.view().await?;
            let placed = self.controller.claims().place(std::time::Instant::now(), &view.state, ask.clone());
            let refused = match placed {
                Ok(placed) => return Ok(placed),
                Err(refused) if !refused.awaited => return Err(refused.error),
                Err(refused) => refused.error,
            };
            let patience = view.state.cluster().map_or(Duration::ZERO, |c| c.spec.node_timeout + DECIDED);
            let until = *until.get_or_insert_with(|| Instant::now() + patience);
            match timeout_at(until, published.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(errors::stopped()),
                Err(_) => return Err(refused),
            }
        }
    }

    /// The node that asks to leave: the caller, or the host whose socket was used.
    fn leaver(&self) -> NodeId {
        match self.caller.kind {
            CallerKind::Certified { role: CertRole::Worker | CertRole::Manager, id } => id,
            _ => self.caller.via.unwrap_or(self.controller.node_id()),
        }
    }
}

/// Sends one call to where the leader is. `$harmless`: repeating it does no harm, so a broken connection is no end.
macro_rules! routed {
    ($self:ident, $method:literal, $harmless:literal, $here:expr, |$there:ident| $remote:expr) => {{
        let span = tracing::info_span!("cluster.call", method = $method);
        let call = async {
            let search = $self.search();
            loop {
                let result = match $self.route(&search).await? {
                    Route::Here => $here.await,
                    Route::There(leader, $there) => {
                        let result = $self.while_leading(leader, $harmless, $remote).await;
                        if matches!(&result, Err(e) if e.kind == Kind::Unavailable) {
                            $self.controller.links().forget(leader);
                        }
                        result
                    }
                };
                if !search.again(&result, $harmless).await {
                    return result;
                }
            }
        };
        call.instrument(span).await
    }};
}

#[async_trait]
impl Cluster for Face {
    async fn membership(&self) -> Result<Membership> {
        let published = self.controller.published();
        let config = self.controller.config();
        let managers = self.controller.managers();
        let error = if published.leader.is_none() { "the cluster has no leader now" } else { "" };
        let member = Member {
            cluster: config.cluster_id,
            node: config.node_id,
            role: Role::Manager,
            addr: config.addr,
            nodes: published.state.nodes().count() as u32,
            manager_count: managers.len() as u32,
            managers,
            control_available: true,
            error: error.to_owned(),
        };
        Ok(Membership { member: Some(member) })
    }

    async fn init(&self, _: InitCluster) -> Result<NodeId> {
        Err(Error::conflict("this node is already part of a cluster: leave it first"))
    }

    async fn join(&self, _: JoinCluster) -> Result<NodeId> {
        Err(Error::conflict("this node is already part of a cluster: leave it first"))
    }

    async fn leave(&self, force: bool) -> Result<()> {
        let node = self.leaver();
        routed!(self, "leave", false, self.done(Call::Leave { node, force }), |c| c.leave(force))
    }

    async fn cluster(&self) -> Result<muster_model::cluster::Cluster> {
        routed!(self, "cluster", true, async { without_secrets(&self.view().await?) }, |c| c.cluster())
    }

    async fn cluster_update(&self, version: Version, spec: ClusterSpec) -> Result<()> {
        let call = Call::ClusterUpdate { version, spec: spec.clone() };
        routed!(self, "cluster_update", false, self.done(call.clone()), |c| c.cluster_update(version, spec.clone()))
    }

    async fn join_tokens(&self) -> Result<JoinTokens> {
        routed!(self, "join_tokens", true, async { tokens(&self.view().await?) }, |c| c.join_tokens())
    }

    async fn rotate_join_tokens(&self, worker: bool, manager: bool) -> Result<JoinTokens> {
        routed!(self, "rotate_join_tokens", false, self.rotate(worker, manager), |c| c
            .rotate_join_tokens(worker, manager))
    }

    async fn operator_revoke(&self, name: &str) -> Result<Vec<OperatorCertificate>> {
        let here = || async {
            match self.controller.change(Call::RevokeOperator { name: name.to_owned() }).await? {
                Reply::Operators(revoked) => Ok(revoked),
                other => Err(unexpected(&other)),
            }
        };
        routed!(self, "operator_revoke", false, here(), |c| c.operator_revoke(name))
    }

    async fn node_list(&self) -> Result<Vec<NodeView>> {
        let here = || async {
            let view = self.view().await?;
            Ok(view.state.nodes().map(|n| node_view(&view, n)).collect())
        };
        routed!(self, "node_list", true, here(), |c| c.node_list())
    }

    async fn node_inspect(&self, name: &str) -> Result<NodeView> {
        let here = || async {
            let view = self.view().await?;
            let node = view.state.find_node(name).map_err(not_found)?;
            Ok(node_view(&view, node))
        };
        routed!(self, "node_inspect", true, here(), |c| c.node_inspect(name))
    }

    async fn node_update(&self, id: NodeId, version: Version, spec: NodeSpec) -> Result<()> {
        let call = Call::NodeUpdate { id, version, spec: spec.clone() };
        routed!(self, "node_update", false, self.done(call.clone()), |c| c.node_update(id, version, spec.clone()))
    }

    async fn node_remove(&self, name: &str, force: bool) -> Result<()> {
        let call = Call::NodeRemove { name: name.to_owned(), force };
        routed!(self, "node_remove", false, self.done(call.clone()), |c| c.node_remove(name, force))
    }

    async fn service_create(&self, spec: ServiceSpec) -> Result<Made<ServiceId>> {
        spec.validate()?;
        let here = || async {
            let spec = self.sealed(&spec, None).await?;
            self.service(Call::ServiceCreate { spec }).await
        };
        routed!(self, "service_create", false, here(), |c| c.service_create(spec.clone()))
    }

    async fn service_list(&self) -> Result<Vec<ServiceView>> {
        let here = || async {
            let view = self.view().await?;
            Ok(cluster_services(&view.state).iter().map(|s| service_view(&view, s)).collect())
        };
        routed!(self, "service_list", true, here(), |c| c.service_list())
    }

    async fn service_inspect(&self, name: &str) -> Result<ServiceView> {
        let here = || async {
            let view = self.view().await?;
            let service = view.state.find_service(name).map_err(not_found)?;
            Ok(service_view(&view, service))
        };
        routed!(self, "service_inspect", true, here(), |c| c.service_inspect(name))
    }

    async fn service_update(&self, id: ServiceId, version: Version, spec: ServiceSpec) -> Result<Made<ServiceId>> {
        spec.validate()?;
        let here = || async {
            let spec = self.sealed(&spec, Some(id)).await?;
            self.service(Call::ServiceUpdate { id, version, spec }).await
        };
        routed!(self, "service_update", false, here(), |c| c.service_update(id, version, spec.clone()))
    }

    async fn service_rollback(&self, id: ServiceId, version: Version) -> Result<Made<ServiceId>> {
        let call = Call::ServiceRollback { id, version };
        routed!(self, "service_rollback", false, self.service(call.clone()), |c| c.service_rollback(id, version))
    }

    async fn service_remove(&self, name: &str) -> Result<()> {
        let call = Call::ServiceRemove { name: name.to_owned() };
        routed!(self, "service_remove", false, self.done(call.clone()), |c| c.service_remove(name))
    }

    async fn service_logs(&self, _: &str, _: Logs) -> Result<Stream<TaskLog>> {
        Err(Error::unimplemented("service logs from the control plane alone"))
    }

    async fn task_list(&self, query: TaskQuery) -> Result<Vec<Task>> {
        let here = || async { Ok(tasks(&self.view().await?, &query)) };
        routed!(self, "task_list", true, here(), |c| c.task_list(query.clone()))
    }

    async fn task_inspect(&self, id: &str) -> Result<Task> {
        let here = || async {
            let view = self.view().await?;
            Ok(hidden_task(view.state.find_task(id).map_err(not_found)?))
        };
        routed!(self, "task_inspect", true, here(), |c| c.task_inspect(id))
    }

    async fn task_logs(&self, _: &str, _: Logs) -> Result<Stream<TaskLog>> {
        Err(Error::unimplemented("task logs from the control plane alone"))
    }

    async fn place(&self, ask: Ask) -> Result<Placed> {
        for constraint in ask.constraints.iter().chain(&ask.preferred) {
            muster_model::spec::Constraint::parse(constraint)?;
        }
        // A claim that nobody hears of runs out; one of a leader that leads no more is nobody's.
        routed!(self, "place", true, self.place_here(ask.clone()), |c| c.place(ask.clone()))
    }

    async fn settle(&self, claim: u64, container: Option<String>) -> Result<()> {
        let here = || async {
            self.controller.claims().settle(claim, container.clone());
            Ok(())
        };
        routed!(self, "settle", true, here(), |c| c.settle(claim, container.clone()))
    }

    async fn network_create(&self, spec: NetworkSpec) -> Result<Made<NetworkId>> {
        spec.validate()?;
        let call = Call::NetworkCreate { spec: spec.clone() };
        routed!(self, "network_create", false, self.network(call.clone()), |c| c.network_create(spec.clone()))
    }

    async fn network_list(&self) -> Result<Vec<Network>> {
        let here = || async { Ok(self.view().await?.state.networks().map(|n| Network::clone(n)).collect()) };
        routed!(self, "network_list", true, here(), |c| c.network_list())
    }

    async fn network_inspect(&self, name: &str) -> Result<Network> {
        let here = || async {
            let view = self.view().await?;
            Ok(Network::clone(view.state.find_network(name).map_err(not_found)?))
        };
        routed!(self, "network_inspect", true, here(), |c| c.network_inspect(name))
    }

    async fn network_remove(&self, name: &str) -> Result<()> {
        let call = Call::NetworkRemove { name: name.to_owned() };
        routed!(self, "network_remove", false, self.done(call.clone()), |c| c.network_remove(name))
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::internal(format!("the controller answered {reply:?}"))
}

fn not_found(e: muster_state::FindError) -> Error {
    errors::from_call_error(e.into())
}

fn tokens(view: &View) -> Result<JoinTokens> {
    let cluster = view.state.cluster().ok_or_else(|| Error::unavailable("the cluster is being founded"))?;
    let cert = muster_mtls::certificate_from_pem(&cluster.ca_cert_pem).map_err(|e| Error::internal(e.to_string()))?;
    let ca_digest = muster_mtls::sha256_hex(&cert);
    let token =
        |role, secret: &str| JoinToken { role, ca_digest: ca_digest.clone(), secret: secret.to_owned() }.to_string();
    Ok(JoinTokens {
        worker: token(Role::Worker, &cluster.worker_secret),
        manager: token(Role::Manager, &cluster.manager_secret),
    })
}

/// The cluster's object as the API shows it: what joins or signs is left out.
fn without_secrets(view: &View) -> Result<muster_model::cluster::Cluster> {
    let cluster = view.state.cluster().ok_or_else(|| Error::unavailable("the cluster is being founded"))?;
    let mut shown = muster_model::cluster::Cluster::clone(cluster);
    shown.ca_key_sealed.clear();
    shown.worker_secret.clear();
    shown.manager_secret.clear();
    Ok(shown)
}

fn node_view(view: &View, node: &Arc<Node>) -> NodeView {
    let reachable = node.manager_addr.is_some() && view.active.contains(&node.id.raft_id());
    NodeView { node: Node::clone(node), leader: node.id == view.leader, reachable }
}

fn service_view(view: &View, service: &Arc<Service>) -> ServiceView {
    let status = service_status(&view.state, service.id);
    ServiceView {
        service: hidden_service(service),
        running_tasks: status.running,
        desired_tasks: status.desired,
        completed_tasks: status.completed,
    }
}

fn tasks(view: &View, query: &TaskQuery) -> Vec<Task> {
    let asked = |task: &&Arc<Task>| {
        (query.services.is_empty() || query.services.contains(&task.service))
            && (query.nodes.is_empty() || task.node.is_some_and(|n| query.nodes.contains(&n)))
            && (query.ids.is_empty() || query.ids.contains(&task.id))
    };
    tasks_for_people(view.state.tasks().filter(asked)).iter().map(hidden_task).collect()
}
