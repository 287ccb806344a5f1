//! What each node must know, and the deltas that tell it.
//!
//! A node is told of: the other nodes; its tasks; the places of its containers; the networks these are in, and those that published ports lead through; the
//! services of these networks with their backends; and where the endpoints of these networks are. A network that a node
//! has tasks in comes with all its endpoints, one that only published ports lead through with those of the backends.
//!
//! Events say which nodes may be touched; those sets are computed anew and compared with what was sent.

use crate::{Effect, Effects, SessionId};
use muster_model::{
    AttachmentId, NetworkId, NodeId, ServiceId, TaskId,
    assignment::{
        Assignment, AssignmentKey, AssignmentSet, AssignmentUpdate, EndpointAssignment, NetworkAssignment,
        NodeAssignment, ServiceAssignment,
    },
    cluster::{Attachment, Network, Node, NodeState, Service, Task, TaskState, TaskStatus},
    spec::PublishMode,
};
use muster_state::{Event, Object, State};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

/// What the nodes with a session were sent, and who shares networks with whom.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    sent: BTreeMap<NodeId, Sent>,
    dirty: BTreeSet<NodeId>,
    /// Who has an address on a network, by node.
    residents: BTreeMap<NetworkId, BTreeMap<NodeId, BTreeSet<Resident>>>,
    /// Services on a network.
    services: BTreeMap<NetworkId, BTreeSet<ServiceId>>,
    /// The same by service.
    networks: BTreeMap<ServiceId, BTreeSet<NetworkId>>,
    /// Services that every node answers for, by the network they lead through.
    published: BTreeMap<NetworkId, BTreeSet<ServiceId>>,
}

/// Who has an address: a live task, or a container of no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Resident {
    Task(TaskId),
    Attachment(AttachmentId),
}

#[derive(Debug)]
struct Sent {
    session: SessionId,
    set: AssignmentSet,
    /// Nothing was sent in this session yet, or the node lost track.
    whole: bool,
}

/// What is computed once in a round, however many nodes are told.
#[derive(Default)]
struct Round {
    services: BTreeMap<ServiceId, Option<ServiceAssignment>>,
    /// Endpoints of a network, all or only those of backends.
    endpoints: BTreeMap<(NetworkId, bool), Rc<Vec<EndpointAssignment>>>,
}

impl Dispatch {
    pub fn new(state: &State) -> Self {
        let mut dispatch = Self::default();
        state.services().for_each(|s| dispatch.add_service(state, s));
        state.tasks().for_each(|t| dispatch.add_task(t));
        state.attachments().for_each(|a| dispatch.add_attachment(a));
        dispatch
    }

    pub fn opened(&mut self, node: NodeId, session: SessionId) {
        self.sent.insert(node, Sent { session, set: AssignmentSet::default(), whole: true });
        self.dirty.insert(node);
    }

    pub fn closed(&mut self, node: NodeId, session: SessionId) {
        if self.sent.get(&node).is_some_and(|s| s.session == session) {
            self.sent.remove(&node);
        }
    }

    pub fn resync(&mut self, node: NodeId, session: SessionId) {
        if let Some(sent) = self.sent.get_mut(&node).filter(|s| s.session == session) {
            sent.whole = true;
            self.dirty.insert(node);
        }
    }

    /// Takes in what an entry changed. `state` is as after all of it.
    pub fn applied(&mut self, state: &State, events: &[Event]) {
        for event in events {
            match (&event.before, &event.after) {
                (before, after @ Some(Object::Task(_))) | (before @ Some(Object::Task(_)), after) => {
                    self.task_changed(as_task(before), as_task(after));
                }
                (before, after @ Some(Object::Service(_))) | (before @ Some(Object::Service(_)), after) => {
                    self.service_changed(state, as_service(before), as_service(after));
                }
                (before, after @ Some(Object::Node(_))) | (before @ Some(Object::Node(_)), after) => {
                    self.node_changed(as_node(before), as_node(after));
                }
                (before, after @ Some(Object::Attachment(_))) | (before @ Some(Object::Attachment(_)), after) => {
                    self.attachment_changed(as_attachment(before), as_attachment(after));
                }
                (_, Some(Object::Network(n))) | (Some(Object::Network(n)), None) => self.touch_network(n.id),
                _ => {}
            }
        }
    }

