//! Certificates: for nodes that join with a token, for members that renew, for operators.
//!
//! A node is registered through raft before its certificate leaves the house. Who a renewal is for is what the asking
//! connection's certificate says; the role is what the state says.

use super::Slot;
use crate::{Controller, errors::is_not_leader, turn::address};
use muster_calls::{Error, Kind};
use muster_controller_core::{Call, Registration};
use muster_model::{
    NodeId,
    cluster::{Cluster, Node, NodeDescription, OperatorCertificate},
    spec::{Availability, Labels, Role, check_name},
};
use muster_mtls::{
    CALLER_KEY, Caller, CallerKind, CertRole, Leaf, NodeIdentity, caller, require, require_renewable, same_secret,
};
use muster_proto::{from_status, to_status, v1};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status, metadata::MetadataValue};
use tracing::info;

pub(super) struct CaService(pub(super) Slot);

/// Says that a manager passed the request on: it goes no further.
const FORWARDED_KEY: &str = "muster-forwarded";
/// Between two tries to find the leader.
const LEADER_POLL: Duration = Duration::from_millis(20);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// Somebody with the secret of a join token.
    Joiner,
    Member(NodeId),
    /// Somebody who may have an operator's certificate given.
    Operator(CallerKind),
}

#[tonic::async_trait]
impl v1::ca_server::Ca for CaService {
    async fn root(&self, _: Request<v1::RootRequest>) -> Result<Response<v1::RootReply>, Status> {
        let cluster = self.0.served()?.cluster_object().map_err(to_status)?;
        let cert =
            muster_mtls::certificate_from_pem(&cluster.ca_cert_pem).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(v1::RootReply { certificate: cert.to_vec().into() }))
    }

    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueReply>, Status> {
        let controller = self.0.served()?;
        let asker = asker(&request)?;
        let forwarded = request.metadata().contains_key(FORWARDED_KEY);
        let issued = issue(&controller, asker, request.into_inner(), forwarded).await;
        issued.map(Response::new).map_err(to_status)
    }

    async fn issue_operator(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueReply>, Status> {
        let caller = require(&request, &[CertRole::Operator, CertRole::Manager])?;
        let controller = self.0.served()?;
        let forwarded = request.metadata().contains_key(FORWARDED_KEY);
        let issued = issue(&controller, Asker::Operator(caller.kind), request.into_inner(), forwarded).await;
        issued.map(Response::new).map_err(to_status)
    }
}

/// A secret asks for a new identity, whoever brings it; without one the connection's certificate says who renews.
fn asker(request: &Request<v1::IssueRequest>) -> Result<Asker, Status> {
    if !request.get_ref().secret.is_empty() {
        return Ok(Asker::Joiner);
    }
    let (role, id) = if request.metadata().contains_key(CALLER_KEY) {
        match caller(request)?.kind {
            CallerKind::Certified { role, id } => (role, id),
            CallerKind::Local => return Err(Status::invalid_argument("secret: a join token's secret is needed")),
        }
    } else {
        let leaf = require_renewable(request)?;
        (leaf.identity.role, leaf.identity.node_id)
    };
    match role {
        CertRole::Operator => {
            Err(Status::permission_denied("an operator's certificate is not renewed here: ask for a new one"))
        }
        CertRole::Worker | CertRole::Manager => Ok(Asker::Member(id)),
    }
}

/// Issues as the leader, or passes the request on to it.
async fn issue(
    controller: &Controller,
    asker: Asker,
    request: v1::IssueRequest,
    forwarded: bool,
) -> Result<v1::IssueReply, Error> {
    let until = Instant::now() + controller.config().timing.call_timeout;
    loop {
        let published = controller.published();
        let result = match published.leader {
            _ if published.leading => match asker {
                Asker::Joiner => join(controller, &request).await,
                Asker::Member(id) => renew(controller, id, &request).await,
                Asker::Operator(by) => operator(controller, by, &request).await,
            },
            _ if forwarded => return Err(Error::unavailable(crate::errors::NOT_LEADER)),
            Some(leader) => pass_on(controller, leader, asker, &request).await,
            None => Err(Error::unavailable(crate::errors::NOT_LEADER)),
        };
        match result {
            Err(e) if is_not_leader(&e) && Instant::now() < until => sleep(LEADER_POLL).await,
            other => return other,
        }
    }
}

