//! Calls: what each is checked for against the state, and the group of changes it becomes.
//!
//! A decision carries what it was made from; when the state has moved on by the time its entry is applied, the same
//! function decides again.

use crate::{
    Call, CallError, NewCluster, Registration, Reply, credentials,
    members::Members,
    operators,
    pending::{Answer, Decision},
};
use muster_model::{
    AttachmentId, NodeId, ServiceId, Timestamp,
    cluster::{
        AttachRequest, Attachment, Cluster, ClusterSpec, Endpoint, Meta, Network, Node, NodeState, NodeStatus, Service,
        UpdateState, UpdateStatus, Version,
    },
    spec::{Attribute, Invalid, NetworkSpec, NodeSpec, PublishMode, Role, ServiceSpec},
};
use muster_plan::{IdSource, first_ingress, new_network};
use muster_state::{Change, Expect, Group, Key, Kind, State};
use std::sync::Arc;

/// What a decision may look at.
pub(crate) struct View<'a> {
    pub state: &'a State,
    pub members: &'a Members,
    /// This manager.
    pub own: NodeId,
    pub now: Timestamp,
}

/// What a call comes to, given the state.
pub(crate) fn decide(view: &View<'_>, ids: &mut IdSource, call: &Call) -> Result<Decision, CallError> {
    let state = view.state;
    if let Call::Init { cluster, first } = call {
        return init(view, ids, cluster, first);
    }
    let cluster = state.cluster().ok_or_else(|| CallError::Unavailable("the cluster is not initialised yet".into()))?;
    match call {
        // Taken out above.
        Call::Init { .. } => Err(conflict("this node is part of a cluster already")),
        Call::ClusterUpdate { version, spec } => cluster_update(cluster, *version, spec),
        Call::SetJoinSecrets { worker, manager } => Ok(join_secrets(cluster, worker.as_deref(), manager.as_deref())),
        Call::RecordOperator { certificate } => operators::record(cluster, view.now, certificate),
        Call::RevokeOperator { name } => operators::revoke(cluster, view.now, name),
        Call::Register(registration) => register(view, registration),
        Call::NodeUpdate { id, version, spec } => {
            let node = node_by_id(state, *id)?;
            out_of_sequence(Key::Node(*id), *version, node.meta.version)?;
            node_update(view, node, spec.clone())
        }
        Call::Promote { name } => set_role(view, name, Role::Manager),
        Call::Demote { name } => set_role(view, name, Role::Worker),
        Call::NodeRemove { name, force } => node_remove(view, name, *force),
        Call::Leave { node, force } => leave(view, *node, *force),
        Call::ServiceCreate { spec } => service_create(state, ids, spec),
        Call::ServiceUpdate { id, version, spec } => service_update(view, *id, *version, spec),
        Call::ServiceRollback { id, version } => service_rollback(view, *id, *version),
        Call::ServiceRemove { name } => service_remove(state, name),
        Call::SealCredentials { service, seals } => Ok(credentials::seal(state, *service, seals)),
        Call::NetworkCreate { spec } => network_create(state, ids, spec),
        Call::NetworkRemove { name } => network_remove(state, name),
        Call::Attach { node, request } => attach(state, *node, request),
        Call::Detach { node, ids } => Ok(detach(state, *node, ids)),
    }
}

pub(crate) fn propose(expects: Vec<Expect>, changes: Vec<Change>, answer: Answer) -> Decision {
    Decision::Propose(Box::new(Group { expects, changes, trace_parent: None }), answer)
}

fn done(expects: Vec<Expect>, changes: Vec<Change>) -> Decision {
    propose(expects, changes, Answer::Plain(Reply::Done))
}

fn conflict(text: impl Into<String>) -> CallError {
    CallError::Conflict(text.into())
}

fn out_of_sequence(key: Key, expected: Version, found: Version) -> Result<(), CallError> {
    if expected == found { Ok(()) } else { Err(CallError::OutOfSequence { key, expected, found }) }
}

// The cluster.

