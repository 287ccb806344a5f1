//! Limits of a container, in Docker's units (HostConfig of the Docker Engine API).

use serde::{Deserialize, Serialize};

/// Limits. `None` means "no limit" when a container is created and "leave as it is" in an update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory limit in bytes.
    pub memory: Option<i64>,
    /// Memory plus swap in bytes, as Docker's `MemorySwap`; -1 for unlimited swap.
    pub memory_swap: Option<i64>,
    /// Soft limit in bytes.
    pub memory_reservation: Option<i64>,
    /// 0 to 100 (cgroup v1 only).
    pub memory_swappiness: Option<u64>,
    /// Do not let the OOM killer kill in this container (cgroup v1 only).
    pub oom_kill_disable: Option<bool>,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period; -1 for no limit. Excludes `nano_cpus`.
    pub cpu_quota: Option<i64>,
    /// Period in microseconds, 1000 to 1000000.
    pub cpu_period: Option<u64>,
    /// Billionths of a CPU (`--cpus 1.5` is 1500000000). Excludes quota and period.
    pub nano_cpus: Option<i64>,
    /// Real-time budget in microseconds (cgroup v1 with RT group scheduling).
    pub cpu_rt_runtime: Option<i64>,
    /// Real-time period in microseconds.
    pub cpu_rt_period: Option<u64>,
    /// CPUs, as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as `0,1`.
    pub cpuset_mems: Option<String>,
    /// Most processes and threads; 0 or -1 for no limit.
    pub pids_limit: Option<i64>,
    /// 10 to 1000; 0 for the default.
    pub blkio_weight: Option<u16>,
    /// Weights by device.
    pub blkio_weight_device: Vec<BlkioWeight>,
    /// Bytes per second read, by device.
    pub blkio_read_bps: Vec<BlkioRate>,
    /// Bytes per second written, by device.
    pub blkio_write_bps: Vec<BlkioRate>,
    /// Reads per second, by device.
    pub blkio_read_iops: Vec<BlkioRate>,
    /// Writes per second, by device.
    pub blkio_write_iops: Vec<BlkioRate>,
}

/// A weight for one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioWeight {
    /// Path of the device node on the host.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// A rate for one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioRate {
    /// Path of the device node on the host.
    pub path: String,
    /// Bytes or operations per second.
    pub rate: u64,
}
