//! The engine itself: version and info.

mod host;

use crate::engine::Shared;
use muster_model::engine::{
    AddressPool, Commit, Component, IndexInfo, PlatformName, PluginsInfo, RegistryServiceConfig, Runtime, Strings,
    SwarmInfo, SystemInfo, VersionInfo,
};
use std::collections::BTreeMap;

/// The newest version of Docker's API that is spoken, and the oldest.
const API_VERSION: &str = "1.50";
const MIN_API_VERSION: &str = "1.24";
/// How lines of `info` begin that count packets which the data plane dropped: one for all, and one for each reason.
pub const DROPPED: &str = "Dropped packets";

/// Clients print these pairs below the driver.
fn dropped_lines(dropped: &[(String, u64)]) -> Vec<[String; 2]> {
    let all: u64 = dropped.iter().map(|(_, n)| n).sum();
    let reasons =
        dropped.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| [format!("{DROPPED} ({reason})"), n.to_string()]);
    std::iter::once([DROPPED.to_owned(), all.to_string()]).chain(reasons).collect()
}

impl Shared {
    pub(crate) fn version(&self) -> VersionInfo {
        let version = self.config.version.clone();
        let (runtime, runtime_version) = self.config.runtime.name();
        let details: Strings = [
            ("ApiVersion", API_VERSION),
            ("MinAPIVersion", MIN_API_VERSION),
            ("Os", "linux"),
            ("Arch", host::go_arch()),
            ("KernelVersion", &host::kernel()),
            ("Experimental", "false"),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
        let part = |name: &str, version: String, details| Component { name: name.to_owned(), version, details };
        VersionInfo {
            platform: PlatformName { name: "Muster".to_owned() },
            components: vec![
                part("Engine", version.clone(), details),
                part(&runtime, runtime_version, Strings::new()),
                part("muster-shim", version.clone(), Strings::new()),
            ],
            version,
            api_version: API_VERSION.to_owned(),
            min_api_version: MIN_API_VERSION.to_owned(),
            os: "linux".to_owned(),
            arch: host::go_arch().to_owned(),
            kernel_version: host::kernel(),
            ..VersionInfo::default()
        }
    }

    /// `dropped`: packets, by reason.
    pub(crate) fn info(&self, dropped: &[(String, u64)]) -> SystemInfo {
        let records: Vec<_> = self.containers.all().iter().map(|h| h.record()).collect();
        let count = |wanted: &[&str]| records.iter().filter(|r| wanted.contains(&r.state.word())).count() as i64;
        let (runtime, runtime_version) = self.config.runtime.name();
        let spec = &self.spec_host;
        let os = host::os_release();
        let proxy = self.config.images.registry_config().proxy.shown();
        SystemInfo {
            id: self.id.clone(),
            containers: records.len() as i64,
            containers_running: count(&["running", "restarting"]),
            containers_paused: count(&["paused"]),
            containers_stopped: count(&["created", "exited", "removing"]),
            images: self.config.images.list().len() as i64,
            driver: "overlay2".to_owned(),
            driver_status: [
                ("Supports d_type", "true"),
                ("Using metacopy", "false"),
                ("Native Overlay Diff", "true"),
                ("userxattr", "false"),
            ]
            .map(|(k, v)| [k.to_owned(), v.to_owned()])
            .into_iter()
            .chain(self.config.network.is_present().then(|| dropped_lines(dropped)).into_iter().flatten())
            .collect(),
            plugins: PluginsInfo {
                volume: self.volumes.drivers(),
                network: self.network_drivers(),
                authorization: Vec::new(),
                log: words(&["journald", "json-file", "local", "none", "otlp", "syslog"]),
            },
            memory_limit: true,
            swap_limit: spec.swap_limit,
            cpu_cfs_period: true,
            cpu_cfs_quota: true,
            cpu_shares: true,
            cpu_set: true,
            pids_limit: true,
            ipv4_forwarding: host::ipv4_forwarding() || self.config.network.is_present(),
            bridge_nf_iptables: true,
            bridge_nf_ip6tables: true,
            n_fd: host::open_files(),
            oom_kill_disable: !spec.cgroups.is_v2(),
            n_goroutines: 0,
            system_time: crate::clock::now().into(),
            logging_driver: self.config.log_driver.clone(),
            cgroup_driver: "cgroupfs".to_owned(),
            cgroup_version: if spec.cgroups.is_v2() { "2" } else { "1" }.to_owned(),
            n_events_listener: self.events.listeners() as i64,
            kernel_version: host::kernel(),
            operating_system: os.pretty_name,
            os_version: os.version_id,
            os_type: "linux".to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            index_server_address: "https://index.docker.io/v1/".to_owned(),
            registry_config: self.registries(),
            http_proxy: proxy.http,
            https_proxy: proxy.https,
            no_proxy: proxy.no_proxy,
            ncpu: host::cpus(),
            mem_total: host::memory(),
            docker_root_dir: self.config.data_dir.to_string_lossy().into_owned(),
            name: self.config.name.clone(),
            labels: self.labels.read().unwrap_or_else(|e| e.into_inner()).clone(),
            server_version: self.config.version.clone(),
            runtimes: BTreeMap::from([("runc".to_owned(), Runtime { path: runtime, ..Runtime::default() })]),
            default_runtime: "runc".to_owned(),
            swarm: SwarmInfo { local_node_state: "inactive".to_owned(), ..SwarmInfo::default() },
            live_restore_enabled: true,
            init_binary: self.config.shim.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            runc_commit: Commit { id: runtime_version, ..Commit::default() },
            containerd_commit: Commit::default(),
            init_commit: Commit { id: self.config.version.clone(), ..Commit::default() },
            security_options: self.security_options(),
            default_address_pools: self
                .config
                .address_pools
                .iter()
                .map(|(base, size)| AddressPool { base: base.to_string(), size: (*size).into() })
                .collect(),
            warnings: if self.config.network.is_present() {
                Vec::new()
            } else {
                words(&["WARNING: no data plane: containers have a loopback interface only"])
            },
            ..SystemInfo::default()
        }
    }

    /// The engine's own, and the plugins that were asked for.
    fn network_drivers(&self) -> Vec<String> {
        let mut drivers: std::collections::BTreeSet<String> = words(&["bridge", "host", "null"]).into_iter().collect();
        drivers.extend(self.plugins.activated(crate::net::NETWORK_DRIVER));
        drivers.extend(self.networks.all().iter().map(|n| n.driver.clone()));
        drivers.into_iter().collect()
    }

    fn security_options(&self) -> Vec<String> {
        let mut options = words(&["name=seccomp,profile=builtin"]);
        if self.spec_host.apparmor {
            options.insert(0, "name=apparmor".to_owned());
        }
        if self.spec_host.cgroups.is_v2() {
            options.push("name=cgroupns".to_owned());
        }
        options
    }

    fn registries(&self) -> RegistryServiceConfig {
        let config = self.config.images.registry_config();
        let mirrors = config.mirrors.get("docker.io").cloned().unwrap_or_default();
        let docker = IndexInfo { name: "docker.io".to_owned(), mirrors: mirrors.clone(), secure: true, official: true };
        let (ranges, hosts): (Vec<_>, Vec<_>) = config.insecure.iter().cloned().partition(|r| r.contains('/'));
        let insecure = |name: String| (name.clone(), IndexInfo { name, ..IndexInfo::default() });
        RegistryServiceConfig {
            // Loopback addresses always are.
            insecure_registry_cidrs: ranges.into_iter().chain(["127.0.0.0/8".to_owned()]).collect(),
            index_configs: hosts.into_iter().map(insecure).chain([("docker.io".to_owned(), docker)]).collect(),
            mirrors,
        }
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}