    fn task_changed(&mut self, before: Option<&Task>, after: Option<&Task>) {
        if let (Some(b), Some(a)) = (before, after)
            && told(b) == told(a)
            && is_backend(b) == is_backend(a)
            && is_live(b) == is_live(a)
        {
            return;
        }
        for t in before.iter().chain(&after) {
            self.dirty.extend(t.node);
        }
        let seen = |t: Option<&Task>| t.map(|t| (is_live(t), is_backend(t), t.addresses.clone()));
        if seen(before) == seen(after) {
            return;
        }
        if let Some(t) = before {
            self.remove_task(t);
        }
        if let Some(t) = after {
            self.add_task(t);
        }
        let mut networks: BTreeSet<NetworkId> =
            before.iter().chain(&after).flat_map(|t| t.addresses.iter().map(|a| a.network)).collect();
        // A task of an older spec may have no address on a network where its service is known.
        for t in before.iter().chain(&after) {
            networks.extend(self.networks.get(&t.service).into_iter().flatten());
        }
        networks.into_iter().for_each(|n| self.touch_network(n));
    }

    fn attachment_changed(&mut self, before: Option<&Attachment>, after: Option<&Attachment>) {
        if let Some(a) = before {
            self.remove_resident(a.network, a.node, Resident::Attachment(a.id));
        }
        if let Some(a) = after {
            self.add_attachment(a);
        }
        for a in before.iter().chain(&after) {
            self.dirty.insert(a.node);
            self.touch_network(a.network);
        }
    }

    fn service_changed(&mut self, state: &State, before: Option<&Service>, after: Option<&Service>) {
        if let Some(s) = before {
            self.touch_service(state, s);
            self.remove_service(s.id);
        }
        if let Some(s) = after {
            self.add_service(state, s);
            self.touch_service(state, s);
        }
    }

    fn node_changed(&mut self, before: Option<&Node>, after: Option<&Node>) {
        if before.map(member) != after.map(member) {
            // Every node knows of every other.
            self.dirty.extend(self.sent.keys());
        }
        let seen = |n: Option<&Node>| n.map(|n| (n.status.state == NodeState::Down, n.description.vtep));
        if seen(before) == seen(after) {
            return;
        }
        let Some(id) = after.or(before).map(|n| n.id) else { return };
        self.dirty.insert(id);
        let shared: Vec<NetworkId> =
            self.residents.iter().filter(|(_, by_node)| by_node.contains_key(&id)).map(|(n, _)| *n).collect();
        shared.into_iter().for_each(|n| self.touch_network(n));
    }

    /// Everybody who knows of this network.
    fn touch_network(&mut self, network: NetworkId) {
        if self.published.get(&network).is_some_and(|s| !s.is_empty()) {
            self.dirty.extend(self.sent.keys());
        } else if let Some(by_node) = self.residents.get(&network) {
            self.dirty.extend(by_node.keys());
        }
    }

    fn touch_service(&mut self, state: &State, service: &Service) {
        if publishes(service) {
            self.dirty.extend(self.sent.keys());
            return;
        }
        networks_of(state, service).into_iter().for_each(|n| self.touch_network(n));
    }

    fn add_task(&mut self, task: &Task) {
        if let Some(node) = task.node.filter(|_| is_live(task)) {
            for a in &task.addresses {
                self.add_resident(a.network, node, Resident::Task(task.id));
            }
        }
    }

    fn remove_task(&mut self, task: &Task) {
        let Some(node) = task.node else { return };
        for a in &task.addresses {
            self.remove_resident(a.network, node, Resident::Task(task.id));
        }
    }

    fn add_attachment(&mut self, attachment: &Attachment) {
        if attachment.ip.is_some() {
            self.add_resident(attachment.network, attachment.node, Resident::Attachment(attachment.id));
        }
    }

    fn add_resident(&mut self, network: NetworkId, node: NodeId, who: Resident) {
        self.residents.entry(network).or_default().entry(node).or_default().insert(who);
    }

    fn remove_resident(&mut self, network: NetworkId, node: NodeId, who: Resident) {
        let Some(by_node) = self.residents.get_mut(&network) else { return };
        if let Some(residents) = by_node.get_mut(&node) {
            residents.remove(&who);
            if residents.is_empty() {
                by_node.remove(&node);
                // It leaves the network, and is told so.
                self.dirty.insert(node);
            }
        }
        if by_node.is_empty() {
            self.residents.remove(&network);
        }
    }

