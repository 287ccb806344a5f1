//! What the host says of itself in numbers, for as long as it serves. Names are those of the catalogue in `muster-telemetry`.

use crate::host::Host;
use muster_calls::{Engine as _, ListContainers};
use muster_telemetry::{metrics::gauge, names};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Half of what collectors scrape by default; each look costs a list from memory and a read of one small map.
const PERIOD: Duration = Duration::from_secs(15);

/// Records until `stop`. Does nothing where nothing is exported.
pub async fn observe(host: Arc<Host>, stop: CancellationToken) {
    if host.config.export.metrics.is_none() {
        return;
    }
    loop {
        record(&host).await;
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn record(host: &Host) {
    if let Ok(listed) = host.engine.container_list(ListContainers { all: true, ..Default::default() }).await {
        count(names::CONTAINER_COUNT, "state", listed.items.into_iter().map(|c| c.state));
    }
    if let Some(network) = &host.network {
        for (reason, n) in network.counters().await {
            gauge(names::NET_DROP, n, &[("reason", reason)]);
        }
    }
    let Some(controller) = host.member().and_then(|m| m.controller()) else { return };
    let known = controller.published();
    gauge(names::RAFT_LEADER, known.leading.into(), &[]);
    gauge(names::RAFT_TERM, known.term, &[]);
    gauge(names::RAFT_COMMIT_INDEX, known.applied, &[]);
    if known.leading {
        count(names::NODE_COUNT, "state", known.state.nodes().map(|n| format!("{:?}", n.status.state).to_lowercase()));
        count(names::TASK_COUNT, "state", known.state.tasks().map(|t| t.status.state.as_str().to_owned()));
    }
}

fn count(metric: names::Metric, by: &'static str, values: impl Iterator<Item = String>) {
    let mut counts = BTreeMap::<String, u64>::new();
    values.for_each(|v| *counts.entry(v).or_default() += 1);
    counts.into_iter().for_each(|(value, n)| gauge(metric, n, &[(by, value)]));
}