async fn pass_on(
    controller: &Controller,
    leader: NodeId,
    asker: Asker,
    request: &v1::IssueRequest,
) -> Result<v1::IssueReply, Error> {
    let published = controller.published();
    let addr = published.addresses.get(&leader.raft_id()).map(|(_, addr)| *addr);
    let addr =
        addr.ok_or_else(|| Error::unavailable(format!("the address of the leader {leader} is not known here")))?;
    let channel = controller.links().to(leader, addr).await?;
    let mut request = Request::new(request.clone());
    request.metadata_mut().insert(FORWARDED_KEY, MetadataValue::from_static("1"));
    let caller = match asker {
        Asker::Joiner => None,
        // The role is the state's to say.
        Asker::Member(id) => Some(CallerKind::Certified { role: CertRole::Worker, id }),
        Asker::Operator(by) => Some(by),
    };
    caller.into_iter().for_each(|kind| Caller { kind, via: None }.attach(&mut request));
    let mut client = v1::ca_client::CaClient::new(channel);
    let reply = match asker {
        Asker::Operator(_) => client.issue_operator(request).await,
        Asker::Joiner | Asker::Member(_) => client.issue(request).await,
    };
    if reply.is_err() {
        controller.links().forget(leader);
    }
    reply.map(Response::into_inner).map_err(from_status)
}

async fn join(controller: &Controller, request: &v1::IssueRequest) -> Result<v1::IssueReply, Error> {
    let cluster = controller.cluster_object()?;
    let role = role_of_secret(&cluster, &request.secret)?;
    let description =
        description(request)?.ok_or_else(|| Error::invalid("description: what the node says of itself is needed"))?;
    let manager_addr = match role {
        Role::Manager => Some(manager_addr(&description)?),
        Role::Worker => None,
    };
    let node = NodeId::from_u128(crate::clock::random_id().map_err(|e| Error::internal(e.to_string()))?);
    // First the certificate, though it is handed out last: a bad request registers nobody.
    let mut reply = sign(controller, &cluster, &request.csr, node, role.into())?;
    let (availability, labels) = (Availability::Active, Labels::new());
    let registration = Registration { node, role, availability, labels, description, manager_addr };
    controller.change(Call::Register(registration)).await?;
    info!(node.id = %node, role = role.as_str(), "node joined");
    with_managers_share(controller, role, &mut reply);
    Ok(reply)
}

/// The cluster lists a certificate before anybody has it.
async fn operator(
    controller: &Controller,
    by: CallerKind,
    request: &v1::IssueRequest,
) -> Result<v1::IssueReply, Error> {
    if !request.name.is_empty() {
        check_name("context", &request.name, 63)?;
    }
    let cluster = controller.cluster_object()?;
    let id = NodeId::from_u128(crate::clock::random_id().map_err(|e| Error::internal(e.to_string()))?);
    let reply = sign(controller, &cluster, &request.csr, id, CertRole::Operator)?;
    let leaf = Leaf::from_certificate(&reply.certificate).map_err(|e| Error::internal(e.to_string()))?;
    let certificate = OperatorCertificate {
        serial: OperatorCertificate::serial_of(&leaf.serial),
        name: request.name.clone(),
        issued: muster_mtls::now(),
        not_after: leaf.not_after,
        revoked: None,
    };
    controller.change(Call::RecordOperator { certificate: Box::new(certificate) }).await?;
    info!(operator.id = %id, serial = %leaf.serial, name = %request.name, %by, "operator certificate issued");
    Ok(reply)
}

