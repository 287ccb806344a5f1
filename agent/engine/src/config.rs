//! What an engine is given when it is opened.

use crate::{
    OtlpLogs,
    net::{Network, NoSpanning, Spanning, default_pools},
};
use muster_image::Store;
use muster_model::net::Subnet;
use muster_runtime::Runtime;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

/// Where an engine lives, what it builds on, and its defaults. Every path it touches comes from here, so that several
/// engines run side by side on one kernel.
pub struct EngineConfig {
    /// Records, logs, volumes: survives a reboot.
    pub data_dir: PathBuf,
    /// Network namespaces: does not.
    pub run_dir: PathBuf,
    /// The host's name, shown by `info`.
    pub name: String,
    /// Parent of the containers' cgroups, absolute from the root of each hierarchy, e.g. `/muster`.
    pub cgroup_parent: String,
    pub runtime: Arc<dyn Runtime>,
    pub images: Store,
    pub network: Arc<dyn Network>,
    /// Asked for networks that are not of this host.
    pub spanning: Arc<dyn Spanning>,
    /// The shim binary: also the init process of `--init`.
    pub shim: PathBuf,
    /// Version of the product, e.g. `0.1.0`.
    pub version: String,
    /// Subnet of the default network; `None`: the first of the pools that no route of the host overlaps.
    pub bridge_subnet: Option<Subnet>,
    /// Where subnets of networks come from, with the prefix length of each.
    pub address_pools: Vec<(Subnet, u8)>,
    /// Bytes, of interfaces on networks of this host.
    pub mtu: u32,
    /// `key=value`, shown by `info`.
    pub labels: Vec<String>,
    /// Where plugins are looked for: folders with their sockets or descriptions.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long a plugin may take to answer. Where something ends, a third of it.
    pub plugin_patience: Duration,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// The systemd journal's socket.
    pub journal_socket: PathBuf,
    /// Exports logs over OTLP; `None`: the driver `otlp` is refused.
    pub otlp: Option<Arc<dyn OtlpLogs>>,
    /// Endpoint of containers with the driver `otlp` that name none.
    pub otlp_endpoint: Option<String>,
    /// From how many records of containers and volumes on an index spares a start the opening of each file; `usize::MAX`: never.
    pub index_from: usize,
    /// Log options of containers that name no log driver.
    pub log_options: BTreeMap<String, String>,
}

impl EngineConfig {
    /// A configuration with Docker's defaults.
    pub fn new(
        data_dir: PathBuf,
        run_dir: PathBuf,
        runtime: Arc<dyn Runtime>,
        images: Store,
        network: Arc<dyn Network>,
        shim: PathBuf,
    ) -> Self {
        Self {
            data_dir,
            run_dir,
            name: String::new(),
            cgroup_parent: "/muster".to_owned(),
            runtime,
            images,
            network,
            spanning: Arc::new(NoSpanning),
            shim,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bridge_subnet: None,
            address_pools: default_pools(),
            mtu: 1500,
            labels: Vec::new(),
            plugin_dirs: ["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"]
                .map(PathBuf::from)
                .to_vec(),
            plugin_patience: Duration::from_secs(30),
            log_driver: "json-file".to_owned(),
            journal_socket: PathBuf::from("/run/systemd/journal/socket"),
            otlp: None,
            otlp_endpoint: None,
            // Fewer are read in less time than a database takes to open; and from the first opening on sled keeps seven
            // threads, which wake each second.
            index_from: 1_000,
            log_options: BTreeMap::new(),
        }
    }
}
