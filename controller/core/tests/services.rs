//! Services from the call to running tasks, and away again.

mod cluster;

use cluster::{Cluster, SECOND, node_id, published, service};
use muster_controller_core::{Call, CallError, Reply, service_status};
use muster_model::{
    assignment::{Assignment, AssignmentKey},
    cluster::{ClusterSpec, TaskState, UpdateState},
    spec::{FailureAction, Mode, NetworkAttachment, Platform, RegistryAuth, UpdateOrder},
};
use std::{collections::BTreeSet, time::Duration};

#[test]
fn a_created_service_is_assigned_in_two_rounds_of_consensus() {
    let mut c = Cluster::new(2);
    c.network("shop");
    c.auto = false;
    let before = c.proposals.len();
    let mut spec = published(service("web", 6), 8080);
    spec.task.networks.push(NetworkAttachment { target: "shop".into(), aliases: vec![] });
    let token = c.begin(Call::ServiceCreate { spec: Box::new(spec) });
    assert_eq!(c.proposals.len(), before + 1, "the service itself");
    c.commit_next();
    assert!(matches!(c.replies[&token], Ok(Reply::Service { .. })), "answered when it is applied");
    assert_eq!(c.proposals.len(), before + 2, "all tasks, assigned");
    c.commit_next();
    assert!(c.log.is_empty(), "nothing more is proposed");
    let tasks: Vec<_> = c.state().tasks().collect();
    assert_eq!(tasks.len(), 6);
    for task in tasks {
        assert_eq!(task.status.state, TaskState::Assigned);
        assert_eq!(task.addresses.len(), 1);
        assert_eq!(task.trace_parent.as_deref(), Some("00-trace"));
        let node = task.node.expect("assigned");
        assert!(c.agents[&node].set.items.contains_key(&AssignmentKey::Task(task.id)), "the node was told");
    }
}

#[test]
fn replicas_spread_over_the_nodes_and_run() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 6));
    c.settle();
    assert_eq!(c.running(web).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    let status = service_status(c.state(), web);
    assert_eq!((status.running, status.desired), (6, 6));
}

#[test]
fn a_removed_service_leaves_nothing_behind() {
    let mut c = Cluster::new(2);
    c.network("shop");
    let mut spec = published(service("web", 6), 8080);
    spec.task.networks.push(NetworkAttachment { target: "shop".into(), aliases: vec![] });
    c.create(spec.clone());
    c.settle();
    assert!(matches!(c.call(Call::NetworkRemove { name: "shop".into() }), Err(CallError::Conflict(_))), "in use");
    c.ok(Call::ServiceRemove { name: "web".into() });
    assert!(
        matches!(c.call(Call::ServiceRemove { name: "web".into() }), Err(CallError::NotFound(_))),
        "it gave up its name"
    );
    c.settle();
    assert_eq!((c.state().task_count(), c.state().services().count()), (0, 0));
    c.ok(Call::NetworkRemove { name: "shop".into() });
    for agent in c.agents.values() {
        assert_eq!(agent.told_besides_nodes(), []);
    }
}

#[test]
fn a_name_or_port_that_is_taken_is_refused_by_name() {
    let mut c = Cluster::new(0);
    c.create(published(service("web", 1), 8080));
    let again = c.call(Call::ServiceCreate { spec: Box::new(service("web", 1)) });
    assert!(matches!(again, Err(CallError::Conflict(text)) if text.contains("web")));
    let port = c.call(Call::ServiceCreate { spec: Box::new(published(service("api", 1), 8080)) });
    assert!(matches!(port, Err(CallError::Conflict(text)) if text.contains("8080/tcp") && text.contains("web")));
}

