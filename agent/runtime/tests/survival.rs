//! The daemon dies, the shim dies, clients stall: what must be kept is kept, and what must end ends.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Host, container, kill, shims_of, wait_until, within};
use muster_runtime::logs::{ReadOptions, Reader};
use muster_runtime::{
    Adopted, AttachOptions, CreateSpec, LogConfig, LogDriver, Output, ProcessRef, RuncConfig, RuncRuntime, Runtime,
    Status, spec,
};
use tokio::sync::watch;

const DAEMON: &str = "MUSTER_TEST_DAEMON";

/// Not a test of its own: the daemon that another test kills. Creates and starts a container, attaches, and stays.
#[tokio::test]
#[ignore = "run by the_daemon_is_killed_and_no_line_is_lost as a process of its own"]
async fn the_daemon_that_will_be_killed() {
    let text = std::env::var(DAEMON).expect("run by its test");
    let [run, parent, dir, rootfs]: [&str; 4] = text.split('|').collect::<Vec<_>>().try_into().expect("four words");
    let runtime = RuncRuntime::new(RuncConfig::new(common::shim(), run, parent)).await.expect("runtime");
    let script = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo line $i; done; echo last; exit 42";
    let input = spec::SpecInput {
        rootfs: PathBuf::from(rootfs),
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        cgroups_path: format!("{parent}/k"),
        ..spec::SpecInput::default()
    };
    let built = spec::build(&input, &spec::Host::detect().expect("host")).expect("spec");
    let create = CreateSpec {
        id: "k".into(),
        bundle: dir.into(),
        state_dir: dir.into(),
        spec: built.spec,
        stdio: Default::default(),
        log: LogConfig::json_file(PathBuf::from(dir).join("k.log")),
    };
    runtime.create(&create).await.expect("created");
    let mut attached = runtime.attach(container("k"), AttachOptions::all()).await.expect("attached");
    runtime.start("k").await.expect("started");
    loop {
        attached.output.next().await.expect("output");
    }
}

