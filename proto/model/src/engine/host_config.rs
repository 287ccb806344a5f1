//! How a container is run on its host: limits, mounts, ports, namespaces, devices.

use super::{
    Strings,
    lenient::{is_zero, or_null},
};
use std::collections::BTreeMap;

/// Container port with protocol (`80/tcp`) to where it is published; `null` in `NetworkSettings`: exposed only.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

document! {
    /// The part of a container's configuration that depends on the host. API object `HostConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct HostConfig {
        flatten pub resources: Resources,
        /// `source:target[:options]`.
        #[serde(serialize_with = "or_null")]
        pub binds: Vec<String>,
        #[serde(rename = "ContainerIDFile")]
        pub container_id_file: String,
        pub log_config: LogConfig,
        /// `default`, `bridge`, `host`, `none`, `container:NAME` or the name of a network.
        pub network_mode: String,
        pub port_bindings: PortMap,
        pub restart_policy: RestartPolicy,
        pub auto_remove: bool,
        pub volume_driver: String,
        #[serde(serialize_with = "or_null")]
        pub volumes_from: Vec<String>,
        /// Height, width.
        pub console_size: [u32; 2],
        #[serde(skip_serializing_if = "is_zero")]
        pub annotations: Strings,
        #[serde(serialize_with = "or_null")]
        pub cap_add: Vec<String>,
        #[serde(serialize_with = "or_null")]
        pub cap_drop: Vec<String>,
        /// Empty, `private` or `host`.
        pub cgroupns_mode: String,
        pub dns: Vec<String>,
        pub dns_options: Vec<String>,
        pub dns_search: Vec<String>,
        /// `name:address`.
        #[serde(serialize_with = "or_null")]
        pub extra_hosts: Vec<String>,
        #[serde(serialize_with = "or_null")]
        pub group_add: Vec<String>,
        /// Empty, `none`, `private`, `shareable`, `container:NAME` or `host`.
        pub ipc_mode: String,
        pub cgroup: String,
        #[serde(serialize_with = "or_null")]
        pub links: Vec<String>,
        pub oom_score_adj: i64,
        /// Empty, `container:NAME` or `host`.
        pub pid_mode: String,
        pub privileged: bool,
        pub publish_all_ports: bool,
        pub readonly_rootfs: bool,
        #[serde(serialize_with = "or_null")]
        pub security_opt: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub storage_opt: Strings,
        /// Path to mount options.
        #[serde(skip_serializing_if = "is_zero")]
        pub tmpfs: Strings,
        #[serde(rename = "UTSMode")]
        pub uts_mode: String,
        pub userns_mode: String,
        /// Bytes; 0: 64 MiB.
        pub shm_size: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub sysctls: Strings,
        #[serde(skip_serializing_if = "is_zero")]
        pub runtime: String,
        /// Windows only.
        pub isolation: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub mounts: Vec<Mount>,
        /// `None`: the default list; empty: none.
        pub masked_paths: Option<Vec<String>>,
        /// `None`: the default list; empty: none.
        pub readonly_paths: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub init: Option<bool>,
    }

    /// Limits and shares; 0 and `None` mean "no limit". API object `Resources`.
    #[serde(rename_all = "PascalCase")]
    pub struct Resources {
        pub cpu_shares: i64,
        /// Bytes.
        pub memory: i64,
        /// Billionths of a CPU.
        pub nano_cpus: i64,
        pub cgroup_parent: String,
        pub blkio_weight: u16,
        pub blkio_weight_device: Vec<WeightDevice>,
        pub blkio_device_read_bps: Vec<ThrottleDevice>,
        pub blkio_device_write_bps: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: Vec<ThrottleDevice>,
        /// Microseconds.
        pub cpu_period: i64,
        /// Microseconds.
        pub cpu_quota: i64,
        pub cpu_realtime_period: i64,
        pub cpu_realtime_runtime: i64,
        pub cpuset_cpus: String,
        pub cpuset_mems: String,
        pub devices: Vec<DeviceMapping>,
        #[serde(serialize_with = "or_null")]
        pub device_cgroup_rules: Vec<String>,
        #[serde(serialize_with = "or_null")]
        pub device_requests: Vec<DeviceRequest>,
        /// Bytes; removed from the API, refused when set.
        #[serde(skip_serializing_if = "is_zero")]
        pub kernel_memory: i64,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
        pub kernel_memory_tcp: i64,
        /// Bytes.
        pub memory_reservation: i64,
        /// Bytes of memory and swap together; -1: unlimited swap.
        pub memory_swap: i64,
        /// 0 to 100; -1 means "not given".
        pub memory_swappiness: Option<i64>,
        pub oom_kill_disable: Option<bool>,
        /// 0 and -1: no limit.
        pub pids_limit: Option<i64>,
        pub ulimits: Vec<Ulimit>,
        /// Windows only, as the next three.
        pub cpu_count: i64,
        pub cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        pub io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        pub io_maximum_bandwidth: u64,
    }

    /// A logging driver and its options; an empty type means the engine's default.
    #[serde(rename_all = "PascalCase")]
    pub struct LogConfig {
        #[serde(rename = "Type")]
        pub kind: String,
        pub config: Strings,
    }

    /// When a container is started again. API object `RestartPolicy`.
    #[serde(rename_all = "PascalCase")]
    pub struct RestartPolicy {
        /// Empty, `no`, `always`, `unless-stopped` or `on-failure`.
        pub name: String,
        /// For `on-failure`; 0: no bound.
        pub maximum_retry_count: i64,
    }

    /// Where a container's port is published. API object `PortBinding`.
    #[serde(rename_all = "PascalCase")]
    pub struct PortBinding {
        /// Empty: every address.
        pub host_ip: String,
        /// A port, a range `first-last`, or empty: any free one.
        pub host_port: String,
    }

    /// A weight for one block device.
    #[serde(rename_all = "PascalCase")]
    pub struct WeightDevice {
        pub path: String,
        pub weight: u16,
    }

    /// A rate for one block device. API object `ThrottleDevice`.
    #[serde(rename_all = "PascalCase")]
    pub struct ThrottleDevice {
        pub path: String,
        pub rate: u64,
    }

    /// A device of the host in the container. API object `DeviceMapping`.
    #[serde(rename_all = "PascalCase")]
    pub struct DeviceMapping {
        pub path_on_host: String,
        pub path_in_container: String,
        /// Of `r`, `w` and `m`.
        pub cgroup_permissions: String,
    }

    /// Devices asked for by what they can do. API object `DeviceRequest`.
    #[serde(rename_all = "PascalCase")]
    pub struct DeviceRequest {
        pub driver: String,
        /// -1: all.
        pub count: i64,
        #[serde(rename = "DeviceIDs", serialize_with = "or_null")]
        pub device_ids: Vec<String>,
        #[serde(serialize_with = "or_null")]
        pub capabilities: Vec<Vec<String>>,
        pub options: Strings,
    }

    /// A resource limit of processes, e.g. `nofile`.
    #[serde(rename_all = "PascalCase")]
    pub struct Ulimit {
        pub name: String,
        pub hard: i64,
        pub soft: i64,
    }

    /// A mount asked for with `--mount`. API object `Mount`.
    #[serde(rename_all = "PascalCase")]
    pub struct Mount {
        /// `bind`, `volume`, `tmpfs`, `image`, `npipe` or `cluster`.
        #[serde(rename = "Type", skip_serializing_if = "is_zero")]
        pub kind: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub source: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub target: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub read_only: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub consistency: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub image_options: Option<ImageOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tmpfs_options: Option<TmpfsOptions>,
    }

    /// Options of a `bind` mount.
    #[serde(rename_all = "PascalCase")]
    pub struct BindOptions {
        #[serde(skip_serializing_if = "is_zero")]
        pub propagation: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub non_recursive: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub create_mountpoint: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub read_only_non_recursive: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub read_only_force_recursive: bool,
    }

    /// Options of a `volume` mount.
    #[serde(rename_all = "PascalCase")]
    pub struct VolumeOptions {
        #[serde(skip_serializing_if = "is_zero")]
        pub no_copy: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub labels: Strings,
        #[serde(skip_serializing_if = "is_zero")]
        pub subpath: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub driver_config: Option<DriverConfig>,
    }

    /// A driver and its options. API object `Driver`.
    #[serde(rename_all = "PascalCase")]
    pub struct DriverConfig {
        #[serde(skip_serializing_if = "is_zero")]
        pub name: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub options: Strings,
    }

    /// Options of an `image` mount.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageOptions {
        #[serde(skip_serializing_if = "is_zero")]
        pub subpath: String,
    }

    /// Options of a `tmpfs` mount.
    #[serde(rename_all = "PascalCase")]
    pub struct TmpfsOptions {
        /// Bytes; 0: half of the memory.
        #[serde(skip_serializing_if = "is_zero")]
        pub size_bytes: i64,
        /// Permission bits.
        #[serde(skip_serializing_if = "is_zero")]
        pub mode: u32,
        /// Flags as lists of one, `key=value` as lists of two.
        #[serde(skip_serializing_if = "is_zero")]
        pub options: Vec<Vec<String>>,
    }
}

