//! Execs for real: output, exit codes, terminals, users, and what keeps them in.

mod common;

use common::{Host, container, read_until, within};
use muster_runtime::spec::ExecInput;
use muster_runtime::{AttachOptions, Error, ProcessRef, Runtime, TtySize};

fn shell(script: &str) -> ExecInput {
    ExecInput { args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(), ..ExecInput::default() }
}

async fn sleeping(host: &Host, id: &str) -> muster_runtime::CreateSpec {
    let spec = host.create_spec(id, &host.input(id, "exec sleep 1000"));
    host.runtime.create(&spec).await.expect("created");
    host.runtime.start(id).await.expect("started");
    spec
}

#[tokio::test]
async fn an_exec_has_outputs_and_a_code_of_its_own_and_is_cleaned_up() {
    let host = Host::new().await;
    let create = sleeping(&host, "ex").await;
    let spec = host.exec_spec(&create, &shell("echo out; echo err >&2; exit 9"));
    let (exit, out, err) = host.exec(&create, "e1", &spec).await;
    assert_eq!((exit.code, out.as_str(), err.as_str()), (9, "out\n", "err\n"));
    let missing = host.runtime.wait(ProcessRef::Exec { container: "ex", exec: "e1" }).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    host.runtime.delete("ex", true).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn an_exec_is_filtered_and_bounded_as_the_container_is() {
    let host = Host::new().await;
    let create = sleeping(&host, "sec").await;
    let script = "grep -E '^(Seccomp|CapEff|CapBnd|NoNewPrivs):' /proc/self/status; pwd; id; echo $HOME $A $HOSTNAME";
    let mut input = shell(script);
    (input.env, input.cwd) = (vec!["A=b".into()], "/tmp".into());
    let (_, out, _) = host.exec(&create, "root", &host.exec_spec(&create, &input)).await;
    let text = out.replace('\t', " ");
    assert!(text.contains("Seccomp: 2") && text.contains("CapEff: 00000000a80425fb"), "{text}");
    assert!(text.contains("/tmp\nuid=0(root) gid=0(root)") && text.ends_with("/root b sec\n"), "{text}");
    input.user = "web".into();
    let (_, out, _) = host.exec(&create, "web", &host.exec_spec(&create, &input)).await;
    let text = out.replace('\t', " ");
    assert!(text.contains("CapEff: 0000000000000000") && text.contains("CapBnd: 00000000a80425fb"), "{text}");
    assert!(
        text.contains("uid=33(web) gid=34(web) groups=34(web),50(extra)") && text.contains("/home/web b"),
        "{text}"
    );
    input.user = String::new();
    input.privileged = true;
    let (_, out, _) = host.exec(&create, "priv", &host.exec_spec(&create, &input)).await;
    assert!(!out.contains("00000000a80425fb") && out.replace('\t', " ").contains("Seccomp: 2"), "{out}");
    host.runtime.delete("sec", true).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn an_exec_with_a_terminal_takes_input_and_sizes() {
    let host = Host::new().await;
    let create = sleeping(&host, "ext").await;
    let mut input = shell("stty size; read x; echo got $x; stty size; exit 4");
    input.tty = true;
    let mut spec = host.exec_spec(&create, &input);
    spec.stdio.size = Some(TtySize { width: 80, height: 25 });
    host.runtime.exec_create("ext", "t", &spec).await.expect("prepared");
    let process = ProcessRef::Exec { container: "ext", exec: "t" };
    let mut attached = host.runtime.attach(process, AttachOptions::all()).await.expect("attached");
    let pid = host.runtime.exec_start("ext", "t").await.expect("started");
    assert!(host.runtime.processes("ext").await.expect("pids").contains(&pid));
    assert_eq!(read_until(&mut attached, "\n").await, "25 80\r\n");
    host.runtime.resize(process, TtySize { width: 100, height: 50 }).await.expect("resized");
    attached.input.write(b"it\n").await.expect("written");
    read_until(&mut attached, "50 100\r\n").await;
    assert_eq!(within(host.runtime.wait(process)).await.expect("ended").code, 4);
    host.runtime.exec_delete("ext", "t").await.expect("deleted");
    let none = host.runtime.resize(container("ext"), TtySize { width: 1, height: 1 }).await;
    assert!(matches!(none, Err(Error::NoTty { .. })));
    host.runtime.delete("ext", true).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn commands_that_cannot_run_are_told_apart() {
    let host = Host::new().await;
    let create = sleeping(&host, "cmd").await;
    for (number, (command, code)) in
        [("nope", 127), ("/bin/nope", 127), ("/etc/text", 126), ("/etc", 126)].into_iter().enumerate()
    {
        let input = ExecInput { args: vec![command.into()], ..ExecInput::default() };
        let exec = format!("e{number}");
        host.runtime.exec_create("cmd", &exec, &host.exec_spec(&create, &input)).await.expect("prepared");
        let error = host.runtime.exec_start("cmd", &exec).await.expect_err("cannot run");
        assert_eq!(error.exit_code(), code, "{command}: {error}");
        assert!(error.to_string().contains(command), "{error}");
        let id = format!("c{number}");
        let mut input = host.input(&id, "");
        input.args = vec![command.into()];
        let error = host.runtime.create(&host.create_spec(&id, &input)).await.expect_err("cannot run");
        assert_eq!(error.exit_code(), code, "{command}: {error}");
    }
    host.runtime.delete("cmd", true).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn execs_that_were_never_started_or_still_run_end_with_their_deletion() {
    let host = Host::new().await;
    let create = sleeping(&host, "left").await;
    let spec = host.exec_spec(&create, &shell("sleep 1000 & sleep 1000"));
    host.runtime.exec_create("left", "never", &spec).await.expect("prepared");
    host.runtime.exec_create("left", "runs", &spec).await.expect("prepared");
    host.runtime.exec_start("left", "runs").await.expect("started");
    let again = host.runtime.exec_start("left", "runs").await;
    assert!(again.is_err(), "an exec starts once");
    host.runtime.exec_create("left", "kept", &spec).await.expect("prepared");
    host.runtime.exec_start("left", "kept").await.expect("started");
    host.runtime.exec_delete("left", "kept").await.expect("deleted");
    assert!(host.runtime.exec_create("nobody", "x", &spec).await.is_err());
    host.runtime.delete("left", true).await.expect("deleted");
    host.assert_nothing_left();
}
