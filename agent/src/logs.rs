//! Logs of containers over OTLP: the engine's interface over the telemetry room's exporter.

use async_trait::async_trait;
use muster_engine::{ContainerLogs, LogLine, OtlpLogs, OtlpSender};
use muster_telemetry::logs::{Exporter, Record};

/// Makes exporters for the log driver `otlp`.
pub struct Otlp;

struct Sender(Exporter);

impl OtlpLogs for Otlp {
    fn open(&self, logs: &ContainerLogs) -> Result<Box<dyn OtlpSender>, String> {
        let exporter = Exporter::new(&logs.endpoint, logs.own, logs.resource.clone()).map_err(|e| e.to_string())?;
        Ok(Box::new(Sender(exporter)))
    }
}

#[async_trait]
impl OtlpSender for Sender {
    async fn send(&mut self, lines: Vec<LogLine>) -> Result<(), String> {
        self.0.send(lines.into_iter().map(record).collect()).await
    }
}

/// A line as a record; what is no UTF-8 became U+FFFD when it was logged.
fn record(line: LogLine) -> Record {
    let stream = if line.stderr { "stderr" } else { "stdout" };
    let mut attributes = vec![("log.iostream", stream.to_owned())];
    if line.partial {
        attributes.push(("log.partial", "true".to_owned()));
    }
    let body = String::from_utf8_lossy(&line.text).into_owned();
    Record { time_ns: line.time_ns, error: line.stderr, body, attributes }
}