fn init(view: &View<'_>, ids: &mut IdSource, new: &NewCluster, first: &Registration) -> Result<Decision, CallError> {
    if view.state.cluster().is_some() {
        return Err(conflict("this node is part of a cluster already"));
    }
    new.spec.validate()?;
    if new.subnet_prefix < new.address_pool.prefix() || !(8..=29).contains(&new.subnet_prefix) {
        let why = format!(
            "/{} networks cannot be cut from {}: expected a prefix of 8 to 29 within it",
            new.subnet_prefix, new.address_pool
        );
        return Err(Invalid::new("SubnetSize", why).into());
    }
    let cluster = Cluster {
        id: new.id,
        meta: Meta::default(),
        spec: new.spec.clone(),
        ca_cert_pem: new.ca_cert_pem.clone(),
        ca_key_sealed: new.ca_key_sealed.clone(),
        worker_secret: new.worker_secret.clone(),
        manager_secret: new.manager_secret.clone(),
        address_pool: new.address_pool,
        subnet_prefix: new.subnet_prefix,
        operators: Vec::new(),
    };
    let node = new_node(first, view.now);
    let expects = vec![Expect::absent(Key::Cluster), Expect::absent(Key::Node(first.node))];
    let mut changes = vec![Change::put(cluster), Change::put(node)];
    // Stock clients look for it at once. A pool without room for it is no reason to have no cluster: it is tried again when
    // a service needs it, and the user is told then.
    let routes = &first.description.routes;
    if let Ok(ingress) = first_ingress(ids.id(), new.address_pool, new.subnet_prefix, routes) {
        changes.push(Change::put(ingress));
    }
    Ok(propose(expects, changes, Answer::Plain(Reply::Node(first.node))))
}

fn cluster_update(old: &Arc<Cluster>, version: Version, spec: &ClusterSpec) -> Result<Decision, CallError> {
    out_of_sequence(Key::Cluster, version, old.meta.version)?;
    spec.validate()?;
    let new = Cluster { spec: spec.clone(), ..Cluster::clone(old) };
    Ok(done(vec![Expect::version(Key::Cluster, version)], vec![Change::put(new)]))
}

fn join_secrets(old: &Arc<Cluster>, worker: Option<&str>, manager: Option<&str>) -> Decision {
    let mut new = Cluster::clone(old);
    if let Some(secret) = worker {
        new.worker_secret = secret.to_owned();
    }
    if let Some(secret) = manager {
        new.manager_secret = secret.to_owned();
    }
    done(vec![Expect::version(Key::Cluster, old.meta.version)], vec![Change::put(new)])
}

// Nodes.

fn node_by_id(state: &State, id: NodeId) -> Result<&Arc<Node>, CallError> {
    Ok(state.find_node(&id.to_string())?)
}

fn new_node(r: &Registration, now: Timestamp) -> Node {
    Node {
        id: r.node,
        meta: Meta::default(),
        spec: NodeSpec { labels: r.labels.clone(), role: r.role, availability: r.availability, name: String::new() },
        role: r.role,
        description: r.description.clone(),
        status: NodeStatus { state: NodeState::Unknown, message: "joined, no session yet".into(), since: now },
        manager_addr: r.manager_addr.filter(|_| r.role == Role::Manager),
    }
}

fn register(view: &View<'_>, r: &Registration) -> Result<Decision, CallError> {
    let reply = Reply::Node(r.node);
    let Some(old) = view.state.node(r.node) else {
        if r.role == Role::Manager {
            check_room(view)?;
        }
        let node = new_node(r, view.now);
        return Ok(propose(vec![Expect::absent(Key::Node(r.node))], vec![Change::put(node)], Answer::Plain(reply)));
    };
    if r.role == Role::Manager && old.spec.role != Role::Manager {
        return Err(conflict(format!("node {} is to be a worker: promote it first", r.node)));
    }
    let mut new = Node::clone(old);
    new.role = r.role;
    if r.role == Role::Manager && r.manager_addr.is_some() {
        new.manager_addr = r.manager_addr;
    }
    if new == **old {
        return Ok(Decision::Nothing(reply));
    }
    let expects = vec![Expect::version(Key::Node(r.node), old.meta.version)];
    Ok(propose(expects, vec![Change::put(new)], Answer::Plain(reply)))
}

fn set_role(view: &View<'_>, name: &str, role: Role) -> Result<Decision, CallError> {
    let node = view.state.find_node(name)?;
    if node.spec.role == role {
        return Ok(Decision::Nothing(Reply::Done));
    }
    node_update(view, node, NodeSpec { role, ..node.spec.clone() })
}

fn node_update(view: &View<'_>, old: &Arc<Node>, spec: NodeSpec) -> Result<Decision, CallError> {
    if old.spec.role == Role::Manager && spec.role == Role::Worker {
        check_demotion(view, old)?;
    }
    if old.spec.role == Role::Worker && spec.role == Role::Manager {
        check_room(view)?;
    }
    for key in spec.labels.keys() {
        if key.is_empty() || key.chars().any(|c| c.is_whitespace() || c == '=') {
            return Err(Invalid::new("Labels", format!("{key:?}: a key has neither blanks nor '='")).into());
        }
    }
    let new = Node { spec, ..Node::clone(old) };
    Ok(done(vec![Expect::version(Key::Node(old.id), old.meta.version)], vec![Change::put(new)]))
}

