//! A node for one container that belongs to no service: the filters and the spreading of services' tasks, for a request
//! that no task stands for.

use crate::{
    explain::Explanation,
    hosts::{Claim, Hosts},
    schedule::{Request, parsed_constraints},
    spread,
};
use muster_model::{NodeId, net::Protocol, spec::PublishMode};
use muster_state::State;
use std::collections::{BTreeMap, BTreeSet};

/// What a container asks.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub constraints: Vec<String>,
    /// Left out when nothing fits with them.
    pub preferred: Vec<String>,
    pub nano_cpus: u64,
    pub memory_bytes: u64,
    pub ports: Vec<(Protocol, u16)>,
    /// Needs a network that spans hosts.
    pub overlay: bool,
    /// Each names a thing and the nodes that have it.
    pub beside: Vec<(String, BTreeSet<NodeId>)>,
}

/// What containers hold on a node that no task of the state stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    pub containers: u32,
    pub nano_cpus: u64,
    pub memory_bytes: u64,
    pub ports: Vec<(Protocol, u16)>,
}

impl Extra {
    pub fn add(&mut self, other: &Self) {
        self.containers = self.containers.saturating_add(other.containers);
        self.nano_cpus = self.nano_cpus.saturating_add(other.nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.ports.extend(&other.ports);
    }
}

/// Why a container gets no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// Node by node.
    pub why: Explanation,
    /// A node that the leader has not heard from yet would suit: the answer may be another as soon as it has, or as the node
    /// counts as down.
    pub awaited: bool,
}

