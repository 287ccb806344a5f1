//! What this host says of itself to the cluster.

use crate::config::Config;
use muster_model::{cluster::NodeDescription, net::Subnet};
use std::net::{Ipv4Addr, SocketAddr};

/// As the host is now. `addr` is where its API is reached.
pub fn describe(config: &Config, addr: SocketAddr) -> NodeDescription {
    NodeDescription {
        hostname: config.hostname.clone(),
        os: "linux".to_owned(),
        arch: docker_arch().to_owned(),
        nano_cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64) * 1_000_000_000,
        memory_bytes: memory_bytes(),
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        engine_labels: config.labels.get(),
        api_addr: Some(addr),
        vtep: match addr.ip() {
            std::net::IpAddr::V4(ip) if config.ebpf => Some(ip),
            _ => None,
        },
        routes: routes(),
        features: if config.ebpf { vec!["ebpf-overlay".to_owned()] } else { Vec::new() },
    }
}

/// The architecture as images name it (GOARCH).
fn docker_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Networks the host has routes to, its default route and its containers' own addresses left out (`/proc/net/route`,
/// proc_pid_net(5): destination and mask are hexadecimal in network byte order as this machine stores it).
pub fn routes() -> Vec<Subnet> {
    let text = std::fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| u32::from_str_radix(fields.get(i)?, 16).ok().map(u32::from_be);
        let (dest, mask) = (number(1)?, number(7)?);
        // The data plane's own way to containers elsewhere leads to networks of ours.
        let ours = fields.first().is_some_and(|name| name.starts_with("mu") && name.ends_with("-host"));
        // Routes to single addresses are those of containers.
        (!ours && mask != 0 && mask != u32::MAX)
            .then(|| Subnet::new(Ipv4Addr::from(dest), mask.leading_ones() as u8))?
    };
    let mut found: Vec<_> = text.lines().skip(1).filter_map(route).collect();
    found.sort();
    found.dedup();
    found
}

/// The address that others reach this host at: the given one, else that of the interface the default route leaves by.
///
/// # Errors
/// In words: which text is no address, or that none was found.
pub fn advertise_addr(given: Option<&str>, listen: SocketAddr) -> Result<SocketAddr, String> {
    if let Some(text) = given {
        let parsed = text.parse().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, listen.port())));
        return parsed.map_err(|_| format!("advertise address {text:?}: expected IP or IP:PORT"));
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    match crate::uplink::address() {
        Some(ip) => Ok(SocketAddr::new(ip, listen.port())),
        None => Err("this host has no default route to tell its address by: name one with --advertise-addr".to_owned()),
    }
}
