//! Recording metrics of the catalogue. Without a configured endpoint the global meter is a no-op: recording costs nothing.

use crate::names::Metric;
use opentelemetry::{KeyValue, global};

/// Says what `metric` is now, for one set of attributes.
pub fn gauge(metric: Metric, value: u64, attributes: &[(&'static str, String)]) {
    let attributes: Vec<_> = attributes.iter().map(|(k, v)| KeyValue::new(*k, v.clone())).collect();
    // The SDK hands out the same instrument for the same name.
    let instrument =
        global::meter("muster").u64_gauge(metric.name).with_unit(metric.unit).with_description(metric.what).build();
    instrument.record(value, &attributes);
}
