//! `docker inspect` of a container: its record in Docker's words.

use super::{Handle, handle::View, links};
use crate::{
    engine::Shared,
    logging::Wanted,
    net::gives_names,
    record::{Place, Record},
};
use muster_calls::Result;
use muster_model::engine::{
    ContainerInspect, ContainerState, EndpointIpamConfig, EndpointSettings, GraphDriver, MountPoint, NetworkSettings,
    PortBinding, PortMap, Strings,
};
use std::{collections::BTreeMap, path::Path};

impl Shared {
    /// Everything known of a container.
    pub(crate) async fn inspect(&self, handle: &Handle, size: bool) -> Result<ContainerInspect> {
        let view = handle.view();
        let record = &*view.record;
        let folder = self.folder(&record.id);
        let file =
            |name: &str| if record.state.started_at.is_zero() { String::new() } else { text(&folder.join(name)) };
        let sizes = if size { Some(self.sizes(record).await?) } else { None };
        let kept = Wanted::parse(&record.host.log_config).is_ok_and(|w| w.readable);
        let mut host_config = record.host.clone();
        host_config.links = links::shown(self, record);
        if !host_config.privileged {
            let list = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect());
            host_config.masked_paths = host_config.masked_paths.or_else(|| list(muster_runtime::spec::MASKED_PATHS));
            host_config.readonly_paths =
                host_config.readonly_paths.or_else(|| list(muster_runtime::spec::READONLY_PATHS));
        }
        if host_config.runtime.is_empty() {
            host_config.runtime = "runc".to_owned();
        }
        Ok(ContainerInspect {
            id: record.id.clone(),
            created: record.created.into(),
            path: record.path.clone(),
            args: record.args.clone(),
            state: state(&view),
            image: record.image_id.clone(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: if kept { text(&self.log_path(&record.id)) } else { String::new() },
            name: format!("/{}", record.name),
            restart_count: record.state.restart_count.into(),
            driver: "overlay2".to_owned(),
            platform: "linux".to_owned(),
            exec_ids: self.execs.of(&record.id),
            host_config,
            graph_driver: self.graph_driver(&record.id).await,
            size_rw: sizes.map(|s| s.0),
            size_root_fs: sizes.map(|s| s.1),
            mounts: self.mount_points(record),
            config: record.config.clone(),
            network_settings: self.network_settings(record),
            ..ContainerInspect::default()
        })
    }

    async fn graph_driver(&self, id: &str) -> GraphDriver {
        let data = match self.roots.paths(id).await {
            Ok(root) => {
                let lower: Vec<String> = root.lowerdirs.iter().map(|p| text(p)).collect();
                [
                    ("LowerDir", lower.join(":")),
                    ("UpperDir", text(&root.upper)),
                    ("WorkDir", text(&root.work)),
                    ("MergedDir", text(&root.merged)),
                ]
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect()
            }
            // A container that is being removed has none any more.
            Err(_) => Strings::new(),
        };
        GraphDriver { name: "overlay2".to_owned(), data }
    }

    /// Mounts as documents show them.
    pub(crate) fn mount_points(&self, record: &Record) -> Vec<MountPoint> {
        // tmpfs given by `--tmpfs` are in HostConfig only, as in Docker.
        let shown =
            record.mounts.iter().filter(|m| m.kind != "tmpfs" || !record.host.tmpfs.contains_key(&m.destination));
        shown
            .map(|m| {
                let volume = m.kind == "volume";
                MountPoint {
                    kind: m.kind.clone(),
                    name: m.volume.clone(),
                    source: match m.kind.as_str() {
                        "volume" => text(&self.volumes.shown_source(m)),
                        "image" => m.image.clone(),
                        _ => text(&m.source),
                    },
                    destination: m.destination.clone(),
                    driver: if volume { self.volumes.driver_of(&m.volume) } else { String::new() },
                    mode: m.mode.clone(),
                    rw: !m.read_only,
                    propagation: m.propagation.clone(),
                }
            })
            .collect()
    }

