//! An engine that dies, or is restarted: its containers do not notice, and the next one knows everything.

mod common;

use common::{Host, command, inspect, script, start, state, until, within};
use futures_util::StreamExt;
use muster_calls::{Engine, Filters, Kind, ListContainers, Logs, RemoveContainer, StopContainer, WaitCondition};
use muster_engine::LocalEngine;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
};

/// Where the child process finds its host.
const DIR: &str = "MUSTER_TEST_HOST_DIR";
const PARENT: &str = "MUSTER_TEST_HOST_PARENT";

/// Not a test of its own: the process that hosts an engine and is killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_hosts_an_engine() {
    let (Ok(dir), Ok(parent)) = (std::env::var(DIR), std::env::var(PARENT)) else { return };
    let host = Host::of(&dir, &parent);
    let engine = host.open().await;
    start(&engine, "long", script("echo begun; while :; do sleep 0.05; done")).await;
    start(&engine, "brief", script("while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last; exit 7")).await;
    let mut always = script("while :; do sleep 0.05; done");
    always.host_config.restart_policy.name = "always".to_owned();
    start(&engine, "always", always).await;
    start(&engine, "paused", command(&["sleep", "300"])).await;
    engine.container_pause("paused").await.expect("paused");
    let mut gone = script("while [ ! -e /tmp/go ]; do sleep 0.05; done");
    gone.host_config.auto_remove = true;
    start(&engine, "selfless", gone).await;
    println!("READY");
    std::future::pending::<()>().await;
}

