//! Containers that are being made: which node and name each was promised, so that two hosts that place at once do not take
//! one name or one piece of room twice.
//!
//! Only the leader's are asked, and they live in its memory: a new leader begins without. A claim ends by itself, since who
//! made it may be gone. One that was settled holds on to its name as long: a host that asked its nodes before the container
//! was made must still hear of it. Who finds after such a refusal that the container is gone says so, and gets the name. Room
//! and name of a container that its node says was removed are free at once.

use muster_calls::{Ask, Error, Placed, name_taken};
use muster_controller_core::{Extra, Unplaced, Wish, place_single};
use muster_model::NodeId;
use muster_state::State;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a claim counts. Longer than a survey of all nodes and the making of a container take together, and shorter than
/// what an engine calls recent ([`muster_calls::Load::recent`]).
const LIFE: Duration = Duration::from_secs(30);

/// The claims of one leader.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    next: u64,
    open: BTreeMap<u64, Claim>,
}

#[derive(Debug)]
struct Claim {
    name: Option<String>,
    node: NodeId,
    holds: Extra,
    /// The container that came of it: where its node lists it, it is not counted twice.
    container: Option<String>,
    until: Instant,
}

/// A placement that came to nothing.
#[derive(Debug)]
pub(crate) struct Refused {
    pub error: Error,
    /// It is so only because this leader does not know all nodes yet: see [`Unplaced`].
    pub awaited: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, awaited: false }
    }
}

impl From<Unplaced> for Refused {
    fn from(Unplaced { why, awaited }: Unplaced) -> Self {
        Self { error: Error::conflict(why.to_string()), awaited }
    }
}

impl Claims {
    /// No claims yet. `first` is drawn: a claim of the leader before must not be taken for one of this one's.
    pub fn starting_at(first: u64) -> Self {
        Self { next: first, open: BTreeMap::new() }
    }

    /// Finds a node and keeps name and room for the container.
    ///
    /// # Errors
    /// `Conflict` with the reasons, or when the name is promised to another.
    pub fn place(&mut self, now: Instant, state: &State, ask: Ask) -> Result<Placed, Refused> {
        self.open.retain(|_, c| c.until > now && !is_gone(c, &ask));
        if let Some(name) = &ask.name
            && let Some(claim) = self.open.values().find(|c| c.name.as_ref() == Some(name))
        {
            let by = claim.container.as_deref().unwrap_or("that is being made");
            return Err(name_taken(name, by, "").into());
        }
        let (node, holds) = match ask.only_name_on {
            Some(node) => (node, Extra::default()),
            None => {
                let extras = self.extras(&ask);
                let node = place_single(state, &wish(&ask), &extras)?;
                let (nano_cpus, memory_bytes) = (ask.nano_cpus, ask.memory_bytes);
                (node, Extra { containers: 1, nano_cpus, memory_bytes, ports: ask.ports })
            }
        };
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, Claim { name: ask.name, node, holds, container: None, until: now + LIFE });
        Ok(Placed { node, claim: self.next })
    }

    /// What became of a claim. One that is not known has run out, or was another leader's.
    pub fn settle(&mut self, claim: u64, container: Option<String>) {
        match (container, self.open.get_mut(&claim)) {
            (None, _) => drop(self.open.remove(&claim)),
            (made, Some(claim)) => claim.container = made,
            (Some(_), None) => {}
        }
    }

    /// What the nodes say and what they cannot know yet.
    fn extras(&self, ask: &Ask) -> BTreeMap<NodeId, Extra> {
        let said = ask.loads.iter().map(|(node, load)| {
            let extra = Extra {
                containers: load.containers,
                nano_cpus: load.nano_cpus,
                memory_bytes: load.memory_bytes,
                ports: load.ports.clone(),
            };
            (*node, extra)
        });
        let mut extras: BTreeMap<_, _> = said.collect();
        for claim in self.open.values() {
            let listed = |id: &String| ask.loads.get(&claim.node).is_some_and(|load| load.recent.contains(id));
            if !claim.container.as_ref().is_some_and(listed) {
                extras.entry(claim.node).or_default().add(&claim.holds);
            }
        }
        extras
    }
}

/// Whether a claim's container has gone, or has another name, by what its own node said to the one that asks.
fn is_gone(claim: &Claim, ask: &Ask) -> bool {
    let (Some(id), Some(load)) = (&claim.container, ask.loads.get(&claim.node)) else { return false };
    load.gone.contains(id) || (ask.gone.contains(id) && claim.name == ask.name)
}

