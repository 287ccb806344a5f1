//! The only function that changes a table.

use crate::{
    Applied, ApplyError, Change, Entry, Event, Expect, Group, HashCheck, Ignored, Key, Kind, Object, Outcome,
    Rejection, State, tables::ingress_ports,
};
use muster_model::{
    NetworkId, NodeId, ServiceId, TaskId, Timestamp,
    cluster::{Attachment, Meta, Network, Node, NodeDescription, NodeStatus, Service, Task, TaskStatus, Version},
    net::Protocol,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How many indexes back a [`HashCheck`] can be compared.
const HISTORY: usize = 512;

impl State {
    /// Applies the entry at `index` of the log. A group whose expectations do not hold is refused as a whole and changes
    /// nothing; the others go on.
    ///
    /// # Errors
    /// [`ApplyError::OutOfOrder`]: the index is not above the last one. [`ApplyError::Divergence`]: this replica is not
    /// what the leader's was. Nothing was changed; the replica must stop.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Result<Applied, ApplyError> {
        if index <= self.index {
            return Err(ApplyError::OutOfOrder { index, applied: self.index });
        }
        if let Some(check) = entry.check {
            self.compare(check)?;
        }
        self.index = index;
        self.time = entry.time.max(self.time.after(Duration::from_nanos(1)));
        let mut applied = Applied { index, time: self.time, ..Applied::default() };
        for group in &entry.groups {
            let outcome = match self.check(group) {
                Err(rejection) => Outcome::Rejected(rejection),
                Ok(()) => Outcome::Done { ignored: self.change_all(group, &mut applied.events) },
            };
            applied.outcomes.push(outcome);
        }
        self.history.push_back((index, self.hash));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        Ok(applied)
    }

    /// The hash after the entry at `index`, if it is not too long ago.
    pub fn hash_at(&self, index: u64) -> Option<crate::StateHash> {
        let position = self.history.binary_search_by_key(&index, |(i, _)| *i).ok()?;
        self.history.get(position).map(|(_, hash)| *hash)
    }

    fn compare(&self, check: HashCheck) -> Result<(), ApplyError> {
        match self.hash_at(check.index) {
            Some(found) if found != check.hash => {
                Err(ApplyError::Divergence { index: check.index, expected: check.hash, found })
            }
            _ => Ok(()),
        }
    }

    fn check(&self, group: &Group) -> Result<(), Rejection> {
        group.expects.iter().try_for_each(|e| self.check_expect(e))?;
        let mut together = Together::default();
        for change in &group.changes {
            if let Change::Put(object) = change {
                self.check_put(object)?;
                together.check(object)?;
            }
        }
        Ok(())
    }

    fn check_expect(&self, expect: &Expect) -> Result<(), Rejection> {
        match expect {
            Expect::Version { key, version } => {
                let found = self.version(*key);
                if found == *version {
                    return Ok(());
                }
                Err(Rejection::Version { key: *key, expected: *version, found })
            }
            Expect::Exists(key) if self.version(*key) == Version::ABSENT => Err(Rejection::Missing(*key)),
            Expect::Exists(_) => Ok(()),
            Expect::NameFree { kind, name } => match self.named(*kind, name) {
                Some(by) => Err(Rejection::NameTaken { kind: *kind, name: name.clone(), by }),
                None => Ok(()),
            },
            Expect::NetworkUnused(network) => match self.network_user(*network) {
                Some(by) => Err(Rejection::NetworkUsed { network: *network, by }),
                None => Ok(()),
            },
        }
    }

    /// The version of the object's desired half; [`Version::ABSENT`] when there is none.
    pub fn version(&self, key: Key) -> Version {
        self.object(key).map_or(Version::ABSENT, |o| o.version())
    }

    fn named(&self, kind: Kind, name: &str) -> Option<Key> {
        match kind {
            Kind::Service => self.service_names.get(name).copied().map(Key::Service),
            Kind::Network => self.network_names.get(name).copied().map(Key::Network),
        }
    }

    /// Somebody who keeps the network from being removed: a service that names it or has an address on it, a task that
    /// still exists with one, or a container of no service.
    pub fn network_user(&self, network: NetworkId) -> Option<Key> {
        let id = network.to_string();
        let names =
            |s: &Service| s.spec.task.networks.iter().any(|n| n.target == id) || s.endpoint.vips.contains_key(&network);
        if let Some(service) = self.services().find(|s| names(s)) {
            return Some(Key::Service(service.id));
        }
        let holds = |t: &Task| !t.status.state.is_terminal() && t.addresses.iter().any(|a| a.network == network);
        let task = self.tasks().find(|t| holds(t)).map(|t| Key::Task(t.id));
        task.or_else(|| self.attachments().find(|a| a.network == network).map(|a| Key::Attachment(a.id)))
    }

    fn check_put(&self, object: &Object) -> Result<(), Rejection> {
        let key = object.key();
        if let Some((kind, name)) = object.unique_name()
            && let Some(by) = self.named(kind, name)
            && by != key
        {
            return Err(Rejection::NameTaken { kind, name: name.to_owned(), by });
        }
        match object {
            Object::Service(service) if !service.removing => self.check_ports(service),
            Object::Network(network) => {
                self.networks().filter(|n| n.id != network.id).try_for_each(|other| check_networks(other, network))
            }
            Object::Task(task) => self.task(task.id).map_or(Ok(()), |old| check_task(old, task)),
            Object::Attachment(new) => self.attachment(new.id).map_or(Ok(()), |old| check_attachment(old, new)),
            Object::Cluster(_) | Object::Node(_) | Object::Service(_) => Ok(()),
        }
    }

    fn check_ports(&self, service: &Service) -> Result<(), Rejection> {
        for (protocol, port) in ingress_ports(service) {
            if let Some(by) = self.ports.get(&(protocol, port)).copied()
                && by != service.id
            {
                return Err(Rejection::PortTaken { protocol, port, by });
            }
        }
        Ok(())
    }

    fn change_all(&mut self, group: &Group, events: &mut Vec<Event>) -> Vec<Ignored> {
        let mut ignored = Vec::new();
        for change in &group.changes {
            match self.change(change) {
                Ok(event) => events.push(event),
                Err(why) => ignored.push(why),
            }
        }
        ignored
    }

    fn change(&mut self, change: &Change) -> Result<Event, Ignored> {
        match change {
            Change::Put(object) => {
                let key = object.key();
                let before = self.object(key);
                let after = self.stamped(object, before.as_ref());
                Ok(self.replace(key, before, after))
            }
            Change::TaskStatus { task, status } => self.task_status(*task, status),
            Change::NodeStatus { node, status, description } => self.node_status(*node, status, description.as_ref()),
            Change::Delete(key) => match self.remove(*key) {
                None => Err(Ignored::Gone(*key)),
                before => Ok(Event { key: *key, before, after: None }),
            },
        }
    }

    fn replace(&mut self, key: Key, before: Option<Object>, after: Object) -> Event {
        self.insert(after);
        // Read back: the table may share what the caller's copy held alone.
        let after = self.object(key);
        Event { key, before, after }
    }

    fn task_status(&mut self, id: TaskId, status: &TaskStatus) -> Result<Event, Ignored> {
        let key = Key::Task(id);
        let old = self.task(id).ok_or(Ignored::Gone(key))?.clone();
        if old.status == *status {
            return Err(Ignored::Same(key));
        }
        if !follows(&old.status, status) {
            return Err(Ignored::Backward(key));
        }
        let mut new = Task::clone(&old);
        new.status = status.clone();
        new.meta.updated_at = self.time;
        Ok(self.replace(key, Some(Object::Task(old)), new.into()))
    }

    fn node_status(
        &mut self,
        id: NodeId,
        status: &NodeStatus,
        description: Option<&Arc<NodeDescription>>,
    ) -> Result<Event, Ignored> {
        let key = Key::Node(id);
        let old = self.node(id).ok_or(Ignored::Gone(key))?.clone();
        let mut new = Node::clone(&old);
        new.status = status.clone();
        if let Some(description) = description {
            new.description = NodeDescription::clone(description);
        }
        if new == *old {
            return Err(Ignored::Same(key));
        }
        new.meta.updated_at = self.time;
        Ok(self.replace(key, Some(Object::Node(old)), new.into()))
    }

    /// The object as it is stored: with its `Meta`, and with the observed half that is known.
    fn stamped(&self, object: &Object, before: Option<&Object>) -> Object {
        match (object.clone(), before) {
            (Object::Cluster(mut o), before) => {
                let old = before.and_then(|b| if let Object::Cluster(c) = b { Some(c.meta) } else { None });
                Arc::make_mut(&mut o).meta = self.meta(old);
                Object::Cluster(o)
            }
            (Object::Node(mut o), before) => {
                let old = before.and_then(|b| if let Object::Node(n) = b { Some(n) } else { None });
                let new = Arc::make_mut(&mut o);
                new.meta = self.meta(old.map(|n| n.meta));
                if let Some(old) = old {
                    new.description = old.description.clone();
                    new.status = old.status.clone();
                }
                Object::Node(o)
            }
            (Object::Service(mut o), before) => {
                let old = before.and_then(|b| if let Object::Service(s) = b { Some(s) } else { None });
                let new = Arc::make_mut(&mut o);
                new.meta = self.meta(old.map(|s| s.meta));
                new.spec_version = match old {
                    Some(old) if old.spec.task == new.spec.task => old.spec_version,
                    _ => Version(self.index),
                };
                Object::Service(o)
            }
            (Object::Network(mut o), before) => {
                let old = before.and_then(|b| if let Object::Network(n) = b { Some(n.meta) } else { None });
                Arc::make_mut(&mut o).meta = self.meta(old);
                Object::Network(o)
            }
            (Object::Attachment(mut o), before) => {
                let old = before.and_then(|b| if let Object::Attachment(a) = b { Some(a.meta) } else { None });
                Arc::make_mut(&mut o).meta = self.meta(old);
                Object::Attachment(o)
            }
            (Object::Task(mut o), before) => {
                let old = before.and_then(|b| if let Object::Task(t) = b { Some(t) } else { None });
                let new = Arc::make_mut(&mut o);
                new.meta = self.meta(old.map(|t| t.meta));
                match old {
                    Some(old) => new.status = old.status.clone(),
                    None if new.status.at == Timestamp::ZERO => new.status.at = self.time,
                    None => {}
                }
                Object::Task(o)
            }
        }
    }

    fn meta(&self, old: Option<Meta>) -> Meta {
        Meta {
            version: Version(self.index),
            created_at: old.map_or(self.time, |m| m.created_at),
            updated_at: self.time,
        }
    }
}

