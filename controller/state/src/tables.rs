//! The tables and their indexes, and how to read them.

use crate::{Key, Object, StateHash, digest, record::SpecKey};
use imbl::{OrdMap, OrdSet, Vector};
use muster_model::{
    AttachmentId, NetworkId, NodeId, ServiceId, TaskId, Timestamp,
    cluster::{Attachment, Cluster, Network, Node, Service, Task},
    net::Protocol,
    spec::{PublishMode, TaskSpec},
};
use std::sync::Arc;

/// One object with its share of the state hash.
#[derive(Clone, Debug)]
pub(crate) struct Row<T> {
    pub object: Arc<T>,
    pub digest: u128,
}

/// A task spec that tasks share.
#[derive(Clone, Debug)]
pub(crate) struct SpecRow {
    pub spec: Arc<TaskSpec>,
    pub digest: u128,
    /// Tasks that hold this very `Arc`.
    pub users: usize,
}

/// The tables. Cloning is O(1) and gives an independent state (see [`State::snapshot`]).
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) index: u64,
    pub(crate) time: Timestamp,
    pub(crate) hash: StateHash,
    /// Hashes at recent indexes, oldest first.
    pub(crate) history: Vector<(u64, StateHash)>,
    pub(crate) cluster: Option<Row<Cluster>>,
    pub(crate) nodes: OrdMap<NodeId, Row<Node>>,
    pub(crate) services: OrdMap<ServiceId, Row<Service>>,
    pub(crate) networks: OrdMap<NetworkId, Row<Network>>,
    pub(crate) tasks: OrdMap<TaskId, Row<Task>>,
    pub(crate) attachments: OrdMap<AttachmentId, Row<Attachment>>,
    pub(crate) specs: OrdMap<SpecKey, SpecRow>,
    pub(crate) service_names: OrdMap<String, ServiceId>,
    pub(crate) network_names: OrdMap<String, NetworkId>,
    pub(crate) hostnames: OrdSet<(String, NodeId)>,
    pub(crate) ports: OrdMap<(Protocol, u16), ServiceId>,
    pub(crate) by_slot: OrdSet<(ServiceId, u64, TaskId)>,
    pub(crate) by_node: OrdSet<(NodeId, TaskId)>,
    pub(crate) attached: OrdSet<(NodeId, AttachmentId)>,
}

impl State {
    /// Nothing at all, as before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tables as they are now, in O(1); what is applied to `self` later is not seen by it.
    pub fn snapshot(&self) -> Self {
        self.clone()
    }