#[tokio::test]
async fn the_daemon_is_killed_and_no_line_is_lost() {
    let host = Host::new().await;
    let dir = host.path("k");
    fs::create_dir(&dir).expect("folder");
    let words = [&host.config.run_dir, &PathBuf::from(&host.config.cgroup_parent), &dir, &host.rootfs()]
        .map(|path| path.to_str().expect("UTF-8").to_owned());
    let mut daemon = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "the_daemon_that_will_be_killed", "--ignored"])
        .env(DAEMON, words.join("|"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test program runs");
    let log = dir.join("k.log");
    let lines = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    wait_until("some lines", || lines() > 1000);
    daemon.kill().expect("killed");
    daemon.wait().expect("reaped");
    let before = lines();
    wait_until("lines that the daemon never saw", || lines() > before + 1000);
    let adopted = host.runtime.adopt("k", &dir).await.expect("adopted");
    assert!(matches!(adopted, Adopted::Alive { status: Status::Running, .. }), "{adopted:?}");
    fs::write(host.rootfs().join("tmp/stop"), "").expect("file");
    let exit = host.wait("k").await;
    assert_eq!(exit.code, 42);
    let text = fs::read_to_string(&log).expect("a log");
    let mut number = 0;
    for line in text.lines() {
        let entry = muster_runtime::logs::Entry::parse(line.as_bytes()).expect("a whole line");
        if entry.line != "last\n" {
            number += 1;
            assert_eq!(entry.line, format!("line {number}\n"));
        }
    }
    assert!(text.contains("\"last\\n\""));
    // Ended while nobody looked, as another daemon finds it.
    assert_eq!(host.runtime.adopt("k", &dir).await.expect("adopted"), Adopted::Exited(exit.clone()));
    host.runtime.delete("k", false).await.expect("deleted");
    assert_eq!(host.runtime.adopt("k", &dir).await.expect("adopted"), Adopted::Exited(exit));
    assert_eq!(host.runtime.adopt("other", &host.path("nowhere")).await.expect("adopted"), Adopted::Unknown);
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_container_whose_shim_is_killed_is_ended_and_said_to_be() {
    let host = Host::new().await;
    host.run("orphan", "trap '' TERM HUP; while :; do sleep 1; done").await;
    let pid = host.runtime.state("orphan").await.expect("known").pid;
    let waiting = host.runtime.wait(container("orphan"));
    let shims = shims_of(&host.dir.path().to_string_lossy());
    assert_eq!(shims.len(), 1);
    let (exit, ()) = within(async {
        tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            kill(shims[0], 9);
        })
    })
    .await;
    let exit = exit.expect("an end");
    assert_eq!(exit.code, 137);
    assert!(exit.error.as_deref().is_some_and(|error| error.contains("shim")), "{exit:?}");
    wait_until("the init to be dead", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    let found = host.runtime.adopt("orphan", &host.path("orphan")).await.expect("adopted");
    assert_eq!(found, Adopted::Exited(exit));
    host.runtime.delete("orphan", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_the_container_goes_on() {
    let host = Host::with(|config| config.stall_ms = 300).await;
    let script =
        "i=0; while [ $i -lt 40 ]; do dd if=/dev/zero bs=64k count=1 2>/dev/null; i=$((i+1)); done; echo done >&2";
    let mut spec = host.create_spec("slow", &host.input("slow", script));
    spec.log.driver = LogDriver::None;
    host.runtime.create(&spec).await.expect("created");
    let mut slow = host.runtime.attach(container("slow"), AttachOptions::output()).await.expect("attached");
    let only_errors = AttachOptions { stdout: false, ..AttachOptions::output() };
    let fast = host.runtime.attach(container("slow"), only_errors).await.expect("attached");
    host.runtime.start("slow").await.expect("started");
    let (exit, _, err) = common::collect(fast).await;
    assert_eq!((exit.code, err.as_str()), (0, "done\n"));
    let mut taken = 0;
    while let Some(piece) = within(slow.output.next()).await.expect("output") {
        assert!(!matches!(piece, Output::Exit(_)), "a client that was cut off is not told that it has everything");
        taken += piece.bytes().len();
    }
    assert!(taken < 40 * 65536, "{taken}");
    host.runtime.delete("slow", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_slow_but_living_client_loses_nothing() {
    let host = Host::new().await;
    let spec = host.create_spec("steady", &host.input("steady", "seq 1 200000"));
    host.runtime.create(&spec).await.expect("created");
    let mut attached = host.runtime.attach(container("steady"), AttachOptions::output()).await.expect("attached");
    host.runtime.start("steady").await.expect("started");
    // Everything is full before the first read.
    tokio::time::timeout(Duration::from_millis(200), host.runtime.wait(container("steady"))).await.ok();
    let mut text = Vec::new();
    loop {
        match within(attached.output.next()).await.expect("output").expect("an exit") {
            Output::Exit(_) => break,
            piece => text.extend_from_slice(piece.bytes()),
        }
    }
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(text == expected.as_bytes(), "{} bytes of {}", text.len(), expected.len());
    host.runtime.delete("steady", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn rotation_keeps_to_its_bounds_and_a_follower_loses_no_line() {
    let host = Host::new().await;
    let count = 20_000;
    let mut spec = host.create_spec("rot", &host.input("rot", &format!("seq 1 {count}")));
    (spec.log.max_size, spec.log.max_file) = (Some(64 * 1024), 50);
    host.runtime.create(&spec).await.expect("created");
    let (ended, receiver) = watch::channel(false);
    let options = ReadOptions { follow: true, ..ReadOptions::default() };
    let mut reader = Reader::open(&host.log("rot"), options, receiver).await.expect("opened");
    let following = async {
        let mut lines = Vec::new();
        while let Some(batch) = reader.next_batch().await.expect("read") {
            lines.extend(batch.into_iter().map(|entry| String::from_utf8_lossy(&entry.line).into_owned()));
        }
        lines
    };
    let running = async {
        host.runtime.start("rot").await.expect("started");
        host.runtime.wait(container("rot")).await.expect("ended");
        ended.send_replace(true);
    };
    let (lines, ()) = within(async { tokio::join!(following, running) }).await;
    assert_eq!(lines.len(), count);
    assert!(lines.iter().enumerate().all(|(at, line)| *line == format!("{}\n", at + 1)));
    let sizes: Vec<u64> = (0..50)
        .filter_map(|number| {
            let name = if number == 0 { String::new() } else { format!(".{number}") };
            fs::metadata(format!("{}{name}", host.log("rot").display())).ok().map(|meta| meta.len())
        })
        .collect();
    assert!(sizes.len() > 10 && sizes.iter().all(|size| *size < 65 * 1024), "{sizes:?}");
    let tail = ReadOptions { tail: Some(3000), ..ReadOptions::default() };
    let mut reader = Reader::open(&host.log("rot"), tail, watch::channel(true).1).await.expect("opened");
    let mut last = Vec::new();
    while let Some(batch) = reader.next_batch().await.expect("read") {
        last.extend(batch);
    }
    assert_eq!((last.len(), &last[0].line[..]), (3000, format!("{}\n", count - 2999).as_bytes()));
    host.runtime.delete("rot", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn long_lines_come_back_whole_and_an_unfinished_one_is_kept() {
    let host = Host::new().await;
    let script = "dd if=/dev/zero bs=50000 count=1 2>/dev/null; echo; echo -n tail";
    let (_, out, _) = host.script("long", script).await;
    assert_eq!(out.len(), 50_005);
    let mut reader =
        Reader::open(&host.log("long"), ReadOptions::default(), watch::channel(true).1).await.expect("opened");
    let mut entries = Vec::new();
    while let Some(batch) = reader.next_batch().await.expect("read") {
        entries.extend(batch);
    }
    let sizes: Vec<(usize, bool)> = entries.iter().map(|entry| (entry.line.len(), entry.is_partial())).collect();
    assert_eq!(sizes, [(16384, true), (16384, true), (16384, true), (849, false), (4, true)]);
    host.assert_nothing_left();
}

#[tokio::test]
async fn what_a_crash_left_behind_is_swept() {
    let host = Host::new().await;
    host.run("kept", "exec sleep 1000").await;
    host.run("lost", "exec sleep 1000").await;
    host.run("shimless", "exec sleep 1000").await;
    let base = host.dir.path().to_string_lossy().into_owned();
    for pid in shims_of(&base) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains("\0shimless\0") {
            kill(pid, 9);
        }
    }
    // Another daemon on the same folders.
    let second = RuncRuntime::new(host.config.clone()).await.expect("runtime");
    let removed = second.sweep(&["kept".to_owned()]).await.expect("swept");
    assert_eq!(removed, ["lost", "shimless"]);
    assert_eq!(second.state("kept").await.expect("known").status, Status::Running);
    let missing = second.state("lost").await;
    assert!(matches!(missing, Err(muster_runtime::Error::NotFound { .. })), "{missing:?}");
    host.assert_clean().await;
}

#[tokio::test]
async fn an_exec_outlives_the_daemon_and_its_code_is_found_later() {
    let host = Host::new().await;
    let spec = host.create_spec("ec", &host.input("ec", "exec sleep 1000"));
    host.runtime.create(&spec).await.expect("created");
    host.runtime.start("ec").await.expect("started");
    let input = spec::ExecInput {
        args: ["/bin/sh", "-c", "read x; exit 6"].map(str::to_owned).to_vec(),
        ..spec::ExecInput::default()
    };
    let exec = host.exec_spec(&spec, &input);
    host.runtime.exec_create("ec", "e", &exec).await.expect("prepared");
    host.runtime.exec_start("ec", "e").await.expect("started");
    let second = RuncRuntime::new(host.config.clone()).await.expect("runtime");
    let process = ProcessRef::Exec { container: "ec", exec: "e" };
    let mut attached = second.attach(process, AttachOptions::all()).await.expect("attached");
    attached.input.write(b"\n").await.expect("written");
    assert_eq!(within(second.wait(process)).await.expect("ended").code, 6);
    host.runtime.delete("ec", true).await.expect("deleted");
    host.assert_nothing_left();
}