/// The least loaded node that passes all filters. Costs a walk over all tasks.
///
/// # Errors
/// None does.
pub fn place_single(state: &State, wish: &Wish, extras: &BTreeMap<NodeId, Extra>) -> Result<NodeId, Unplaced> {
    let mut hosts = Hosts::new(state);
    for (node, extra) in extras {
        hosts.burden(*node, extra);
    }
    // A published port of a service is answered on every node.
    let endpoints = state.services().flat_map(|s| &s.endpoint.ports);
    for port in endpoints.filter(|p| p.mode == PublishMode::Ingress) {
        hosts.ports.iter_mut().for_each(|ports| ports.push((port.protocol, port.published)));
    }
    let request = |constraints: &[String]| {
        let claim = Claim::sized(wish.nano_cpus, wish.memory_bytes, wish.ports.clone());
        Request::single(claim, parsed_constraints(constraints), wish.overlay, wish.beside.clone())
    };
    if !wish.preferred.is_empty() {
        let all: Vec<String> = wish.constraints.iter().chain(&wish.preferred).cloned().collect();
        if let Some(row) = spread::place(&request(&all), &mut hosts, 1).first() {
            return Ok(hosts.id[*row]);
        }
    }
    let request = request(&wish.constraints);
    match spread::place(&request, &mut hosts, 1).first() {
        Some(row) => Ok(hosts.id[*row]),
        None => Err(Unplaced { why: request.explain(&hosts, None), awaited: request.awaits(&hosts) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::{
        cluster::{Meta, Node, NodeDescription, NodeState, NodeStatus},
        spec::{Availability, NodeSpec, Role},
    };
    use muster_state::{Change, Entry, Group};

    const GIB: u64 = 1 << 30;

    fn cluster(availability: [Availability; 3]) -> State {
        let node = |(i, availability): (usize, Availability)| {
            Change::put(Node {
                id: NodeId::from_u128(i as u128 + 1),
                meta: Meta::default(),
                spec: NodeSpec { availability, ..NodeSpec::default() },
                role: Role::Manager,
                description: NodeDescription {
                    hostname: format!("host{}", i + 1),
                    nano_cpus: 4_000_000_000,
                    memory_bytes: 8 * GIB,
                    features: vec!["ebpf-overlay".to_owned()],
                    ..NodeDescription::default()
                },
                status: NodeStatus { state: NodeState::Ready, ..NodeStatus::default() },
                manager_addr: None,
            })
        };
        let changes = availability.into_iter().enumerate().map(node).collect();
        let mut state = State::new();
        let entry = Entry { groups: vec![Group { changes, ..Group::default() }], ..Entry::default() };
        state.apply(1, &entry).expect("applied");
        state
    }

    fn id(n: u128) -> NodeId {
        NodeId::from_u128(n)
    }

    fn place(wish: &Wish, loads: &[(u128, u32, u64)]) -> Result<NodeId, String> {
        let extras = loads.iter().map(|(n, containers, memory)| {
            (id(*n), Extra { containers: *containers, memory_bytes: *memory, ..Extra::default() })
        });
        let state = cluster([Availability::Active, Availability::Active, Availability::Active]);
        place_single(&state, wish, &extras.collect()).map_err(|e| e.why.to_string())
    }

    #[test]
    fn the_least_loaded_node_is_taken() {
        assert_eq!(place(&Wish::default(), &[(1, 2, 0), (2, 1, 0), (3, 2, 0)]), Ok(id(2)));
    }

    #[test]
    fn room_that_running_containers_hold_is_not_given_twice() {
        let wish = Wish { memory_bytes: 3 * GIB, ..Wish::default() };
        assert_eq!(place(&wish, &[(1, 0, 6 * GIB), (2, 0, 6 * GIB), (3, 9, 5 * GIB)]), Ok(id(3)));
        assert_eq!(
            place(&wish, &[(1, 0, 6 * GIB), (2, 0, 6 * GIB), (3, 9, 6 * GIB)]),
            Err("no suitable node (3 of 3: insufficient memory, need 3 GiB [host1, host2, host3])".to_owned())
        );
    }

    #[test]
    fn what_must_be_beside_it_decides_before_the_load() {
        let beside = vec![("volume data".to_owned(), BTreeSet::from([id(3)]))];
        let wish = Wish { beside, ..Wish::default() };
        assert_eq!(place(&wish, &[(3, 50, 0)]), Ok(id(3)));
        let wish = Wish { constraints: vec!["node.hostname==host1".to_owned()], ..wish };
        assert_eq!(
            place(&wish, &[]),
            Err("no suitable node (2 of 3: constraint node.hostname==host1 not met [host2, host3]; \
                 1 of 3: volume data is not there [host1])"
                .to_owned())
        );
    }

    #[test]
    fn a_preference_gives_way_and_a_constraint_does_not() {
        let prefers = |host: &str| vec![format!("node.hostname=={host}")];
        let wish = Wish { preferred: prefers("host3"), ..Wish::default() };
        assert_eq!(place(&wish, &[(3, 9, 0)]), Ok(id(3)));
        let wish = Wish { preferred: prefers("host9"), ..Wish::default() };
        assert_eq!(place(&wish, &[(1, 1, 0), (2, 1, 0)]), Ok(id(3)));
    }

    #[test]
    fn a_node_that_the_leader_has_not_heard_from_is_waited_for_where_it_would_suit() {
        let mut state = cluster([Availability::Active, Availability::Active, Availability::Drain]);
        for (index, (node, is)) in [(1, NodeState::Unknown), (2, NodeState::Down)].into_iter().enumerate() {
            let status = NodeStatus { state: is, ..NodeStatus::default() };
            let changes = vec![Change::NodeStatus { node: id(node), status, description: None }];
            let entry = Entry { groups: vec![Group { changes, ..Group::default() }], ..Entry::default() };
            state.apply(index as u64 + 2, &entry).expect("applied");
        }
        let on = |host: &str| Wish { constraints: vec![format!("node.hostname=={host}")], ..Wish::default() };
        let place = |wish: &Wish| place_single(&state, wish, &BTreeMap::new()).expect_err("none is ready");
        let refused = place(&Wish::default());
        assert!(refused.awaited);
        assert_eq!(
            refused.why.to_string(),
            "no suitable node (1 of 3: not ready [host2]; 1 of 3: not heard from yet [host1]; 1 of 3: drained [host3])"
        );
        assert!(place(&on("host1")).awaited);
        assert!(!place(&on("host2")).awaited, "it is down");
        assert!(!place(&Wish { memory_bytes: 9 * GIB, ..Wish::default() }).awaited, "it is too small, ready or not");
    }

    #[test]
    fn drained_and_paused_nodes_are_never_taken() {
        let state = cluster([Availability::Drain, Availability::Active, Availability::Pause]);
        let extras = BTreeMap::from([(id(2), Extra { containers: 40, ..Extra::default() })]);
        assert_eq!(place_single(&state, &Wish::default(), &extras), Ok(id(2)));
        let wish = Wish { constraints: vec!["node.hostname!=host2".to_owned()], ..Wish::default() };
        let why = place_single(&state, &wish, &extras).expect_err("none").why.to_string();
        assert!(why.contains("drained [host1]") && why.contains("paused [host3]"), "{why}");
    }

    #[test]
    fn a_host_port_is_one_containers() {
        let state = cluster([Availability::Active, Availability::Drain, Availability::Drain]);
        let ports = vec![(Protocol::Tcp, 80)];
        let wish = Wish { ports: ports.clone(), ..Wish::default() };
        let extras = BTreeMap::from([(id(1), Extra { ports, ..Extra::default() })]);
        assert_eq!(place_single(&state, &wish, &BTreeMap::new()), Ok(id(1)));
        let why = place_single(&state, &wish, &extras).expect_err("taken").why.to_string();
        assert!(why.contains("host port 80/tcp in use [host1]"), "{why}");
    }
}
