//! Log records of others, sent over OTLP and acknowledged: for containers whose log driver is `otlp`.
//!
//! No batching here and nothing in the background: who sends waits for the collector's answer, and keeps what was not taken.

use opentelemetry::{
    Key, KeyValue,
    logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity},
};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    logs::{LogBatch, LogExporter as _, SdkLogger, SdkLoggerProvider},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::{Request, metadata::MetadataMap};

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970.
    pub time_ns: i64,
    /// What an error is shown as; else information.
    pub error: bool,
    pub body: String,
    pub attributes: Vec<(&'static str, String)>,
}

/// Sends the records of one resource.
#[derive(Debug)]
pub struct Exporter {
    exporter: opentelemetry_otlp::LogExporter,
    logger: SdkLogger,
    scope: opentelemetry::InstrumentationScope,
}

impl Exporter {
    /// An exporter to `endpoint` (OTLP over gRPC, e.g. `http://127.0.0.1:4317`). It connects when it first sends. Call inside
    /// of the tokio runtime. `own`: the endpoint is the process's own, which alone gets the headers that variables name for it,
    /// for they may be credentials.
    ///
    /// # Errors
    /// When the endpoint is none.
    pub fn new(endpoint: &str, own: bool, resource: Vec<(String, String)>) -> Result<Self, ExporterBuildError> {
        let mut exporter = opentelemetry_otlp::LogExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(Duration::from_secs(10))
            .with_interceptor(move |mut request: Request<()>| {
                if !own {
                    *request.metadata_mut() = MetadataMap::new();
                }
                Ok(request)
            })
            .build()?;
        let attributes = resource.into_iter().map(|(key, value)| KeyValue::new(key, value));
        exporter.set_resource(&Resource::builder_empty().with_attributes(attributes).build());
        // The provider only makes records: it has no processor.
        let logger = SdkLoggerProvider::builder().build().logger("muster.container");
        let scope = opentelemetry::InstrumentationScope::builder("muster.container").build();
        Ok(Self { exporter, logger, scope })
    }

    /// Sends records; answers when the collector has taken them.
    ///
    /// # Errors
    /// The collector's words, or the transport's.
    pub async fn send(&self, records: Vec<Record>) -> Result<(), String> {
        let records: Vec<_> = records.into_iter().map(|record| self.record(record)).collect();
        let batch: Vec<_> = records.iter().map(|record| (record, &self.scope)).collect();
        self.exporter.export(LogBatch::new(&batch)).await.map_err(|e| e.to_string())
    }

    fn record(&self, from: Record) -> opentelemetry_sdk::logs::SdkLogRecord {
        let mut record = self.logger.create_log_record();
        let at = UNIX_EPOCH + Duration::from_nanos(u64::try_from(from.time_ns).unwrap_or(0));
        record.set_timestamp(at);
        record.set_observed_timestamp(SystemTime::now());
        record.set_severity_number(if from.error { Severity::Error } else { Severity::Info });
        record.set_severity_text(if from.error { "ERROR" } else { "INFO" });
        record.set_body(AnyValue::from(from.body));
        for (key, value) in from.attributes {
            record.add_attribute(Key::from_static_str(key), value);
        }
        record
    }
}
