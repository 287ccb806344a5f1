//! The stock `docker` client against the face: it must be installed.

mod fake;

use fake::{IMAGE, Server, cluster::FakeCluster};
use std::{process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

const LONG: Duration = Duration::from_secs(20);

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs `docker` with these words and this stdin.
async fn docker_with(server: &Server, words: &[&str], stdin: &str) -> Ran {
    let mut command = Command::new("docker");
    command.args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", server.folder.path()).env("DOCKER_CONFIG", server.folder.path());
    command.env("DOCKER_HOST", format!("unix://{}", server.socket.display())).env("DOCKER_CLI_HINTS", "false");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the docker client is installed");
    let mut pipe = child.stdin.take().expect("piped");
    // A command that reads no stdin may have gone by now.
    let _ = pipe.write_all(stdin.as_bytes()).await;
    drop(pipe);
    let output = timeout(LONG, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("docker {words:?} hangs"))
        .expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

async fn docker(server: &Server, words: &[&str]) -> Ran {
    docker_with(server, words, "").await
}

/// Runs `docker`, which must succeed; answers what it prints.
async fn ok(server: &Server, words: &[&str]) -> String {
    let ran = docker(server, words).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "docker {words:?}: {}", ran.out);
    ran.out.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_info_and_lists() {
    let server = Server::start(None);
    assert_eq!(
        ok(&server, &["version", "--format", "{{.Client.APIVersion}} {{.Server.APIVersion}} {{.Server.Version}}"])
            .await,
        "1.50 1.50 0.1.0"
    );
    assert_eq!(
        ok(&server, &["info", "--format", "{{.Name}} {{.NCPU}} {{.Swarm.LocalNodeState}}"]).await,
        "vm 2 inactive"
    );
    assert_eq!(ok(&server, &["images", "--format", "{{.Repository}}:{{.Tag}}"]).await, IMAGE);
    assert_eq!(ok(&server, &["network", "ls", "--format", "{{.Name}} {{.Driver}}"]).await, "bridge bridge");
    assert_eq!(ok(&server, &["plugin", "ls", "-q"]).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_shows_output_and_passes_the_exit_code_on() {
    let server = Server::start(None);
    assert_eq!(ok(&server, &["run", "--rm", IMAGE, "echo", "out"]).await, "out");
    let ran = docker(&server, &["run", "--rm", IMAGE, "err", "bad"]).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", "bad\n"));
    assert_eq!(docker(&server, &["run", "--rm", IMAGE, "exit", "3"]).await.code, 3);
    assert_eq!(ok(&server, &["ps", "-aq"]).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_carries_stdin_to_its_end() {
    let server = Server::start(None);
    let text = "line\n".repeat(20_000);
    let ran = docker_with(&server, &["run", "-i", "--rm", IMAGE, "cat"], &text).await;
    assert_eq!((ran.code, ran.out.len()), (0, text.len()));
    assert!(ran.out == text, "the same bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_in_the_background_is_listed_execed_logged_and_killed() {
    let server = Server::start(None);
    let id = ok(&server, &["run", "-d", "--name", "web", IMAGE, "sleep"]).await;
    assert_eq!(
        ok(&server, &["ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}"]).await,
        format!("{id} web running")
    );
    assert_eq!(ok(&server, &["exec", "web", "echo", "inside"]).await, "inside");
    assert_eq!(docker(&server, &["exec", "web", "exit", "4"]).await.code, 4);
    let ran = docker_with(&server, &["exec", "-i", "web", "cat"], "through\n").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "through\n"));
    assert_eq!(ok(&server, &["kill", "web"]).await, "web");
    assert_eq!(ok(&server, &["wait", "web"]).await, "137");
    let again = docker(&server, &["run", "--name", "web", IMAGE, "echo"]).await;
    assert_eq!(again.code, 125);
    assert!(again.err.contains("Conflict. The container name \"/web\" is already in use"), "{}", again.err);
    ok(&server, &["run", "--name", "log", IMAGE, "echo", "kept"]).await;
    assert_eq!(ok(&server, &["logs", "-t", "log"]).await, "1970-01-01T00:00:01.500000000Z kept");
    assert_eq!(ok(&server, &["rm", "web", "log"]).await, "web\nlog");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspect_of_nothing_walks_through_every_kind() {
    for cluster in [None, Some(FakeCluster::outside())] {
        let server = Server::start(cluster);
        let ran = docker(&server, &["inspect", "nonesuch"]).await;
        assert_eq!((ran.code, ran.err.trim_end()), (1, "Error: No such object: nonesuch"));
        let _ = docker(&server, &["swarm", "init", "--advertise-addr", "10.99.0.1"]).await;
        let ran = docker(&server, &["inspect", "nonesuch"]).await;
        assert_eq!((ran.code, ran.err.trim_end()), (1, "Error: No such object: nonesuch"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_image_is_pulled_and_the_failure_is_shown() {
    let server = Server::start(None);
    let ran = docker(&server, &["run", "none:1", "echo"]).await;
    assert_eq!(ran.code, 125);
    assert!(ran.err.contains("manifest for docker.io/library/none:1 not found"), "{}", ran.err);
    let ran = docker(&server, &["pull", "q:1"]).await;
    assert_eq!((ran.code, ran.err.trim_end()), (1, "the disk is full"));
    let ran = docker_with(&server, &["load"], "0123456789").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "Loaded 10 bytes\n"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_yet_is_refused_by_name() {
    let server = Server::start(None);
    for (words, named) in [
        (&["pause", "x"][..], "pause is not supported by muster yet"),
        (&["search", "x"], "searching the registry is not supported by muster yet"),
        (&["volume", "create", "v"], "volume create is not supported by muster yet"),
        (&["swarm", "unlock-key"], "This node is not a swarm manager."),
    ] {
        let ran = docker(&server, words).await;
        assert_ne!(ran.code, 0, "docker {words:?}");
        assert!(ran.err.contains(named), "docker {words:?}: {}", ran.err);
    }
    let ran = docker(&server, &["service", "ls"]).await;
    assert!(ran.err.contains("This node is not a swarm manager."), "{}", ran.err);
    let member = Server::start(Some(FakeCluster::outside()));
    ok(&member, &["swarm", "init", "--advertise-addr", "10.99.0.1"]).await;
    let ran = docker(&member, &["swarm", "unlock-key"]).await;
    assert!(ran.err.contains("auto-lock"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_is_founded_serves_and_is_left() {
    let server = Server::start(Some(FakeCluster::outside()));
    let out = ok(&server, &["swarm", "init", "--advertise-addr", "10.99.0.1"]).await;
    assert!(out.contains("docker swarm join --token SWMTKN-1-w 10.99.0.1:2377"), "{out}");
    assert_eq!(ok(&server, &["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.Cluster.Spec.Orchestration.TaskHistoryRetentionLimit}}"]).await, "active true 5");
    assert_eq!(ok(&server, &["swarm", "join-token", "-q", "manager"]).await, "SWMTKN-1-m");
    assert!(ok(&server, &["swarm", "join-token", "--rotate", "-q", "worker"]).await.contains("SWMTKN-1-w"));
    assert_eq!(
        ok(&server, &["node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}"])
            .await,
        "vm Ready Active Leader"
    );
    assert_eq!(ok(&server, &["node", "update", "--availability", "drain", "vm"]).await, "vm");
    assert_eq!(ok(&server, &["node", "inspect", "self", "--format", "{{.Spec.Availability}}"]).await, "drain");
    assert!(ok(&server, &["node", "inspect", "--pretty", "self"]).await.contains("Leader:\t\tYes"));

    let left = docker(&server, &["swarm", "leave"]).await;
    assert!(left.code == 1 && left.err.contains("participating as a manager"), "{}", left.err);
    ok(&server, &["swarm", "leave", "--force"]).await;
    assert_eq!(ok(&server, &["info", "--format", "{{.Swarm.LocalNodeState}}"]).await, "inactive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_is_joined_once() {
    let server = Server::start(Some(FakeCluster::outside()));
    let words = ["swarm", "join", "--token", "SWMTKN-1-m", "10.99.0.2:2377"];
    assert_eq!(ok(&server, &words).await, "This node joined a swarm as a manager.");
    let again = docker(&server, &words).await;
    assert!(again.code == 1 && again.err.contains("This node is already part of a swarm."), "{}", again.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_created_watched_listed_updated_rolled_back_and_removed() {
    let server = Server::start(Some(FakeCluster::outside()));
    ok(&server, &["swarm", "init"]).await;
    ok(&server, &["network", "create", "-d", "overlay", "--attachable", "shop"]).await;
    assert_eq!(
        ok(&server, &["network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}} {{.Scope}}"]).await,
        "shop swarm"
    );
    let words = [
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "2",
        "--network",
        "shop",
        "--publish",
        "8080:80",
        "--env",
        "E=1",
        "--limit-memory",
        "64M",
        IMAGE,
        "sleep",
    ];
    // The client cannot pin the image's digest and says so on stderr; then it watches until all tasks run.
    let made = docker(&server, &words).await;
    assert!(
        made.code == 0 && made.out.contains("Service ") && made.out.contains("converged"),
        "{} {}",
        made.out,
        made.err
    );
    assert_eq!(
        ok(&server, &["service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}"]).await,
        "web replicated 2/2"
    );
    assert_eq!(
        ok(&server, &["service", "ps", "web", "--format", "{{.Name}} {{.Node}} {{.DesiredState}}"]).await,
        "web.1 vm Running\nweb.2 vm Running"
    );
    let logs = ok(&server, &["service", "logs", "web"]).await;
    assert!(logs.lines().any(|l| l.starts_with("web.1.") && l.ends_with("| line of 1")), "{logs}");

    assert_eq!(ok(&server, &["service", "update", "-d", "--env-add", "F=2", "web"]).await, "web");
    assert_eq!(
        ok(&server, &["service", "inspect", "web", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Env}}"]).await,
        "[E=1 F=2]"
    );
    assert_eq!(ok(&server, &["service", "rollback", "-d", "web"]).await, "web");
    assert_eq!(
        ok(&server, &["service", "inspect", "web", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Env}}"]).await,
        "[E=1]"
    );
    assert!(ok(&server, &["service", "scale", "-d", "web=3"]).await.contains("web scaled to 3"));
    assert!(ok(&server, &["service", "inspect", "--pretty", "web"]).await.contains("Replicas:\t3"));
    assert_eq!(ok(&server, &["node", "ps", "--format", "{{.Name}}"]).await.lines().count(), 3);
    assert_eq!(ok(&server, &["service", "rm", "web"]).await, "web");
    assert_eq!(ok(&server, &["network", "rm", "shop"]).await, "shop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_is_deployed_listed_and_removed() {
    let server = Server::start(Some(FakeCluster::outside()));
    ok(&server, &["swarm", "init"]).await;
    let file = server.folder.path().join("stack.yml");
    let stack = format!(
        "services:\n  web:\n    image: {IMAGE}\n    networks: [net]\n    deploy: {{replicas: 2}}\nnetworks: {{net: {{}}}}\n"
    );
    std::fs::write(&file, stack).expect("writes");
    let deployed = docker(&server, &["stack", "deploy", "-d", "-c", &file.display().to_string(), "st"]).await;
    assert_eq!(deployed.code, 0, "{}", deployed.err);
    assert_eq!(ok(&server, &["stack", "services", "st", "--format", "{{.Name}} {{.Replicas}}"]).await, "st_web 2/2");
    assert_eq!(ok(&server, &["stack", "ls", "--format", "{{.Name}} {{.Services}}"]).await, "st 1");
    assert_eq!(ok(&server, &["stack", "ps", "st", "--format", "{{.Name}}"]).await, "st_web.1\nst_web.2");
    let removed = docker(&server, &["stack", "rm", "st"]).await;
    assert_eq!(removed.code, 0, "{}", removed.err);
    assert_eq!(ok(&server, &["service", "ls", "-q"]).await, "");
}
