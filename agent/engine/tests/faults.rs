//! What breaks in the middle of an act: a shim, the runtime, the disk. Afterwards every object is whole or gone, and lists tell
//! the truth.

mod common;

use common::{Host, IMAGE, command, inspect, script, start, state, until, within};
use futures_util::StreamExt;
use muster_calls::{Engine, ListContainers, RemoveContainer, WaitCondition};
use muster_engine::{EngineConfig, LocalEngine, NoNetwork};
use muster_image::Store;
use muster_model::engine::VolumeCreate;
use muster_runtime::{RuncConfig, RuncRuntime};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

const ALL: RemoveContainer = RemoveContainer { force: true, volumes: true };

async fn names(engine: &LocalEngine) -> Vec<(String, String)> {
    let all = ListContainers { all: true, ..ListContainers::default() };
    let list = engine.container_list(all).await.expect("list").items;
    let mut names: Vec<_> = list.into_iter().map(|c| (c.names[0].clone(), c.state)).collect();
    names.sort();
    names
}

/// The shim of a container: the process that has its run folder as an argument.
fn shim_of(id: &str) -> Option<i32> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()).find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        words.get(1) == Some(&&b"container"[..]) && words.windows(2).any(|w| w[0] == b"--id" && w[1] == id.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_shim_is_killed_ends_and_can_be_started_again() {
    let host = Host::new();
    let engine = host.open().await;
    let id = start(&engine, "orphan", command(&["sleep", "300"])).await;
    let other = start(&engine, "other", command(&["sleep", "300"])).await;
    let pid = inspect(&engine, &id).await.state.pid;
    let ended = engine.container_wait(&id, WaitCondition::NextExit).await.expect("waits");
    kill(Pid::from_raw(shim_of(&id).expect("its shim")), Signal::SIGKILL).expect("killed");
    assert_eq!(within(ended).await.expect("ended").status_code, 137);
    let now = inspect(&engine, &id).await.state;
    assert_eq!((now.status.as_str(), now.running), ("exited", false));
    assert!(now.error.contains("shim"), "{:?}", now.error);
    until("no process of it is left", || async { fs::read_link(format!("/proc/{pid}/exe")).is_err() }).await;
    assert_eq!(state(&engine, &other).await, "running");
    engine.container_start(&id).await.expect("started again");
    assert_eq!(state(&engine, &id).await, "running");

    // The same while no daemon is there.
    let shim = shim_of(&id).expect("its shim");
    engine.shutdown().await;
    drop(engine);
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("killed");
    let engine = host.open().await;
    let now = inspect(&engine, &id).await.state;
    assert_eq!((now.status.as_str(), now.exit_code), ("exited", 137));
    assert_eq!(state(&engine, &other).await, "running");
    host.finish(engine).await;
}

/// An engine whose runtime is a script around the real one.
async fn with_runtime(host: &Host, script: &str) -> Arc<LocalEngine> {
    let path = host.dir.join("runc-wrapper");
    fs::write(&path, format!("#!/bin/sh\n{script}")).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    let mut config = host.config().await;
    let mut runc = RuncConfig::new(common::shim(), host.dir.join("run/runtime"), host.parent());
    runc.runtime = path;
    config.runtime = Arc::new(RuncRuntime::new(runc).await.expect("runtime"));
    let engine = LocalEngine::open(config).await.expect("engine opens");
    if engine.image_inspect(IMAGE).await.is_err() {
        common::import(&*engine, IMAGE).await;
    }
    engine
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_killed_half_way_leaves_nothing_and_the_container_can_be_started_later() {
    let host = Host::new();
    let armed = host.dir.join("armed");
    fs::write(&armed, "").expect("armed");
    // While armed, `create` is killed after an ever longer time: somewhere between its first act and its last.
    let wrapper = format!(
        "armed={0}; case \" $* \" in *' create '*) if [ -e $armed ]; then n=$(cat $armed.n 2>/dev/null || echo 0); \
         echo $((n+1)) > $armed.n; runc \"$@\" & p=$!; sleep 0.0$n; kill -9 $p 2>/dev/null; wait $p; exit 1; fi;; esac; \
         exec runc \"$@\"",
        armed.display()
    );
    let engine = with_runtime(&host, &wrapper).await;
    let created = engine.container_create(Some("half".into()), String::new(), command(&["sleep", "300"])).await;
    let id = created.expect("created").id;
    for _ in 0..8 {
        engine.container_start(&id).await.expect_err("the runtime was killed");
        assert_eq!(names(&engine).await, [("/half".to_owned(), "created".to_owned())]);
        let left: Vec<_> = host.mounts().into_iter().filter(|m| m.contains(&id)).collect();
        assert_eq!(left, Vec::<String>::new(), "mounts are left");
        assert_eq!(fs::read_dir(host.dir.join("run/runtime/c")).expect("folder").count(), 0, "run folders are left");
        assert!(shim_of(&id).is_none(), "its shim is left");
    }
    fs::remove_file(&armed).expect("disarmed");
    engine.container_start(&id).await.expect("starts");
    assert_eq!(state(&engine, &id).await, "running");
    host.finish(engine).await;
}

/// A small file system for an engine's data, unmounted at the end.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn new(at: &'a Path, size: &str) -> Self {
        fs::create_dir_all(at).expect("folder");
        mount(Some("disk"), at, Some("tmpfs"), MsFlags::empty(), Some(format!("size={size}").as_str())).expect("tmpfs");
        Self(at)
    }

    /// Takes all the room that is left; answers with the file to remove.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.0.join("ballast");
        let mut file = fs::File::create(&path).expect("ballast");
        let block = vec![1; 1 << 16];
        let mut size = block.len();
        while size > 0 {
            match std::io::Write::write(&mut file, &block[..size]) {
                Ok(_) => {}
                Err(_) => size /= 2,
            }
        }
        path
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

async fn on_disk(host: &Host, disk: &Path) -> Arc<LocalEngine> {
    let own = host.config().await;
    let images = Store::open(&disk.join("images")).expect("store");
    let mut config = EngineConfig::new(
        disk.join("data"),
        host.dir.join("run"),
        own.runtime,
        images,
        Arc::new(NoNetwork),
        common::shim().to_owned(),
    );
    config.cgroup_parent = host.parent().to_owned();
    LocalEngine::open(config).await.expect("engine opens")
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_acts_fail_whole_what_runs_goes_on_and_room_makes_all_well() {
    let host = Host::new();
    let at = host.dir.join("disk");
    let disk = Disk::new(&at, "24m");
    let engine = on_disk(&host, &at).await;
    common::import(&*engine, IMAGE).await;
    let chatty = script("i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done");
    start(&engine, "runs", chatty).await;
    engine.container_create(Some("waits".into()), String::new(), command(&["sleep", "300"])).await.expect("created");
    let before = names(&engine).await;

    let ballast = disk.fill();
    engine.volume_create(VolumeCreate { name: "vol".into(), ..VolumeCreate::default() }).await.expect_err("full");
    let mut body = command(&["sleep", "300"]);
    body.host_config.binds = vec!["w:/d".into()];
    engine.container_create(Some("new".into()), String::new(), body).await.expect_err("full");
    engine.container_start("waits").await.expect_err("full");
    assert_eq!(names(&engine).await, before, "lists tell the truth");
    assert!(engine.volume_list(Default::default()).await.expect("list").volumes.is_empty());
    assert_eq!(state(&engine, "runs").await, "running", "what runs goes on");
    within(engine.container_kill("runs", None)).await.expect("killed");
    let ended = || async { state(&engine, "runs").await == "exited" };
    until("its end is known, though it cannot be written down", ended).await;

    // The same after a restart on the full disk.
    engine.shutdown().await;
    drop(engine);
    let engine = on_disk(&host, &at).await;
    let seen = names(&engine).await;
    assert_eq!(seen.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["/runs", "/waits"]);
    assert_eq!(state(&engine, "runs").await, "exited");

    fs::remove_file(ballast).expect("room");
    for name in ["runs", "waits"] {
        engine.container_start(name).await.expect("starts");
        assert_eq!(state(&engine, name).await, "running");
    }
    let mut body = command(&["sleep", "300"]);
    body.host_config.binds = vec!["w:/d".into()];
    start(&engine, "new", body).await;
    for name in ["runs", "waits", "new"] {
        engine.container_remove(name, ALL).await.expect("removed");
    }
    let leftovers = fs::read_dir(at.join("data/containers")).expect("folder").count();
    assert_eq!(leftovers, 0);
    engine.shutdown().await;
    drop(engine);
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_full_disk_stops_growing_and_goes_on_with_room() {
    let host = Host::new();
    let at = host.dir.join("disk");
    let disk = Disk::new(&at, "24m");
    let engine = on_disk(&host, &at).await;
    common::import(&*engine, IMAGE).await;
    let id = start(&engine, "chatty", script("i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done")).await;
    let log = at.join("data/containers").join(&id).join(format!("{id}-json.log"));
    let size = || fs::metadata(&log).map_or(0, |m| m.len());
    until("it logs", || async { size() > 0 }).await;
    let ballast = disk.fill();
    let progress = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", shim_of(&id).expect("shim"))).unwrap_or_default();
        stat.split(' ').nth(3).map(str::to_owned)
    };
    assert!(progress().is_some(), "the shim lives");
    assert_eq!(state(&engine, &id).await, "running");
    let full = size();
    fs::remove_file(ballast).expect("room");
    until("it logs again", || async { size() > full + 200 }).await;
    let options = muster_calls::Logs { stdout: true, stderr: true, ..Default::default() };
    let mut lines = engine.container_logs(&id, options).await.expect("logs").lines;
    let mut last = -1;
    while let Some(line) = lines.next().await {
        let text = String::from_utf8_lossy(&line.expect("line").data).into_owned();
        let number: i64 = text.trim().strip_prefix("line ").and_then(|n| n.parse().ok()).expect("a whole line");
        assert!(number > last, "in order: {number} after {last}");
        last = number;
    }
    engine.container_remove(&id, ALL).await.expect("removed");
    engine.shutdown().await;
    drop(engine);
    drop(disk);
}
