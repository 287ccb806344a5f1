//! What applying an entry does and refuses.

mod objects;

use muster_model::{
    TaskId, Timestamp,
    cluster::{NodeDescription, NodeState, NodeStatus, TaskState, TaskStatus, Version},
    net::Protocol,
};
use muster_state::{
    ApplyError, Change, Entry, Expect, Group, HashCheck, Ignored, Key, Kind, Object, Outcome, Rejection, State,
    StateHash,
};
use objects::{apply, apply_group, network, node, put, service, task};
use std::sync::Arc;

fn status(state: TaskState, at: i64) -> TaskStatus {
    TaskStatus { state, at: Timestamp(at), ..TaskStatus::default() }
}

#[test]
fn a_put_carries_the_index_as_version_and_the_time_of_the_entry() {
    let mut state = State::new();
    let applied = put(&mut state, service(1, "web"));
    let stored = state.service_by_name("web").expect("stored");
    assert_eq!(stored.meta.version, Version(1));
    assert_eq!((stored.meta.created_at, stored.meta.updated_at), (applied.time, applied.time));
    assert_eq!(stored.spec_version, Version(1));
    put(&mut state, network(1, "net", "10.0.0.0/24"));
    let mut scaled = service(1, "web");
    scaled.spec.mode = muster_model::spec::Mode::Replicated { replicas: 9 };
    put(&mut state, scaled.clone());
    let stored = state.service_by_name("web").expect("stored");
    assert_eq!((stored.meta.version, stored.spec_version), (Version(3), Version(1)), "its tasks' spec is the same");
    scaled.spec.task.force_update = 1;
    put(&mut state, scaled);
    assert_eq!(state.service_by_name("web").expect("stored").spec_version, Version(4));
}

#[test]
fn time_grows_also_when_a_clock_went_back() {
    let mut state = State::new();
    let at =
        |state: &mut State, time| state.apply(state.index() + 1, &Entry { time: Timestamp(time), ..Entry::default() });
    assert_eq!(at(&mut state, 1000).expect("applied").time, Timestamp(1000));
    assert_eq!(at(&mut state, 10).expect("applied").time, Timestamp(1001));
}

#[test]
fn entries_are_applied_once_and_in_order() {
    let mut state = State::new();
    state.apply(5, &Entry::default()).expect("gaps are consensus' own entries");
    assert_eq!(state.apply(5, &Entry::default()), Err(ApplyError::OutOfOrder { index: 5, applied: 5 }));
}

#[test]
fn one_stale_object_refuses_its_group_and_no_other() {
    let mut state = State::new();
    put(&mut state, service(1, "web"));
    let stale = Group {
        expects: vec![Expect::version(Key::Service(service(1, "web").id), Version(7))],
        changes: vec![Change::put(service(2, "api"))],
        trace_parent: None,
    };
    let fine = Group { changes: vec![Change::put(service(3, "db"))], ..Group::default() };
    let applied = apply(&mut state, vec![stale, fine]);
    assert!(matches!(applied.outcomes[0], Outcome::Rejected(Rejection::Version { found: Version(1), .. })));
    assert_eq!(applied.outcomes[1], Outcome::Done { ignored: vec![] });
    assert!(state.service_by_name("api").is_none() && state.service_by_name("db").is_some());
    assert_eq!(applied.events.len(), 1);
}

