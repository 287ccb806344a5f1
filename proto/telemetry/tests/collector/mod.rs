//! An OTLP receiver over gRPC that keeps what it gets. Shared by the tests of `musterd`.

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
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{net::TcpListener, sync::watch};
use tonic::{Request, Response, Status, async_trait};

#[derive(Default)]
pub struct Received {
    pub resources: Vec<Resource>,
    pub spans: Vec<Span>,
    pub metrics: Vec<Metric>,
    pub logs: Vec<LogRecord>,
    /// What each request said in the header `x-key`.
    pub keys: Vec<Option<String>>,
}

#[derive(Clone)]
pub struct Collector {
    received: Arc<Mutex<Received>>,
    /// How many requests there were.
    requests: watch::Sender<usize>,
    pub address: SocketAddr,
}

impl Collector {
    /// Listens on loopback until the runtime ends.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let collector = Self { received: Arc::default(), requests: watch::Sender::new(0), address };
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector.clone()))
            .add_service(LogsServiceServer::new(collector.clone()))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(server);
        collector
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().expect("no holder panics")
    }

    /// Waits until what was received is enough; a minute.
    #[allow(dead_code, reason = "not every test program waits")]
    pub async fn wait(&self, what: &str, enough: impl Fn(&Received) -> bool) {
        let mut requests = self.requests.subscribe();
        let arrived = async {
            while !enough(&self.received()) {
                requests.changed().await.expect("the collector lives");
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), arrived).await;
        assert!(waited.is_ok(), "{what} did not arrive");
    }

    fn keep<T>(&self, request: Request<T>, f: impl FnOnce(&mut Received, T)) {
        let key = request.metadata().get("x-key").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut received = self.received();
        received.keys.push(key);
        f(&mut received, request.into_inner());
        drop(received);
        self.requests.send_modify(|n| *n += 1);
    }
}

#[async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(request, |k, request| {
            for r in request.resource_spans {
                k.resources.extend(r.resource);
                k.spans.extend(r.scope_spans.into_iter().flat_map(|s| s.spans));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

#[async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep(request, |k, request| {
            for r in request.resource_metrics {
                k.resources.extend(r.resource);
                k.metrics.extend(r.scope_metrics.into_iter().flat_map(|s| s.metrics));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

#[async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.keep(request, |k, request| {
            for r in request.resource_logs {
                k.resources.extend(r.resource);
                k.logs.extend(r.scope_logs.into_iter().flat_map(|s| s.log_records));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

pub fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|kv| kv.key == key)?.value.clone()?.value?;
    match value {
        Value::StringValue(s) => Some(s),
        other => Some(format!("{other:?}")),
    }
}