#[test]
fn of_two_calls_in_flight_for_one_name_one_is_refused() {
    let mut c = Cluster::new(0);
    c.auto = false;
    let first = c.begin(Call::ServiceCreate { spec: Box::new(service("web", 1)) });
    let second = c.begin(Call::ServiceCreate { spec: Box::new(service("web", 1)) });
    c.auto = true;
    c.commit_next();
    assert!(c.replies[&first].is_ok());
    assert!(matches!(&c.replies[&second], Err(CallError::Conflict(_))));
}

#[test]
fn networks_created_at_once_get_different_subnets() {
    let mut c = Cluster::new(0);
    c.auto = false;
    let spec = |name: &str| muster_model::spec::NetworkSpec { name: name.into(), ..Default::default() };
    let tokens: Vec<_> = ["a", "b", "c"].map(|n| c.begin(Call::NetworkCreate { spec: spec(n) })).into();
    c.auto = true;
    c.commit_next();
    assert!(tokens.iter().all(|t| c.replies[t].is_ok()), "{:?}", c.replies);
    let mut subnets: Vec<_> = c.state().networks().filter(|n| !n.ingress).map(|n| n.subnet).collect();
    subnets.sort();
    subnets.dedup();
    assert_eq!(subnets.len(), 3);
}

#[test]
fn an_update_from_an_older_version_is_out_of_sequence() {
    let mut c = Cluster::new(0);
    let web = c.create(service("web", 1));
    let version = c.service_version(web);
    c.ok(Call::ServiceUpdate { id: web, version, spec: Box::new(service("web", 2)) });
    let late = c.call(Call::ServiceUpdate { id: web, version, spec: Box::new(service("web", 3)) });
    assert!(matches!(late, Err(CallError::OutOfSequence { .. })));
}

#[test]
fn scaling_down_takes_from_the_fullest_nodes() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 9));
    c.settle();
    c.ok(Call::ServiceUpdate { id: web, version: c.service_version(web), spec: Box::new(service("web", 3)) });
    c.settle();
    assert_eq!(c.running(web).into_values().collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(c.state().task_count(), 3, "scaled-down slots leave no history");
}

#[test]
fn a_global_service_runs_once_on_every_node_also_on_new_ones() {
    let mut c = Cluster::new(1);
    let mut spec = service("agent", 0);
    spec.mode = Mode::Global;
    let id = c.create(spec);
    c.settle();
    assert_eq!(c.running(id).len(), 2);
    c.ok(Call::Register(cluster::registration(3, muster_model::spec::Role::Worker)));
    c.connect(3);
    c.settle();
    assert_eq!(c.running(id).into_values().collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_rolling_update_replaces_some_at_a_time_and_completes() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let mut c = Cluster::new(2);
        let mut spec = service("web", 4);
        spec.update.order = order;
        spec.update.parallelism = 2;
        let web = c.create(spec.clone());
        c.settle();
        spec.task.container.image = "busybox:2".into();
        c.ok(Call::ServiceUpdate { id: web, version: c.service_version(web), spec: Box::new(spec) });
        let up = |c: &Cluster| c.running(web).into_values().sum::<usize>();
        let mut fewest = 4;
        for _ in 0..40 {
            c.run_agents();
            c.pass(SECOND);
            fewest = fewest.min(up(&c));
        }
        let least = if order == UpdateOrder::StartFirst { 4 } else { 2 };
        assert!(fewest >= least, "{order:?}: only {fewest} ran at some moment");
        let current: Vec<_> = c.state().tasks_of_service(web).filter(|t| t.desired == TaskState::Running).collect();
        assert!(current.iter().all(|t| t.spec.container.image == "busybox:2" && t.status.state == TaskState::Running));
        assert_eq!(current.len(), 4);
        let status = c.state().service(web).expect("exists").update_status.clone().expect("updated");
        assert_eq!(status.state, UpdateState::Completed, "{order:?}");
    }
}

