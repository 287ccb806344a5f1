//! Where the signals go: what the standard variables say, under an endpoint that the configuration names.
//!
//! The variables are those of the OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry
//! Protocol Exporter". An endpoint of the configuration takes the place of the endpoints that variables name; all other
//! variables hold beside it. What cannot be honoured is refused by its name. Headers, timeouts, `_INSECURE`, and the sizes and
//! delays of batches are read by the exporters themselves.

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceId},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult, ShouldSample, Span, SpanData, SpanProcessor,
    },
};
use std::time::Duration;

/// The specification's, of exporters that are asked for without an endpoint.
const LOCAL: &str = "http://localhost:4317";

/// Of one variable: what it says cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {value:?}: expected {expected}")]
pub struct Error {
    pub variable: String,
    pub value: String,
    pub expected: &'static str,
}

/// What is exported and where to: OTLP over gRPC, an endpoint for each signal. `None`: that signal is not exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Export {
    pub traces: Option<String>,
    pub metrics: Option<String>,
    pub logs: Option<String>,
    /// `service.name`, where a variable names it.
    pub service: Option<String>,
    /// What `OTEL_RESOURCE_ATTRIBUTES` says, decoded.
    pub resource: Vec<(String, String)>,
    sampling: Sampling,
    /// What was said and does nothing, as the specification wants; for the log.
    pub(crate) warnings: Vec<String>,
}

/// `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sampling {
    parent_based: bool,
    /// Of the roots, 0 to 1.
    ratio: f64,
}

impl Default for Sampling {
    /// The specification's: `parentbased_always_on`.
    fn default() -> Self {
        Self { parent_based: true, ratio: 1.0 }
    }
}

impl Export {
    /// Reads the variables of this process. `endpoint` is what the configuration names for all signals.
    ///
    /// # Errors
    /// Names the variable.
    pub fn from_environment(endpoint: Option<&str>) -> Result<Self, Error> {
        Self::read(endpoint, |name| std::env::var(name).ok())
    }

    fn read(endpoint: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        // "Empty" means "unset", says the specification.
        let variable = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let mut warnings = Vec::new();
        if let Some(value) = variable("OTEL_SDK_DISABLED") {
            if value.eq_ignore_ascii_case("true") {
                return Ok(Self::default());
            }
            if !value.eq_ignore_ascii_case("false") {
                warnings.push(format!("OTEL_SDK_DISABLED={value} is read as false: only true disables"));
            }
        }
        let signal = |name: &str| target(name, endpoint, &variable);
        Ok(Self {
            traces: signal("TRACES")?,
            metrics: signal("METRICS")?,
            logs: signal("LOGS")?,
            service: variable("OTEL_SERVICE_NAME"),
            resource: variable("OTEL_RESOURCE_ATTRIBUTES").map(|v| attributes(&v)).transpose()?.unwrap_or_default(),
            sampling: sampling(&variable)?,
            warnings,
        })
    }

    /// Says which spans are exported. All are recorded: `muster trace` shows also those that are not exported.
    pub(crate) fn sampler(&self) -> impl ShouldSample + use<> {
        let Sampling { parent_based, ratio } = self.sampling;
        let root = Sampler::TraceIdRatioBased(ratio);
        RecordAll(if parent_based { Sampler::ParentBased(Box::new(root)) } else { root })
    }
}

/// The endpoint of one signal.
fn target(
    signal: &str,
    given: Option<&str>,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, Error> {
    let exporter = format!("OTEL_{signal}_EXPORTER");
    let asked = match variable(&exporter).as_deref() {
        None => false,
        Some("otlp") => true,
        Some("none") => return Ok(None),
        Some(other) => return Err(refused(exporter, other, "otlp or none")),
    };
    let of_signal = |what: &str| format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
    let either = |what: &str| {
        [of_signal(what), format!("OTEL_EXPORTER_OTLP_{what}")]
            .into_iter()
            .find_map(|name| variable(&name).map(|value| (name, value)))
    };
    let endpoint = given.map(str::to_owned).or_else(|| either("ENDPOINT").map(|(_, value)| value));
    let Some(endpoint) = endpoint.or_else(|| asked.then(|| LOCAL.to_owned())) else { return Ok(None) };
    if let Some((name, value)) = either("PROTOCOL")
        && value != "grpc"
    {
        return Err(refused(name, &value, "grpc, the one protocol there is here"));
    }
    if let Some((name, value)) = either("COMPRESSION")
        && value != "none"
    {
        return Err(refused(name, &value, "none: nothing is compressed here"));
    }
    if let Some((name, value)) = either("HEADERS")
        && !value.split(',').all(|pair| pair.split_once('=').is_some_and(|(key, _)| !key.trim().is_empty()))
    {
        // The value may hold a password.
        let expected = "key=value, comma separated";
        return Err(Error { variable: name, value: format!("({} characters)", value.len()), expected });
    }
    for file in ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"] {
        if let Some((name, value)) = either(file) {
            return Err(refused(name, &value, "nothing: the collector is trusted by the system's authorities"));
        }
    }
    Ok(Some(endpoint))
}

