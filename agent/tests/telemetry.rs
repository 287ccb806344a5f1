//! `musterd` itself, with nothing but `OTEL_EXPORTER_OTLP_ENDPOINT`: its spans, metrics and logs reach a collector.

#[path = "../../proto/telemetry/tests/collector/mod.rs"]
mod collector;

use collector::{Collector, Received, text};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Takes away what the daemon leaves for its next start.
struct Host {
    dir: tempfile::TempDir,
    name: String,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), name: format!("ot{}", std::process::id()) }
    }

    fn cgroup_parent(&self) -> String {
        format!("/muster/{}", self.name)
    }

    fn bpffs(&self) -> String {
        format!("/sys/fs/bpf/muster-{}", self.name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.bpffs());
        let parent = self.cgroup_parent();
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            let dir = hierarchy.join(parent.trim_start_matches('/'));
            for below in std::fs::read_dir(&dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
                let _ = std::fs::remove_dir(below.path());
            }
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// A network namespace of its own for this thread, its loopback up.
fn enter_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root: the test makes a network namespace");
    let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("iproute2").success());
}

async fn get(socket: &Path, path: &str) -> String {
    let answered = async {
        // There is no event for a socket that is not there yet.
        let mut stream = loop {
            match tokio::net::UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    };
    tokio::time::timeout(Duration::from_secs(60), answered).await.expect("musterd serves")
}

/// The values of an attribute of a metric's points.
fn values(metric: &Metric, key: &str) -> Vec<String> {
    match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().filter_map(|p| text(&p.attributes, key)).collect(),
        _ => Vec::new(),
    }
}

fn metric<'a>(got: &'a Received, name: &str) -> Option<&'a Metric> {
    got.metrics.iter().find(|m| m.name == name)
}

#[test]
fn musterd_sends_its_spans_metrics_and_logs_to_the_endpoint_of_its_environment() {
    enter_namespace();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let collector = Collector::start().await;
        let host = Host::new();
        let at = |name: &str| host.dir.path().join(name).display().to_string();
        let socket = host.dir.path().join("run/docker.sock");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_musterd"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_") || name.starts_with("MUSTER_")) {
            command.env_remove(name);
        }
        let mut daemon = command
            .args(["--data-dir", &at("data"), "--run-dir", &at("run"), "--instance", &host.name, "--hostname", "host7"])
            .args(["--cgroup-parent", &host.cgroup_parent(), "--bpffs-dir", &host.bpffs(), "--shim", "/bin/false"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
            .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
            .env("OTEL_BSP_SCHEDULE_DELAY", "200")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("musterd starts");
        let answer = get(&socket, "/v1.41/containers/json").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        collector.wait("a span", |got| !got.spans.is_empty()).await;
        collector.wait("muster.net.drop", |got| metric(got, "muster.net.drop").is_some()).await;
        collector.wait("a log line", |got| !got.logs.is_empty()).await;
        {
            let got = collector.received();
            let reasons = metric(&got, "muster.net.drop").map(|m| values(m, "reason")).unwrap_or_default();
            assert!(reasons.iter().any(|r| r.contains("spoof")), "{reasons:?}");
            for resource in &got.resources {
                assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("musterd"));
                assert_eq!(text(&resource.attributes, "host.name").as_deref(), Some("host7"));
            }
        }
        let pid = nix::unistd::Pid::from_raw(daemon.id().expect("runs").cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        let ended =
            tokio::time::timeout(Duration::from_secs(30), daemon.wait()).await.expect("it ends").expect("waited");
        assert!(ended.success(), "{ended}");
    });
}