    /// The last entry applied; 0: none.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The time of the last entry applied.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Equal for replicas that have applied the same entries.
    pub fn hash(&self) -> StateHash {
        self.hash
    }

    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref().map(|r| &r.object)
    }

    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id).map(|r| &r.object)
    }

    /// In the order of their ids, as all lists here.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values().map(|r| &r.object)
    }

    /// Hostnames are not unique.
    pub fn nodes_by_hostname<'a>(&'a self, hostname: &str) -> impl Iterator<Item = &'a Arc<Node>> {
        let (from, to) =
            ((hostname.to_owned(), NodeId::from_u128(0)), (hostname.to_owned(), NodeId::from_u128(u128::MAX)));
        self.hostnames.range(from..=to).filter_map(|(_, id)| self.node(*id))
    }

    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id).map(|r| &r.object)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().map(|r| &r.object)
    }

    /// Not one that is being removed: it has given up its name.
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.service_names.get(name).and_then(|id| self.service(*id))
    }

    /// The service that publishes this port on every node.
    pub fn service_by_port(&self, protocol: Protocol, port: u16) -> Option<&Arc<Service>> {
        self.ports.get(&(protocol, port)).and_then(|id| self.service(*id))
    }

    pub fn network(&self, id: NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(&id).map(|r| &r.object)
    }

    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values().map(|r| &r.object)
    }

    pub fn network_by_name(&self, name: &str) -> Option<&Arc<Network>> {
        self.network_names.get(name).and_then(|id| self.network(*id))
    }

    /// The network that published ports of services without a network of their own lead through, if one was made.
    pub fn ingress_network(&self) -> Option<&Arc<Network>> {
        self.networks().find(|n| n.ingress)
    }

    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id).map(|r| &r.object)
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().map(|r| &r.object)
    }

    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// By slot, then by id.
    pub fn tasks_of_service(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.slots(service, 0, u64::MAX)
    }

    pub fn tasks_of_slot(&self, service: ServiceId, slot: u64) -> impl Iterator<Item = &Arc<Task>> {
        self.slots(service, slot, slot)
    }

    fn slots(&self, service: ServiceId, from: u64, to: u64) -> impl Iterator<Item = &Arc<Task>> {
        let range = (service, from, TaskId::from_u128(0))..=(service, to, TaskId::from_u128(u128::MAX));
        self.by_slot.range(range).filter_map(|(_, _, id)| self.task(*id))
    }

    pub fn tasks_on_node(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let range = (node, TaskId::from_u128(0))..=(node, TaskId::from_u128(u128::MAX));
        self.by_node.range(range).filter_map(|(_, id)| self.task(*id))
    }

    pub fn attachment(&self, id: AttachmentId) -> Option<&Arc<Attachment>> {
        self.attachments.get(&id).map(|r| &r.object)
    }

    pub fn attachments(&self) -> impl Iterator<Item = &Arc<Attachment>> {
        self.attachments.values().map(|r| &r.object)
    }

    pub fn attachments_on_node(&self, node: NodeId) -> impl Iterator<Item = &Arc<Attachment>> {
        let range = (node, AttachmentId::from_u128(0))..=(node, AttachmentId::from_u128(u128::MAX));
        self.attached.range(range).filter_map(|(_, id)| self.attachment(*id))
    }

    pub fn object(&self, key: Key) -> Option<Object> {
        match key {
            Key::Cluster => self.cluster().cloned().map(Object::Cluster),
            Key::Node(id) => self.node(id).cloned().map(Object::Node),
            Key::Service(id) => self.service(id).cloned().map(Object::Service),
            Key::Network(id) => self.network(id).cloned().map(Object::Network),
            Key::Task(id) => self.task(id).cloned().map(Object::Task),
            Key::Attachment(id) => self.attachment(id).cloned().map(Object::Attachment),
        }
    }

    /// Puts an object into its table and the indexes, in place of the one of the same key.
    pub(crate) fn insert(&mut self, object: Object) {
        let key = object.key();
        let object = match object {
            Object::Task(task) => match self.replace_task(task) {
                None => return,
                Some(task) => Object::Task(task),
            },
            other => other,
        };
        self.remove(key);
        match object {
            Object::Cluster(o) => {
                let row = self.row(key, o);
                self.cluster = Some(row);
            }
            Object::Node(o) => {
                self.hostnames.insert((o.description.hostname.clone(), o.id));
                let row = self.row(key, o);
                self.nodes.insert(row.object.id, row);
            }
            Object::Service(o) => {
                if !o.removing {
                    self.service_names.insert(o.spec.name.clone(), o.id);
                    for port in ingress_ports(&o) {
                        self.ports.insert(port, o.id);
                    }
                }
                let row = self.row(key, o);
                self.services.insert(row.object.id, row);
            }
            Object::Network(o) => {
                self.network_names.insert(o.spec.name.clone(), o.id);
                let row = self.row(key, o);
                self.networks.insert(row.object.id, row);
            }
            Object::Task(o) => self.insert_task(o),
            Object::Attachment(o) => {
                self.attached.insert((o.node, o.id));
                let row = self.row(key, o);
                self.attachments.insert(row.object.id, row);
            }
        }
    }

    fn row<T: serde::Serialize>(&mut self, key: Key, object: Arc<T>) -> Row<T> {
        let digest = digest::object(key, &*object);
        self.hash.add(digest);
        Row { object, digest }
    }

    /// The common case: a task is put again with the same place and spec, so that no index changes. Gives it back if not.
    fn replace_task(&mut self, mut task: Arc<Task>) -> Option<Arc<Task>> {
        let Some(row) = self.tasks.get_mut(&task.id) else { return Some(task) };
        let old = &row.object;
        let same_place = (old.service, old.slot, old.node) == (task.service, task.slot, task.node);
        if !same_place || old.spec_version != task.spec_version || old.spec != task.spec {
            return Some(task);
        }
        if !Arc::ptr_eq(&old.spec, &task.spec) {
            Arc::make_mut(&mut task).spec = old.spec.clone();
        }
        let shared = self.specs.get(&(task.service, task.spec_version)).filter(|s| Arc::ptr_eq(&s.spec, &task.spec));
        let spec = shared.map_or_else(|| digest::spec(&task.spec), |s| s.digest);
        let digest = digest::task(&task, spec);
        self.hash.sub(row.digest);
        self.hash.add(digest);
        *row = Row { object: task, digest };
        None
    }

    fn insert_task(&mut self, mut task: Arc<Task>) {
        let spec = self.share_spec(&mut task);
        let digest = digest::task(&task, spec);
        self.hash.add(digest);
        self.by_slot.insert((task.service, task.slot, task.id));
        if let Some(node) = task.node {
            self.by_node.insert((node, task.id));
        }
        self.tasks.insert(task.id, Row { object: task, digest });
    }

    /// Makes the task hold the `Arc` that others of its service hold already, and returns the spec's digest.
    fn share_spec(&mut self, task: &mut Arc<Task>) -> u128 {
        let key = (task.service, task.spec_version);
        match self.specs.get_mut(&key) {
            None => {
                let digest = digest::spec(&task.spec);
                self.specs.insert(key, SpecRow { spec: task.spec.clone(), digest, users: 1 });
                digest
            }
            Some(row) if Arc::ptr_eq(&row.spec, &task.spec) => {
                row.users += 1;
                row.digest
            }
            Some(row) if row.spec == task.spec => {
                row.users += 1;
                Arc::make_mut(task).spec = row.spec.clone();
                row.digest
            }
            Some(_) => digest::spec(&task.spec),
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Object> {
        match key {
            Key::Cluster => self.cluster.take().map(|row| {
                self.hash.sub(row.digest);
                Object::Cluster(row.object)
            }),
            Key::Node(id) => self.nodes.remove(&id).map(|row| {
                self.hash.sub(row.digest);
                self.hostnames.remove(&(row.object.description.hostname.clone(), id));
                Object::Node(row.object)
            }),
            Key::Service(id) => self.services.remove(&id).map(|row| {
                self.hash.sub(row.digest);
                self.unname_service(&row.object);
                Object::Service(row.object)
            }),
            Key::Network(id) => self.networks.remove(&id).map(|row| {
                self.hash.sub(row.digest);
                self.network_names.remove(&row.object.spec.name);
                Object::Network(row.object)
            }),
            Key::Task(id) => self.tasks.remove(&id).map(|row| {
                self.hash.sub(row.digest);
                self.unindex_task(&row.object);
                Object::Task(row.object)
            }),
            Key::Attachment(id) => self.attachments.remove(&id).map(|row| {
                self.hash.sub(row.digest);
                self.attached.remove(&(row.object.node, id));
                Object::Attachment(row.object)
            }),
        }
    }

    fn unname_service(&mut self, service: &Service) {
        if service.removing {
            return;
        }
        self.service_names.remove(&service.spec.name);
        for port in ingress_ports(service) {
            self.ports.remove(&port);
        }
    }

    fn unindex_task(&mut self, task: &Task) {
        self.by_slot.remove(&(task.service, task.slot, task.id));
        if let Some(node) = task.node {
            self.by_node.remove(&(node, task.id));
        }
        let key = (task.service, task.spec_version);
        if let Some(row) = self.specs.get_mut(&key)
            && Arc::ptr_eq(&row.spec, &task.spec)
        {
            row.users -= 1;
            if row.users == 0 {
                self.specs.remove(&key);
            }
        }
    }
}

/// The ports that a service holds on every node: those it asks for by number and those it was given.
pub(crate) fn ingress_ports(service: &Service) -> impl Iterator<Item = (Protocol, u16)> {
    let asked = service.spec.endpoint.ports.iter().map(|p| (p.mode, p.protocol, p.published));
    let given = service.endpoint.ports.iter().map(|p| (p.mode, p.protocol, p.published));
    asked
        .chain(given)
        .filter(|(mode, _, port)| *mode == PublishMode::Ingress && *port != 0)
        .map(|(_, protocol, port)| (protocol, port))
}
