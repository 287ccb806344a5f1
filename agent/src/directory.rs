//! Which nodes there are and how to reach them, as the last assignments said: enough to pass calls on without a leader.

use crate::{host::Host, operator::Operator};
use arc_swap::ArcSwap;
use muster_calls::{Engine, Error, Kind, Result};
use muster_model::{
    NodeId,
    assignment::{Assignment, AssignmentSet, NodeAssignment},
    engine::ContainerNode,
};
use muster_mtls::{Expect, Tls};
use muster_proto::{RemoteEngine, Target};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;
use tonic::transport::Channel;

/// As whom the other nodes are asked.
#[derive(Clone)]
pub enum Asker {
    /// This node by its own certificate: what managers may. `caller`: on whose behalf.
    Node { caller: Option<String> },
    /// An operator, whose credential this host holds.
    Operator(Arc<Operator>),
}

/// The nodes of the cluster and a channel to each, dialled when first needed.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

/// Channels for calls to nodes' APIs, kept open between calls.
#[derive(Default)]
struct Channels {
    /// The installation of credentials that they were made under.
    credentials: u64,
    open: BTreeMap<(NodeId, String), Channel>,
}

struct Inner {
    me: NodeId,
    hostname: String,
    tls: Tls,
    local: Arc<dyn Engine>,
    nodes: ArcSwap<Vec<NodeAssignment>>,
    channels: Mutex<Channels>,
    changed: watch::Sender<()>,
}

/// A node as a place to send engine calls to.
#[derive(Clone)]
pub struct Place {
    pub id: NodeId,
    pub hostname: String,
    pub here: bool,
    /// The leader had a session with it when it last told us.
    pub ready: bool,
    /// Where its API is reached by others.
    pub addr: Option<SocketAddr>,
    pub engine: Arc<dyn Engine>,
}

impl Place {
    /// This host, member of a cluster or not.
    pub fn here(host: &Host) -> Self {
        let member = host.member();
        let directory = member.as_ref().map(|m| m.directory());
        Self {
            id: directory.map(Directory::me).unwrap_or_default(),
            hostname: host.config.hostname.clone(),
            here: true,
            ready: true,
            addr: directory.and_then(Directory::my_addr),
            engine: host.engine.clone(),
        }
    }

    /// An error of this node: one that is away is named.
    pub fn blamed(&self, e: Error) -> Error {
        match e.kind {
            Kind::Unavailable if !self.here => Error::unavailable(format!("node {}: {}", self.hostname, e.message)),
            _ => e,
        }
    }

    /// What `inspect` says of a container's node: the fields of Docker's classic Swarm.
    pub fn describe(&self) -> ContainerNode {
        ContainerNode {
            id: self.id.to_string(),
            name: self.hostname.clone(),
            ip: self.addr.map(|a| a.ip().to_string()).unwrap_or_default(),
            addr: self.addr.map(|a| a.to_string()).unwrap_or_default(),
        }
    }
}

impl Directory {
    pub fn new(me: NodeId, hostname: String, tls: Tls, local: Arc<dyn Engine>) -> Self {
        let (nodes, channels) = (ArcSwap::default(), Mutex::default());
        Self(Arc::new(Inner { me, hostname, tls, local, nodes, channels, changed: watch::channel(()).0 }))
    }

    /// Whether this node was told of a node of this id. Before it was told of any, it cannot say no.
    pub fn knows(&self, id: NodeId) -> bool {
        let nodes = self.0.nodes.load();
        nodes.is_empty() || nodes.iter().any(|n| n.id == id)
    }

    /// How many nodes there are, as far as this one was told.
    pub fn count(&self) -> usize {
        self.0.nodes.load().len().max(1)
    }

    pub fn me(&self) -> NodeId {
        self.0.me
    }

    fn my_addr(&self) -> Option<SocketAddr> {
        self.0.nodes.load().iter().find(|n| n.id == self.0.me).and_then(|n| n.api_addr)
    }

