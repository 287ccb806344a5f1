//! Spreading: which of the nodes that suit a task gets it.
//!
//! First over the values of the attributes the user named, then to the node with fewest tasks of this service, then to
//! the one with fewest tasks of all. A node where tasks of the service failed again and again comes last.

use crate::{
    hosts::{Hosts, Row},
    schedule::{Request, value},
};
use muster_model::{NodeId, spec::Attribute};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// Dead tasks of the service on a node from which on the node is tried last. As SwarmKit, so that one broken host does not
/// eat every attempt.
const TOO_MANY_FAILURES: u32 = 5;

/// The smaller, the better: failing or not, tasks of the service, tasks of all; then the id, so that the choice does not
/// depend on the order of rows.
type Key = (u64, NodeId);

fn key(hosts: &Hosts, row: Row) -> Key {
    (rank(hosts.failures[row], hosts.own[row], hosts.load[row]), hosts.id[row])
}

fn rank(failures: u32, own: u32, load: u32) -> u64 {
    let failing = u64::from(failures >= TOO_MANY_FAILURES);
    failing << 63 | u64::from(own.min(i32::MAX as u32)) << 32 | u64::from(load)
}

/// Picks nodes for up to `count` tasks with these demands and takes room there. Fewer rows than `count`: the rest fits
/// nowhere.
pub(crate) fn place(request: &Request, hosts: &mut Hosts, count: usize) -> Vec<Row> {
    if request.spread_over.is_empty() {
        return flat(request, hosts, count);
    }
    let candidates: Vec<Row> = (0..hosts.id.len()).filter(|row| request.fits(hosts, *row)).collect();
    let mut tree = Tree::new(&request.spread_over, hosts, candidates);
    let mut placed = Vec::new();
    while placed.len() < count
        && let Some(row) = tree.take(request, hosts)
    {
        placed.push(row);
    }
    placed
}

fn flat(request: &Request, hosts: &mut Hosts, count: usize) -> Vec<Row> {
    let mut heap: BinaryHeap<Reverse<(Key, Row)>> = best(request, hosts, count).into_iter().map(Reverse).collect();
    let mut placed = Vec::with_capacity(count.min(1 << 16));
    while placed.len() < count
        && let Some(Reverse((_, row))) = heap.pop()
    {
        take(request, hosts, row);
        placed.push(row);
        if request.fits_load(hosts, row) {
            heap.push(Reverse((key(hosts, row), row)));
        }
    }
    placed
}

/// The `count` best rows, in no order: more are never needed for as many tasks, since a row gets its first task before any
/// worse one does. One walk over the columns; filters that cost something are asked only of rows that would be taken.
fn best(request: &Request, hosts: &Hosts, count: usize) -> BinaryHeap<(Key, Row)> {
    // Who needs nothing fits also where more is reserved than there is.
    let least = |need: i64| if need == 0 { i64::MIN } else { need };
    let (cpu, memory) = (least(request.claim().cpu), least(request.claim().memory));
    let rows = hosts
        .open
        .iter()
        .zip(&hosts.free_cpu)
        .zip(&hosts.free_memory)
        .zip(&hosts.own)
        .zip(&hosts.load)
        .zip(&hosts.failures);
    let mut kept: BinaryHeap<(Key, Row)> = BinaryHeap::new();
    // The worst that is kept, once there are enough.
    let mut bound: Option<Key> = None;
    for (row, (((((open, free_cpu), free_memory), own), load), failures)) in rows.enumerate() {
        let rank = rank(*failures, *own, *load);
        if !*open || *free_cpu < cpu || *free_memory < memory || bound.is_some_and(|b| rank > b.0) {
            continue;
        }
        let key = (rank, hosts.id[row]);
        if bound.is_some_and(|b| key > b) || !request.fits(hosts, row) {
            continue;
        }
        if bound.is_some() {
            kept.pop();
        }
        kept.push((key, row));
        if kept.len() >= count {
            bound = kept.peek().map(|(key, _)| *key);
        }
    }
    kept
}

fn take(request: &Request, hosts: &mut Hosts, row: Row) {
    hosts.take(row, request.claim());
    hosts.own[row] += 1;
}

/// Nodes by the values of the spread attributes, one level each.
enum Tree {
    Leaf(BinaryHeap<Reverse<(Key, Row)>>),
    Branch(BTreeMap<String, Branch>),
}

