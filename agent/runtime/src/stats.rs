//! One reading of a container's counters, in the shape that Docker's `stats` document needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counters of one container at one moment. Network counters are not here: they belong to the data plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Block I/O.
    pub blkio: Blkio,
}

/// CPU counters; times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// All CPU time used.
    pub total_ns: u64,
    /// Of it, in user mode.
    pub user_ns: u64,
    /// Of it, in the kernel.
    pub system_ns: u64,
    /// By CPU (cgroup v1 only; empty on v2, as in Docker).
    pub per_cpu_ns: Vec<u64>,
    /// CPU time of the whole machine since boot, of all CPUs together (Docker's `system_cpu_usage`).
    pub host_ns: u64,
    /// CPUs online.
    pub online: u32,
    /// Quota periods that have passed.
    pub periods: u64,
    /// Of them, periods in which the container was throttled.
    pub throttled_periods: u64,
    /// Time throttled.
    pub throttled_ns: u64,
}

/// Memory counters in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Used, page cache included.
    pub usage: u64,
    /// Highest use; 0 where the kernel does not tell.
    pub max_usage: u64,
    /// The limit, or the machine's memory where there is none.
    pub limit: u64,
    /// Times that the limit was hit.
    pub fail_count: u64,
    /// Swap in use.
    pub swap: u64,
    /// Processes killed by the OOM killer.
    pub oom_kills: u64,
    /// `memory.stat` as the kernel gives it: keys differ between cgroup v1 (`cache`, `total_inactive_file`) and v2
    /// (`file`, `inactive_file`), and clients of Docker look for either.
    pub stat: BTreeMap<String, u64>,
}

/// Processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// Limit; 0 for none.
    pub limit: u64,
}

/// Block I/O by device and operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blkio {
    /// Bytes.
    pub service_bytes: Vec<BlkioEntry>,
    /// Operations.
    pub serviced: Vec<BlkioEntry>,
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioEntry {
    /// Device number, upper half.
    pub major: u64,
    /// Device number, lower half.
    pub minor: u64,
    /// `read`, `write`, `sync`, `async`, `discard` or `total`, lower case.
    pub op: String,
    /// The count.
    pub value: u64,
}

impl Stats {
    /// Whether the counters come from cgroup v2 (Docker's clients choose their formula by it).
    pub fn is_unified(&self) -> bool {
        self.cpu.per_cpu_ns.is_empty()
    }
}