fn refused(variable: String, value: &str, expected: &'static str) -> Error {
    Error { variable, value: value.to_owned(), expected }
}

fn sampling(variable: &impl Fn(&str) -> Option<String>) -> Result<Sampling, Error> {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    let Some(name) = variable(NAME) else { return Ok(Sampling::default()) };
    let (parent_based, root) = match name.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, name.as_str()),
    };
    let ratio =
        match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => match variable("OTEL_TRACES_SAMPLER_ARG") {
                None => 1.0,
                Some(arg) => arg.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| {
                    refused("OTEL_TRACES_SAMPLER_ARG".to_owned(), &arg, "a share of the traces, 0 to 1")
                })?,
            },
            _ => {
                let expected = "always_on, always_off, traceidratio, or one of these after parentbased_";
                return Err(refused(NAME.to_owned(), &name, expected));
            }
        };
    Ok(Sampling { parent_based, ratio })
}

/// `key=value` pairs with percent-encoded values, comma separated. One that is wrong spoils the whole, says the specification.
fn attributes(text: &str) -> Result<Vec<(String, String)>, Error> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        let key = key.trim();
        (!key.is_empty()).then_some((key.to_owned(), percent_decoded(value.trim())?))
    };
    let pairs: Option<Vec<_>> = text.split(',').filter(|p| !p.trim().is_empty()).map(pair).collect();
    let name = "OTEL_RESOURCE_ATTRIBUTES".to_owned();
    pairs.ok_or_else(|| refused(name, text, "key=value, comma separated, values percent-encoded"))
}

/// `None`: a `%` without two hexadecimal digits after it, or no UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).filter(|(d, _)| d.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Records what the inner sampler would drop, without having it exported.
#[derive(Clone, Debug)]
struct RecordAll(Sampler);

impl ShouldSample for RecordAll {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.0.should_sample(parent, trace, name, kind, attributes, links);
        if result.decision == SamplingDecision::Drop {
            result.decision = SamplingDecision::RecordOnly;
        }
        result
    }
}

/// Passes on what is sampled only: the batching processor itself takes all that is recorded (opentelemetry_sdk 0.33).
#[derive(Debug)]
pub(crate) struct Sampled(pub BatchSpanProcessor);

impl SpanProcessor for Sampled {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(endpoint: Option<&str>, variables: &[(&str, &str)]) -> Result<Export, Error> {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Export::read(endpoint, value)
    }

    fn ends(export: &Export) -> [Option<&str>; 3] {
        [&export.traces, &export.metrics, &export.logs].map(Option::as_deref)
    }

    #[test]
    fn each_signal_goes_to_its_own_endpoint_else_to_the_common_one() {
        let one = read(None, &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t")]).expect("valid");
        assert_eq!(ends(&one), [Some("http://t"), None, None]);
        let both = [("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://l"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all")];
        assert_eq!(
            ends(&read(None, &both).expect("valid")),
            [Some("http://all"), Some("http://all"), Some("http://l")]
        );
        assert_eq!(ends(&read(Some("http://file"), &both).expect("valid")), [Some("http://file"); 3]);
        assert_eq!(ends(&read(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).expect("valid")), [None; 3]);
    }

    #[test]
    fn exporters_are_switched_one_by_one_and_all_at_once() {
        let none = read(Some("http://file"), &[("OTEL_METRICS_EXPORTER", "none")]).expect("valid");
        assert_eq!(ends(&none), [Some("http://file"), None, Some("http://file")]);
        let asked = read(None, &[("OTEL_TRACES_EXPORTER", "otlp")]).expect("valid");
        assert_eq!(ends(&asked), [Some(LOCAL), None, None]);
        let disabled = [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "x")];
        assert_eq!(ends(&read(Some("http://file"), &disabled).expect("valid")), [None; 3]);
        let odd = read(Some("http://file"), &[("OTEL_SDK_DISABLED", "1")]).expect("valid");
        assert_eq!((ends(&odd), odd.warnings.len()), ([Some("http://file"); 3], 1));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_the_variable_s_name() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz"),
        ] {
            let e = read(Some("http://c"), &[(name, value)]).expect_err(name);
            assert_eq!(e.variable, name);
            assert!(!e.to_string().contains("secret"), "{e}");
        }
        let arg = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert_eq!(read(None, &arg).expect_err("refused").variable, "OTEL_TRACES_SAMPLER_ARG");
        // Where nothing is exported, how it would be does not matter.
        assert!(read(None, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).is_ok());
    }

    #[test]
    fn attributes_of_the_resource_are_decoded() {
        let export = read(None, &[("OTEL_RESOURCE_ATTRIBUTES", "host.name=h%2C1, team = a b ,")]).expect("valid");
        let expected = [("host.name".to_owned(), "h,1".to_owned()), ("team".to_owned(), "a b".to_owned())];
        assert_eq!(export.resource, expected);
    }
}
