//! The engine itself: version, info, events, disk usage.

use super::{
    ContainerSummary, ImageSummary, Strings, Time, Volume,
    lenient::{is_zero, or_null},
};
use std::collections::BTreeMap;

document! {
    /// What `GET /version` tells. API object `SystemVersion`.
    #[serde(rename_all = "PascalCase")]
    pub struct VersionInfo {
        pub platform: PlatformName,
        pub components: Vec<Component>,
        pub version: String,
        pub api_version: String,
        #[serde(rename = "MinAPIVersion")]
        pub min_api_version: String,
        pub git_commit: String,
        pub go_version: String,
        pub os: String,
        pub arch: String,
        pub kernel_version: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub experimental: bool,
        /// RFC 3339.
        pub build_time: String,
    }

    /// The product's name.
    #[serde(rename_all = "PascalCase")]
    pub struct PlatformName {
        pub name: String,
    }

    /// A part of the engine and its version.
    #[serde(rename_all = "PascalCase")]
    pub struct Component {
        pub name: String,
        pub version: String,
        #[serde(serialize_with = "or_null")]
        pub details: Strings,
    }

    /// What `GET /info` tells. API object `SystemInfo`.
    #[serde(rename_all = "PascalCase")]
    pub struct SystemInfo {
        #[serde(rename = "ID")]
        pub id: String,
        pub containers: i64,
        pub containers_running: i64,
        pub containers_paused: i64,
        pub containers_stopped: i64,
        pub images: i64,
        pub driver: String,
        /// Pairs for people.
        pub driver_status: Vec<[String; 2]>,
        #[serde(skip_serializing_if = "is_zero")]
        pub system_status: Vec<[String; 2]>,
        pub plugins: PluginsInfo,
        pub memory_limit: bool,
        pub swap_limit: bool,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
        pub kernel_memory_tcp: bool,
        pub cpu_cfs_period: bool,
        pub cpu_cfs_quota: bool,
        #[serde(rename = "CPUShares")]
        pub cpu_shares: bool,
        #[serde(rename = "CPUSet")]
        pub cpu_set: bool,
        pub pids_limit: bool,
        #[serde(rename = "IPv4Forwarding")]
        pub ipv4_forwarding: bool,
        #[serde(rename = "BridgeNfIptables")]
        pub bridge_nf_iptables: bool,
        #[serde(rename = "BridgeNfIp6tables")]
        pub bridge_nf_ip6tables: bool,
        pub debug: bool,
        #[serde(rename = "NFd")]
        pub n_fd: i64,
        pub oom_kill_disable: bool,
        #[serde(rename = "NGoroutines")]
        pub n_goroutines: i64,
        pub system_time: Time,
        pub logging_driver: String,
        pub cgroup_driver: String,
        /// `1` or `2`.
        pub cgroup_version: String,
        #[serde(rename = "NEventsListener")]
        pub n_events_listener: i64,
        pub kernel_version: String,
        pub operating_system: String,
        #[serde(rename = "OSVersion")]
        pub os_version: String,
        #[serde(rename = "OSType")]
        pub os_type: String,
        pub architecture: String,
        pub index_server_address: String,
        pub registry_config: RegistryServiceConfig,
        #[serde(rename = "NCPU")]
        pub ncpu: i64,
        /// Bytes.
        pub mem_total: i64,
        #[serde(serialize_with = "or_null")]
        pub generic_resources: Vec<serde_json::Value>,
        pub docker_root_dir: String,
        pub http_proxy: String,
        pub https_proxy: String,
        pub no_proxy: String,
        pub name: String,
        /// `key=value`.
        pub labels: Vec<String>,
        pub experimental_build: bool,
        pub server_version: String,
        pub runtimes: BTreeMap<String, Runtime>,
        pub default_runtime: String,
        pub swarm: SwarmInfo,
        pub live_restore_enabled: bool,
        pub isolation: String,
        pub init_binary: String,
        pub containerd_commit: Commit,
        pub runc_commit: Commit,
        pub init_commit: Commit,
        /// `name=seccomp,profile=builtin`.
        pub security_options: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub product_license: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub default_address_pools: Vec<AddressPool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub firewall_backend: Option<FirewallInfo>,
        #[serde(rename = "CDISpecDirs")]
        pub cdi_spec_dirs: Vec<String>,
        #[serde(serialize_with = "or_null")]
        pub warnings: Vec<String>,
    }

    /// Names of what can be chosen. API object `PluginsInfo`.
    #[serde(rename_all = "PascalCase")]
    pub struct PluginsInfo {
        pub volume: Vec<String>,
        pub network: Vec<String>,
        #[serde(serialize_with = "or_null")]
        pub authorization: Vec<String>,
        pub log: Vec<String>,
    }

    /// How registries are reached. API object `RegistryServiceConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct RegistryServiceConfig {
        #[serde(rename = "InsecureRegistryCIDRs")]
        pub insecure_registry_cidrs: Vec<String>,
        pub index_configs: BTreeMap<String, IndexInfo>,
        pub mirrors: Vec<String>,
    }

    /// One registry. API object `IndexInfo`.
    #[serde(rename_all = "PascalCase")]
    pub struct IndexInfo {
        pub name: String,
        pub mirrors: Vec<String>,
        pub secure: bool,
        pub official: bool,
    }

    /// An OCI runtime that can be chosen. API object `Runtime`.
    #[serde(rename_all = "camelCase")]
    pub struct Runtime {
        pub path: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub runtime_args: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub status: Strings,
    }

    /// The commit a part was built from. API object `Commit`.
    #[serde(rename_all = "PascalCase")]
    pub struct Commit {
        #[serde(rename = "ID")]
        pub id: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub expected: String,
    }

    /// Where subnets of new networks are cut from.
    #[serde(rename_all = "PascalCase")]
    pub struct AddressPool {
        pub base: String,
        pub size: i64,
    }

    /// API object `FirewallInfo`.
    #[serde(rename_all = "PascalCase")]
    pub struct FirewallInfo {
        pub driver: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub info: Vec<[String; 2]>,
    }

    /// What this host is in a swarm. API object `SwarmInfo`.
    #[serde(rename_all = "PascalCase")]
    pub struct SwarmInfo {
        #[serde(rename = "NodeID")]
        pub node_id: String,
        pub node_addr: String,
        /// `inactive`, `pending`, `active`, `error` or `locked`.
        pub local_node_state: String,
        pub control_available: bool,
        pub error: String,
        #[serde(serialize_with = "or_null")]
        pub remote_managers: Vec<PeerNode>,
        #[serde(skip_serializing_if = "is_zero")]
        pub nodes: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub managers: i64,
        /// API object `ClusterInfo`, on managers.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cluster: Option<serde_json::Value>,
    }

    /// A manager. API object `PeerNode`.
    #[serde(rename_all = "PascalCase")]
    pub struct PeerNode {
        #[serde(rename = "NodeID")]
        pub node_id: String,
        pub addr: String,
    }

    /// Something that happened. API object `EventMessage`.
    pub struct EventMessage {
        /// Same as `Action`, for container and image events.
        #[serde(skip_serializing_if = "is_zero")]
        pub status: String,
        /// Same as `Actor.ID`, for container and image events.
        #[serde(skip_serializing_if = "is_zero")]
        pub id: String,
        /// The container's image.
        #[serde(skip_serializing_if = "is_zero")]
        pub from: String,
        /// `container`, `image`, `volume`, `network`, `daemon`, `node`, `service`, ...
        #[serde(rename = "Type")]
        pub kind: String,
        #[serde(rename = "Action")]
        pub action: String,
        #[serde(rename = "Actor")]
        pub actor: EventActor,
        /// `local` or `swarm`.
        #[serde(skip_serializing_if = "is_zero")]
        pub scope: String,
        /// Seconds since the epoch.
        pub time: i64,
        /// Nanoseconds since the epoch.
        #[serde(rename = "timeNano")]
        pub time_nano: i64,
        /// Names an event of the cluster's: every manager tells it under the same name. No field of Docker's: faces leave it
        /// out.
        #[serde(rename = "MusterEntry", skip_serializing_if = "is_zero")]
        pub entry: String,
    }

    /// What an event happened to. API object `EventActor`.
    #[serde(rename_all = "PascalCase")]
    pub struct EventActor {
        #[serde(rename = "ID")]
        pub id: String,
        pub attributes: Strings,
    }

    /// What `GET /system/df` tells.
    #[serde(rename_all = "PascalCase")]
    pub struct DiskUsage {
        /// Bytes of all layers, each counted once.
        pub layers_size: i64,
        pub images: Vec<ImageSummary>,
        pub containers: Vec<ContainerSummary>,
        pub volumes: Vec<Volume>,
        pub build_cache: Vec<BuildCache>,
        /// What the user should know; no field of Docker's.
        #[serde(skip_serializing_if = "is_zero")]
        pub warnings: Vec<String>,
    }

    /// A record of the build cache. API object `BuildCache`.
    #[serde(rename_all = "PascalCase")]
    pub struct BuildCache {
        #[serde(rename = "ID")]
        pub id: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub parents: Vec<String>,
        #[serde(rename = "Type")]
        pub kind: String,
        pub description: String,
        pub in_use: bool,
        pub shared: bool,
        /// Bytes.
        pub size: i64,
        pub created_at: Time,
        pub last_used_at: Option<Time>,
        pub usage_count: i64,
    }
}
