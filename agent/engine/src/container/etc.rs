//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container: files in its folder, bound over the image's.

use super::{joined::Joined, links};
use crate::{engine::Shared, error, record::Record};
use muster_calls::{Error, Result};
use muster_runtime::spec::EtcFiles;
use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
};

/// What `--add-host name:host-gateway` stands for: the gateway of the default network, as with Docker, where that is an address of
/// this host, which a socket can be bound to.
const HOST_GATEWAY: &str = "host-gateway";

/// Where the files of a container are: its own, or those of the one whose network it shares.
pub(super) fn files(shared: &Shared, record: &Record, joined: &Joined) -> EtcFiles {
    let folder = shared.folder(joined.net.as_ref().map_or(&record.id, |other| &other.id));
    let file = |name: &str| Some(folder.join(name));
    EtcFiles { hosts: file("hosts"), hostname: file("hostname"), resolv_conf: file("resolv.conf") }
}

/// Writes the files of a container that is being started.
///
/// # Errors
/// Those of the disk.
pub(super) async fn write(shared: &Shared, record: &Record, joined: &Joined) -> Result<()> {
    if joined.net.is_some() {
        return Ok(());
    }
    let host_network = record.host.network_mode == "host";
    let hosts = if host_network {
        read("/etc/hosts") + &extra_hosts(shared, record)
    } else {
        hosts(shared, record) + &links::hosts(shared, record)
    };
    let resolv = resolver(shared, record);
    let hostname = format!("{}\n", record.config.hostname);
    let folder = shared.folder(&record.id);
    error::blocking(move || {
        put(&folder.join("hosts"), &hosts)?;
        put(&folder.join("hostname"), &hostname)?;
        put(&folder.join("resolv.conf"), &resolv)
    })
    .await
}

/// Writes a running container's `/etc/resolv.conf` anew: it has joined its first network with names, or left the last.
///
/// # Errors
/// Those of the disk.
pub(super) async fn rewrite_resolver(shared: &Shared, record: &Record) -> Result<()> {
    let (path, text) = (shared.folder(&record.id).join("resolv.conf"), resolver(shared, record));
    error::blocking(move || put(&path, &text)).await
}

/// In place, not by rename: a running container sees its files through bind mounts of these very inodes.
fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| readable(path))
        .map_err(|e| Error::internal(format!("write {}: {e}", path.display())))
}

fn resolver(shared: &Shared, record: &Record) -> String {
    resolv_conf(&Wanted {
        host: &read("/etc/resolv.conf"),
        embedded: shared.has_embedded_dns(record),
        keep_local: record.host.network_mode == "host",
        servers: &record.host.dns,
        search: &record.host.dns_search,
        options: &record.host.dns_options,
    })
}

/// Any user of the container reads them.
fn readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

fn read(path: &str) -> String {
    // A host without the file gives an empty one.
    fs::read_to_string(path).unwrap_or_default()
}

fn hosts(shared: &Shared, record: &Record) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    text.push_str(&extra_hosts(shared, record));
    let config = &record.config;
    let own = match config.domainname.as_str() {
        "" => config.hostname.clone(),
        domain => format!("{}.{domain} {}", config.hostname, config.hostname),
    };
    for got in record.places.iter().filter(|p| !p.way_out).filter_map(|p| p.got.as_ref()) {
        let ips = got.v4().map(IpAddr::V4).into_iter().chain(got.v6.map(|(ip, _)| IpAddr::V6(ip)));
        for ip in ips {
            let _ = writeln!(text, "{ip}\t{own}"); // Writing to a String does not fail.
        }
    }
    text
}

fn extra_hosts(shared: &Shared, record: &Record) -> String {
    let bridge = || shared.networks.find("bridge").ok().and_then(|n| n.gateway).map(IpAddr::V4);
    let answering = || bridge().filter(|ip| UdpSocket::bind((*ip, 0)).is_ok());
    let wanted = record.host.extra_hosts.iter().any(|entry| entry.ends_with(HOST_GATEWAY));
    let gateway = wanted
        .then(|| answering().or_else(outward).or_else(bridge))
        .flatten()
        .map(|ip| ip.to_string())
        .unwrap_or_default();
    let mut text = String::new();
    for (name, ip) in record.host.extra_hosts.iter().filter_map(|entry| split_extra_host(entry)) {
        let ip = if ip == HOST_GATEWAY { &gateway } else { ip };
        let _ = writeln!(text, "{ip}\t{name}"); // Writing to a String does not fail.
    }
    text
}

