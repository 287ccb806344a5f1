//! Containers for real, through runc.

mod common;

use common::{Host, collect, container, read_until, within};
use muster_runtime::{AttachOptions, Output, Runtime, Status};

#[tokio::test]
async fn exit_codes_and_both_outputs_come_through_and_nothing_is_left() {
    let host = Host::new().await;
    let (exit, out, err) = host.script("ok", "echo out; echo err >&2; exit 7").await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    let log = std::fs::read_to_string(host.log("ok")).expect("a log");
    assert!(log.contains("{\"log\":\"out\\n\",\"stream\":\"stdout\",\"time\":\"20"), "{log}");
    host.assert_nothing_left();
}

#[tokio::test]
async fn input_reaches_the_process_and_its_end_too() {
    let host = Host::new().await;
    let mut spec = host.create_spec("in", &host.input("in", "cat; echo end"));
    spec.stdio.open_stdin = true;
    host.runtime.create(&spec).await.expect("created");
    let mut attached = host.runtime.attach(container("in"), AttachOptions::all()).await.expect("attached");
    host.runtime.start("in").await.expect("started");
    attached.input.write(b"hello\n").await.expect("written");
    assert_eq!(read_until(&mut attached, "hello\n").await, "hello\n");
    let big = vec![b'x'; 1_000_000];
    let output = attached.output;
    let (exit, text) = within(async {
        let mut input = attached.input;
        let writing = async {
            input.write(&big).await.expect("written");
            input.close().await.expect("closed");
        };
        let reading = async {
            let (mut output, mut text) = (output, Vec::new());
            loop {
                match output.next().await.expect("output").expect("an exit") {
                    Output::Exit(exit) => return (exit, text),
                    piece => text.extend_from_slice(piece.bytes()),
                }
            }
        };
        tokio::join!(writing, reading).1
    })
    .await;
    assert_eq!((exit.code, text.len()), (0, big.len() + 4));
    host.runtime.delete("in", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_container_waits_for_its_start_and_says_what_it_does() {
    let host = Host::new().await;
    let spec = host.create_spec("st", &host.input("st", "exec sleep 1000"));
    let created = host.runtime.create(&spec).await.expect("created");
    let state = host.runtime.state("st").await.expect("known");
    assert_eq!((state.status, state.pid), (Status::Created, created.pid));
    host.runtime.start("st").await.expect("started");
    assert_eq!(host.runtime.state("st").await.expect("known").status, Status::Running);
    host.runtime.pause("st").await.expect("paused");
    assert_eq!(host.runtime.state("st").await.expect("known").status, Status::Paused);
    host.runtime.resume("st").await.expect("resumed");
    assert_eq!(host.runtime.processes("st").await.expect("pids"), [created.pid]);
    assert!(host.runtime.delete("st", false).await.is_err(), "a running container is not deleted without force");
    host.runtime.pause("st").await.expect("paused");
    host.runtime.kill(container("st"), 9, false).await.expect("killed, paused as it is");
    let exit = host.wait("st").await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert_eq!(host.runtime.state("st").await.expect("known").status, Status::Stopped);
    host.runtime.delete("st", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_terminal_has_a_size_that_can_be_changed() {
    let host = Host::new().await;
    let mut input = host.input("tty", "stty size; read x; stty size; tty; exit 3");
    input.tty = true;
    let mut spec = host.create_spec("tty", &input);
    spec.stdio.open_stdin = true;
    spec.stdio.size = Some(muster_runtime::TtySize { width: 91, height: 31 });
    host.runtime.create(&spec).await.expect("created");
    let mut attached = host.runtime.attach(container("tty"), AttachOptions::all()).await.expect("attached");
    host.runtime.start("tty").await.expect("started");
    assert_eq!(read_until(&mut attached, "\n").await, "31 91\r\n");
    let size = muster_runtime::TtySize { width: 120, height: 40 };
    host.runtime.resize(container("tty"), size).await.expect("resized");
    attached.input.write(b"\n").await.expect("written");
    let (exit, out, _) = collect(attached).await;
    assert_eq!(exit.code, 3);
    assert!(out.contains("40 120\r\n") && out.contains("/dev/pts/0"), "{out:?}");
    host.runtime.delete("tty", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn strangers_and_impossible_requests_do_not_disturb_a_container() {
    use std::io::{Read, Write};
    let host = Host::new().await;
    host.run("calm", "read x; exit 8").await;
    let mut spec = host.create_spec("calm2", &host.input("calm2", "read x; exit 8"));
    spec.stdio.open_stdin = true;
    host.runtime.create(&spec).await.expect("created");
    let folder = std::fs::File::open(host.config.run_dir.join("c/calm2")).expect("run folder");
    let socket = format!("/proc/self/fd/{}/s", std::os::fd::AsRawFd::as_raw_fd(&folder));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x17, 0, 0, 0, 0, 0, 0, 0], &[0xff; 4096]] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("connected");
        stream.set_read_timeout(Some(common::PATIENCE)).expect("a timeout");
        // The shim may close before it has taken all of it.
        let _ = stream.write_all(garbage);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let connect = || std::os::unix::net::UnixStream::connect(&socket);
    let crowd: Vec<_> = (0..300).filter_map(|_| connect().ok()).collect();
    let turned_away = within(host.runtime.wait(container("calm2"))).await;
    assert!(matches!(turned_away, Err(muster_runtime::Error::Shim { .. })), "{turned_away:?}");
    drop(crowd);
    assert!(host.runtime.create(&spec).await.is_err(), "an id is used once");
    assert!(host.runtime.start("../etc").await.is_err() && host.runtime.start("").await.is_err());
    // The shim notices one after the other that the crowd has gone.
    let started = within(async {
        loop {
            match host.runtime.start("calm2").await {
                Err(muster_runtime::Error::Shim { .. }) => tokio::task::yield_now().await,
                other => break other,
            }
        }
    });
    started.await.expect("started");
    assert!(host.runtime.start("calm2").await.is_err(), "a container starts once");
    host.runtime.close_stdin(container("calm2")).await.expect("closed");
    assert_eq!(host.wait("calm2").await.code, 8);
    assert_eq!(host.wait("calm").await.code, 8);
    for id in ["calm", "calm2"] {
        host.runtime.delete(id, false).await.expect("deleted");
        host.runtime.delete(id, false).await.expect("a second time is no error");
    }
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nothing_and_one_that_was_moved_is_made_anew() {
    let host = Host::new().await;
    let mut spec = host.create_spec("full", &host.input("full", "seq 1 50000; exit 2"));
    spec.log.path = "/dev/full".into();
    let (exit, out, _) = host.output(&spec).await;
    assert_eq!((exit.code, out.lines().count()), (2, 50_000));
    let mut spec = host.create_spec("moved", &host.input("moved", "echo one; read x; echo two"));
    spec.stdio.open_stdin = true;
    host.runtime.create(&spec).await.expect("created");
    let mut attached = host.runtime.attach(container("moved"), AttachOptions::all()).await.expect("attached");
    host.runtime.start("moved").await.expect("started");
    read_until(&mut attached, "one\n").await;
    let old = host.path("old");
    std::fs::rename(host.log("moved"), &old).expect("moved");
    host.runtime.reopen_logs("moved").await.expect("reopened");
    attached.input.write(b"\n").await.expect("written");
    collect(attached).await;
    let (old, new) = (std::fs::read_to_string(&old), std::fs::read_to_string(host.log("moved")));
    assert!(old.expect("a log").contains("one") && new.expect("a log").contains("two"));
    host.runtime.delete("moved", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_signal_to_all_reaches_every_process_and_the_shim_lives_in_a_cgroup_of_its_own() {
    let host = Host::new().await;
    let script = "sh -c 'trap \"echo child; exit\" TERM; echo up; while :; do sleep 0.05; done' & trap 'wait; exit 0' TERM; wait";
    let spec = host.create_spec("all", &host.input("all", script));
    host.runtime.create(&spec).await.expect("created");
    let mut attached = host.runtime.attach(container("all"), AttachOptions::output()).await.expect("attached");
    host.runtime.start("all").await.expect("started");
    read_until(&mut attached, "up\n").await;
    for pid in common::shims_of(&host.dir.path().to_string_lossy()) {
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroups");
        let own = format!("0::{}/shim\n", host.config.cgroup_parent);
        assert!(cgroups.contains(&own), "{cgroups}");
        let session = rustix::process::getsid(rustix::process::Pid::from_raw(pid as i32)).expect("a session");
        assert_eq!(session.as_raw_pid() as u32, pid, "a session of its own");
    }
    host.runtime.kill(container("all"), 15, true).await.expect("signalled");
    let (exit, out, _) = collect(attached).await;
    assert_eq!((exit.code, out.as_str()), (0, "child\n"));
    host.runtime.delete("all", false).await.expect("deleted");
    host.assert_nothing_left();
}
