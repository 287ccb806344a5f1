//! What must hold, always. Each is checked where it could break, and named when it does.

use muster_consensus::{Committed, Payload};
use muster_model::{
    NodeId, TaskId,
    cluster::{Task, TaskState},
};
use muster_state::{Applied, Key, Object, State, StateHash};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A promise that was broken, for people.
pub type Broken = String;

/// Sees everything that every manager does.
#[derive(Debug, Default)]
pub struct Checker {
    hashes: BTreeMap<u64, StateHash>,
    committed: BTreeMap<u64, (u64, u64)>,
    leaders: BTreeMap<u64, usize>,
    /// The highest index that was looked at in depth.
    deep: u64,
    /// Entries committed, at least on one node.
    pub commits: u64,
}

impl Checker {
    /// One leader per term.
    pub fn leads(&mut self, host: usize, term: u64) -> Result<(), Broken> {
        match *self.leaders.entry(term).or_insert(host) {
            first if first == host => Ok(()),
            first => Err(format!("two leaders in term {term}: hosts {first} and {host}")),
        }
    }

    /// The highest term that anybody has led in.
    pub fn newest_term(&self) -> u64 {
        self.leaders.keys().next_back().copied().unwrap_or_default()
    }

    /// Committed entries are the same everywhere and for ever.
    pub fn committed(&mut self, host: usize, entry: &Committed) -> Result<(), Broken> {
        let mut hasher = DefaultHasher::new();
        match &entry.payload {
            Payload::Empty => 0.hash(&mut hasher),
            Payload::Normal(bytes) => bytes.hash(&mut hasher),
            Payload::Membership { change, membership, accepted, .. } => {
                (change, membership, accepted).hash(&mut hasher);
            }
        }
        let now = (entry.term, hasher.finish());
        let first = self.committed.entry(entry.index).or_insert_with(|| {
            self.commits += 1;
            now
        });
        if *first == now {
            return Ok(());
        }
        Err(format!(
            "entry {} of term {} on host {host} is another than the one committed before, of term {}: an \
             acknowledged entry was lost",
            entry.index, entry.term, first.0
        ))
    }

    /// Equal index, equal state.
    pub fn state(&mut self, host: usize, state: &State) -> Result<(), Broken> {
        let hash = state.hash();
        match self.hashes.entry(state.index()).or_insert(hash) {
            first if *first == hash => Ok(()),
            first => Err(format!("host {host} at index {} has state {hash:?}, others had {first:?}", state.index())),
        }
    }

    /// An entry was applied; what it changed is looked at the first time that it is.
    pub fn applied(&mut self, host: usize, state: &State, applied: &Applied) -> Result<(), Broken> {
        self.state(host, state)?;
        if applied.index <= self.deep {
            return Ok(());
        }
        self.deep = applied.index;
        let mut tasks_changed = false;
        for event in &applied.events {
            match event.key {
                Key::Task(id) => {
                    tasks_changed = true;
                    monotone(id, event.before.as_ref(), event.after.as_ref())?;
                }
                Key::Attachment(_) => tasks_changed = true,
                _ => {}
            }
        }
        if tasks_changed {
            addresses(state)?;
            capacity(state)?;
        }
        Ok(())
    }
}

/// A task's states never go back, and it never moves.
fn monotone(id: TaskId, before: Option<&Object>, after: Option<&Object>) -> Result<(), Broken> {
    let (Some(Object::Task(before)), Some(Object::Task(after))) = (before, after) else { return Ok(()) };
    if after.status.state < before.status.state {
        return Err(format!("task {id} went back from {:?} to {:?}", before.status.state, after.status.state));
    }
    if after.desired < before.desired {
        return Err(format!("task {id}: desired state went back from {:?} to {:?}", before.desired, after.desired));
    }
    if before.node.is_some() && after.node != before.node {
        return Err(format!("task {id} moved from {:?} to {:?}", before.node, after.node));
    }
    Ok(())
}

fn is_live(task: &Task) -> bool {
    !task.status.state.is_terminal()
}

