//! Registry credentials of services: nobody sees them but the node that runs the task, and no manager's disk holds them.

use crate::{
    agents::Agent,
    harness::{Host, leader_of, network, service, small_storage, three},
};
use muster_calls::{Cluster, Kind, TaskQuery};
use muster_model::spec::{AuthForm, RegistryAuth};
use std::{fs, path::Path};

/// `{"username":"u","password":"open-sesame"}`
const GIVEN: &str = "eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6Im9wZW4tc2VzYW1lIn0=";

/// The files below a folder that have a text in them.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(holding(&entry, text));
        } else if fs::read(&entry).expect("reads").windows(text.len()).any(|w| w == text.as_bytes()) {
            found.push(entry.display().to_string());
        }
    }
    found
}

async fn knows(agent: &mut Agent, tasks: usize) {
    let opened = |a: &Agent| {
        let tasks = a.tasks();
        tasks.iter().map(|t| t.spec.container.registry_auth.clone()).collect::<Vec<_>>()
    };
    agent.until(|a| a.tasks().len() == tasks).await.expect("assigned");
    let auths = opened(agent);
    assert!(auths.iter().flatten().filter(|a| a.form() == AuthForm::Given(GIVEN)).count() == tasks, "{auths:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_reach_their_node_and_rest_sealed_through_a_leaders_death_and_a_restart() {
    let mut hosts = three(small_storage()).await;
    let leader = leader_of(&hosts).await;
    let worker = Host::join_worker("w", &hosts[leader]).await;
    let mut agent = Agent::open(&worker, &hosts[leader]).await.expect("opened");
    let mut spec = service("web", 2);
    spec.task.container.registry_auth = Some(RegistryAuth::given(GIVEN).expect("base64"));
    // Asked of a follower: it passes it on as it came.
    let follower = hosts[(leader + 1) % 3].api();
    follower.service_create(spec.clone()).await.expect("created");
    knows(&mut agent, 2).await;

    let view = follower.service_inspect("web").await.expect("there").service;
    assert_eq!(view.spec.task.container.registry_auth, Some(RegistryAuth::own()));
    let tasks = follower.task_list(TaskQuery::default()).await.expect("tasks");
    assert!(tasks.iter().all(|t| t.spec.container.registry_auth == Some(RegistryAuth::own())), "{tasks:?}");
    let state = &hosts[leader].controller().published().state;
    assert!(!format!("{:?}", state.services().collect::<Vec<_>>()).contains(GIVEN));
    let kept = state.find_service("web").expect("there").spec.task.container.registry_auth.clone().expect("kept");
    let AuthForm::Sealed(blob) = kept.form() else { panic!("{kept:?}") };
    let mut stolen = service("stolen", 1);
    stolen.task.container.registry_auth = Some(RegistryAuth::sealed(blob));
    assert_eq!(follower.service_create(stolen).await.expect_err("refused").kind, Kind::Invalid);

    // What a view shows goes back as an update.
    let mut changed = view.spec.clone();
    changed.labels.insert("a".into(), "b".into());
    follower.service_update(view.id, view.meta.version, changed).await.expect("updated");
    let old = hosts[leader].id();
    hosts[leader].crash().await;
    let next = (leader + 1) % 3;
    hosts[next].wait("another leader", |p| p.leader.is_some_and(|l| l != old)).await;
    hosts[leader].resume().await;
    let leads = leader_of(&hosts).await;
    let mut agent = Agent::open(&worker, &hosts[leads]).await.expect("opened");
    knows(&mut agent, 2).await;

    // Enough entries for a checkpoint on each.
    for n in 0..30 {
        hosts[leads].api().network_create(network(&format!("n{n}"))).await.expect("created");
    }
    for host in &mut hosts {
        host.crash().await;
        let found = holding(host.data_dir(), GIVEN);
        assert!(found.is_empty(), "{found:?}");
        assert!(!holding(host.data_dir(), "muster:sealed:").is_empty(), "what is looked for would be found");
    }
    for host in &mut hosts {
        host.resume().await;
    }
    let leads = leader_of(&hosts).await;
    let mut agent = Agent::open(&worker, &hosts[leads]).await.expect("opened");
    knows(&mut agent, 2).await;

    // The log no longer begins at its beginning: who joins now is told by a snapshot.
    let late = Host::join_manager("late", &hosts[leads], small_storage()).await;
    late.wait("the service", |p| p.state.find_service("web").is_ok()).await;
    late.crash().await;
    assert!(holding(late.data_dir(), GIVEN).is_empty());
    assert!(!holding(late.data_dir(), "muster:sealed:").is_empty());
}