    fn add_service(&mut self, state: &State, service: &Service) {
        if service.removing {
            return;
        }
        let networks = networks_of(state, service);
        for network in &networks {
            self.services.entry(*network).or_default().insert(service.id);
        }
        self.networks.insert(service.id, networks);
        if let Some(network) = ingress_network(state, service) {
            self.published.entry(network).or_default().insert(service.id);
        }
    }

    fn remove_service(&mut self, id: ServiceId) {
        for network in self.networks.remove(&id).unwrap_or_default() {
            for index in [&mut self.services, &mut self.published] {
                if let Some(services) = index.get_mut(&network) {
                    services.remove(&id);
                    if services.is_empty() {
                        index.remove(&network);
                    }
                }
            }
        }
    }

    /// Sends what touched nodes do not know yet.
    pub fn send(&mut self, state: &State, out: &mut Effects) {
        if self.dirty.is_empty() {
            return;
        }
        let mut round = Round::default();
        for node in std::mem::take(&mut self.dirty) {
            let Some(mut sent) = self.sent.remove(&node) else { continue };
            let mut next =
                AssignmentSet { generation: sent.set.generation + 1, items: self.items(state, node, &mut round) };
            let update =
                if sent.whole { Some(AssignmentUpdate::Whole(next.clone())) } else { sent.set.delta_to(&next) };
            match update {
                Some(update) => out.push(Effect::SendAssignments { node, session: sent.session, update }),
                None => next.generation = sent.set.generation,
            }
            sent.set = next;
            sent.whole = false;
            self.sent.insert(node, sent);
        }
    }

    fn items(&self, state: &State, node: NodeId, round: &mut Round) -> BTreeMap<AssignmentKey, Assignment> {
        let mut items: Vec<Assignment> = state.nodes().map(|n| Assignment::Node(member(n))).collect();
        let tasks = state.tasks_on_node(node).filter(|t| t.status.state >= TaskState::Assigned);
        items.extend(tasks.map(|t| Assignment::Task(Arc::new(told(t)))));
        let places = state.attachments_on_node(node).filter(|a| !a.is_pending());
        items.extend(places.cloned().map(Assignment::Attachment));
        let local: BTreeSet<NetworkId> =
            self.residents.iter().filter(|(_, by_node)| by_node.contains_key(&node)).map(|(n, _)| *n).collect();
        let known: BTreeSet<NetworkId> = local.iter().chain(self.published.keys()).copied().collect();
        items.extend(known.iter().filter_map(|n| state.network(*n)).map(|n| Assignment::Network(network(n))));
        let here = local.iter().filter_map(|n| self.services.get(n)).flatten();
        let services: BTreeSet<ServiceId> = here.chain(self.published.values().flatten()).copied().collect();
        for id in services {
            let assignment = round.services.entry(id).or_insert_with(|| state.service(id).map(|s| service(state, s)));
            items.extend(assignment.clone().map(Assignment::Service));
        }
        for id in known {
            let which = (id, !local.contains(&id));
            let all = round.endpoints.entry(which).or_insert_with(|| Rc::new(self.endpoints(state, which))).clone();
            items.extend(all.iter().filter(|e| e.node != node).cloned().map(Assignment::Endpoint));
        }
        items.into_iter().map(|a| (a.key(), a)).collect()
    }

    fn endpoints(&self, state: &State, (id, only_backends): (NetworkId, bool)) -> Vec<EndpointAssignment> {
        let mut endpoints = Vec::new();
        for (node, residents) in self.residents.get(&id).into_iter().flatten() {
            let Some((host, vtep)) = state.node(*node).and_then(|n| Some((n, n.description.vtep?))) else { continue };
            let endpoint = |ip, mac, names| EndpointAssignment { network: id, ip, mac, node: *node, vtep, names };
            for resident in residents {
                match resident {
                    Resident::Task(task) => {
                        let task = state.task(*task).filter(|t| !only_backends || is_backend(t));
                        let here = task.iter().flat_map(|t| &t.addresses).filter(|a| a.network == id);
                        endpoints.extend(here.map(|a| endpoint(a.ip, a.mac, Vec::new())));
                    }
                    Resident::Attachment(_) if only_backends => {}
                    Resident::Attachment(a) => {
                        let Some(a) = state.attachment(*a) else { continue };
                        // Nobody is to be sent to a host that does not answer.
                        let names = if host.status.state == NodeState::Down { Vec::new() } else { a.names.clone() };
                        endpoints.extend(a.ip.zip(a.mac()).map(|(ip, mac)| endpoint(ip, mac, names)));
                    }
                }
            }
        }
        endpoints
    }
}