struct Branch {
    /// Tasks of the service below.
    own: u64,
    below: Tree,
}

impl Tree {
    fn new(levels: &[Attribute], hosts: &Hosts, rows: Vec<Row>) -> Self {
        let Some((first, rest)) = levels.split_first() else {
            return Self::Leaf(rows.into_iter().map(|row| Reverse((key(hosts, row), row))).collect());
        };
        let mut by_value: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for row in rows {
            let value = hosts.node[row].as_ref().map(|n| value(first, n)).unwrap_or_default();
            by_value.entry(value).or_default().push(row);
        }
        let branch = |(value, rows): (String, Vec<Row>)| {
            let own = rows.iter().map(|row| u64::from(hosts.own[*row])).sum();
            (value, Branch { own, below: Self::new(rest, hosts, rows) })
        };
        Self::Branch(by_value.into_iter().map(branch).collect())
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(heap) => heap.is_empty(),
            Self::Branch(branches) => branches.is_empty(),
        }
    }

    fn take(&mut self, request: &Request, hosts: &mut Hosts) -> Option<Row> {
        match self {
            Self::Leaf(heap) => {
                let Reverse((_, row)) = heap.pop()?;
                take(request, hosts, row);
                if request.fits_load(hosts, row) {
                    heap.push(Reverse((key(hosts, row), row)));
                }
                Some(row)
            }
            Self::Branch(branches) => {
                let value = branches.iter().min_by_key(|(_, b)| b.own).map(|(v, _)| v.clone())?;
                let branch = branches.get_mut(&value)?;
                let row = branch.below.take(request, hosts);
                branch.own += 1;
                if branch.below.is_empty() {
                    branches.remove(&value);
                }
                row
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::{
        cluster::{Meta, Node, NodeDescription, NodeState, NodeStatus, Task, TaskStatus},
        spec::{NodeSpec, Role},
    };
    use muster_state::{Change, Entry, Group, State};

    fn node(n: u128, cpus: u64) -> Node {
        Node {
            id: NodeId::from_u128(n),
            meta: Meta::default(),
            spec: NodeSpec::default(),
            role: Role::Worker,
            description: NodeDescription { nano_cpus: cpus, ..Default::default() },
            status: NodeStatus { state: NodeState::Ready, ..Default::default() },
            manager_addr: None,
        }
    }

    fn task(cpus: u64) -> Task {
        let mut spec = muster_model::spec::TaskSpec::default();
        spec.resources.reservations.nano_cpus = cpus;
        Task {
            id: Default::default(),
            meta: Meta::default(),
            service: Default::default(),
            service_name: String::new(),
            slot: 1,
            node: None,
            spec: spec.into(),
            spec_version: Default::default(),
            desired: Default::default(),
            status: TaskStatus::default(),
            addresses: vec![],
            host_ports: vec![],
            trace_parent: None,
        }
    }

    /// The rule itself: always the least loaded node that fits.
    fn plain(request: &Request, hosts: &mut Hosts, count: usize) -> Vec<Row> {
        let mut placed = Vec::new();
        while placed.len() < count
            && let Some(row) =
                (0..hosts.id.len()).filter(|row| request.fits(hosts, *row)).min_by_key(|row| key(hosts, *row))
        {
            take(request, hosts, row);
            placed.push(row);
        }
        placed
    }

    #[test]
    fn the_fast_walk_places_as_the_plain_rule_does() {
        for seed in 0..200u64 {
            let dice =
                |n: u64, sides: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(n as u32 * 7 + 3) % sides;
            let mut state = State::new();
            let nodes = (1..=1 + dice(1, 12)).map(|n| Change::put(node(n.into(), dice(n, 9)))).collect();
            let entry = Entry { groups: vec![Group { changes: nodes, ..Group::default() }], ..Entry::default() };
            state.apply(1, &entry).expect("applied");
            let (mut fast, mut slow) = (Hosts::new(&state), Hosts::new(&state));
            for round in 0..4 {
                let request = Request::new(&task(dice(round, 4)));
                let count = dice(round + 9, 15) as usize;
                assert_eq!(place(&request, &mut fast, count), plain(&request, &mut slow, count), "seed {seed}");
            }
        }
    }
}