    /// Changes whenever nodes come, go or move.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    pub fn update(&self, set: &AssignmentSet) {
        let nodes = set.items.values().filter_map(|a| match a {
            Assignment::Node(n) => Some(n.clone()),
            _ => None,
        });
        let nodes: Vec<_> = nodes.collect();
        let mut channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.open.retain(|(id, addr), _| {
            nodes.iter().any(|n| n.id == *id && n.api_addr.is_some_and(|a| a.to_string() == *addr))
        });
        drop(channels);
        if **self.0.nodes.load() != nodes {
            self.0.nodes.store(Arc::new(nodes));
            self.0.changed.send_replace(());
        }
    }

    /// Every node, this one first.
    pub fn places(&self, asker: &Asker) -> Vec<Place> {
        let nodes = self.0.nodes.load_full();
        if let Asker::Operator(operator) = asker {
            operator.keep_nodes(|id, addr| nodes.iter().any(|n| n.id == id && n.api_addr == Some(addr)));
        }
        let here = Place {
            id: self.0.me,
            hostname: self.0.hostname.clone(),
            here: true,
            ready: true,
            addr: self.my_addr(),
            engine: self.0.local.clone(),
        };
        let others = nodes.iter().filter(|n| n.id != self.0.me).filter_map(|n| self.place(n, asker));
        std::iter::once(here).chain(others).collect()
    }

    /// The one node that `name` names: hostname, id or unambiguous id prefix.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` with the candidates.
    pub fn find(&self, name: &str, asker: &Asker) -> Result<Place> {
        let places = self.places(asker);
        let exact: Vec<&Place> = places.iter().filter(|p| p.hostname == name || p.id.to_string() == name).collect();
        let close = || places.iter().filter(|p| name.len() > 2 && p.id.to_string().starts_with(name)).collect();
        let found: Vec<&Place> = if exact.is_empty() { close() } else { exact };
        match found[..] {
            [one] => Ok(one.clone()),
            [] => Err(Error::not_found(format!("no such node: {name}"))),
            ref many => {
                let names: Vec<_> = many.iter().map(|p| format!("{} ({})", p.id, p.hostname)).collect();
                Err(Error::conflict(format!("node {name} is ambiguous: {}", names.join(", "))))
            }
        }
    }

    /// The node of this id.
    ///
    /// # Errors
    /// `Unavailable` when it is not known here or says no address.
    pub fn node(&self, id: NodeId, asker: &Asker) -> Result<Place> {
        let found = self.places(asker).into_iter().find(|p| p.id == id);
        found.ok_or_else(|| Error::unavailable(format!("node {id} is not known here")))
    }

    /// A channel to `node`'s API.
    fn channel(&self, node: &NodeAssignment) -> Option<Channel> {
        let addr = node.api_addr?.to_string();
        let mut channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        // New credentials: calls from now on go over new connections, the streams on the old ones go on.
        let current = *self.0.tls.installed().borrow();
        if channels.credentials != current {
            *channels = Channels { credentials: current, ..Channels::default() };
        }
        if let Some(channel) = channels.open.get(&(node.id, addr.clone())) {
            return Some(channel.clone());
        }
        let channel = self.0.tls.channel_lazy(&addr, Expect::Node(node.id)).ok()?;
        channels.open.insert((node.id, addr), channel.clone());
        Some(channel)
    }

    /// Channels to every other node: id, hostname, channel.
    pub fn channels(&self) -> Vec<(NodeId, String, Channel)> {
        let nodes = self.0.nodes.load_full();
        let others = nodes.iter().filter(|n| n.id != self.0.me);
        others.filter_map(|n| self.channel(n).map(|c| (n.id, n.hostname.clone(), c))).collect()
    }

    fn place(&self, node: &NodeAssignment, asker: &Asker) -> Option<Place> {
        let engine = match asker {
            Asker::Node { caller } => RemoteEngine::new(self.channel(node)?, Target::Here).on_behalf_of(caller.clone()),
            Asker::Operator(operator) => RemoteEngine::new(operator.node(node.id, node.api_addr?).ok()?, Target::Here),
        };
        let engine = Arc::new(engine);
        let (id, hostname) = (node.id, node.hostname.clone());
        Some(Place { id, hostname, here: false, ready: node.ready, addr: node.api_addr, engine })
    }
}