#[test]
fn names_ports_subnets_and_numbers_are_unique_whatever_a_group_expects() {
    let mut state = State::new();
    let mut web = service(1, "web");
    web.spec.endpoint.ports.push(objects::port(8080));
    put(&mut state, web.clone());
    put(&mut state, network(1, "shop", "10.0.0.0/24"));
    let refused = |state: &mut State, object: Object| {
        let group = Group { changes: vec![Change::Put(object)], ..Group::default() };
        apply(state, vec![group]).outcomes[0].rejection().cloned().expect("refused")
    };
    let taken = refused(&mut state, service(2, "web").into());
    assert_eq!(taken, Rejection::NameTaken { kind: Kind::Service, name: "web".into(), by: Key::Service(web.id) });
    let mut api = service(2, "api");
    api.spec.endpoint.ports.push(objects::port(8080));
    assert_eq!(
        refused(&mut state, api.into()),
        Rejection::PortTaken { protocol: Protocol::Tcp, port: 8080, by: web.id }
    );
    let overlap = refused(&mut state, network(2, "other", "10.0.0.128/25").into());
    assert!(matches!(overlap, Rejection::SubnetTaken { .. }));
    let mut same_vni = network(2, "other", "10.9.0.0/24");
    same_vni.vni = network(1, "shop", "10.0.0.0/24").vni;
    assert!(matches!(refused(&mut state, same_vni.into()), Rejection::VniTaken { .. }));
    let both = Group { changes: vec![Change::put(service(5, "x")), Change::put(service(6, "x"))], ..Group::default() };
    assert!(matches!(apply(&mut state, vec![both]).outcomes[0].rejection(), Some(Rejection::NameTaken { .. })));
    web.removing = true;
    put(&mut state, web);
    put(&mut state, service(2, "web"));
    assert_eq!(
        state.service_by_name("web").map(|s| s.id),
        Some(service(2, "web").id),
        "one that goes gives up its name"
    );
}

#[test]
fn an_observed_state_never_goes_back_and_what_ended_stays_ended() {
    let mut state = State::new();
    put(&mut state, task(1, 1, 1));
    let id = TaskId::from_u128(1);
    let report = |state: &mut State, s| match apply_group(state, vec![Change::TaskStatus { task: id, status: s }]) {
        Outcome::Done { ignored } => ignored.first().copied(),
        other => panic!("{other:?}"),
    };
    assert_eq!(report(&mut state, status(TaskState::Running, 5)), None);
    assert_eq!(report(&mut state, status(TaskState::Running, 5)), Some(Ignored::Same(Key::Task(id))));
    assert_eq!(report(&mut state, status(TaskState::Starting, 9)), Some(Ignored::Backward(Key::Task(id))));
    let mut older = status(TaskState::Running, 4);
    older.message = "late".into();
    assert_eq!(report(&mut state, older), Some(Ignored::Backward(Key::Task(id))));
    assert_eq!(report(&mut state, status(TaskState::Failed, 6)), None);
    assert_eq!(report(&mut state, status(TaskState::Shutdown, 7)), Some(Ignored::Backward(Key::Task(id))));
    assert_eq!(state.task(id).expect("stored").status.state, TaskState::Failed);
    let gone = TaskId::from_u128(9);
    let late = apply_group(&mut state, vec![Change::TaskStatus { task: gone, status: status(TaskState::Running, 1) }]);
    assert_eq!(late, Outcome::Done { ignored: vec![Ignored::Gone(Key::Task(gone))] });
}

#[test]
fn the_halves_of_an_object_do_not_overwrite_each_other() {
    let mut state = State::new();
    put(&mut state, task(1, 1, 1));
    let id = TaskId::from_u128(1);
    let seen = state.task(id).expect("stored").clone();
    apply_group(&mut state, vec![Change::TaskStatus { task: id, status: status(TaskState::Running, 5) }]);
    let mut wanted = (*seen).clone();
    wanted.desired = TaskState::Shutdown;
    let group = Group {
        expects: vec![Expect::version(Key::Task(id), seen.meta.version)],
        changes: vec![Change::put(wanted)],
        trace_parent: None,
    };
    assert_eq!(apply(&mut state, vec![group]).outcomes[0].rejection(), None, "a report does not make a decision stale");
    let stored = state.task(id).expect("stored");
    assert_eq!((stored.desired, stored.status.state), (TaskState::Shutdown, TaskState::Running));

    put(&mut state, node(1, "n1"));
    let up = NodeStatus { state: NodeState::Ready, ..NodeStatus::default() };
    let description = NodeDescription { hostname: "renamed".into(), ..NodeDescription::default() };
    let change = Change::NodeStatus { node: node(1, "").id, status: up, description: Some(Arc::new(description)) };
    apply_group(&mut state, vec![change]);
    put(&mut state, node(1, "n1"));
    let stored = state.node(node(1, "").id).expect("stored");
    assert_eq!((stored.status.state, stored.description.hostname.as_str()), (NodeState::Ready, "renamed"));
    assert_eq!(state.nodes_by_hostname("renamed").count(), 1);
    assert_eq!(state.nodes_by_hostname("n1").count(), 0);
}

