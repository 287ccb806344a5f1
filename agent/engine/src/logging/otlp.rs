//! OpenTelemetry: lines as log records over OTLP. The engine speaks no protobuf: whoever opens it lends the exporter.

use super::{
    attributes,
    sink::{Sink, Stopped},
};
use crate::{engine::Shared, record::Record};
use async_trait::async_trait;
use bytes::Bytes;
use muster_runtime::logs::{Entry, Stream};

/// One line of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Nanoseconds since 1970.
    pub time_ns: i64,
    pub stderr: bool,
    /// Without its newline.
    pub text: Bytes,
    /// A piece of a line longer than 16 KiB: the next line goes on with it.
    pub partial: bool,
}

/// Whose lines they are: attributes of the resource, by the names of OpenTelemetry's semantic conventions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLogs {
    /// `http://host:port` of a collector, OTLP over gRPC.
    pub endpoint: String,
    /// It is the daemon's own, not one that a container names.
    pub own: bool,
    pub resource: Vec<(String, String)>,
}

/// Makes exporters of container logs.
pub trait OtlpLogs: Send + Sync + 'static {
    /// An exporter for one container; it connects when it first sends.
    ///
    /// # Errors
    /// Words about an endpoint that cannot be.
    fn open(&self, logs: &ContainerLogs) -> Result<Box<dyn OtlpSender>, String>;
}

/// Sends one container's lines.
#[async_trait]
pub trait OtlpSender: Send {
    /// Answers when the collector has taken them.
    ///
    /// # Errors
    /// Words about why it has not.
    async fn send(&mut self, lines: Vec<LogLine>) -> Result<(), String>;
}

/// The sink over an exporter.
pub(super) struct Otlp {
    sender: Box<dyn OtlpSender>,
    endpoint: String,
}

impl Otlp {
    pub fn new(shared: &Shared, record: &Record, endpoint: Option<&str>) -> Result<Self, String> {
        let none = "no OTLP endpoint: neither --log-opt otlp-endpoint nor the daemon names one";
        let own = endpoint.is_none();
        let endpoint = endpoint.or(shared.config.otlp_endpoint.as_deref()).ok_or(none)?.to_owned();
        let exporter = shared.config.otlp.as_ref().ok_or("this daemon exports no logs")?;
        let mut resource = vec![
            ("service.name".to_owned(), record.name.clone()),
            ("host.name".to_owned(), shared.config.name.clone()),
            ("container.id".to_owned(), record.id.clone()),
            ("container.name".to_owned(), record.name.clone()),
            ("container.image.name".to_owned(), record.image.clone()),
            ("container.image.id".to_owned(), record.image_id.clone()),
        ];
        resource.extend(attributes(record, &shared.config.name));
        let sender = exporter.open(&ContainerLogs { endpoint: endpoint.clone(), own, resource })?;
        Ok(Self { sender, endpoint })
    }
}

#[async_trait]
impl Sink for Otlp {
    async fn send(&mut self, lines: &[Entry]) -> Result<(), Stopped> {
        let sent = self.sender.send(lines.iter().map(line).collect()).await;
        sent.map_err(|e| Stopped { sent: 0, reason: format!("{}: {e}", self.endpoint) })
    }
}

fn line(entry: &Entry) -> LogLine {
    let partial = entry.is_partial();
    let text = if partial { entry.line.clone() } else { entry.line.slice(..entry.line.len() - 1) };
    LogLine { time_ns: entry.time_ns, stderr: entry.stream == Stream::Stderr, text, partial }
}
