//! `docker stats`: readings of a container's counters, each with the one before it.

use super::Handle;
use crate::{clock, engine::Shared, error, record::Record};
use futures_util::{StreamExt, stream};
use muster_calls::{Result, Stream};
use muster_model::engine::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats, ThrottlingData,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const INTERVAL: Duration = Duration::from_secs(1);

/// What one stream of readings has got to.
struct Readings {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    before: Option<Stats>,
    next_at: tokio::time::Instant,
}

impl Shared {
    /// Readings once a second, or one. A container that does not run gives empty ones, as in Docker.
    pub(crate) fn stats(self: &Arc<Self>, id: &str, streaming: bool, one_shot: bool) -> Result<Stream<Stats>> {
        let handle = self.find(id)?;
        let readings = Readings { shared: self.clone(), handle, before: None, next_at: tokio::time::Instant::now() };
        if !streaming {
            return Ok(stream::once(readings.single(one_shot)).boxed());
        }
        Ok(stream::unfold(readings, |mut readings| async move {
            let next = readings.next().await?;
            Some((next, readings))
        })
        .boxed())
    }
}

impl Readings {
    async fn single(mut self, one_shot: bool) -> Result<Stats> {
        if !one_shot && self.handle.record().state.is_running() {
            self.before = Some(self.read().await?);
            tokio::time::sleep(INTERVAL).await;
        }
        self.read().await
    }

    /// `None` once the container is gone or the engine shuts down.
    async fn next(&mut self) -> Option<Result<Stats>> {
        tokio::select! {
            () = tokio::time::sleep_until(self.next_at) => {}
            () = self.shared.stop.cancelled() => return None,
        }
        self.next_at = tokio::time::Instant::now() + INTERVAL;
        if self.handle.view().removed {
            return None;
        }
        let read = self.read().await;
        self.before = read.as_ref().ok().cloned();
        Some(read)
    }

    async fn read(&self) -> Result<Stats> {
        let record = self.handle.record();
        let mut stats = Stats { name: format!("/{}", record.name), id: record.id.clone(), ..Stats::default() };
        if !record.state.is_running() {
            return Ok(stats);
        }
        let counters = match self.shared.config.runtime.stats(&record.id).await {
            Ok(counters) => counters,
            // It has ended since.
            Err(muster_runtime::Error::NotRunning { .. } | muster_runtime::Error::NotFound { .. }) => return Ok(stats),
            Err(e) => return Err(error::runtime(e)),
        };
        stats.read = clock::now().into();
        fill(&mut stats, counters);
        stats.networks = interfaces(&record).await;
        if let Some(before) = &self.before {
            stats.preread = before.read;
            stats.precpu_stats = before.cpu_stats.clone();
        }
        Ok(stats)
    }
}

fn fill(stats: &mut Stats, counters: muster_runtime::Stats) {
    let muster_runtime::Stats { cpu, memory, pids, blkio } = counters;
    stats.pids_stats = PidsStats { current: pids.current, limit: pids.limit };
    stats.cpu_stats = CpuStats {
        cpu_usage: CpuUsage {
            total_usage: cpu.total_ns,
            percpu_usage: cpu.per_cpu_ns,
            usage_in_kernelmode: cpu.system_ns,
            usage_in_usermode: cpu.user_ns,
        },
        system_cpu_usage: cpu.host_ns,
        online_cpus: cpu.online,
        throttling_data: ThrottlingData {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled_ns,
        },
    };
    stats.memory_stats = MemoryStats {
        usage: memory.usage,
        max_usage: memory.max_usage,
        stats: memory.stat,
        failcnt: memory.fail_count,
        limit: memory.limit,
    };
    let entries = |list: Vec<muster_runtime::stats::BlkioEntry>| {
        list.into_iter().map(|e| BlkioEntry { major: e.major, minor: e.minor, op: e.op, value: e.value }).collect()
    };
    stats.blkio_stats = BlkioStats {
        io_service_bytes_recursive: entries(blkio.service_bytes),
        io_serviced_recursive: entries(blkio.serviced),
        ..BlkioStats::default()
    };
}

/// Counters of the interfaces in a container's own network namespace.
async fn interfaces(record: &Record) -> BTreeMap<String, NetworkStats> {
    if record.host.network_mode == "host" {
        return BTreeMap::new(); // They would be the host's.
    }
    let path = format!("/proc/{}/net/dev", record.state.pid);
    // A process that has ended since has no interfaces.
    parse_net_dev(&tokio::fs::read_to_string(path).await.unwrap_or_default())
}

/// Parses `/proc/PID/net/dev` (proc_pid_net(5)), without loopback.
fn parse_net_dev(text: &str) -> BTreeMap<String, NetworkStats> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let n: Vec<u64> = counters.split_ascii_whitespace().map(|f| f.parse().ok()).collect::<Option<_>>()?;
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] =
            n[..]
        else {
            return None;
        };
        let stats =
            NetworkStats { rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped };
        (name.trim() != "lo").then(|| (name.trim().to_owned(), stats))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_counters_are_read_without_loopback_and_headers() {
        let text = "Inter-|   Receive                            |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 806 9 1 2 0 0 0 0 70 3 4 5 0 0 0 0\n";
        let all = parse_net_dev(text);
        assert_eq!(all.len(), 1);
        let eth0 = &all["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped), (806, 2, 70, 5));
    }
}