#[test]
fn a_task_never_moves_and_its_desired_state_is_only_raised() {
    let mut state = State::new();
    let mut first = task(1, 1, 1);
    first.node = Some(node(1, "").id);
    first.desired = TaskState::Running;
    put(&mut state, first.clone());
    let mut refuse = |change: fn(&mut muster_model::cluster::Task)| {
        let mut changed = first.clone();
        change(&mut changed);
        let group = Group { changes: vec![Change::put(changed)], ..Group::default() };
        assert!(matches!(apply(&mut state, vec![group]).outcomes[0].rejection(), Some(Rejection::Immutable { .. })));
    };
    refuse(|t| t.node = Some(node(2, "").id));
    refuse(|t| t.node = None);
    refuse(|t| t.desired = TaskState::Ready);
    refuse(|t| t.slot = 9);
    refuse(|t| t.service = service(9, "x").id);
}

#[test]
fn tasks_of_one_service_share_their_spec_also_after_a_round_trip() {
    let mut state = State::new();
    let groups =
        vec![Group { changes: (1..=50).map(|n| Change::put(task(n, 1, n as u64))).collect(), ..Group::default() }];
    let entry = Entry { groups, ..Entry::default() };
    let bytes = entry.encode();
    let one = Entry {
        groups: vec![Group { changes: vec![Change::put(task(1, 1, 1))], ..Group::default() }],
        ..Entry::default()
    };
    assert!(bytes.len() < 50 * one.encode().len() / 2, "the spec is written once: {} bytes", bytes.len());
    state.apply(1, &Entry::decode(&bytes).expect("decodes")).expect("applied");
    let specs: Vec<_> = state.tasks().map(|t| Arc::as_ptr(&t.spec)).collect();
    assert!(specs.iter().all(|s| *s == specs[0]));
    let restored = State::restore(state.pairs()).expect("restores");
    let specs: Vec<_> = restored.tasks().map(|t| Arc::as_ptr(&t.spec)).collect();
    assert!(specs.iter().all(|s| *s == specs[0]));
}

#[test]
fn a_replica_that_differs_stops() {
    let mut state = State::new();
    put(&mut state, service(1, "web"));
    let good = HashCheck { index: 1, hash: state.hash() };
    let bad = HashCheck { index: 1, hash: StateHash { high: 1, low: 2 } };
    let old = HashCheck { index: 99, hash: StateHash::default() };
    let mut next = |check| state.apply(state.index() + 1, &Entry { check: Some(check), ..Entry::default() });
    next(good).expect("equal");
    next(old).expect("not known any more, so not compared");
    assert!(matches!(next(bad), Err(ApplyError::Divergence { index: 1, .. })));
    assert_eq!(state.index(), 3, "nothing was applied");
}

#[test]
fn a_network_in_use_is_not_unused() {
    let mut state = State::new();
    let shop = network(1, "shop", "10.0.0.0/24");
    put(&mut state, shop.clone());
    let free = |state: &mut State| {
        let group = Group { expects: vec![Expect::NetworkUnused(shop.id)], ..Group::default() };
        apply(state, vec![group]).outcomes[0].rejection().cloned()
    };
    assert_eq!(free(&mut state), None);
    let mut web = service(1, "web");
    web.spec.task.networks.push(muster_model::spec::NetworkAttachment { target: shop.id.to_string(), aliases: vec![] });
    put(&mut state, web.clone());
    assert_eq!(free(&mut state), Some(Rejection::NetworkUsed { network: shop.id, by: Key::Service(web.id) }));
}

#[test]
fn objects_are_found_by_id_name_or_an_unambiguous_beginning() {
    let mut state = State::new();
    put(&mut state, service(1, "web"));
    put(&mut state, service(2, "api"));
    let id = service(1, "").id.to_string();
    assert_eq!(state.find_service("web").expect("by name").id.to_string(), id);
    assert_eq!(state.find_service(&id).expect("by id").spec.name, "web");
    let error = state.find_service("000").expect_err("fits both").to_string();
    assert!(error.contains("ambiguous") && error.contains(&id), "{error}");
    assert_eq!(state.find_service("nope").expect_err("none").to_string(), "service nope not found");
    assert!(state.find_service("").is_err());
}
