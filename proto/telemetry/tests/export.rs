//! What is configured to be exported reaches a collector: an OTLP receiver over gRPC, on loopback, that keeps what it gets.
//!
//! One test: a process has one subscriber.

use muster_telemetry::{Settings, metrics, names};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::Span,
};
use std::sync::{Arc, Mutex};
use tonic::{Request, Response, Status, async_trait};

#[derive(Default)]
struct Received {
    resources: Vec<Resource>,
    spans: Vec<Span>,
    metrics: Vec<Metric>,
    logs: Vec<LogRecord>,
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Received>>);

impl Collector {
    fn keep(&self, f: impl FnOnce(&mut Received)) {
        f(&mut self.0.lock().expect("no holder panics"));
    }
}

#[async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for r in request.into_inner().resource_spans {
            self.keep(|k| {
                k.resources.extend(r.resource);
                k.spans.extend(r.scope_spans.into_iter().flat_map(|s| s.spans));
            });
        }
        Ok(Response::new(Default::default()))
    }
}

#[async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for r in request.into_inner().resource_metrics {
            self.keep(|k| {
                k.resources.extend(r.resource);
                k.metrics.extend(r.scope_metrics.into_iter().flat_map(|s| s.metrics));
            });
        }
        Ok(Response::new(Default::default()))
    }
}

#[async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        for r in request.into_inner().resource_logs {
            self.keep(|k| {
                k.resources.extend(r.resource);
                k.logs.extend(r.scope_logs.into_iter().flat_map(|s| s.log_records));
            });
        }
        Ok(Response::new(Default::default()))
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|kv| kv.key == key)?.value.clone()?.value?;
    match value {
        Value::StringValue(s) => Some(s),
        other => Some(format!("{other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_metrics_and_logs_reach_the_collector_with_who_sent_them() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let collector = Collector::default();
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .add_service(MetricsServiceServer::new(collector.clone()))
        .add_service(LogsServiceServer::new(collector.clone()))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    let server = tokio::spawn(server);

    let telemetry = muster_telemetry::init(Settings {
        service: "musterd",
        host: "host7".into(),
        otlp_endpoint: Some(endpoint),
        log: "info".into(),
        recent_spans: 16,
    })
    .expect("the endpoint is usable");
    let trace = {
        let parent = tracing::info_span!(target: "muster_test", "service create", service = "web");
        let _entered = parent.enter();
        tracing::info!(target: "muster_test", task = "web.1", "assigned");
        tracing::info_span!(target: "muster_test", "raft commit").in_scope(|| {});
        muster_telemetry::trace_parent().expect("a recorded span").split('-').nth(1).expect("a trace id").to_owned()
    };
    metrics::gauge(names::CONTAINER_COUNT, 3, &[("state", "running".into())]);
    // Flushing blocks its thread until the collector has answered.
    tokio::task::spawn_blocking(move || telemetry.shutdown()).await.expect("flushed");
    server.abort();

    let got = collector.0.lock().expect("no holder panics");
    let span = |name: &str| got.spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no span {name}"));
    let (parent, child) = (span("service create"), span("raft commit"));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&parent.trace_id), trace);
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
