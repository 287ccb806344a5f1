//! The worker's behaviour, input by input.

use muster_agent_core::{Container, Effect, Input, Ledger, Worker};
use muster_model::{
    ServiceId, TaskId, Timestamp,
    assignment::{Assignment, AssignmentSet, AssignmentUpdate},
    cluster::{Meta, Task, TaskState, TaskStatus, Version},
    spec::{RegistryAuth, TaskSpec},
};
use std::sync::Arc;

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn task(n: u128, desired: TaskState) -> Task {
    Task {
        id: TaskId::from_u128(n),
        meta: Meta::default(),
        service: ServiceId::from_u128(7),
        service_name: "web".into(),
        slot: 1,
        node: None,
        spec: Arc::new(TaskSpec::default()),
        spec_version: Version(1),
        desired,
        status: TaskStatus { state: TaskState::Assigned, ..Default::default() },
        addresses: vec![],
        host_ports: vec![],
        trace_parent: None,
    }
}

fn whole(generation: u64, tasks: Vec<Task>) -> Input {
    let items = tasks.into_iter().map(|t| Assignment::Task(Arc::new(t))).map(|a| (a.key(), a)).collect();
    Input::Update(AssignmentUpdate::Whole(AssignmentSet { generation, items }))
}

fn step(w: &mut Worker, input: Input) -> Vec<Effect> {
    let mut out = Vec::new();
    w.handle(NOW, input, &mut out);
    out
}

fn state(w: &Worker, n: u128) -> TaskState {
    w.tasks().find(|(t, ..)| t.id == TaskId::from_u128(n)).expect("known").1.state
}

fn id(n: u128) -> TaskId {
    TaskId::from_u128(n)
}

fn running(n: u128) -> Worker {
    let mut w = Worker::default();
    step(&mut w, whole(1, vec![task(n, TaskState::Running)]));
    step(&mut w, Input::Prepared { task: id(n), result: Ok("c".into()) });
    step(&mut w, Input::Started { task: id(n), result: Ok(42) });
    w
}

#[test]
fn an_assigned_task_is_prepared_started_and_watched() {
    let mut w = Worker::default();
    let out = step(&mut w, whole(1, vec![task(1, TaskState::Running)]));
    assert!(matches!(out[..], [Effect::ViewChanged, Effect::Prepare(_), Effect::Save]), "{out:?}");
    let out = step(&mut w, Input::Prepared { task: id(1), result: Ok("c".into()) });
    assert_eq!(out, [Effect::Start(id(1)), Effect::Save]);
    step(&mut w, Input::Started { task: id(1), result: Ok(42) });
    assert_eq!(state(&w, 1), TaskState::Running);
    step(&mut w, Input::Exited { task: id(1), exit_code: 3, error: String::new() });
    assert_eq!(state(&w, 1), TaskState::Failed);
}

#[test]
fn a_ready_task_waits_until_it_is_to_run() {
    let mut w = Worker::default();
    step(&mut w, whole(1, vec![task(1, TaskState::Ready)]));
    let out = step(&mut w, Input::Prepared { task: id(1), result: Ok("c".into()) });
    assert_eq!(out, [Effect::Save]);
    let out = step(&mut w, whole(2, vec![task(1, TaskState::Running)]));
    assert!(out.contains(&Effect::Start(id(1))));
}

#[test]
fn a_stopped_task_is_stopped_once_and_removed_when_unassigned() {
    let mut w = running(1);
    let out = step(&mut w, whole(2, vec![task(1, TaskState::Shutdown)]));
    assert_eq!(out.iter().filter(|e| **e == Effect::Stop(id(1))).count(), 1);
    let out = step(&mut w, whole(3, vec![task(1, TaskState::Shutdown)]));
    assert!(!out.contains(&Effect::Stop(id(1))));
    step(&mut w, Input::Exited { task: id(1), exit_code: 143, error: String::new() });
    assert_eq!(state(&w, 1), TaskState::Shutdown);
    assert!(step(&mut w, whole(4, vec![])).contains(&Effect::Remove(id(1))));
    step(&mut w, Input::Removed { task: id(1) });
    assert_eq!(w.tasks().count(), 0);
}

#[test]
fn a_preparation_that_is_no_longer_wanted_is_cancelled() {
    let mut w = Worker::default();
    step(&mut w, whole(1, vec![task(1, TaskState::Running)]));
    assert!(step(&mut w, whole(2, vec![])).contains(&Effect::Cancel(id(1))));
    let out = step(&mut w, Input::Prepared { task: id(1), result: Err("cancelled".into()) });
    assert!(out.contains(&Effect::Remove(id(1))));
}

#[test]
fn a_delta_on_another_generation_asks_for_the_whole_set() {
    let mut w = running(1);
    let delta = AssignmentUpdate::Delta { base: 9, generation: 10, put: vec![], removed: vec![] };
    assert_eq!(step(&mut w, Input::Update(delta)), [Effect::NeedWhole]);
}

#[test]
fn reports_wait_for_the_ones_in_flight_and_go_again_in_a_new_session() {
    let mut w = Worker::default();
    step(&mut w, Input::SessionOpened);
    let out = step(&mut w, whole(1, vec![task(1, TaskState::Running)]));
    let Some(Effect::Report(first)) = out.last() else { panic!("no report: {out:?}") };
    let out = step(&mut w, Input::Prepared { task: id(1), result: Ok("c".into()) });
    assert!(!out.iter().any(|e| matches!(e, Effect::Report(_))));
    let out = step(&mut w, Input::Reported(first.clone()));
    assert!(matches!(&out[..], [Effect::Report(r)] if r[0].status.state == TaskState::Starting), "{out:?}");
    step(&mut w, Input::SessionClosed);
    let out = step(&mut w, Input::SessionOpened);
    assert!(matches!(&out[..], [Effect::Report(_)]));
}

#[test]
fn after_a_restart_the_container_is_the_truth() {
    let ledger: Ledger = running(1).ledger();
    let w = Worker::recover(NOW, ledger.clone(), |_| Container::Running { pid: 43 });
    assert_eq!(state(&w, 1), TaskState::Running);
    let w = Worker::recover(NOW, ledger.clone(), |_| Container::Missing);
    assert_eq!(state(&w, 1), TaskState::Failed);
    let w = Worker::recover(NOW, ledger, |_| Container::Exited { exit_code: 0, error: String::new() });
    assert_eq!(state(&w, 1), TaskState::Complete);
}

#[test]
fn a_task_whose_credentials_only_managers_know_is_prepared_once_they_tell_them() {
    let with = |auth: RegistryAuth, desired| {
        let mut task = task(1, desired);
        Arc::make_mut(&mut task.spec).container.registry_auth = Some(auth);
        task
    };
    let mut before = Worker::default();
    step(&mut before, whole(1, vec![with(RegistryAuth::own(), TaskState::Running)]));
    let kept = before.ledger();
    let recovered = || {
        let mut w = Worker::recover(NOW, kept.clone(), |_| Container::Missing);
        let mut out = Vec::new();
        w.resume(NOW, &mut out);
        assert_eq!(out, [Effect::ViewChanged]);
        w
    };
    let given = RegistryAuth::given("e30=").expect("base64");
    let told = with(given, TaskState::Running);
    let out = step(&mut recovered(), whole(2, vec![told.clone()]));
    assert!(out.contains(&Effect::Prepare(Arc::new(told))), "{out:?}");
    // One that is to stop needs none.
    let mut w = recovered();
    step(&mut w, whole(2, vec![with(RegistryAuth::own(), TaskState::Shutdown)]));
    assert_eq!(state(&w, 1), TaskState::Shutdown);
}
