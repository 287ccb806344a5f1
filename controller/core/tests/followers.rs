//! Managers that follow: they hold the same state, and stop when they do not.

mod cluster;

use cluster::{Cluster, node_id, service};
use muster_controller_core::{Call, CallError, Config, Effect, Input, Manager, Now, Token};
use muster_state::{ApplyError, Entry, State, StateHash};

fn follower(state: State) -> Manager {
    Manager::new(Config::new(node_id(9), [9; 4]), state)
}

fn feed(manager: &mut Manager, entries: &[Entry], from: u64) -> Vec<Effect> {
    let mut out = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        manager.handle(Now::default(), Input::Committed { index: from + i as u64, entry: entry.clone() }, &mut out);
    }
    out
}

#[test]
fn a_follower_holds_the_same_state_and_proposes_nothing() {
    let mut c = Cluster::new(2);
    c.create(service("web", 5));
    c.settle();
    let mut second = follower(State::new());
    let effects = feed(&mut second, &c.proposals, 1);
    assert_eq!(second.state().hash(), c.state().hash());
    assert!(effects.iter().all(|e| matches!(e, Effect::Applied(_))));
    assert_eq!(second.deadline(Now::default()), None);
}

#[test]
fn a_follower_goes_on_from_a_snapshot() {
    let mut c = Cluster::new(2);
    c.create(service("web", 5));
    c.settle();
    let pairs: Vec<_> = c.state().snapshot().pairs().collect();
    let (taken, index) = (c.proposals.len(), c.state().index());
    c.ok(Call::ServiceRemove { name: "web".into() });
    c.settle();
    let mut second = follower(State::new());
    let restored = State::restore(pairs).expect("own pairs restore");
    second.handle(Now::default(), Input::Restored(Box::new(restored)), &mut Vec::new());
    feed(&mut second, &c.proposals[taken..], index + 1);
    assert_eq!(second.state().hash(), c.state().hash());
}

#[test]
fn the_leaders_hash_rides_along_and_a_manager_that_differs_stops() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 1));
    for n in 0..300 {
        let version = c.service_version(web);
        c.ok(Call::ServiceUpdate { id: web, version, spec: Box::new(service("web", n % 3)) });
    }
    let checks: Vec<_> = c.proposals.iter().filter_map(|e| e.check).collect();
    assert!(!checks.is_empty());
    let mut entries = c.proposals.clone();
    assert!(!feed(&mut follower(State::new()), &entries, 1).iter().any(|e| matches!(e, Effect::Halt(_))));
    for entry in &mut entries {
        if let Some(check) = &mut entry.check {
            check.hash = StateHash { high: 1, low: 1 };
        }
    }
    let mut other = follower(State::new());
    let effects = feed(&mut other, &entries, 1);
    let halts: Vec<_> = effects.iter().filter(|e| matches!(e, Effect::Halt(ApplyError::Divergence { .. }))).collect();
    assert_eq!(halts.len(), 1, "it stops once and does nothing more");
    let call = Box::new(Call::ServiceRemove { name: "web".into() });
    let mut out = Vec::new();
    other.handle(Now::default(), Input::Call { token: Token(1), call, trace_parent: None }, &mut out);
    assert!(matches!(&out[..], [Effect::Reply { result: Err(CallError::Unavailable(_)), .. }]));
}