/// Five managers outlive two losses; more only make each write wait for more disks.
const MOST_MANAGERS: usize = 5;

fn check_room(view: &View<'_>) -> Result<(), CallError> {
    let managers = view.state.nodes().filter(|n| n.spec.role == Role::Manager).count();
    if managers >= MOST_MANAGERS {
        return Err(conflict(format!(
            "the cluster has {managers} managers already, at most {MOST_MANAGERS} are possible"
        )));
    }
    Ok(())
}

/// A manager may go when another is left and those that are left can decide.
fn check_demotion(view: &View<'_>, node: &Node) -> Result<(), CallError> {
    let others = view.state.nodes().filter(|n| n.spec.role == Role::Manager && n.id != node.id).count();
    if others == 0 {
        return Err(conflict("attempting to demote the last manager of the cluster"));
    }
    if !view.members.survives_without(node.id.raft_id(), view.own.raft_id()) {
        return Err(CallError::NoMajorityWithout(node.id));
    }
    Ok(())
}

fn node_remove(view: &View<'_>, name: &str, force: bool) -> Result<Decision, CallError> {
    let node = view.state.find_node(name)?;
    if node.spec.role == Role::Manager || view.members.contains(node.id.raft_id()) {
        return Err(conflict(format!(
            "node {} is a cluster manager and is a member of the raft cluster: it must be demoted to worker before it is removed",
            node.id
        )));
    }
    if node.status.state != NodeState::Down && !force {
        return Err(conflict(format!(
            "node {} is not down and can't be removed: let it leave first, or force",
            node.id
        )));
    }
    let key = Key::Node(node.id);
    let mut changes = vec![Change::Delete(key)];
    changes.extend(places_of(view.state, node.id));
    Ok(done(vec![Expect::version(key, node.meta.version)], changes))
}

fn leave(view: &View<'_>, id: NodeId, force: bool) -> Result<Decision, CallError> {
    let node = node_by_id(view.state, id)?;
    let status = NodeStatus { state: NodeState::Down, message: "the node left the cluster".into(), since: view.now };
    let mut changes = vec![Change::NodeStatus { node: id, status, description: None }];
    changes.extend(places_of(view.state, id));
    let mut expects = vec![Expect::Exists(Key::Node(id))];
    if node.spec.role == Role::Manager {
        if !force {
            return Err(conflict("this node is a manager: demote it first, or force it to leave"));
        }
        check_demotion(view, node)?;
        let mut worker = Node::clone(node);
        worker.spec.role = Role::Worker;
        expects.push(Expect::version(Key::Node(id), node.meta.version));
        changes.push(Change::put(worker));
    }
    Ok(done(expects, changes))
}

// Services.

/// Checks a spec against the cluster and names its networks by id.
fn resolve(state: &State, id: Option<ServiceId>, spec: &ServiceSpec) -> Result<ServiceSpec, CallError> {
    spec.validate()?;
    for text in &spec.task.placement.spread_over {
        Attribute::parse(text)?;
    }
    let mut spec = spec.clone();
    let mut seen = Vec::new();
    for attachment in &mut spec.task.networks {
        let network = state.find_network(&attachment.target)?;
        if network.ingress {
            return Err(Invalid::new(
                "TaskTemplate.Networks",
                "services cannot be attached to the ingress network: publish a port",
            )
            .into());
        }
        if seen.contains(&network.id) {
            return Err(
                Invalid::new("TaskTemplate.Networks", format!("network {} is named twice", network.spec.name)).into()
            );
        }
        seen.push(network.id);
        attachment.target = network.id.to_string();
    }
    for p in spec.endpoint.ports.iter().filter(|p| p.mode == PublishMode::Ingress && p.published != 0) {
        if let Some(by) = state.service_by_port(p.protocol, p.published).filter(|s| Some(s.id) != id) {
            return Err(conflict(format!(
                "port {}/{} is already published by service {} ({}): publish another port",
                p.published, p.protocol, by.spec.name, by.id
            )));
        }
    }
    Ok(spec)
}

fn needs_networks(spec: &ServiceSpec, expects: &mut Vec<Expect>) {
    let ids = spec.task.networks.iter().filter_map(|n| n.target.parse().ok());
    expects.extend(ids.map(|id| Expect::Exists(Key::Network(id))));
}