fn wish(ask: &Ask) -> Wish {
    let answered = ("the engine's answer".to_owned(), ask.loads.keys().copied().collect());
    let beside = ask.beside.iter().map(|b| (b.what.clone(), b.nodes.clone()));
    Wish {
        constraints: ask.constraints.clone(),
        preferred: ask.preferred.clone(),
        nano_cpus: ask.nano_cpus,
        memory_bytes: ask.memory_bytes,
        ports: ask.ports.clone(),
        overlay: ask.overlay,
        beside: beside.chain([answered]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_calls::{Kind, Load};
    use muster_model::{
        cluster::{Meta, Node, NodeDescription, NodeState, NodeStatus},
        spec::{NodeSpec, Role},
    };
    use muster_state::{Change, Entry, Group};

    fn state(nodes: u128) -> State {
        let node = |i: u128| {
            Change::put(Node {
                id: NodeId::from_u128(i),
                meta: Meta::default(),
                spec: NodeSpec::default(),
                role: Role::Manager,
                description: NodeDescription { hostname: format!("host{i}"), ..NodeDescription::default() },
                status: NodeStatus { state: NodeState::Ready, ..NodeStatus::default() },
                manager_addr: None,
            })
        };
        let mut state = State::new();
        let group = Group { changes: (1..=nodes).map(node).collect(), ..Group::default() };
        state.apply(1, &Entry { groups: vec![group], ..Entry::default() }).expect("applied");
        state
    }

    fn ask(name: &str, nodes: u128) -> Ask {
        let loads = (1..=nodes).map(|i| (NodeId::from_u128(i), Load::default())).collect();
        Ask { name: Some(name.to_owned()), loads, ..Ask::default() }
    }

    #[test]
    fn a_name_is_promised_once_until_its_claim_comes_to_nothing() {
        let (mut claims, state, now) = (Claims::default(), state(1), Instant::now());
        let first = claims.place(now, &state, ask("web", 1)).expect("free");
        let refused = claims.place(now, &state, ask("web", 1)).expect_err("taken").error;
        assert!(refused.kind == Kind::Conflict && refused.message.contains("already in use"), "{refused}");
        claims.settle(first.claim, None);
        let second = claims.place(now, &state, ask("web", 1)).expect("free again");
        // Who looked before it was made is still refused.
        claims.settle(second.claim, Some("c1".to_owned()));
        assert!(claims.place(now, &state, ask("web", 1)).is_err());
        claims.place(now + LIFE, &state, ask("web", 1)).expect("the engines tell of it by now");
    }

    #[test]
    fn a_name_is_free_as_soon_as_its_node_says_that_its_container_is_gone() {
        let (mut claims, state, now) = (Claims::default(), state(1), Instant::now());
        let gone = |id: &str| Ask { gone: [id.to_owned()].into(), ..ask("web", 1) };
        let first = claims.place(now, &state, ask("web", 1)).expect("free");
        assert!(claims.place(now, &state, gone("c1")).is_err(), "it is being made");
        claims.settle(first.claim, Some("c1".to_owned()));
        let refused = claims.place(now, &state, ask("web", 1)).expect_err("taken").error;
        assert_eq!(muster_calls::taken_by(&refused), Some("c1"));
        let mut away = gone("c1");
        away.loads.clear();
        assert!(claims.place(now, &state, away).is_err(), "its node did not answer");
        let second = claims.place(now, &state, gone("c1")).expect("free again");
        claims.settle(second.claim, Some("c2".to_owned()));
        assert!(claims.place(now, &state, gone("c1")).is_err(), "another has it by now");
    }

    #[test]
    fn a_name_alone_is_kept_on_a_node_that_takes_no_new_work() {
        let (mut claims, state, now) = (Claims::default(), state(1), Instant::now());
        let only = |name: &str| Ask {
            name: Some(name.to_owned()),
            only_name_on: Some(NodeId::from_u128(9)),
            ..Ask::default()
        };
        let kept = claims.place(now, &state, only("web")).expect("kept");
        assert_eq!(kept.node, NodeId::from_u128(9));
        assert!(claims.place(now, &state, only("web")).is_err());
        claims.settle(kept.claim, None);
        claims.place(now, &state, only("web")).expect("kept again");
    }

    #[test]
    fn those_that_place_at_once_spread() {
        let (mut claims, state, now) = (Claims::default(), state(3), Instant::now());
        let nodes: std::collections::BTreeSet<_> =
            ["a", "b", "c"].map(|n| claims.place(now, &state, ask(n, 3)).expect("placed").node).into();
        assert_eq!(nodes.len(), 3);
    }

    #[test]
    fn a_container_that_its_node_lists_is_not_counted_twice() {
        let (mut claims, state, now) = (Claims::default(), state(2), Instant::now());
        let first = claims.place(now, &state, ask("a", 2)).expect("placed");
        claims.settle(first.claim, Some("c1".to_owned()));
        let mut next = ask("b", 2);
        for (node, load) in &mut next.loads {
            // Both nodes run one container; on the first's node it is the one that was just made.
            load.containers = 1;
            if *node == first.node {
                load.recent.insert("c1".to_owned());
            }
        }
        assert_eq!(claims.place(now, &state, next).expect("placed").node, NodeId::from_u128(1));
    }

    #[test]
    fn room_is_free_again_as_soon_as_a_node_says_that_its_container_was_removed() {
        let (mut claims, state, now) = (Claims::default(), state(1), Instant::now());
        let port = |gone: &[&str]| {
            let mut ask = Ask { ports: vec![(muster_model::net::Protocol::Tcp, 80)], ..ask("a", 1) };
            ask.name = None;
            for load in ask.loads.values_mut() {
                load.gone.extend(gone.iter().map(|id| (*id).to_owned()));
            }
            ask
        };
        let first = claims.place(now, &state, port(&[])).expect("free");
        assert!(claims.place(now, &state, port(&["c1"])).is_err(), "it is being made");
        claims.settle(first.claim, Some("c1".to_owned()));
        assert!(claims.place(now, &state, port(&["other"])).is_err(), "it is there, or was when the node was asked");
        claims.place(now, &state, port(&["c1"])).expect("free again");
    }

    #[test]
    fn a_node_that_did_not_answer_is_not_taken() {
        let (mut claims, state, now) = (Claims::default(), state(2), Instant::now());
        let mut one = ask("a", 2);
        one.loads.remove(&NodeId::from_u128(1));
        assert_eq!(claims.place(now, &state, one).expect("placed").node, NodeId::from_u128(2));
        let mut none = ask("b", 2);
        none.loads.clear();
        let why = claims.place(now, &state, none).expect_err("nobody answered").error.message;
        assert!(why.contains("the engine's answer is not there [host1, host2]"), "{why}");
    }
}
