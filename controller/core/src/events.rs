//! What an entry changed, in the words of Docker's events of scope `swarm`: for those who listen at a manager.
//!
//! Every manager tells the same of the same entry: an [`ClusterEvent::entry`] names an event in the whole cluster.

use muster_model::{
    cluster::{Network, Node, NodeState, Service, UpdateState},
    spec::{Availability, Mode},
};
use muster_state::{Applied, Event, Object};
use std::collections::BTreeMap;

/// Something that happened to a node, service or network of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterEvent {
    /// The index of its entry and its place among that entry's events.
    pub entry: (u64, u32),
    /// `node`, `service` or `network`.
    pub kind: &'static str,
    /// `create`, `update` or `remove`.
    pub action: &'static str,
    pub id: String,
    /// `name`, and what an update changed as `WHAT.old` and `WHAT.new`.
    pub attributes: BTreeMap<String, String>,
}

/// The events of an entry, in order. Tasks and attachments have none, as with Docker.
pub fn events_of(applied: &Applied) -> impl Iterator<Item = ClusterEvent> + '_ {
    let told = applied.events.iter().zip(0..).filter_map(|(event, place)| Some((event_of(event)?, place)));
    told.map(|(event, place)| ClusterEvent { entry: (applied.index, place), ..event })
}

fn event_of(event: &Event) -> Option<ClusterEvent> {
    let (before, after) = (event.before.as_ref(), event.after.as_ref());
    match after.or(before)? {
        Object::Node(_) => {
            let pair = Pair::of(before, after, node);
            Some(pair.told("node", |n| (n.id.to_string(), node_name(n)), node_changes))
        }
        Object::Network(_) => {
            let pair = Pair::of(before, after, network);
            Some(pair.told("network", |n| (n.id.to_string(), n.spec.name.clone()), |_, _, _| {}))
        }
        Object::Service(_) => {
            let pair = Pair::of(before, after, service);
            pair.is_any().then(|| pair.told("service", |s| (s.id.to_string(), s.spec.name.clone()), service_changes))
        }
        Object::Cluster(_) | Object::Task(_) | Object::Attachment(_) => None,
    }
}

fn node(object: &Object) -> Option<&Node> {
    if let Object::Node(node) = object { Some(node) } else { None }
}

fn network(object: &Object) -> Option<&Network> {
    if let Object::Network(network) = object { Some(network) } else { None }
}

/// One that is being removed is gone for people, though its tasks still have to end.
fn service(object: &Object) -> Option<&Service> {
    if let Object::Service(service) = object { Some(&**service).filter(|s| !s.removing) } else { None }
}

/// An object before and after.
struct Pair<'a, T> {
    before: Option<&'a T>,
    after: Option<&'a T>,
}

impl<'a, T> Pair<'a, T> {
    fn of(before: Option<&'a Object>, after: Option<&'a Object>, of: fn(&Object) -> Option<&T>) -> Self {
        Self { before: before.and_then(of), after: after.and_then(of) }
    }

    fn is_any(&self) -> bool {
        self.before.is_some() || self.after.is_some()
    }

    /// `name`: id and name. `changes`: what an update is to say besides.
    fn told(
        &self,
        kind: &'static str,
        name: impl Fn(&T) -> (String, String),
        changes: impl Fn(&T, &T, &mut Changes),
    ) -> ClusterEvent {
        let (id, name) = self.after.or(self.before).map(name).unwrap_or_default();
        let mut attributes = Changes(BTreeMap::from([("name".to_owned(), name)]));
        let action = match (self.before, self.after) {
            (Some(before), Some(after)) => {
                changes(before, after, &mut attributes);
                "update"
            }
            (None, _) => "create",
            (_, None) => "remove",
        };
        ClusterEvent { entry: (0, 0), kind, action, id, attributes: attributes.0 }
    }
}

/// Attributes of an update.
struct Changes(BTreeMap<String, String>);

impl Changes {
    /// An empty text stands for nothing and is not said.
    fn note(&mut self, what: &str, old: impl Into<String>, new: impl Into<String>) {
        let (old, new) = (old.into(), new.into());
        if old != new {
            let both = [("old", old), ("new", new)].into_iter().filter(|(_, value)| !value.is_empty());
            self.0.extend(both.map(|(which, value)| (format!("{what}.{which}"), value)));
        }
    }
}

fn node_name(node: &Node) -> String {
    if node.spec.name.is_empty() { node.description.hostname.clone() } else { node.spec.name.clone() }
}

fn node_changes(old: &Node, new: &Node, changes: &mut Changes) {
    changes.note("state", state(old.status.state), state(new.status.state));
    changes.note("availability", availability(old.spec.availability), availability(new.spec.availability));
    changes.note("role", old.role.as_str(), new.role.as_str());
}

fn service_changes(old: &Service, new: &Service, changes: &mut Changes) {
    let replicas = |s: &Service| match s.spec.mode {
        Mode::Replicated { replicas } => replicas.to_string(),
        Mode::Global => String::new(),
    };
    let update = |s: &Service| s.update_status.as_ref().map_or("", |u| update_state(u.state)).to_owned();
    changes.note("replicas", replicas(old), replicas(new));
    changes.note("image", &*old.spec.task.container.image, &*new.spec.task.container.image);
    changes.note("updatestate", update(old), update(new));
}

const fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Ready => "ready",
        NodeState::Down => "down",
    }
}

const fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

const fn update_state(state: UpdateState) -> &'static str {
    match state {
        UpdateState::Updating => "updating",
        UpdateState::Paused => "paused",
        UpdateState::Completed => "completed",
        UpdateState::RollbackStarted => "rollback_started",
        UpdateState::RollbackPaused => "rollback_paused",
        UpdateState::RollbackCompleted => "rollback_completed",
    }
}