/// The address that the host speaks to the world with, for hosts where the default network's gateway is no device. A datagram socket
/// that is connected has chosen it, and has sent nothing.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Of the addresses that are nobody's (RFC 5737).
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|at| at.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

/// `name:address` or `name=address`; addresses may hold colons and brackets.
pub(super) fn split_extra_host(entry: &str) -> Option<(&str, &str)> {
    let (name, ip) = entry.split_once([':', '='])?;
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    (!name.is_empty() && (ip == HOST_GATEWAY || ip.parse::<IpAddr>().is_ok())).then_some((name, ip))
}

struct Wanted<'a> {
    /// The host's file.
    host: &'a str,
    /// 127.0.0.11 answers.
    embedded: bool,
    /// The container shares the host's network: servers on the loopback are reachable.
    keep_local: bool,
    servers: &'a [String],
    search: &'a [String],
    options: &'a [String],
}

fn resolv_conf(wanted: &Wanted<'_>) -> String {
    let of_host = |key: &str| -> Vec<String> {
        let lines = wanted
            .host
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key))
            .filter(|rest| rest.starts_with([' ', '\t']));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let given = |own: &[String], key: &str| if own.is_empty() { of_host(key) } else { own.to_vec() };
    let servers = if wanted.embedded {
        vec!["127.0.0.11".to_owned()]
    } else if wanted.servers.is_empty() {
        let reachable = |s: &String| wanted.keep_local || !s.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        of_host("nameserver").into_iter().filter(reachable).collect()
    } else {
        wanted.servers.to_vec()
    };
    let mut options = given(wanted.options, "options");
    if wanted.embedded && !options.iter().any(|o| o.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    // `--dns-search .` means: none.
    let search: Vec<String> = given(wanted.search, "search").into_iter().filter(|s| s != ".").collect();
    let mut text: String = servers.iter().map(|s| format!("nameserver {s}\n")).collect();
    for (key, words) in [("search", search), ("options", options)] {
        if !words.is_empty() {
            let _ = writeln!(text, "{key} {}", words.join(" ")); // Writing to a String does not fail.
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str =
        "# made by hand\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch a.example b.example\noptions edns0\n";

    fn wanted() -> Wanted<'static> {
        Wanted { host: HOST, embedded: false, keep_local: false, servers: &[], search: &[], options: &[] }
    }

    #[test]
    fn without_wishes_the_hosts_file_is_taken_without_servers_on_its_loopback() {
        assert_eq!(resolv_conf(&wanted()), "nameserver 10.0.0.2\nsearch a.example b.example\noptions edns0\n");
        assert!(resolv_conf(&Wanted { keep_local: true, ..wanted() }).starts_with("nameserver 127.0.0.53\n"));
    }

    #[test]
    fn the_embedded_server_is_the_only_one_and_wishes_win() {
        let search = [".".to_owned()];
        let text = resolv_conf(&Wanted { embedded: true, search: &search, ..wanted() });
        assert_eq!(text, "nameserver 127.0.0.11\noptions edns0 ndots:0\n");
        let servers = ["9.9.9.9".to_owned()];
        assert!(resolv_conf(&Wanted { servers: &servers, ..wanted() }).starts_with("nameserver 9.9.9.9\n"));
    }

    #[test]
    fn extra_hosts_are_split_at_the_first_separator() {
        assert_eq!(split_extra_host("db:10.0.0.1"), Some(("db", "10.0.0.1")));
        assert_eq!(split_extra_host("db=[fd00::1]"), Some(("db", "fd00::1")));
        assert_eq!(split_extra_host("h:host-gateway"), Some(("h", "host-gateway")));
        assert_eq!(split_extra_host("db:nowhere"), None);
        assert_eq!(split_extra_host("db"), None);
    }
}