/// Whether a status may come after another: further in life, or the same state seen later. What has ended stays as it
/// ended, unless the node was lost.
fn follows(old: &TaskStatus, new: &TaskStatus) -> bool {
    if old.state.is_terminal() {
        return false;
    }
    new.state > old.state || (new.state == old.state && new.at >= old.at)
}

fn check_task(old: &Task, new: &Task) -> Result<(), Rejection> {
    let refuse = |field| Err(Rejection::Immutable { key: Key::Task(old.id), field });
    if new.service != old.service {
        return refuse("service");
    }
    if new.slot != old.slot {
        return refuse("slot");
    }
    if old.node.is_some() && new.node != old.node {
        return refuse("node");
    }
    if new.desired < old.desired {
        return refuse("desired state back");
    }
    Ok(())
}

/// A place never moves: not to another network, node, container or address.
fn check_attachment(old: &Attachment, new: &Attachment) -> Result<(), Rejection> {
    let refuse = |field| Err(Rejection::Immutable { key: Key::Attachment(old.id), field });
    if new.network != old.network {
        return refuse("network");
    }
    if new.node != old.node {
        return refuse("node");
    }
    if new.container != old.container {
        return refuse("container");
    }
    if old.ip.is_some() && new.ip != old.ip {
        return refuse("address");
    }
    Ok(())
}