impl Resources {
    /// What a host must have free for it, in billionths of a CPU: its limit, since nothing in Docker's API reserves CPUs.
    pub fn reserved_nano_cpus(&self) -> u64 {
        match (self.nano_cpus, self.cpu_quota, self.cpu_period) {
            (nano, ..) if nano > 0 => nano.unsigned_abs(),
            // The kernel's period is 100 ms where none is given (cfs_period_us).
            (_, quota, period) if quota > 0 => {
                let period = if period > 0 { period } else { 100_000 };
                (quota.unsigned_abs().saturating_mul(1_000_000_000)) / period.unsigned_abs()
            }
            _ => 0,
        }
    }

    /// What a host must have free for it, in bytes: what it reserves, else its limit.
    pub fn reserved_memory_bytes(&self) -> u64 {
        let given = if self.memory_reservation > 0 { self.memory_reservation } else { self.memory };
        u64::try_from(given).unwrap_or(0)
    }
}

impl HostConfig {
    /// Ports (`80/tcp`) that are published at a host port that the user chose: those that only one container can have.
    pub fn fixed_ports(&self) -> impl Iterator<Item = (&str, u16)> {
        let bindings =
            self.port_bindings.iter().flat_map(|(port, b)| b.iter().flatten().map(move |b| (port.as_str(), b)));
        bindings.filter_map(|(port, b)| Some((port, b.host_port.parse().ok().filter(|p| *p != 0)?)))
    }
}