async fn renew(controller: &Controller, id: NodeId, request: &v1::IssueRequest) -> Result<v1::IssueReply, Error> {
    let cluster = controller.cluster_object()?;
    let published = controller.published();
    let gone = || Error::forbidden(format!("node {id} is no member of the cluster any more"));
    let node = published.state.node(id).ok_or_else(gone)?.clone();
    // Who is in consensus still needs a manager's certificate to get out of it in order.
    let role = if published.membership.contains(id.raft_id()) { Role::Manager } else { node.spec.role };
    let mut reply = sign(controller, &cluster, &request.csr, id, role.into())?;
    if let Some(registration) = changed(&node, role, description(request)?)? {
        controller.change(Call::Register(registration)).await?;
    }
    info!(node.id = %id, role = role.as_str(), "certificate renewed");
    with_managers_share(controller, role, &mut reply);
    Ok(reply)
}

/// What the state has to learn from a renewal: a promoted node takes up its role, a manager has moved.
fn changed(node: &Arc<Node>, role: Role, description: Option<NodeDescription>) -> Result<Option<Registration>, Error> {
    if role == Role::Worker {
        // A demoted node's role follows its leaving consensus, by the leader itself.
        return Ok(None);
    }
    let manager_addr = match (&description, node.manager_addr) {
        (Some(description), known) => description.api_addr.or(known),
        (None, known) => known,
    };
    let manager_addr = Some(manager_addr.ok_or_else(no_api_addr)?);
    if node.role == role && node.manager_addr == manager_addr {
        return Ok(None);
    }
    Ok(Some(Registration {
        node: node.id,
        role,
        availability: node.spec.availability,
        labels: node.spec.labels.clone(),
        description: description.unwrap_or_else(|| node.description.clone()),
        manager_addr,
    }))
}

fn role_of_secret(cluster: &Cluster, secret: &str) -> Result<Role, Error> {
    // Both are compared, whatever the first says.
    let (worker, manager) = (same_secret(secret, &cluster.worker_secret), same_secret(secret, &cluster.manager_secret));
    match (worker, manager) {
        (_, true) => Ok(Role::Manager),
        (true, false) => Ok(Role::Worker),
        (false, false) => {
            let why = "the join token is not valid (any more): get the current one with `muster join-token`";
            Err(Error::new(Kind::Forbidden, why))
        }
    }
}

fn description(request: &v1::IssueRequest) -> Result<Option<NodeDescription>, Error> {
    if request.description.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&request.description).map(Some).map_err(|e| Error::invalid(format!("description: {e}")))
}

fn manager_addr(description: &NodeDescription) -> Result<SocketAddr, Error> {
    description.api_addr.ok_or_else(no_api_addr)
}

fn no_api_addr() -> Error {
    Error::invalid("description.api_addr: a manager must say where the others reach it")
}

fn sign(
    controller: &Controller,
    cluster: &Cluster,
    csr: &[u8],
    id: NodeId,
    role: CertRole,
) -> Result<v1::IssueReply, Error> {
    let ca = controller.authority(cluster)?;
    let identity = NodeIdentity { node_id: id, cluster_id: cluster.id, role };
    let lifetime = cluster.spec.certificate_lifetime;
    let leaf = ca.sign_csr(csr, identity, lifetime, muster_mtls::now()).map_err(|e| match e {
        muster_mtls::Error::Csr(_) => Error::invalid(format!("csr: {e}")),
        other => Error::internal(other.to_string()),
    })?;
    Ok(v1::IssueReply {
        certificate: leaf.to_vec().into(),
        roots: vec![ca.certificate().to_vec().into()],
        node_id: id.to_string(),
        cluster_id: cluster.id.to_string(),
        role: role.as_str().to_owned(),
        managers: controller.managers().into_iter().map(|(id, addr)| address(id, addr)).collect(),
        ..Default::default()
    })
}

/// Managers share the key that seals the authority's.
fn with_managers_share(controller: &Controller, role: Role, reply: &mut v1::IssueReply) {
    if role == Role::Manager {
        reply.seal_key = controller.seal_key().as_bytes().to_vec().into();
    }
}