#[test]
fn a_failing_update_pauses_or_rolls_back() {
    for (action, end) in
        [(FailureAction::Pause, UpdateState::Paused), (FailureAction::Rollback, UpdateState::RollbackCompleted)]
    {
        let mut c = Cluster::new(2);
        let mut spec = service("web", 4);
        spec.update.failure_action = action;
        spec.task.restart.delay = SECOND;
        let web = c.create(spec.clone());
        c.settle();
        spec.task.container.image = "busybox:bad".into();
        c.ok(Call::ServiceUpdate { id: web, version: c.service_version(web), spec: Box::new(spec) });
        for _ in 0..80 {
            c.run_agents();
            c.pass(Duration::from_millis(500));
        }
        let service = c.state().service(web).expect("exists");
        assert_eq!(service.update_status.as_ref().map(|u| u.state), Some(end), "{:?}", service.update_status);
        let old = c.state().tasks_of_service(web).filter(|t| t.status.state == TaskState::Running).count();
        assert_eq!(old, if action == FailureAction::Pause { 3 } else { 4 });
    }
}

#[test]
fn a_service_can_be_rolled_back_by_hand() {
    let mut c = Cluster::new(1);
    let mut spec = service("web", 2);
    let web = c.create(spec.clone());
    c.settle();
    let none = c.call(Call::ServiceRollback { id: web, version: c.service_version(web) });
    assert!(matches!(none, Err(CallError::Conflict(_))), "nothing to go back to");
    spec.task.container.image = "busybox:2".into();
    spec.rollback.monitor = Duration::ZERO;
    c.ok(Call::ServiceUpdate { id: web, version: c.service_version(web), spec: Box::new(spec) });
    for _ in 0..20 {
        c.run_agents();
        c.pass(SECOND);
    }
    c.ok(Call::ServiceRollback { id: web, version: c.service_version(web) });
    for _ in 0..20 {
        c.run_agents();
        c.pass(SECOND);
    }
    let images: Vec<_> = c
        .state()
        .tasks_of_service(web)
        .filter(|t| t.desired == TaskState::Running)
        .map(|t| t.spec.container.image.clone())
        .collect();
    assert_eq!(images, ["busybox", "busybox"]);
}

#[test]
fn credentials_of_an_earlier_build_are_sealed_everywhere_and_no_task_is_replaced() {
    let given = RegistryAuth::given("e30=").expect("base64");
    let mut c = Cluster::new(1);
    let mut spec = service("web", 2);
    spec.task.container.registry_auth = Some(given.clone());
    let web = c.create(spec.clone());
    c.settle();
    spec.labels.insert("a".into(), "b".into());
    c.ok(Call::ServiceUpdate { id: web, version: c.service_version(web), spec: Box::new(spec) });
    c.settle();
    let before: Vec<_> = c.state().tasks_of_service(web).map(|t| (t.id, t.desired)).collect();

    let sealed = RegistryAuth::sealed("00ff");
    let call = Call::SealCredentials { service: web, seals: vec![(given, sealed.clone())] };
    c.ok(call.clone());
    for _ in 0..20 {
        c.run_agents();
        c.pass(SECOND);
    }
    let after: Vec<_> = c.state().tasks_of_service(web).map(|t| (t.id, t.desired)).collect();
    assert_eq!(after, before);
    let kept = c.state().service(web).expect("there");
    let previous = kept.previous_spec.as_ref().expect("updated");
    let tasks = c.state().tasks_of_service(web).map(|t| &*t.spec);
    for spec in tasks.chain([&kept.spec.task, &previous.task]) {
        assert_eq!(spec.container.registry_auth.as_ref(), Some(&sealed));
    }
    let version = c.service_version(web);
    c.ok(call);
    assert_eq!(c.service_version(web), version, "it was changed already");
}

