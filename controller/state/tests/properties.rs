//! Properties that hold for any sequence of entries.

mod objects;

use muster_model::{
    NodeId, ServiceId, TaskId, Timestamp,
    cluster::{TaskState, TaskStatus},
};
use muster_state::{Change, Entry, Group, Key, State};
use proptest::prelude::*;

const STATES: [TaskState; 8] = [
    TaskState::New,
    TaskState::Pending,
    TaskState::Assigned,
    TaskState::Running,
    TaskState::Complete,
    TaskState::Failed,
    TaskState::Shutdown,
    TaskState::Orphaned,
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (1..12u128, 1..4u128, 1..4u64, 0..3u64, 0..4u128, 0..8usize).prop_map(
            |(n, service, slot, version, node, desired)| {
                let mut task = objects::task(n, service, slot);
                task.spec_version = muster_model::cluster::Version(version);
                std::sync::Arc::make_mut(&mut task.spec).force_update = version * u64::from(n % 3 == 0);
                task.node = (node > 0).then(|| NodeId::from_u128(node));
                task.desired = STATES[desired];
                Change::put(task)
            }
        ),
        (1..12u128, 0..8usize, 0..5i64).prop_map(|(n, state, at)| Change::TaskStatus {
            task: TaskId::from_u128(n),
            status: TaskStatus { state: STATES[state], at: Timestamp(at), ..TaskStatus::default() },
        }),
        (1..5u128, 0..3usize, any::<bool>(), 0..3u16).prop_map(|(n, name, removing, port)| {
            let mut service = objects::service(n, ["web", "api", "db"][name]);
            service.removing = removing;
            if port > 0 {
                service.spec.endpoint.ports.push(objects::port(port));
            }
            Change::put(service)
        }),
        (1..4u128, 0..2usize).prop_map(|(n, name)| Change::put(objects::node(n, ["a", "b"][name]))),
        (1..4u128, 0..4u8).prop_map(|(n, net)| Change::put(objects::network(
            n,
            &format!("net{net}"),
            &format!("10.{net}.0.0/16")
        ))),
        (1..12u128).prop_map(|n| Change::Delete(Key::Task(TaskId::from_u128(n)))),
        (1..5u128).prop_map(|n| Change::Delete(Key::Service(ServiceId::from_u128(n)))),
        (1..4u128).prop_map(|n| Change::Delete(Key::Node(NodeId::from_u128(n)))),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let group = prop::collection::vec(change(), 1..4).prop_map(|changes| Group { changes, ..Group::default() });
    let entry = prop::collection::vec(group, 1..4).prop_map(|groups| Entry { groups, ..Entry::default() });
    prop::collection::vec(entry, 1..20)
}

/// The same content, put together from nothing.
fn rebuilt(state: &State) -> State {
    State::restore(state.pairs()).expect("own pairs restore")
}

fn same_answers(a: &State, b: &State) {
    assert_eq!(a.hash(), b.hash());
    assert_eq!(a.tasks().collect::<Vec<_>>(), b.tasks().collect::<Vec<_>>());
    for n in 1..5 {
        let service = ServiceId::from_u128(n);
        assert_eq!(a.tasks_of_service(service).collect::<Vec<_>>(), b.tasks_of_service(service).collect::<Vec<_>>());
        let node = NodeId::from_u128(n);
        assert_eq!(a.tasks_on_node(node).collect::<Vec<_>>(), b.tasks_on_node(node).collect::<Vec<_>>());
    }
    for name in ["web", "api", "db"] {
        assert_eq!(a.service_by_name(name), b.service_by_name(name));
    }
    for name in ["a", "b"] {
        assert_eq!(a.nodes_by_hostname(name).collect::<Vec<_>>(), b.nodes_by_hostname(name).collect::<Vec<_>>());
    }
    for port in 1..3 {
        let protocol = muster_model::net::Protocol::Tcp;
        assert_eq!(a.service_by_port(protocol, port), b.service_by_port(protocol, port));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn replicas_that_apply_the_same_entries_are_the_same_and_survive_a_snapshot(entries in entries(), cut in 0..20usize) {
        let (mut a, mut b) = (State::new(), State::new());
        for (i, entry) in entries.iter().enumerate() {
            let index = i as u64 * 2 + 1;
            let decoded = Entry::decode(&entry.encode()).expect("own entries decode");
            prop_assert_eq!(&decoded, entry);
            let before = a.snapshot();
            let (hash, one, two) = (a.hash(), a.apply(index, entry), b.apply(index, &decoded));
            prop_assert_eq!(one, two);
            prop_assert_eq!(before.hash(), hash, "a snapshot stays as it was");
            if i == cut {
                b = rebuilt(&b);
            }
        }
        same_answers(&a, &b);
        same_answers(&a, &rebuilt(&a));
    }

    #[test]
    fn strange_bytes_are_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in 0..200usize) {
        let _ = Entry::decode(&bytes);
        let group = Group { changes: vec![Change::put(objects::task(1, 1, 1))], ..Group::default() };
        let mut good = Entry { groups: vec![group], ..Entry::default() }.encode();
        let at = flip % good.len();
        good[at] ^= 0x41;
        let _ = Entry::decode(&good);
        let mut pairs: Vec<_> = State::new().pairs().collect();
        pairs.push((bytes.clone(), bytes));
        let _ = State::restore(pairs);
    }
}

#[test]
fn a_snapshot_that_lost_a_record_is_not_whole() {
    let mut state = State::new();
    objects::put(&mut state, objects::service(1, "web"));
    objects::put(&mut state, objects::task(1, 1, 1));
    let pairs: Vec<_> = state.pairs().collect();
    for lost in 1..pairs.len() {
        let mut some = pairs.clone();
        some.remove(lost);
        assert!(State::restore(some).is_err(), "without record {lost}");
    }
}