fn service_create(state: &State, ids: &mut IdSource, spec: &ServiceSpec) -> Result<Decision, CallError> {
    let spec = resolve(state, None, spec)?;
    if state.service_by_name(&spec.name).is_some() {
        return Err(conflict(format!("service {} exists already: choose another name, or update it", spec.name)));
    }
    let id = ids.id();
    let mut expects =
        vec![Expect::absent(Key::Service(id)), Expect::NameFree { kind: Kind::Service, name: spec.name.clone() }];
    needs_networks(&spec, &mut expects);
    let service = Service {
        id,
        meta: Meta::default(),
        spec,
        previous_spec: None,
        spec_version: Version::ABSENT,
        endpoint: Endpoint::default(),
        update_status: None,
        removing: false,
    };
    Ok(propose(expects, vec![Change::put(service)], Answer::Service { id, warnings: Vec::new() }))
}

fn living_service(state: &State, id: ServiceId) -> Result<&Arc<Service>, CallError> {
    let service = state.find_service(&id.to_string())?;
    if service.removing {
        Err(conflict(format!("service {} is being removed", service.spec.name)))
    } else {
        Ok(service)
    }
}

fn service_update(view: &View<'_>, id: ServiceId, version: Version, spec: &ServiceSpec) -> Result<Decision, CallError> {
    let old = living_service(view.state, id)?;
    out_of_sequence(Key::Service(id), version, old.meta.version)?;
    if spec.name != old.spec.name {
        return Err(Invalid::new("Name", "renaming services is not supported").into());
    }
    if std::mem::discriminant(&spec.mode) != std::mem::discriminant(&old.spec.mode) {
        return Err(Invalid::new("Mode", "a service cannot change between replicated and global").into());
    }
    let spec = resolve(view.state, Some(id), spec)?;
    let replaces_tasks = spec.task != old.spec.task || spec.endpoint != old.spec.endpoint;
    let mut new = Service::clone(old);
    new.previous_spec = Some(Arc::new(std::mem::replace(&mut new.spec, spec)));
    new.update_status = replaces_tasks.then(|| begun(UpdateState::Updating, "update in progress", view.now));
    Ok(put_service(old, new))
}

fn service_rollback(view: &View<'_>, id: ServiceId, version: Version) -> Result<Decision, CallError> {
    let old = living_service(view.state, id)?;
    out_of_sequence(Key::Service(id), version, old.meta.version)?;
    let previous = old
        .previous_spec
        .as_ref()
        .ok_or_else(|| conflict(format!("service {} does not have a previous spec to go back to", old.spec.name)))?;
    let spec = resolve(view.state, Some(id), previous)?;
    let mut new = Service::clone(old);
    new.previous_spec = Some(Arc::new(std::mem::replace(&mut new.spec, spec)));
    new.update_status = Some(begun(UpdateState::RollbackStarted, "manually requested rollback", view.now));
    Ok(put_service(old, new))
}

fn begun(state: UpdateState, message: &str, now: Timestamp) -> UpdateStatus {
    UpdateStatus { state, started_at: now, completed_at: Timestamp::ZERO, message: message.to_owned() }
}

fn put_service(old: &Service, new: Service) -> Decision {
    let mut expects = vec![Expect::version(Key::Service(old.id), old.meta.version)];
    needs_networks(&new.spec, &mut expects);
    let answer = Answer::Service { id: old.id, warnings: Vec::new() };
    propose(expects, vec![Change::put(new)], answer)
}

fn service_remove(state: &State, name: &str) -> Result<Decision, CallError> {
    let old = state.find_service(name)?;
    if old.removing {
        return Ok(Decision::Nothing(Reply::Done));
    }
    let new = Service { removing: true, ..Service::clone(old) };
    Ok(done(vec![Expect::version(Key::Service(old.id), old.meta.version)], vec![Change::put(new)]))
}

// Networks.

fn network_create(state: &State, ids: &mut IdSource, spec: &NetworkSpec) -> Result<Decision, CallError> {
    spec.validate()?;
    if state.network_by_name(&spec.name).is_some() {
        return Err(conflict(format!("network {} exists already: choose another name", spec.name)));
    }
    let network = new_network(state, spec.clone(), ids.id()).map_err(|e| conflict(e.to_string()))?;
    let id = network.id;
    let expects =
        vec![Expect::absent(Key::Network(id)), Expect::NameFree { kind: Kind::Network, name: spec.name.clone() }];
    Ok(propose(expects, vec![Change::put(network)], Answer::Plain(Reply::Network(id))))
}