/// No address twice among live tasks, services and places of other containers.
fn addresses(state: &State) -> Result<(), Broken> {
    let mut seen = BTreeSet::new();
    for service in state.services() {
        for (network, ip) in &service.endpoint.vips {
            if !seen.insert((*network, *ip)) {
                return Err(format!("address {ip} is given twice, to service {} too", service.spec.name));
            }
        }
    }
    for place in state.attachments() {
        if let Some(ip) = place.ip.filter(|ip| !seen.insert((place.network, *ip))) {
            return Err(format!("address {ip} is given twice, to {} too", place.container));
        }
    }
    for task in state.tasks().filter(|task| is_live(task)) {
        for address in &task.addresses {
            if !seen.insert((address.network, address.ip)) {
                return Err(format!("address {} is given twice, to task {} too", address.ip, task.id));
            }
        }
    }
    Ok(())
}

/// Reservations fit the nodes.
fn capacity(state: &State) -> Result<(), Broken> {
    let mut taken: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for task in state.tasks().filter(|t| is_live(t) && t.status.state >= TaskState::Assigned) {
        let Some(node) = task.node else { continue };
        let sum = taken.entry(node).or_default();
        sum.0 += task.spec.resources.reservations.nano_cpus;
        sum.1 += task.spec.resources.reservations.memory_bytes;
    }
    for (id, (cpu, memory)) in taken {
        let Some(node) = state.node(id) else { continue };
        let has = &node.description;
        if cpu > has.nano_cpus || memory > has.memory_bytes {
            return Err(format!(
                "node {} has {} nano-CPUs and {} bytes, its tasks reserve {cpu} and {memory}",
                has.hostname, has.nano_cpus, has.memory_bytes
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_consensus::Bytes;
    use std::sync::Arc;

    fn entry(index: u64, term: u64, data: &'static str) -> Committed {
        Committed { index, term, payload: Payload::Normal(Bytes::from_static(data.as_bytes())) }
    }

    #[test]
    fn two_leaders_in_one_term_are_noticed() {
        let mut checker = Checker::default();
        assert_eq!(checker.leads(1, 7), Ok(()));
        assert_eq!(checker.leads(1, 7), Ok(()));
        assert_eq!(checker.leads(2, 8), Ok(()));
        assert!(checker.leads(2, 7).expect_err("noticed").contains("two leaders in term 7"));
    }

    #[test]
    fn an_entry_that_is_another_on_another_host_is_noticed() {
        let mut checker = Checker::default();
        assert_eq!(checker.committed(0, &entry(3, 2, "a")), Ok(()));
        assert_eq!(checker.committed(1, &entry(3, 2, "a")), Ok(()));
        assert!(checker.committed(2, &entry(3, 2, "b")).is_err());
        assert!(checker.committed(2, &entry(3, 3, "a")).is_err());
        assert_eq!(checker.commits, 1);
    }

    #[test]
    fn a_task_that_goes_back_or_moves_is_noticed() {
        let task = |state, desired, node| {
            let mut task = sample();
            task.status.state = state;
            task.desired = desired;
            task.node = Some(NodeId::from_u128(node));
            Object::Task(Arc::new(task))
        };
        let check = |before: Object, after: Object| monotone(TaskId::from_u128(1), Some(&before), Some(&after));
        let running = || task(TaskState::Running, TaskState::Running, 1);
        assert_eq!(check(running(), task(TaskState::Failed, TaskState::Shutdown, 1)), Ok(()));
        assert!(check(running(), task(TaskState::Starting, TaskState::Running, 1)).is_err());
        assert!(check(task(TaskState::Running, TaskState::Shutdown, 1), running()).is_err());
        assert!(check(running(), task(TaskState::Running, TaskState::Running, 2)).is_err());
    }

    fn sample() -> Task {
        Task {
            id: TaskId::from_u128(1),
            meta: Default::default(),
            service: Default::default(),
            service_name: "web".into(),
            slot: 1,
            node: None,
            spec: Default::default(),
            spec_version: Default::default(),
            desired: TaskState::Running,
            status: Default::default(),
            addresses: Vec::new(),
            host_ports: Vec::new(),
            trace_parent: None,
        }
    }
}