fn as_task(o: &Option<Object>) -> Option<&Task> {
    if let Some(Object::Task(t)) = o { Some(t) } else { None }
}

fn as_attachment(o: &Option<Object>) -> Option<&Attachment> {
    if let Some(Object::Attachment(a)) = o { Some(a) } else { None }
}

fn as_service(o: &Option<Object>) -> Option<&Service> {
    if let Some(Object::Service(s)) = o { Some(s) } else { None }
}

fn as_node(o: &Option<Object>) -> Option<&Node> {
    if let Some(Object::Node(n)) = o { Some(n) } else { None }
}

/// Has an address that others may send to: given to a node, and not known to have ended.
fn is_live(task: &Task) -> bool {
    task.node.is_some() && task.status.state >= TaskState::Assigned && !task.status.state.is_terminal()
}

/// Runs and is to keep running.
fn is_backend(task: &Task) -> bool {
    task.status.state == TaskState::Running && task.desired <= TaskState::Running
}

/// A task as its node is told of it: without what the node itself reported. That it has ended is said, so that a node
/// that lost its records does not start it again; that it was orphaned is not, for it may still run there.
fn told(task: &Task) -> Task {
    let mut told = task.clone();
    let state = match task.status.state {
        TaskState::Orphaned => TaskState::Assigned,
        ended if ended.is_terminal() => ended,
        other => other.min(TaskState::Assigned),
    };
    told.status = TaskStatus { state, ..TaskStatus::default() };
    told.meta.updated_at = told.meta.created_at;
    told
}

fn publishes(service: &Service) -> bool {
    service.spec.endpoint.ports.iter().any(|p| p.mode == PublishMode::Ingress)
}

/// The network that the service's ingress ports lead through: its first, else the ingress network.
fn ingress_network(state: &State, service: &Service) -> Option<NetworkId> {
    if !publishes(service) {
        return None;
    }
    let first = service.spec.task.networks.first().and_then(|n| n.target.parse().ok());
    first.or_else(|| state.ingress_network().map(|n| n.id))
}

fn networks_of(state: &State, service: &Service) -> BTreeSet<NetworkId> {
    let named = service.spec.task.networks.iter().filter_map(|n| n.target.parse().ok());
    named.chain(service.endpoint.vips.keys().copied()).chain(ingress_network(state, service)).collect()
}

fn member(n: &Node) -> NodeAssignment {
    NodeAssignment {
        id: n.id,
        hostname: n.description.hostname.clone(),
        api_addr: n.description.api_addr,
        vtep: n.description.vtep,
        ready: n.status.state == NodeState::Ready,
    }
}

fn network(n: &Network) -> NetworkAssignment {
    NetworkAssignment {
        id: n.id,
        name: n.spec.name.clone(),
        vni: n.vni,
        subnet: n.subnet,
        gateway: n.gateway,
        internal: n.spec.internal,
    }
}

fn service(state: &State, s: &Service) -> ServiceAssignment {
    let mut aliases: BTreeMap<NetworkId, BTreeSet<String>> = BTreeMap::new();
    for n in &s.spec.task.networks {
        if let (Ok(id), false) = (n.target.parse(), n.aliases.is_empty()) {
            aliases.entry(id).or_default().extend(n.aliases.iter().cloned());
        }
    }
    let networks = networks_of(state, s);
    let mut backends: BTreeMap<NetworkId, BTreeSet<std::net::Ipv4Addr>> = BTreeMap::new();
    for task in state.tasks_of_service(s.id).filter(|t| is_backend(t)) {
        let down = task.node.and_then(|n| state.node(n)).is_none_or(|n| n.status.state == NodeState::Down);
        if !down {
            for a in task.addresses.iter().filter(|a| networks.contains(&a.network)) {
                backends.entry(a.network).or_default().insert(a.ip);
            }
        }
    }
    ServiceAssignment {
        id: s.id,
        name: s.spec.name.clone(),
        mode: s.spec.endpoint.mode,
        vips: s.endpoint.vips.clone(),
        aliases,
        backends,
        ports: s.endpoint.ports.iter().filter(|p| p.mode == PublishMode::Ingress).copied().collect(),
        ingress_network: ingress_network(state, s),
    }
}
