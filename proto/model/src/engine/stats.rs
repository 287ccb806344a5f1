//! Resource use of a container at one moment.

use super::{Time, lenient::is_zero};
use std::collections::BTreeMap;

document! {
    /// One sample. API object `ContainerStatsResponse`.
    pub struct Stats {
        /// With a leading slash.
        pub name: String,
        pub id: String,
        pub read: Time,
        /// When `precpu_stats` was read; never: there was no sample before.
        pub preread: Time,
        pub pids_stats: PidsStats,
        pub blkio_stats: BlkioStats,
        /// Windows only.
        pub num_procs: u32,
        /// Windows only.
        pub storage_stats: BTreeMap<String, u64>,
        pub cpu_stats: CpuStats,
        pub precpu_stats: CpuStats,
        pub memory_stats: MemoryStats,
        #[serde(skip_serializing_if = "is_zero")]
        pub networks: BTreeMap<String, NetworkStats>,
    }

    /// Processes. API object `ContainerPidsStats`.
    pub struct PidsStats {
        #[serde(skip_serializing_if = "is_zero")]
        pub current: u64,
        /// 0: no limit.
        #[serde(skip_serializing_if = "is_zero")]
        pub limit: u64,
    }

    /// Block devices. API object `ContainerBlkioStats`.
    pub struct BlkioStats {
        pub io_service_bytes_recursive: Vec<BlkioEntry>,
        pub io_serviced_recursive: Vec<BlkioEntry>,
        pub io_queue_recursive: Vec<BlkioEntry>,
        pub io_service_time_recursive: Vec<BlkioEntry>,
        pub io_wait_time_recursive: Vec<BlkioEntry>,
        pub io_merged_recursive: Vec<BlkioEntry>,
        pub io_time_recursive: Vec<BlkioEntry>,
        pub sectors_recursive: Vec<BlkioEntry>,
    }

    /// One counter of a device. API object `ContainerBlkioStatEntry`.
    pub struct BlkioEntry {
        pub major: u64,
        pub minor: u64,
        /// `read`, `write`, ...
        pub op: String,
        pub value: u64,
    }

    /// CPU time. API object `ContainerCPUStats`.
    pub struct CpuStats {
        pub cpu_usage: CpuUsage,
        /// Nanoseconds that all CPUs of the host spent, idle included.
        #[serde(skip_serializing_if = "is_zero")]
        pub system_cpu_usage: u64,
        #[serde(skip_serializing_if = "is_zero")]
        pub online_cpus: u32,
        pub throttling_data: ThrottlingData,
    }

    /// Nanoseconds of the container. API object `ContainerCPUUsage`.
    pub struct CpuUsage {
        pub total_usage: u64,
        /// cgroup v1 only.
        #[serde(skip_serializing_if = "is_zero")]
        pub percpu_usage: Vec<u64>,
        pub usage_in_kernelmode: u64,
        pub usage_in_usermode: u64,
    }

    /// API object `ContainerThrottlingData`.
    pub struct ThrottlingData {
        pub periods: u64,
        pub throttled_periods: u64,
        /// Nanoseconds.
        pub throttled_time: u64,
    }

    /// Bytes. API object `ContainerMemoryStats`.
    pub struct MemoryStats {
        #[serde(skip_serializing_if = "is_zero")]
        pub usage: u64,
        /// cgroup v1 only.
        #[serde(skip_serializing_if = "is_zero")]
        pub max_usage: u64,
        /// The kernel's `memory.stat`; `inactive_file` (v2) or `total_inactive_file` (v1) is taken off by clients.
        #[serde(skip_serializing_if = "is_zero")]
        pub stats: BTreeMap<String, u64>,
        #[serde(skip_serializing_if = "is_zero")]
        pub failcnt: u64,
        /// The container's limit, else the host's memory.
        #[serde(skip_serializing_if = "is_zero")]
        pub limit: u64,
    }

    /// One interface. API object `ContainerNetworkStats`.
    pub struct NetworkStats {
        pub rx_bytes: u64,
        pub rx_packets: u64,
        pub rx_errors: u64,
        pub rx_dropped: u64,
        pub tx_bytes: u64,
        pub tx_packets: u64,
        pub tx_errors: u64,
        pub tx_dropped: u64,
    }
}
