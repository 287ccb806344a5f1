//! What is configured to be exported reaches a collector, and nothing else is exported: by the configuration's endpoint and by
//! the variables of the OpenTelemetry specification.
//!
//! A process has one subscriber and one environment: each case is a process of its own, this program with one test chosen.

mod collector;

use collector::{Collector, text};
use muster_telemetry::{Export, Settings, metrics, names};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::process::Stdio;

/// What the child is given as its configuration's endpoint.
const CONFIGURED: &str = "TEST_ENDPOINT";

/// The process that exports: one trace of two spans, one of them with a log line, and one metric. Says on stderr why it cannot.
#[test]
#[ignore = "the other tests start it, with an environment for it"]
fn exports_by_its_environment() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let export = Export::from_environment(std::env::var(CONFIGURED).ok().as_deref()).unwrap_or_else(|e| {
            eprintln!("refused: {e}");
            std::process::exit(3)
        });
        let settings =
            Settings { service: "musterd", host: "host7".into(), export, log: "info".into(), recent_spans: 16 };
        let telemetry = muster_telemetry::init(settings).expect("the endpoint is usable");
        let trace = {
            let parent = tracing::info_span!(target: "muster_test", "service create", service = "web");
            let _entered = parent.enter();
            tracing::info!(target: "muster_test", task = "web.1", "assigned");
            tracing::info_span!(target: "muster_test", "raft commit").in_scope(|| {});
            let parent = muster_telemetry::trace_parent().expect("a recorded span");
            parent.split('-').nth(1).expect("a trace id").to_owned()
        };
        metrics::gauge(names::CONTAINER_COUNT, 3, &[("state", "running".into())]);
        // What `muster trace` shows does not hang on what is exported.
        assert_eq!(telemetry.recent.trace(&trace).len(), 2);
        // Flushing blocks its thread until the collector has answered.
        tokio::task::spawn_blocking(move || telemetry.shutdown()).await.expect("flushed");
    });
}

/// Runs the child; its exit code and what it said.
async fn child(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(std::env::current_exe().expect("this program"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    let command = command
        .args(["--exact", "exports_by_its_environment", "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), command.output()).await;
    let output = output.expect("the child ends").expect("the child runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn exports(variables: &[(&str, &str)]) {
    let (code, said) = child(variables).await;
    assert_eq!(code, Some(0), "{said}");
}

/// How many spans, metrics and log lines of the child there are.
fn counts(collector: &Collector) -> [usize; 3] {
    let got = collector.received();
    let logs = got.logs.iter().filter(|l| text(&l.attributes, "task").is_some()).count();
    [got.spans.len(), got.metrics.len(), logs]
}

#[tokio::test]
async fn spans_metrics_and_logs_reach_the_configured_collector_with_who_sent_them() {
    let collector = Collector::start().await;
    exports(&[(CONFIGURED, &collector.endpoint()), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9")]).await;
    let got = collector.received();
    let span = |name: &str| got.spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no span {name}"));
    let (parent, child): (&Span, &Span) = (span("service create"), span("raft commit"));
    assert_eq!((&child.trace_id, &child.parent_span_id), (&parent.trace_id, &parent.span_id));
    assert_eq!(text(&parent.attributes, "service").as_deref(), Some("web"));
    assert!(got.metrics.iter().any(|m| m.name == "muster.container.count"), "{:?}", got.metrics);
    let log = got.logs.iter().find(|l| text(&l.attributes, "task").as_deref() == Some("web.1")).expect("the log line");
    assert_eq!(log.severity_text, "INFO");
    assert!(!got.resources.is_empty());
    for resource in &got.resources {
        assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("musterd"));
        assert_eq!(text(&resource.attributes, "host.name").as_deref(), Some("host7"));
    }
}

#[tokio::test]
async fn each_signal_reaches_the_collector_that_its_variable_names() {
    let (common, traces, logs) = (Collector::start().await, Collector::start().await, Collector::start().await);
    exports(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &common.endpoint()),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &traces.endpoint()),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", &logs.endpoint()),
    ])
    .await;
    assert_eq!([counts(&traces), counts(&common), counts(&logs)], [[2, 0, 0], [0, 1, 0], [0, 0, 1]]);

    let alone = Collector::start().await;
    exports(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &alone.endpoint())]).await;
    assert_eq!(counts(&alone), [0, 1, 0]);
}

#[tokio::test]
async fn signals_are_switched_off_by_their_variables() {
    let collector = Collector::start().await;
    exports(&[(CONFIGURED, &collector.endpoint()), ("OTEL_SDK_DISABLED", "true")]).await;
    assert_eq!(counts(&collector), [0, 0, 0]);
    exports(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()), ("OTEL_METRICS_EXPORTER", "none")]).await;
    assert_eq!(counts(&collector), [2, 0, 1]);
}

#[tokio::test]
async fn the_sampler_decides_which_spans_are_exported() {
    for (sampler, spans) in [("always_off", 0), ("parentbased_always_on", 2), ("traceidratio", 0)] {
        let collector = Collector::start().await;
        exports(&[
            (CONFIGURED, &collector.endpoint()),
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ])
        .await;
        assert_eq!(counts(&collector), [spans, 1, 1], "{sampler}");
    }
}

#[tokio::test]
async fn variables_name_the_service_the_host_and_the_headers() {
    let collector = Collector::start().await;
    exports(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
        ("OTEL_SERVICE_NAME", "muster-of-mine"),
        ("OTEL_RESOURCE_ATTRIBUTES", "host.name=rack%201,service.name=other,team=blue"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20secret"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-key=of-logs"),
    ])
    .await;
    let got = collector.received();
    assert!(!got.resources.is_empty());
    for resource in &got.resources {
        let said = ["service.name", "host.name", "team"].map(|key| text(&resource.attributes, key).unwrap_or_default());
        assert_eq!(said, ["muster-of-mine", "rack 1", "blue"]);
    }
    let mut keys: Vec<_> = got.keys.iter().flatten().map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys, ["a secret", "of-logs"]);
    assert!(got.keys.iter().all(Option::is_some), "{:?}", got.keys);
}

#[tokio::test]
async fn another_protocol_is_refused_by_its_name() {
    let (code, said) =
        child(&[(CONFIGURED, "http://127.0.0.1:9"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL: \"http/protobuf\": expected grpc"), "{said}");
}
