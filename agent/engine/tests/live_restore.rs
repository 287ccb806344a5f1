//! A hundred containers under a daemon that is killed: none is touched, and everything that went on about them goes on.

mod common;

use common::{Host, inspect, script, start, state, until, within};
use futures_util::{StreamExt, stream};
use muster_calls::{Engine, EventsQuery, ListContainers, Logs, StopContainer};
use muster_engine::LocalEngine;
use muster_model::{
    Timestamp,
    engine::{ContainerCreateBody, ExecConfig, HealthConfig},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// Where the child process finds its host.
const DIR: &str = "MUSTER_TEST_HOST_DIR";
const PARENT: &str = "MUSTER_TEST_HOST_PARENT";
/// Of each kind; the kinds make a hundred.
const KINDS: &[(&str, usize)] =
    &[("log", 40), ("sick", 10), ("ends", 10), ("leaves", 10), ("always", 10), ("backs", 10), ("idle", 10)];
/// More than a start of a daemon over a hundred containers may take on a busy machine.
const RESTORE: Duration = Duration::from_secs(20);

fn body(kind: &str) -> ContainerCreateBody {
    let wait = "while [ ! -e /tmp/go ]; do sleep 0.1; done; echo last;";
    let mut body = match kind {
        "log" => script("i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"),
        "ends" | "always" => script(&format!("{wait} exit 7")),
        "leaves" => script(&format!("{wait} exit 0")),
        "backs" => script("exit 1"),
        _ => script("while :; do sleep 10; done"),
    };
    match kind {
        "sick" => {
            body.config.healthcheck = Some(HealthConfig {
                test: vec!["CMD".into(), "false".into()],
                interval: 1_000_000_000,
                retries: 1000,
                ..HealthConfig::default()
            })
        }
        "leaves" => body.host_config.auto_remove = true,
        "always" | "backs" => body.host_config.restart_policy.name = "always".into(),
        _ => {}
    }
    body
}

/// Not a test of its own: the process that hosts an engine and is killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_hosts_a_hundred() {
    let (Ok(dir), Ok(parent)) = (std::env::var(DIR), std::env::var(PARENT)) else { return };
    let engine = Host::of(&dir, &parent).open().await;
    let all = KINDS.iter().flat_map(|(kind, count)| (0..*count).map(move |n| (*kind, format!("{kind}-{n}"))));
    stream::iter(all)
        .for_each_concurrent(6, |(kind, name)| {
            let engine = engine.clone();
            async move { drop(start(&engine, &name, body(kind)).await) }
        })
        .await;
    let config = ExecConfig {
        cmd: ["sh", "-c", "while [ ! -e /tmp/done ]; do sleep 0.1; done; exit 5"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let exec = engine.exec_create("idle-0", config).await.expect("exec");
    let detached = muster_calls::ExecStart { detach: true, ..Default::default() };
    engine.exec_start(&exec, detached).await.expect("runs");
    let sick = || async { inspect(&engine, "sick-0").await.state.health.is_some_and(|h| h.failing_streak >= 2) };
    until("it is sick", sick).await;
    let backed = || async { inspect(&engine, "backs-0").await.restart_count >= 4 };
    until("it has backed off", backed).await;
    println!("READY {exec}");
    std::future::pending::<()>().await;
}

fn record(host: &Host, name: &str) -> serde_json::Value {
    let folders = fs::read_dir(host.dir.join("data/containers")).expect("folder").flatten();
    folders.filter_map(|e| common::record_in(&e.path())).find(|r| r["name"] == name).expect("its record")
}

fn root_of(pid: i64) -> PathBuf {
    format!("/proc/{pid}/root").into()
}

async fn pids(engine: &LocalEngine) -> BTreeMap<String, i64> {
    let all = ListContainers { all: true, ..ListContainers::default() };
    let mut pids = BTreeMap::new();
    for container in engine.container_list(all).await.expect("list").items {
        let name = container.names[0].trim_start_matches('/').to_owned();
        pids.insert(name, inspect(engine, &container.id).await.state.pid);
    }
    pids
}

async fn numbers(engine: &LocalEngine, name: &str) -> Vec<i64> {
    let options = Logs { stdout: true, ..Logs::default() };
    let lines = engine.container_logs(name, options).await.expect("logs").lines;
    lines
        .map(|l| String::from_utf8_lossy(&l.expect("line").data).trim().parse::<i64>().expect("number"))
        .collect()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_containers_do_not_notice_that_the_daemon_is_killed() {
    let host = Host::new();
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_that_hosts_a_hundred", "--nocapture"])
        .envs([(DIR, host.dir.as_os_str()), (PARENT, host.parent().as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let ready = output.lines().map_while(Result::ok).find_map(|l| l.split("READY ").nth(1).map(str::to_owned));
    let exec = ready.expect("the child got ready");
    let pid = |name: &str| record(&host, name)["state"]["pid"].as_i64().expect("pid");
    let before: BTreeMap<String, i64> =
        ["log-0", "log-39", "sick-0", "idle-0", "idle-9"].map(|n| (n.to_owned(), pid(n))).into();
    let (streak, restarts) = (
        record(&host, "sick-0")["state"]["health"]["FailingStreak"].as_i64().expect("streak"),
        record(&host, "backs-0")["state"]["restart_count"].as_i64().expect("count"),
    );
    child.kill().expect("killed");
    child.wait().expect("reaped");
    let ending: Vec<i64> = ["ends", "leaves", "always"]
        .iter()
        .flat_map(|k| (0..10).map(move |n| format!("{k}-{n}")))
        .map(|n| pid(&n))
        .collect();
    ending.iter().for_each(|pid| fs::write(root_of(*pid).join("tmp/go"), "").expect("told to end"));
    until("all of them ended", || async { ending.iter().all(|pid| !root_of(*pid).join("tmp").exists()) }).await;

    let began = Instant::now();
    let since = Timestamp::from_millis(1);
    let engine: Arc<LocalEngine> = host.open().await;
    assert!(began.elapsed() < RESTORE, "it took {:?}", began.elapsed());
    let after = pids(&engine).await;
    for (name, pid) in &before {
        assert_eq!(after.get(name), Some(pid), "{name} was not touched");
    }
    assert_eq!(after.len(), 90, "those that remove themselves have: {:?}", after.keys());
    for n in 0..10 {
        let ended = inspect(&engine, &format!("ends-{n}")).await.state;
        assert_eq!((ended.status.as_str(), ended.exit_code), ("exited", 7));
        assert!(!after.contains_key(&format!("leaves-{n}")));
    }
    let health = inspect(&engine, "sick-0").await.state.health.expect("probed");
    assert_eq!(health.status, "starting");
    assert!(health.failing_streak >= streak, "{} after {streak}", health.failing_streak);
    let sicker =
        || async { inspect(&engine, "sick-0").await.state.health.is_some_and(|h| h.failing_streak > streak + 1) };
    until("probes go on", sicker).await;
    let again = || async { inspect(&engine, "always-0").await.restart_count >= 1 };
    until("restarted by its policy", again).await;
    assert!(inspect(&engine, "backs-0").await.restart_count >= restarts, "its count goes on");

    let until_now = Timestamp::from_millis(i64::MAX / 2_000_000);
    let mut events =
        engine.events(EventsQuery { since, until: until_now, ..EventsQuery::default() }).await.expect("events");
    let mut deaths = BTreeMap::new();
    while deaths.len() < 30 {
        let event = within(events.next()).await.expect("more").expect("event");
        if event.action == "die" && event.actor.attributes["name"].split('-').next() != Some("backs") {
            deaths.insert(event.actor.attributes["name"].clone(), event.actor.attributes["exitCode"].clone());
        }
    }
    assert_eq!((deaths["ends-3"].as_str(), deaths["leaves-3"].as_str(), deaths["always-3"].as_str()), ("7", "0", "7"));

    // An exec of the daemon before is known, and its end.
    assert!(engine.exec_inspect(&exec).await.expect("known").running);
    fs::write(root_of(before["idle-0"]).join("tmp/done"), "").expect("told to end");
    let ended = || async { engine.exec_inspect(&exec).await.is_ok_and(|e| e.exit_code == Some(5)) };
    until("its code is known", ended).await;

    for name in ["log-0", "log-39"] {
        let grown = numbers(&engine, name).await.len();
        until("it goes on logging", || async { numbers(&engine, name).await.len() > grown }).await;
        let lines = numbers(&engine, name).await;
        assert_eq!(lines, (0..lines.len() as i64).collect::<Vec<_>>(), "{name}: no line is lost");
    }
    within(engine.container_stop("idle-9", StopContainer { timeout_s: Some(0), ..StopContainer::default() }))
        .await
        .expect("stopped");
    assert_eq!(state(&engine, "idle-9").await, "exited");
    host.finish(engine).await;
}
