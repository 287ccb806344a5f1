//! W3C Trace Context (https://www.w3.org/TR/trace-context/) between processes, as the text of `traceparent`.

use opentelemetry::{
    KeyValue,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer as _,
    },
};
use opentelemetry_sdk::trace::SdkTracer;
use std::{sync::OnceLock, time::SystemTime};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// For [`record`].
pub(crate) static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// `traceparent` of the current span. `None` outside of a recorded span.
pub fn trace_parent() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    let flags = span.trace_flags().to_u8();
    span.is_valid().then(|| format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()))
}

/// Hands the current trace context to `set` as a header: key and value. Does nothing outside of a recorded span.
pub fn inject(mut set: impl FnMut(&'static str, &str)) {
    if let Some(value) = trace_parent() {
        set("traceparent", &value);
    }
}

/// Makes `span` a child of the remote span that `trace_parent` names. Text that is no valid `traceparent` changes nothing:
/// a stranger's header must not break a call.
pub fn continue_from(span: &Span, trace_parent: &str) {
    if let Some(parent) = parse(trace_parent) {
        // Fails only where no OpenTelemetry layer is installed or the span is filtered out: then there is no trace to join.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    }
}

/// Records a span that has just ended in the trace of `trace_parent`: of what ran where no span could be entered. Does
/// nothing before [`crate::init`], or where the text is no valid `traceparent`.
pub fn record(name: &'static str, trace_parent: &str, began: SystemTime, attributes: &[(&'static str, String)]) {
    let (Some(tracer), Some(parent)) = (TRACER.get(), parse(trace_parent)) else { return };
    let attributes: Vec<_> = attributes.iter().map(|(key, value)| KeyValue::new(*key, value.clone())).collect();
    let builder = SpanBuilder::from_name(name).with_start_time(began).with_attributes(attributes);
    let context = opentelemetry::Context::new().with_remote_span_context(parent);
    tracer.build_with_context(builder, &context).end();
}

fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(flags),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_trace_parents_are_taken_up() {
        assert!(parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").is_some());
        for bad in [
            "",
            "00",
            "00-0-0-0",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-zzf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