#[test]
fn published_ports_lead_through_the_ingress_network_on_every_node() {
    let mut c = Cluster::new(2);
    let before = [1, 2].map(|n| c.agents[&node_id(n)].updates);
    let web = c.create(published(service("web", 1), 0));
    c.settle();
    let stored = c.state().service(web).expect("exists").clone();
    assert_eq!(stored.endpoint.ports[0].published, 30_000);
    let ingress = c.state().ingress_network().expect("made on need").id;
    let backend = *c.state().tasks().next().expect("one task").addresses.first().expect("on the ingress network");
    for (node, agent) in &c.agents {
        let Some(Assignment::Service(s)) = agent.set.items.get(&AssignmentKey::Service(web)) else {
            panic!("not told")
        };
        assert_eq!(s.ingress_network, Some(ingress));
        assert!(s.backends[&ingress].contains(&backend.ip));
        let own = c.state().tasks_on_node(*node).count() == 1;
        assert_eq!(agent.set.items.contains_key(&AssignmentKey::Endpoint(ingress, backend.ip)), !own);
    }
    let after = [1, 2].map(|n| c.agents[&node_id(n)].updates);
    assert_eq!(after[0] - before[0], after[1] - before[1], "every node is told as often");
}

#[test]
fn a_huge_service_comes_and_goes_in_entries_of_bounded_size() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 6_000));
    c.run_agents();
    assert_eq!(c.running(web).into_values().sum::<usize>(), 6_000);
    c.ok(Call::ServiceRemove { name: "web".into() });
    c.settle();
    assert_eq!((c.state().task_count(), c.state().services().count()), (0, 0));
    let largest = c.proposals.iter().map(|e| e.groups.iter().map(|g| g.changes.len()).sum::<usize>()).max();
    assert!(largest <= Some(5_100), "{largest:?}");
    assert!(c.proposals.iter().all(|e| e.encode().len() < 4 << 20));
}

#[test]
fn tasks_run_only_where_their_image_is_there_for_the_platform() {
    let mut c = Cluster::new(1);
    let on = |architecture: &str| Platform { os: "linux".into(), architecture: architecture.into() };
    let mut spec = service("arm", 2);
    spec.task.placement.platforms = vec![on("arm64")];
    let arm = c.create(spec);
    let mut spec = service("both", 2);
    spec.task.placement.platforms = vec![on("arm64"), on("amd64")];
    let both = c.create(spec);
    c.settle();
    assert!(c.running(arm).is_empty());
    let mut waiting = c.state().tasks().filter(|t| t.service == arm);
    assert!(waiting.all(|t| t.status.state == TaskState::Pending));
    assert_eq!(c.running(both).into_values().sum::<usize>(), 2);
}

#[test]
fn an_image_that_cannot_be_had_is_asked_for_no_faster_than_the_restart_delay() {
    for (global, history) in [(false, 5), (true, 5), (false, 0), (true, 1)] {
        let mut c = Cluster::new(0);
        let cluster = c.state().cluster().expect("founded").clone();
        let settings = ClusterSpec { task_history_limit: history, ..cluster.spec };
        c.ok(Call::ClusterUpdate { version: cluster.meta.version, spec: settings });
        let mut spec = service("web", 1);
        spec.task.container.image = "web:nope".into();
        spec.task.restart.delay = SECOND * 5;
        if global {
            spec.mode = Mode::Global;
        }
        let web = c.create(spec.clone());
        let mut seen = BTreeSet::new();
        for _ in 0..80 {
            c.pass(Duration::from_millis(250));
            c.settle();
            seen.extend(c.state().tasks_of_service(web).map(|t| t.id));
        }
        assert!((4..=6).contains(&seen.len()), "{} tasks in 20 s", seen.len());

        spec.task.container.image = "web:good".into();
        c.ok(Call::ServiceUpdate { id: web, version: c.service_version(web), spec: Box::new(spec) });
        c.settle();
        let new = c.state().tasks_of_service(web).filter(|t| t.spec.container.image == "web:good").count();
        assert_eq!(new, 1, "another image is tried at once");
        c.pass(SECOND * 6);
        c.settle();
        assert_eq!(c.running(web).into_values().sum::<usize>(), 1);
    }
}
