//! The last spans of this process, in memory: what `muster trace` shows when there is no collector.

use opentelemetry::{Context, trace::Status};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A finished span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanRecord {
    pub trace_id: String,
    pub span_id: String,
    /// Empty for a root.
    pub parent_span_id: String,
    pub name: String,
    /// Nanoseconds since the epoch.
    pub start: i64,
    pub end: i64,
    pub attributes: Vec<(String, String)>,
    /// Empty: it did not fail.
    pub error: String,
    /// A trace begins with it, or it is where a client's own trace comes in over HTTP.
    entry: bool,
}

/// A ring of finished spans. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Buffer {
    spans: Arc<Mutex<VecDeque<SpanRecord>>>,
    capacity: usize,
}

impl Buffer {
    /// Keeps the newest `capacity` spans; at some 500 bytes each.
    pub fn new(capacity: usize) -> Self {
        Self { spans: Arc::default(), capacity: capacity.max(1) }
    }

    /// All spans of one trace that are still here, by start.
    pub fn trace(&self, trace_id: &str) -> Vec<SpanRecord> {
        let mut found: Vec<_> = self.locked(|s| s.iter().filter(|s| s.trace_id == trace_id).cloned().collect());
        found.sort_by_key(|s| s.start);
        found
    }

    /// The newest spans that traces begin with here, newest first.
    pub fn roots(&self, limit: usize) -> Vec<SpanRecord> {
        self.locked(|s| s.iter().rev().filter(|s| s.entry).take(limit).cloned().collect())
    }

    fn push(&self, span: SpanRecord) {
        self.locked(|s| {
            if s.len() == self.capacity {
                s.pop_front();
            }
            s.push_back(span);
        });
    }

    fn locked<T>(&self, f: impl FnOnce(&mut VecDeque<SpanRecord>) -> T) -> T {
        // Nothing that runs under the lock can leave the ring half-changed.
        f(&mut self.spans.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl SpanProcessor for Buffer {
    fn on_start(&self, _span: &mut Span, _cx: &Context) {}

    fn on_end(&self, span: SpanData) {
        let parent = span.parent_span_id;
        let invalid = opentelemetry::trace::SpanId::INVALID;
        let error = match span.status {
            Status::Error { description } => description.into_owned(),
            _ => String::new(),
        };
        // Of all spans, only Docker clients' calls have a route.
        let entry = parent == invalid || span.attributes.iter().any(|kv| kv.key.as_str() == "http.route");
        self.push(SpanRecord {
            entry,
            trace_id: span.span_context.trace_id().to_string(),
            span_id: span.span_context.span_id().to_string(),
            parent_span_id: if parent == invalid { String::new() } else { parent.to_string() },
            name: span.name.into_owned(),
            start: nanos(span.start_time),
            end: nanos(span.end_time),
            attributes: span
                .attributes
                .iter()
                .filter(|kv| shown(kv.key.as_str()))
                .map(|kv| (kv.key.to_string(), kv.value.to_string()))
                .collect(),
            error,
        });
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Where the code is says nothing to an operator.
fn shown(key: &str) -> bool {
    !key.starts_with("code.")
        && !key.starts_with("thread.")
        && !matches!(key, "busy_ns" | "idle_ns" | "target" | "level")
}

fn nanos(t: SystemTime) -> i64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