/// Not a test of its own: a process that makes and removes containers until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_always_busy() {
    let (Ok(dir), Ok(parent)) = (std::env::var(DIR), std::env::var(PARENT)) else { return };
    let engine = Host::of(&dir, &parent).open().await;
    println!("READY");
    let busy = async |engine: Arc<LocalEngine>, kind: usize| loop {
        let mut body = script("echo x; sleep 0.02");
        body.host_config.auto_remove = kind == 0;
        body.host_config.binds = vec!["/filled".to_owned(), "named:/v".to_owned()];
        let created = engine.container_create(None, String::new(), body).await.expect("created");
        engine.container_start(&created.id).await.expect("started");
        match kind {
            0 => drop(engine.container_wait(&created.id, WaitCondition::Removed).await.expect("waits").await),
            1 => {
                let soon = StopContainer { timeout_s: Some(0), ..StopContainer::default() };
                let _ = engine.container_stop(&created.id, soon).await; // It may have ended by itself.
            }
            _ => {
                let force = RemoveContainer { force: true, volumes: true };
                engine.container_remove(&created.id, force).await.expect("removed");
            }
        }
    };
    tokio::join!(busy(engine.clone(), 0), busy(engine.clone(), 1), busy(engine, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_leaves_nothing_that_the_next_start_does_not_take_up_or_clean() {
    let host = Host::new();
    for moment_ms in [0, 35, 90, 170, 290, 430] {
        let mut child = spawn(&host, "child_that_is_always_busy");
        // The fault, not a wait: the process dies wherever it is by then.
        tokio::time::sleep(std::time::Duration::from_millis(moment_ms)).await;
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let engine = host.open().await;
        let all = ListContainers { all: true, ..ListContainers::default() };
        let list = engine.container_list(all).await.expect("list").items;
        for container in &list {
            let known = ["created", "running", "exited"].contains(&container.state.as_str());
            assert!(known, "{} after {moment_ms} ms", container.state);
            let removed =
                within(engine.container_remove(&container.id, RemoveContainer { force: true, volumes: true })).await;
            // One that removes itself may have ended just now.
            assert!(removed.is_ok() || removed.is_err_and(|e| e.kind == Kind::NotFound));
        }
        assert_eq!(host.mounts(), Vec::<String>::new(), "after {moment_ms} ms");
        let mut every = Filters::default();
        every.add("all", "true");
        engine.volume_prune(every).await.expect("pruned");
        assert_eq!(
            std::fs::read_dir(host.dir.join("data/volumes")).expect("folder").count(),
            0,
            "after {moment_ms} ms"
        );
        engine.shutdown().await;
    }
    let engine = host.open().await;
    host.finish(engine).await;
}

fn spawn(host: &Host, role: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", role, "--nocapture"])
        .envs([(DIR, host.dir.as_os_str()), (PARENT, host.parent().as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("READY"));
    assert!(ready, "the child did not get ready");
    child
}

async fn pid(engine: &LocalEngine, name: &str) -> i64 {
    inspect(engine, name).await.state.pid
}

fn root_of(pid: i64) -> std::path::PathBuf {
    format!("/proc/{pid}/root").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_the_next_engine_takes_up_what_runs_and_records_what_ended() {
    let host = Host::new();
    let mut child = spawn(&host, "child_that_hosts_an_engine");
    let pids = |name: &str| {
        let folder = host.dir.join("data/containers");
        let entries = std::fs::read_dir(folder).expect("folder").flatten();
        let record = entries.filter_map(|e| common::record_in(&e.path())).find(|r| r["name"] == name).expect("there");
        record["state"]["pid"].as_i64().expect("pid")
    };
    let (long, brief, selfless, always) = (pids("long"), pids("brief"), pids("selfless"), pids("always"));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    for pid in [brief, selfless] {
        std::fs::write(root_of(pid).join("tmp/go"), "").expect("told to end");
    }
    until("both ended", || async { !root_of(brief).join("tmp").exists() && !root_of(selfless).join("tmp").exists() })
        .await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(always as i32), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
    until("killed", || async { !root_of(always).join("tmp").exists() }).await;

    let engine = host.open().await;
    assert_eq!(pid(&engine, "long").await, long, "it was not touched");
    assert_eq!(state(&engine, "long").await, "running");
    assert_eq!(state(&engine, "paused").await, "paused");
    let ended = inspect(&engine, "brief").await.state;
    assert_eq!((ended.status.as_str(), ended.exit_code), ("exited", 7));
    let lines = engine.container_logs("brief", Logs::default()).await.expect("logs").lines;
    let lines: Vec<_> = lines.map(|l| String::from_utf8_lossy(&l.expect("line").data).into_owned()).collect().await;
    assert_eq!(lines, ["last\n"], "no line is lost");
    assert!(engine.container_inspect("selfless", false).await.is_err(), "it removed itself");
    until("restarted by its policy", || async { pid(&engine, "always").await != 0 }).await;
    assert_ne!(pid(&engine, "always").await, always);
    // What was taken up can be waited for and stopped as before.
    let wait = engine.container_wait("long", WaitCondition::NextExit).await.expect("waits");
    within(engine.container_stop("long", StopContainer { timeout_s: Some(0), ..StopContainer::default() }))
        .await
        .expect("stopped");
    assert_eq!(within(wait).await.expect("ended").status_code, 137);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_leaves_containers_running_and_their_health_goes_on() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = command(&["sleep", "300"]);
    body.config.healthcheck = Some(muster_model::engine::HealthConfig {
        test: vec!["CMD".into(), "true".into()],
        interval: 50_000_000,
        ..Default::default()
    });
    start(&engine, "web", body).await;
    let before = pid(&engine, "web").await;
    engine.shutdown().await;
    drop(Arc::into_inner(engine));
    let engine = host.open().await;
    assert_eq!(pid(&engine, "web").await, before);
    let healthy = async || inspect(&engine, "web").await.state.health.is_some_and(|h| h.status == "healthy");
    until("it is healthy", healthy).await;
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_ends_with_the_daemon_that_began_it() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = command(&["sleep", "300"]);
    body.config.healthcheck = Some(muster_model::engine::HealthConfig {
        test: vec!["CMD".into(), "sleep".into(), "311".into()],
        interval: 50_000_000,
        timeout: 600_000_000_000,
        ..Default::default()
    });
    start(&engine, "web", body).await;
    let probes = async |engine: &LocalEngine| {
        let top = engine.container_top("web", "-eo pid,args".into()).await.expect("top");
        top.processes.iter().filter(|p| p.join(" ").contains("sleep 311")).map(|p| p[0].clone()).collect::<Vec<_>>()
    };
    until("it is probed", || async { probes(&engine).await.len() == 1 }).await;
    let before = probes(&engine).await;
    engine.shutdown().await;
    drop(Arc::into_inner(engine));
    let engine = host.open().await;
    until("the old probe is gone and a new one there", || async {
        let now = probes(&engine).await;
        now.len() == 1 && now != before
    })
    .await;
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_made_is_gone_at_the_next_start() {
    let host = Host::new();
    let engine = host.open().await;
    let id = engine.container_create(Some("whole".into()), String::new(), script("true")).await.expect("created").id;
    engine.shutdown().await;
    drop(engine);
    // A folder without a record, a namespace without an owner, a record without a root.
    let data = host.dir.join("data/containers");
    std::fs::create_dir(data.join("a".repeat(64))).expect("folder");
    std::fs::write(host.dir.join("run/netns/abcdef123456"), "").expect("file");
    // Of who else has files in a folder of this name.
    std::fs::write(host.dir.join("run/netns/blue"), "").expect("file");
    std::fs::remove_dir_all(host.dir.join("images/snapshots").join(&id)).expect("root");
    std::fs::create_dir(host.dir.join("data/volumes/half")).expect("folder");
    let engine = host.open().await;
    assert!(engine.container_inspect("whole", false).await.is_err());
    assert_eq!(std::fs::read_dir(&data).expect("folder").count(), 0);
    let left: Vec<_> = std::fs::read_dir(host.dir.join("run/netns")).expect("folder").flatten().collect();
    assert!(left.len() == 1 && left[0].file_name() == "blue", "{left:?}");
    std::fs::remove_file(host.dir.join("run/netns/blue")).expect("theirs");
    assert!(engine.volume_inspect("half").await.is_err());
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_side_by_side_do_not_see_each_other() {
    let (one, other) = (Host::new(), Host::new());
    let (a, b) = (one.open().await, other.open().await);
    let first = start(&a, "web", command(&["sleep", "300"])).await;
    let second = start(&b, "web", command(&["sleep", "300"])).await;
    assert_ne!(first, second);
    assert!(a.container_inspect(&second, false).await.is_err());
    // The restart of one sweeps nothing of the other.
    a.shutdown().await;
    drop(a);
    let a = one.open().await;
    assert_eq!(state(&a, "web").await, "running");
    assert_eq!(state(&b, "web").await, "running");
    one.finish(a).await;
    assert_eq!(state(&b, "web").await, "running");
    other.finish(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_hides_no_other_and_loses_nothing() {
    let host = Host::new();
    let engine = host.open().await;
    let id = start(&engine, "odd", command(&["sleep", "300"])).await;
    start(&engine, "fine", command(&["sleep", "300"])).await;
    let before = pid(&engine, "odd").await;
    engine.shutdown().await;
    drop(engine);
    let files = ["record.json", "recent.json"].map(|name| host.dir.join("data/containers").join(&id).join(name));
    let whole = files.each_ref().map(|file| std::fs::read(file).expect("record"));
    for (file, whole) in files.iter().zip(&whole) {
        std::fs::write(file, &whole[..whole.len() / 2]).expect("cut");
    }
    let engine = host.open().await;
    assert_eq!(state(&engine, "fine").await, "running");
    assert!(engine.container_inspect("odd", false).await.is_err());
    assert!(root_of(before).join("tmp").exists(), "it still runs");
    engine.shutdown().await;
    drop(engine);
    for (file, whole) in files.iter().zip(&whole) {
        std::fs::write(file, whole).expect("mended");
    }
    let engine = host.open().await;
    assert_eq!((state(&engine, "odd").await, pid(&engine, "odd").await), ("running".to_owned(), before));
    host.finish(engine).await;
}
