//! Containers of a real engine: run, exit codes, output, input, stop, restart, removal.

mod common;

use common::fragile::Fragile;
use common::{Host, collect, command, inspect, run, script, send, start, state, until, within};
use futures_util::StreamExt;
use muster_calls::{Attach, Engine, Input, Kind, Logs, RemoveContainer, StopContainer, WaitCondition};
use muster_engine::LocalEngine;
use muster_model::engine::{HealthConfig, RestartPolicy};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_and_its_output_and_exit_code_come_back() {
    let host = Host::new();
    let engine = host.open().await;
    let outcome = run(&engine, None, script("echo out; echo err >&2; exit 3")).await;
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (3, "out\n", "err\n"));
    let document = inspect(&engine, &outcome.id).await;
    assert_eq!(
        (document.state.status.as_str(), document.state.exit_code, document.state.running),
        ("exited", 3, false)
    );
    let logs = engine.container_logs(&outcome.id, Logs::default()).await.expect("logs");
    let lines: Vec<_> =
        logs.lines.map(|l| String::from_utf8(l.expect("line").data.to_vec()).expect("text")).collect().await;
    assert_eq!(lines.len(), 2);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_removes_itself_is_gone_when_the_wait_answers() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = script("echo hi");
    body.host_config.auto_remove = true;
    body.host_config.binds = vec!["/data".to_owned()];
    let outcome = run(&engine, Some("brief"), body).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "hi\n"));
    assert_eq!(engine.container_inspect("brief", false).await.expect_err("gone").kind, Kind::NotFound);
    assert!(
        engine.volume_list(Default::default()).await.expect("volumes").volumes.is_empty(),
        "its anonymous volume went too"
    );
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_are_not_there_or_cannot_be_run_leave_dockers_codes() {
    let host = Host::new();
    let engine = host.open().await;
    for (word, code, words) in [("nonesuch", 127, "executable file not found"), ("/etc", 126, "is a directory")] {
        let id = engine.container_create(None, String::new(), command(&[word])).await.expect("created").id;
        let refused = engine.container_start(&id).await.expect_err("no such command");
        assert!(refused.message.contains(words) || code == 126, "{}", refused.message);
        let document = inspect(&engine, &id).await;
        assert_eq!((document.state.exit_code, document.state.status.as_str()), (code, "created"));
    }
    let refused = engine.container_create(None, String::new(), {
        let mut body = script("true");
        body.config.image = "nonesuch".to_owned();
        body
    });
    assert_eq!(refused.await.expect_err("no image").message, "No such image: nonesuch:latest");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_reaches_the_process_and_its_end_ends_it() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = command(&["cat"]);
    (body.config.open_stdin, body.config.stdin_once, body.config.attach_stdin) = (true, true, true);
    let id = engine.container_create(None, String::new(), body).await.expect("created").id;
    let attach = Attach { stdin: true, stdout: true, stderr: true, stream: true, ..Attach::default() };
    let attached = engine.container_attach(&id, attach).await.expect("attached");
    engine.container_start(&id).await.expect("started");
    send(&attached, "one ").await;
    send(&attached, "two").await;
    attached.input.send(Input::Close).await.expect("open");
    assert_eq!(within(collect(attached)).await.0, "one two");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_one_stream_and_the_detach_keys_leave_the_process_running() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = script("tty; read line; echo got:$line; read line");
    (body.config.tty, body.config.open_stdin) = (true, true);
    body.host_config.console_size = [30, 100];
    let id = engine.container_create(None, String::new(), body).await.expect("created").id;
    let attach = Attach { stdin: true, stdout: true, stderr: true, stream: true, ..Attach::default() };
    let mut attached = engine.container_attach(&id, attach).await.expect("attached");
    engine.container_start(&id).await.expect("started");
    send(&attached, "hello\n").await;
    let mut seen = String::new();
    while !seen.contains("got:hello") {
        let piece = within(attached.output.next()).await.expect("goes on").expect("output");
        seen.push_str(&String::from_utf8_lossy(&piece.data));
    }
    assert!(seen.contains("/dev/pts/"), "{seen}");
    send(&attached, "\x10\x11").await;
    within(collect(attached)).await;
    assert_eq!(state(&engine, &id).await, "running");
    engine.container_resize(&id, 40, 120).await.expect("resized");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_asks_first_and_kills_when_its_time_is_over() {
    let host = Host::new();
    let engine = host.open().await;
    start(&engine, "polite", script("trap 'exit 5' TERM; while :; do sleep 0.05; done")).await;
    let stubborn = start(&engine, "stubborn", script("trap '' TERM; while :; do sleep 0.05; done")).await;
    // Traps are set a moment after the start.
    let ready = |name: &'static str, signal: &'static str| {
        let engine = engine.clone();
        async move {
            let pid = inspect(&engine, name).await.state.pid;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let mask = status.lines().find_map(|l| l.strip_prefix(signal)).unwrap_or("0");
            u64::from_str_radix(mask.trim(), 16).is_ok_and(|m| m & (1 << 14) != 0)
        }
    };
    until("the polite trap", || ready("polite", "SigCgt:")).await;
    until("the stubborn trap", || ready("stubborn", "SigIgn:")).await;
    within(engine.container_stop("polite", StopContainer::default())).await.expect("stopped");
    assert_eq!(inspect(&engine, "polite").await.state.exit_code, 5);
    let soon = StopContainer { timeout_s: Some(0), ..StopContainer::default() };
    within(engine.container_stop(&stubborn, soon.clone())).await.expect("stopped");
    assert_eq!(inspect(&engine, &stubborn).await.state.exit_code, 137);
    assert_eq!(engine.container_stop(&stubborn, soon).await.expect_err("stopped already").kind, Kind::NotModified);
    let refused = engine.container_kill(&stubborn, None).await.expect_err("not running");
    assert_eq!(refused.message, format!("cannot kill container: stubborn: container {stubborn} is not running"));
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_waits_for_ever_leaves_the_container_to_others() {
    let host = Host::new();
    let engine = host.open().await;
    let deaf = || command(&["sh", "-c", "trap '' TERM; while :; do sleep 0.01; done"]);
    for timeout in [i64::MAX, i64::MAX - 1_000_000, -1] {
        let mut body = deaf();
        body.config.stop_timeout = Some(timeout);
        let id = start(&engine, "deaf", body).await;
        let mut events = engine.events(Default::default()).await.expect("events");
        for timeout_s in [None, Some(timeout)] {
            let (engine, id) = (engine.clone(), id.clone());
            tokio::spawn(
                async move { engine.container_stop(&id, StopContainer { timeout_s, ..Default::default() }).await },
            );
            let asked = async { while events.next().await.expect("open").expect("event").action != "kill" {} };
            within(asked).await;
        }
        assert_eq!(state(&engine, &id).await, "running");
        within(engine.container_kill(&id, None)).await.expect("killed");
        within(engine.container_remove(&id, RemoveContainer { force: true, volumes: true })).await.expect("removed");
    }
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_in_an_act_leaves_its_container_in_reach() {
    let host = Host::new();
    let mut config = host.config().await;
    config.runtime = Fragile::new(config.runtime);
    let engine = LocalEngine::open(config).await.expect("opens");
    common::import(&*engine, common::IMAGE).await;
    for name in ["alive", "ended"] {
        start(&engine, name, command(&["sleep", "300"])).await;
    }
    let broken = within(engine.container_pause("alive")).await.expect_err("panics");
    assert!(broken.kind == Kind::Internal && broken.message.contains("broke off"), "{broken:?}");
    assert_eq!(state(&engine, "alive").await, "running");
    let soon = StopContainer { timeout_s: Some(0), ..StopContainer::default() };
    within(engine.container_stop("alive", soon)).await.expect("stopped");

    let ended = engine.container_wait("ended", WaitCondition::NextExit).await.expect("waits");
    let mut update = muster_model::engine::ContainerUpdate::default();
    update.resources.memory = 64 << 20;
    within(engine.container_update("ended", update)).await.expect_err("panics");
    assert_eq!(within(ended).await.expect("its end is seen").status_code, 137);
    within(engine.container_start("ended")).await.expect("starts again");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_stopping_killing_and_removing_at_once_ends_in_one_truth() {
    let host = Host::new();
    let engine = host.open().await;
    let id = engine.container_create(None, String::new(), command(&["sleep", "300"])).await.expect("created").id;
    let acts = (0..4).flat_map(|_| 0..4).map(|act| {
        let (engine, id) = (engine.clone(), id.clone());
        tokio::spawn(async move {
            let soon = StopContainer { timeout_s: Some(0), ..StopContainer::default() };
            match act {
                0 => engine.container_start(&id).await,
                1 => engine.container_stop(&id, soon).await,
                2 => engine.container_kill(&id, None).await,
                _ => engine.container_restart(&id, soon).await,
            }
        })
    });
    for act in acts.collect::<Vec<_>>() {
        if let Err(e) = within(act).await.expect("no panic") {
            assert!(matches!(e.kind, Kind::NotModified | Kind::Conflict), "{e}");
        }
    }
    let removed = RemoveContainer { force: true, volumes: false };
    within(engine.container_remove(&id, removed)).await.expect("removed");
    assert!(engine.container_inspect(&id, false).await.is_err());
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_restarts_what_fails_as_often_as_it_says() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = script("exit 9");
    body.host_config.restart_policy = RestartPolicy { name: "on-failure".into(), maximum_retry_count: 2 };
    let id = start(&engine, "failing", body).await;
    let ended = engine.container_wait(&id, WaitCondition::NotRunning).await.expect("waits");
    assert_eq!(within(ended).await.expect("ended").status_code, 9);
    // That was the first end, as dockerd answers it.
    until("it has ended for good", || async {
        let document = inspect(&engine, &id).await;
        (document.restart_count, document.state.status.as_str()) == (2, "exited")
    })
    .await;
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_stops_what_a_policy_would_restart_for_ever() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = script("exit 0");
    body.host_config.restart_policy.name = "always".into();
    let id = start(&engine, "again", body).await;
    until("it was restarted", || async { inspect(&engine, &id).await.restart_count >= 2 }).await;
    // It may be running or waiting to: both are stopped.
    within(engine.container_stop(&id, StopContainer { timeout_s: Some(0), ..StopContainer::default() }))
        .await
        .expect("stopped");
    assert_eq!(state(&engine, &id).await, "exited");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_goes_from_starting_over_unhealthy_to_healthy() {
    let host = Host::new();
    let engine = host.open().await;
    let mut changes = engine.subscribe();
    let mut body = command(&["sleep", "300"]);
    let ms = 1_000_000;
    body.config.healthcheck = Some(HealthConfig {
        test: vec!["CMD-SHELL".into(), "echo probed; test -e /tmp/ok".into()],
        interval: 50 * ms,
        retries: 2,
        ..HealthConfig::default()
    });
    let id = start(&engine, "sick", body).await;
    assert_eq!(inspect(&engine, &id).await.state.health.expect("probed").status, "starting");
    let mut next_health = async || loop {
        if let (_, muster_engine::Change::Health { status }) = within(changes.recv()).await.expect("no lag") {
            return status;
        }
    };
    assert_eq!(next_health().await, "unhealthy");
    let health = inspect(&engine, &id).await.state.health.expect("probed");
    assert_eq!((health.log[0].exit_code, health.log[0].output.as_str()), (1, "probed\n"));
    let exec = exec(&["touch", "/tmp/ok"]);
    let exec = engine.exec_create(&id, exec).await.expect("exec");
    engine.exec_start(&exec, Default::default()).await.expect("runs");
    assert_eq!(next_health().await, "healthy");
    let filters = muster_calls::Filters::parse(r#"{"event":["exec_create","exec_start","exec_die"]}"#).expect("filter");
    let since = muster_model::Timestamp(1);
    let events =
        engine.events(muster_calls::EventsQuery { since, filters, ..Default::default() }).await.expect("events");
    let events: Vec<_> = within(events.take(3).map(|e| e.expect("event")).collect()).await;
    let actions: Vec<_> = events.iter().map(|e| e.action.as_str()).collect();
    let words = "/bin/sh -c echo probed; test -e /tmp/ok";
    assert_eq!(actions, [&format!("exec_create: {words}"), &format!("exec_start: {words}"), "exec_die"]);
    assert_eq!(events[2].actor.attributes["exitCode"], "1");
    assert!(events.iter().all(|e| e.actor.attributes["execID"] == events[0].actor.attributes["execID"]));
    host.finish(engine).await;
}

fn exec(words: &[&str]) -> muster_model::engine::ExecConfig {
    muster_model::engine::ExecConfig {
        cmd: words.iter().map(|w| (*w).to_owned()).collect(),
        attach_stdout: true,
        attach_stderr: true,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_run_beside_the_container_with_their_own_output_code_and_user() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = command(&["sleep", "300"]);
    body.config.env = vec!["A=b".to_owned()];
    let id = start(&engine, "base", body).await;
    let run = async |config| {
        let exec = engine.exec_create(&id, config).await.expect("created");
        let attached = engine.exec_start(&exec, Default::default()).await.expect("started");
        let output = within(collect(attached)).await;
        let code = engine.exec_inspect(&exec).await.expect("inspected").exit_code;
        (output.0, output.1, code.expect("known when the output ends"))
    };
    let mut config = exec(&["sh", "-c", "echo $A $Z $(id -u); echo oops >&2; exit 4"]);
    (config.env, config.user) = (vec!["Z=1".to_owned()], "nobody".to_owned());
    assert_eq!(run(config).await, ("b 1 65534\n".to_owned(), "oops\n".to_owned(), 4));
    let (words, _, code) = run(exec(&["nonesuch"])).await;
    assert!(words.contains("executable file not found") && code == 127, "{words} {code}");
    let mut tty = exec(&["tty"]);
    tty.tty = true;
    assert!(run(tty.clone()).await.0.contains("/dev/pts/"));
    tty.cmd = exec(&["sh", "-c", "exit 4"]).cmd;
    let silent = exec(&["sh", "-c", "exec >&- 2>&-; exit 4"]);
    for config in std::iter::repeat_n([tty, silent], 10).flatten() {
        assert_eq!(run(config).await.2, 4);
    }
    engine.container_pause(&id).await.expect("paused");
    assert_eq!(state(&engine, &id).await, "paused");
    assert_eq!(engine.exec_create(&id, exec(&["true"])).await.expect_err("paused").kind, Kind::Conflict);
    engine.container_unpause(&id).await.expect("unpaused");
    let again = engine.exec_inspect("nonesuch").await.expect_err("unknown");
    assert_eq!(again.message, "No such exec instance: nonesuch");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_is_asked_for_while_an_exec_starts_waits_for_it() {
    let host = Host::new();
    let engine = host.open().await;
    let id = start(&engine, "base", command(&["sleep", "300"])).await;
    let mut config = exec(&["sh", "-c", "until stty size | grep 66; do sleep 0.1; done"]);
    config.tty = true;
    let exec = engine.exec_create(&id, config).await.expect("created");
    let (resized, attached) =
        tokio::join!(engine.exec_resize(&exec, 22, 66), engine.exec_start(&exec, Default::default()));
    resized.expect("it has the size");
    assert!(within(collect(attached.expect("started"))).await.0.contains("22 66"));
    assert_eq!(engine.exec_resize(&exec, 22, 66).await.expect_err("over").kind, Kind::Conflict);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_one_containers_and_a_running_one_is_removed_by_force_only() {
    let host = Host::new();
    let engine = host.open().await;
    let id = start(&engine, "web", command(&["sleep", "300"])).await;
    let second = engine.container_create(Some("web".into()), String::new(), script("true")).await.expect_err("taken");
    assert!(
        second.message.contains(&format!("The container name \"/web\" is already in use by container \"{id}\"")),
        "{second}"
    );
    let refused = engine.container_remove("web", RemoveContainer::default()).await.expect_err("runs");
    assert_eq!(
        refused.message,
        "cannot remove container \"/web\": container is running: stop the container before removing or force remove"
    );
    engine.container_rename("web", "shop".into()).await.expect("renamed");
    engine.container_create(Some("web".into()), String::new(), script("true")).await.expect("free again");
    assert_eq!(engine.container_rename("shop", "web".into()).await.expect_err("taken").kind, Kind::Conflict);
    assert_eq!(inspect(&engine, "shop").await.id, id);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_ends_with_its_container() {
    let host = Host::new();
    let engine = host.open().await;
    let id = start(&engine, "chatty", script("for i in 1 2 3; do echo l$i; sleep 0.1; done")).await;
    let logs = engine.container_logs(&id, Logs { follow: true, ..Logs::default() }).await.expect("logs");
    let lines: Vec<String> =
        within(logs.lines.map(|l| String::from_utf8_lossy(&l.expect("line").data).into_owned()).collect()).await;
    assert_eq!(lines, ["l1\n", "l2\n", "l3\n"]);
    let tail = engine.container_logs(&id, Logs { tail: Some(1), ..Logs::default() }).await.expect("logs");
    assert_eq!(tail.lines.count().await, 1);
    let none = engine.container_logs(&id, Logs { stdout: false, stderr: false, ..Logs::default() }).await;
    assert_eq!(none.err().map(|e| e.kind), Some(Kind::Invalid));
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_registered_before_a_failed_start_ends_with_the_containers_removal() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = command(&["nonesuch"]);
    body.host_config.auto_remove = true;
    let id = engine.container_create(None, String::new(), body).await.expect("created").id;
    let gone = engine.container_wait(&id, WaitCondition::Removed).await.expect("waits");
    let attach = Attach { stdout: true, stderr: true, stream: true, ..Attach::default() };
    let attached = engine.container_attach(&id, attach).await.expect("attached");
    engine.container_start(&id).await.expect_err("no such command");
    assert_eq!(within(gone).await.expect("gone").status_code, 127);
    assert_eq!(within(collect(attached)).await.0, "", "the connection ended");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_in_the_middle_leaves_the_container_as_it_was() {
    let host = Host::new();
    let engine = host.open().await;
    let id = start(&engine, "steady", script("while :; do echo x; sleep 0.01; done")).await;
    for _ in 0..5 {
        let attach = Attach { stdout: true, stderr: true, stream: true, ..Attach::default() };
        let mut attached = engine.container_attach(&id, attach).await.expect("attached");
        within(attached.output.next()).await.expect("output").expect("a piece");
    }
    assert_eq!(state(&engine, &id).await, "running");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_caller_hangs_up_is_done_to_its_end() {
    let host = Host::new();
    let engine = host.open().await;
    let mut creating = Box::pin(engine.container_create(Some("late".into()), String::new(), script("true")));
    assert!(futures_util::poll!(&mut creating).is_pending(), "a create takes longer than one poll");
    drop(creating);
    until("it is there", || async { engine.container_inspect("late", false).await.is_ok() }).await;
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_a_volume_that_none_of_them_made_before() {
    let host = Host::new();
    let engine = host.open().await;
    let creating = (0..8).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let mut body = script("true");
            body.host_config.binds = vec!["shared:/v".to_owned()];
            engine.container_create(None, String::new(), body).await.expect("created")
        })
    });
    for one in creating.collect::<Vec<_>>() {
        within(one).await.expect("no panic");
    }
    assert_eq!(engine.volume_list(Default::default()).await.expect("volumes").volumes.len(), 1);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_will_not_go_keeps_no_other_from_being_pruned() {
    let host = Host::new();
    let mut config = host.config().await;
    let runtime = Fragile::new(config.runtime);
    config.runtime = runtime.clone();
    let engine = LocalEngine::open(config).await.expect("opens");
    common::import(&*engine, common::IMAGE).await;
    let mut ids = Vec::new();
    for name in ["first", "stuck", "last"] {
        let created = engine.container_create(Some(name.to_owned()), String::new(), command(&["true"])).await;
        ids.push(created.expect("created").id);
    }
    ids[1].clone_into(&mut runtime.stuck.lock().expect("no panic holds it"));
    let pruned = engine.container_prune(Default::default()).await.expect("pruned").containers_deleted;
    let mut gone = pruned.expect("a list");
    gone.sort();
    let mut wanted = vec![ids[0].clone(), ids[2].clone()];
    wanted.sort();
    assert_eq!(gone, wanted);
    runtime.stuck.lock().expect("no panic holds it").clear();
    host.finish(engine).await;
}