fn network_remove(state: &State, name: &str) -> Result<Decision, CallError> {
    let network = state.find_network(name)?;
    if let Some(by) = state.network_user(network.id) {
        let user = match by {
            Key::Service(id) => {
                state.service(id).map_or_else(|| by.to_string(), |s| format!("service {}", s.spec.name))
            }
            Key::Task(id) => state
                .task(id)
                .map_or_else(|| by.to_string(), |t| format!("task {} of service {}", t.id, t.service_name)),
            Key::Attachment(id) => state.attachment(id).map_or_else(|| by.to_string(), |a| place_text(state, a)),
            other => other.to_string(),
        };
        return Err(conflict(format!("network {} is in use by {user}", network.spec.name)));
    }
    let key = Key::Network(network.id);
    let expects = vec![Expect::version(key, network.meta.version), Expect::NetworkUnused(network.id)];
    Ok(done(expects, vec![Change::Delete(key)]))
}

// Containers of no service on networks.

/// Names of one container on one network: its own, its short id, its host name, aliases.
const MOST_NAMES: usize = 64;
/// A name of DNS has 253 bytes at most (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;

fn place_text(state: &State, a: &Attachment) -> String {
    let node = state.node(a.node).map_or_else(|| a.node.to_string(), |n| n.description.hostname.clone());
    let name = a.names.first().unwrap_or(&a.container);
    format!("container {name} on node {node}")
}

/// What a node that goes gives back.
fn places_of(state: &State, node: NodeId) -> impl Iterator<Item = Change> {
    state.attachments_on_node(node).map(|a| Change::Delete(Key::Attachment(a.id)))
}

fn attach(state: &State, node: NodeId, r: &AttachRequest) -> Result<Decision, CallError> {
    node_by_id(state, node)?;
    if r.names.len() > MOST_NAMES || r.names.iter().any(|n| n.is_empty() || n.len() > LONGEST_NAME) {
        return Err(Invalid::new(
            "Aliases",
            format!("expected at most {MOST_NAMES} names of 1 to {LONGEST_NAME} bytes"),
        )
        .into());
    }
    if let Some(old) = state.attachment(r.id) {
        return renamed(old, node, r);
    }
    let network = state.find_network(&r.network)?;
    check_attachable(network)?;
    if let Some(ip) = r.ip {
        check_address(network, ip)?;
    }
    let attachment = Attachment {
        id: r.id,
        meta: Meta::default(),
        network: network.id,
        node,
        container: r.container.clone(),
        names: r.names.clone(),
        wanted_ip: r.ip,
        wanted_mac: r.mac,
        ip: None,
        refusal: String::new(),
    };
    let expects = vec![
        Expect::absent(Key::Attachment(r.id)),
        Expect::Exists(Key::Network(network.id)),
        Expect::Exists(Key::Node(node)),
    ];
    Ok(done(expects, vec![Change::put(attachment)]))
}

fn renamed(old: &Arc<Attachment>, node: NodeId, r: &AttachRequest) -> Result<Decision, CallError> {
    if old.node != node || old.container != r.container {
        return Err(conflict(format!("attachment {} belongs to another container", r.id)));
    }
    if old.names == r.names {
        return Ok(Decision::Nothing(Reply::Done));
    }
    let new = Attachment { names: r.names.clone(), ..Attachment::clone(old) };
    Ok(done(vec![Expect::version(Key::Attachment(old.id), old.meta.version)], vec![Change::put(new)]))
}

fn check_attachable(network: &Network) -> Result<(), CallError> {
    if network.spec.attachable && !network.ingress {
        return Ok(());
    }
    // Docker's words, which clients look for.
    let name = &network.spec.name;
    Err(CallError::Forbidden(format!(
        "Could not attach to network {name}: rpc error: code = PermissionDenied desc = network {name} not manually attachable"
    )))
}

fn check_address(network: &Network, ip: std::net::Ipv4Addr) -> Result<(), CallError> {
    let subnet = network.subnet;
    if !subnet.contains(ip) {
        let why = format!("invalid address {ip}: It does not belong to any of this network's subnets ({subnet})");
        return Err(Invalid::new("IPAMConfig.IPv4Address", why).into());
    }
    if ip == subnet.addr() || ip == subnet.broadcast() || ip == network.gateway {
        return Err(CallError::Forbidden("Address already in use".into()));
    }
    Ok(())
}

fn detach(state: &State, node: NodeId, ids: &[AttachmentId]) -> Decision {
    let own = ids.iter().filter(|id| state.attachment(**id).is_some_and(|a| a.node == node));
    let changes: Vec<_> = own.map(|id| Change::Delete(Key::Attachment(*id))).collect();
    if changes.is_empty() { Decision::Nothing(Reply::Done) } else { done(Vec::new(), changes) }
}
