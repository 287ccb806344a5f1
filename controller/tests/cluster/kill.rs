//! kill -9 of a manager's process, again and again: every change that was acknowledged is there afterwards.

use crate::harness::{PATIENCE, description, network, small_storage};
use muster_calls::Cluster;
use muster_controller::{Bootstrap, Controller, ControllerConfig, Founding, Timing};
use muster_model::cluster::ClusterSpec;
use muster_mtls::{Credentials, Tls};
use std::{path::Path, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

const DIR: &str = "MUSTER_TEST_KILL_DIR";
const ROUND: &str = "MUSTER_TEST_KILL_ROUND";

/// The one manager of the cluster in `dir`, founded there if there is none.
async fn manager(dir: &Path) -> Controller {
    let addr = "127.0.0.1:1".parse().expect("an address that nobody dials");
    let identity = dir.join("identity.pem");
    let (credentials, bootstrap) = match Credentials::load(&identity).expect("readable") {
        Some(credentials) => (credentials, Bootstrap::Resume { managers: Vec::new() }),
        None => {
            let pool = "10.128.0.0/12".parse().expect("a subnet");
            let founding = Founding::new(ClusterSpec::default(), pool, 24, description("first", addr), addr);
            let Founding { cluster, first, credentials, seal_key } = founding.expect("random bytes");
            let bootstrap = Bootstrap::New { cluster: Box::new(cluster), first: Box::new(first), seal_key };
            (credentials, bootstrap)
        }
    };
    let config = ControllerConfig {
        data_dir: dir.join("controller"),
        node_id: credentials.identity().node_id,
        cluster_id: credentials.identity().cluster_id,
        addr,
        tls: Tls::new(credentials.clone()).expect("valid"),
        timing: Timing::default(),
        storage: small_storage(),
    };
    let controller = Controller::start(config, bootstrap, std::sync::Arc::new(())).await.expect("started");
    credentials.save(&identity).expect("saved");
    controller
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of its own for the test below, which kills it"]
async fn child() {
    let dir = std::env::var(DIR).expect("the folder");
    let round = std::env::var(ROUND).expect("the round");
    let controller = manager(Path::new(&dir)).await;
    for n in 0.. {
        let name = format!("r{round}n{n}");
        controller.local_face().network_create(network(&name)).await.expect("created");
        println!("ack {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "kill::child", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("spawned");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut seen = 0;
        let until_killed = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                if let Some((_, name)) = line.split_once("ack ") {
                    acknowledged.push(name.to_owned());
                    seen += 1;
                }
                // In the middle of whatever it does then, a checkpoint every 20 entries among it.
                if seen == 25 + 7 * round {
                    child.start_kill().expect("killed");
                }
            }
        };
        timeout(PATIENCE, until_killed).await.expect("in time");
        assert!(!child.wait().await.expect("waited for").success());
    }
    let controller = manager(dir.path()).await;
    let mut published = controller.watch();
    timeout(PATIENCE, published.wait_for(|p| p.leading)).await.expect("in time").expect("runs");
    let state = controller.published().state.clone();
    let lost: Vec<_> = acknowledged.iter().filter(|name| state.network_by_name(name).is_none()).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
    controller.shutdown().await;
}
