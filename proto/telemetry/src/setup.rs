//! Installing the subscriber, and taking it down again in order.

use crate::{
    export::{Export, Sampled},
    recent::Buffer,
};
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::SdkMeterProvider,
    resource::TelemetryResourceDetector,
    trace::{BatchSpanProcessor, SdkTracerProvider},
};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, filter::filter_fn, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

/// What a process says of itself and where it sends it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `service.name`, unless a variable says another.
    pub service: &'static str,
    /// `host.name`, unless a variable says another.
    pub host: String,
    /// What is exported, and where to.
    pub export: Export,
    /// Directives for what goes to stderr, e.g. `info,muster_controller=debug`.
    pub log: String,
    /// Finished spans kept for `muster trace`.
    pub recent_spans: usize,
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("log {directives:?} is not valid: expected for example info or warn,muster_engine=debug")]
    Directives {
        directives: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("otlp endpoint {endpoint:?} cannot be used")]
    Endpoint {
        endpoint: String,
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    #[error("a tracing subscriber is installed already")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
    #[error("the log's directives cannot be changed any more")]
    Gone(#[from] reload::Error),
}

/// Keeps export going; [`Telemetry::shutdown`] flushes it.
#[derive(Debug)]
pub struct Telemetry {
    pub recent: Buffer,
    tracer: SdkTracerProvider,
    meter: Option<SdkMeterProvider>,
    logger: Option<SdkLoggerProvider>,
    log: reload::Handle<EnvFilter, Registry>,
}

/// Crates whose spans and logs describe the export itself: exporting them would feed on itself.
const QUIET: &[&str] =
    &["h2", "hyper", "hyper_util", "tonic", "tower", "opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp"];

/// Installs the process's subscriber. Call once, inside of the tokio runtime when an endpoint is set.
///
/// # Errors
/// [`Error`] names the setting that is wrong.
pub fn init(settings: Settings) -> Result<Telemetry, Error> {
    let (filter, log) = reload::Layer::new(filter(&settings.log)?);
    let export = settings.export;
    let resource = resource(settings.service, settings.host, &export);
    let recent = Buffer::new(settings.recent_spans);
    let mut tracer = SdkTracerProvider::builder()
        .with_resource(resource.clone())
        .with_sampler(export.sampler())
        .with_span_processor(recent.clone());
    if let Some(endpoint) = &export.traces {
        let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        let exporter = builder.build().map_err(refuse(endpoint))?;
        tracer = tracer.with_span_processor(Sampled(BatchSpanProcessor::builder(exporter).build()));
    }
    let meter = export.metrics.as_ref().map(|endpoint| meter(endpoint, &resource)).transpose()?;
    let logger = export.logs.as_ref().map(|endpoint| logger(endpoint, &resource)).transpose()?;
    let tracer = tracer.build();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer.tracer("muster"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false)
        .with_filter(filter_fn(|m| m.is_span() && m.target().starts_with("muster")));
    let bridge = logger.as_ref().map(|logger| {
        OpenTelemetryTracingBridge::new(logger).with_filter(filter_fn(|m| {
            *m.level() <= tracing::Level::INFO && !QUIET.iter().any(|q| m.target().split("::").next() == Some(q))
        }))
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_filter(filter);
    tracing_subscriber::registry().with(lines).with(spans).with(bridge).try_init()?;
    // Only who installed the subscriber gets here.
    let _ = crate::context::TRACER.set(tracer.tracer("muster"));
    if let Some(meter) = &meter {
        opentelemetry::global::set_meter_provider(meter.clone());
    }
    for warning in export.warnings {
        tracing::warn!(%warning, "a variable does nothing");
    }
    Ok(Telemetry { recent, tracer, meter, logger, log })
}

/// Who speaks: what variables say wins over what the daemon knows of itself, and `OTEL_SERVICE_NAME` over all.
fn resource(service: &'static str, host: String, export: &Export) -> Resource {
    let said = export.resource.iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone()));
    let builder = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host),
        ])
        .with_attributes(said);
    match &export.service {
        Some(service) => builder.with_service_name(service.clone()).build(),
        None => builder.build(),
    }
}

fn meter(endpoint: &str, resource: &Resource) -> Result<SdkMeterProvider, Error> {
    let builder = opentelemetry_otlp::MetricExporter::builder().with_tonic().with_endpoint(endpoint);
    let exporter = builder.build().map_err(refuse(endpoint))?;
    Ok(SdkMeterProvider::builder().with_resource(resource.clone()).with_periodic_exporter(exporter).build())
}

fn logger(endpoint: &str, resource: &Resource) -> Result<SdkLoggerProvider, Error> {
    let builder = opentelemetry_otlp::LogExporter::builder().with_tonic().with_endpoint(endpoint);
    let exporter = builder.build().map_err(refuse(endpoint))?;
    Ok(SdkLoggerProvider::builder().with_resource(resource.clone()).with_batch_exporter(exporter).build())
}

fn refuse(endpoint: &str) -> impl FnOnce(opentelemetry_otlp::ExporterBuildError) -> Error {
    move |source| Error::Endpoint { endpoint: endpoint.to_owned(), source }
}

fn filter(directives: &str) -> Result<EnvFilter, Error> {
    // hickory writes a line for each query at INFO.
    EnvFilter::try_new(format!("{directives},hickory_server=warn,hickory_proto=warn,hickory_resolver=warn"))
        .map_err(|source| Error::Directives { directives: directives.to_owned(), source })
}

impl Telemetry {
    /// Other directives for what goes to stderr, from now on.
    ///
    /// # Errors
    /// [`Error::Directives`]; the old ones stay.
    pub fn set_log(&self, directives: &str) -> Result<(), Error> {
        Ok(self.log.reload(filter(directives)?)?)
    }

    /// Flushes what is not sent yet. Without a collector the exporters answer errors: they are only told, at DEBUG.
    pub fn shutdown(self) {
        let mut results = vec![self.tracer.shutdown()];
        results.extend(self.meter.map(|meter| meter.shutdown()));
        results.extend(self.logger.map(|logger| logger.shutdown()));
        for error in results.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "telemetry was not flushed");
        }
    }
}