/// What the objects of one group claim, so that two of them do not claim the same. Tasks are many and claim nothing.
#[derive(Default)]
struct Together<'a> {
    names: BTreeMap<(Kind, &'a str), Key>,
    ports: BTreeMap<(Protocol, u16), ServiceId>,
    networks: Vec<&'a Network>,
}

impl<'a> Together<'a> {
    fn check(&mut self, object: &'a Object) -> Result<(), Rejection> {
        let key = object.key();
        if let Some((kind, name)) = object.unique_name() {
            let by = *self.names.entry((kind, name)).or_insert(key);
            if by != key {
                return Err(Rejection::NameTaken { kind, name: name.to_owned(), by });
            }
        }
        match object {
            Object::Service(service) if !service.removing => {
                for (protocol, port) in ingress_ports(service) {
                    let by = *self.ports.entry((protocol, port)).or_insert(service.id);
                    if by != service.id {
                        return Err(Rejection::PortTaken { protocol, port, by });
                    }
                }
            }
            Object::Network(network) => {
                self.networks
                    .iter()
                    .filter(|n| n.id != network.id)
                    .try_for_each(|other| check_networks(other, network))?;
                self.networks.push(network);
            }
            _ => {}
        }
        Ok(())
    }
}

fn check_networks(old: &Network, new: &Network) -> Result<(), Rejection> {
    if old.vni == new.vni {
        return Err(Rejection::VniTaken { vni: new.vni, by: old.id });
    }
    if old.subnet.overlaps(new.subnet) {
        return Err(Rejection::SubnetTaken { subnet: new.subnet, with: old.subnet, by: old.id });
    }
    Ok(())
}
