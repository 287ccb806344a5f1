//! Traces, metrics and logs of a Muster process.
//!
//! [`init`] installs the one subscriber: lines to stderr, spans into a bounded in-memory [`recent::Buffer`] that answers
//! `muster trace` without a collector, and, only where an OTLP endpoint is configured ([`Export`]), export of traces, metrics and logs.
//! Trace context crosses process boundaries as W3C `traceparent` text: [`inject`] writes it, [`continue_from`] takes it up.
//! Names of metrics are in [`names`], once.
//!
//! No secret, token or environment value ever goes into a field.

#![forbid(unsafe_code)]

mod context;
mod export;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod recent;
mod setup;

pub use context::{continue_from, inject, record, trace_parent};
pub use export::{Error as ExportError, Export};
pub use setup::{Error, Settings, Telemetry, init};