    fn network_settings(&self, record: &Record) -> NetworkSettings {
        let running = record.state.is_running();
        let networks = self.endpoint_settings(record);
        let bridge = networks.get("bridge").cloned().unwrap_or_default();
        let own_netns = running && !record.places.is_empty();
        NetworkSettings {
            sandbox_id: if own_netns { record.id.clone() } else { String::new() },
            sandbox_key: if own_netns { text(&self.netns(&record.id)) } else { String::new() },
            ports: if running { port_map(record) } else { PortMap::new() },
            endpoint_id: bridge.endpoint_id,
            gateway: bridge.gateway,
            ip_address: bridge.ip_address,
            ip_prefix_len: bridge.ip_prefix_len,
            mac_address: bridge.mac_address,
            networks,
            ..NetworkSettings::default()
        }
    }

    /// A container's places by the names of its networks.
    pub(crate) fn endpoint_settings(&self, record: &Record) -> BTreeMap<String, EndpointSettings> {
        let mode = record.host.network_mode.as_str();
        if matches!(mode, "host" | "none") {
            let network_id = self.networks.find(mode).map(|n| n.id.clone()).unwrap_or_default();
            return BTreeMap::from([(mode.to_owned(), EndpointSettings { network_id, ..EndpointSettings::default() })]);
        }
        let asked_for = record.places.iter().filter(|place| !place.way_out);
        asked_for.map(|place| (place.network.clone(), self.settings(record, place))).collect()
    }

    fn settings(&self, record: &Record, place: &Place) -> EndpointSettings {
        let mut settings = EndpointSettings {
            ipam_config: (place.wanted_ip.is_some() || place.wanted_ip6.is_some()).then(|| EndpointIpamConfig {
                ipv4_address: place.wanted_ip.map(|ip| ip.to_string()).unwrap_or_default(),
                ipv6_address: place.wanted_ip6.map(|ip| ip.to_string()).unwrap_or_default(),
                ..EndpointIpamConfig::default()
            }),
            aliases: place.aliases.clone(),
            links: place.links.clone(),
            mac_address: place.wanted_mac.map(|m| m.to_string()).unwrap_or_default(),
            driver_opts: place.driver_opts.clone(),
            gw_priority: place.gw_priority,
            network_id: place.network_id.clone(),
            dns_names: if gives_names(place) { self.dns_names(record, place) } else { Vec::new() },
            ..EndpointSettings::default()
        };
        if let Some(got) = &place.got {
            settings.endpoint_id.clone_from(&got.endpoint_id);
            settings.gateway = shown(got.gateway.into());
            settings.ip_address = shown(got.ip.into());
            settings.ip_prefix_len = got.prefix.into();
            settings.mac_address = got.mac.to_string();
            if let Some((ip, network)) = got.v6 {
                settings.ipv6_gateway = shown(network.gateway.into());
                settings.global_ipv6_address = ip.to_string();
                settings.global_ipv6_prefix_len = network.subnet.prefix().into();
            }
        }
        settings
    }

    /// Bytes a container wrote, and those with its image.
    pub(crate) async fn sizes(&self, record: &Record) -> Result<(i64, i64)> {
        let written = self.roots.written(&record.id).await?;
        let image = muster_image::Digest::parse(&record.image_id)
            .ok()
            .and_then(|id| self.config.images.get(&id))
            .map_or(0, |i| i.size);
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Ok((bytes(written), bytes(written.saturating_add(image))))
    }
}

/// A gateway; there may be none.
fn shown(ip: std::net::IpAddr) -> String {
    if ip.is_unspecified() { String::new() } else { ip.to_string() }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn state(view: &View) -> ContainerState {
    let state = &view.record.state;
    let word = state.word();
    ContainerState {
        status: word.to_owned(),
        running: matches!(word, "running" | "paused" | "restarting"),
        paused: state.paused,
        restarting: word == "restarting",
        oom_killed: state.oom_killed,
        dead: false,
        pid: state.pid.into(),
        exit_code: state.exit_code.into(),
        error: state.error.clone(),
        started_at: state.started_at.into(),
        finished_at: state.finished_at.into(),
        health: view.health.clone(),
    }
}

fn port_map(record: &Record) -> PortMap {
    let mut map: PortMap = record.config.exposed_ports.iter().map(|p| (p.clone(), None)).collect();
    for port in &record.ports {
        let binding = PortBinding { host_ip: port.host_ip.to_string(), host_port: port.host_port.to_string() };
        map.entry(format!("{}/{}", port.container_port, port.protocol))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    map
}
