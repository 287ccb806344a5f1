//! What a data plane must be told before it starts.

use crate::{bridges::Bridge, report::Error};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
};

/// The port that RFC 7348 gives to VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// Everything that a [`DataPlane`](crate::DataPlane) touches on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A short name that keeps several daemons on one kernel apart: 1 to 16 of `a-z 0-9 -`. It goes into names of
    /// interfaces (hashed), into their aliases and into the nft table's name.
    pub instance: String,
    /// Where maps and links are pinned: a directory of our own below a bpf mount. Its parent is mounted if it is none. The mount
    /// must outlive the daemon (no private mount namespace), or a restart begins with nothing.
    pub bpffs_dir: PathBuf,
    /// The network namespace that the host lives in; `None`: the one of the calling thread.
    pub host_netns: Option<PathBuf>,
    /// Interfaces through which other hosts and outside clients come.
    pub uplink: Uplink,
    /// This host's tunnel address, one of its own. `0.0.0.0`: no tunnels, networks of this host only.
    pub vtep_ip: Ipv4Addr,
    /// UDP port of the tunnel, the same on all hosts of a cluster.
    pub vxlan_port: u16,
    /// The cgroup v2 directory that all containers live below: their `connect()` to a VIP or to 127.0.0.11:53 is
    /// answered there.
    pub cgroup_v2_dir: PathBuf,
    /// A cgroup v2 directory that holds the processes of the host itself (the root, mostly): with it, they reach published
    /// ports by 127.0.0.1 and the host's own addresses.
    pub host_cgroup_dir: Option<PathBuf>,
    /// How the packet programs are attached.
    pub attach: Attach,
}

impl Config {
    /// A configuration with the defaults: uplinks found, port 4789, host processes not served.
    pub fn new(
        instance: &str,
        bpffs_dir: impl Into<PathBuf>,
        cgroup_v2_dir: impl Into<PathBuf>,
        vtep_ip: Ipv4Addr,
    ) -> Self {
        Self {
            instance: instance.to_owned(),
            bpffs_dir: bpffs_dir.into(),
            host_netns: None,
            uplink: Uplink::Auto,
            vtep_ip,
            vxlan_port: VXLAN_PORT,
            cgroup_v2_dir: cgroup_v2_dir.into(),
            host_cgroup_dir: None,
            attach: Attach::Auto,
        }
    }

    /// Refuses what could not work, naming the field.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |field, why: &str| Err(Error::Config { field, why: why.to_owned() });
        let name_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.instance.is_empty() || self.instance.len() > 16 || !self.instance.chars().all(name_ok) {
            return refuse("instance", "expected 1 to 16 characters of a-z, 0-9 and '-'");
        }
        if !self.bpffs_dir.is_absolute() || self.bpffs_dir.file_name().is_none() {
            return refuse("bpffs_dir", "expected an absolute path below a bpf mount");
        }
        if self.vxlan_port == 0 {
            return refuse("vxlan_port", "expected 1 to 65535");
        }
        if self.vtep_ip.is_loopback() || self.vtep_ip.is_multicast() || self.vtep_ip.is_broadcast() {
            return refuse("vtep_ip", "expected an address of this host that other hosts reach");
        }
        match &self.uplink {
            Uplink::Names(names) if names.iter().any(|n| n.is_empty() || n.len() > 15) => {
                refuse("uplink", "interface names have 1 to 15 bytes")
            }
            _ => Ok(()),
        }
    }
}

/// Which interfaces lead to the rest of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// The one that carries `vtep_ip` and those of the default routes.
    #[default]
    Auto,
    /// These; each must exist.
    Names(Vec<String>),
}

/// The kernel's ways to run a program on an interface's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// tcx links where the kernel has them (6.6), so that no tool that clears an interface's qdisc cuts it off; clsact elsewhere.
    #[default]
    Auto,
    /// Always tcx links.
    Tcx,
    /// Always the clsact qdisc with a direct-action filter.
    Clsact,
}

/// Where in a container's network namespace the DNS server listens, on 127.0.0.11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsPorts {
    pub udp: u16,
    pub tcp: u16,
}

/// What a sync needs besides the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// DNS servers by the path of the network namespace they listen in (the same path as in `LocalEndpoint::netns`).
    pub dns: BTreeMap<PathBuf, DnsPorts>,
    /// Tunnel addresses of all other hosts of the cluster. A host that runs no container of ours sends us what comes
    /// in at its published ports: without its address here that would be an unknown tunnel, and dropped.
    pub peers: BTreeSet<Ipv4Addr>,
    /// The gateway devices of networks of this host, by name.
    pub bridges: BTreeMap<String, Bridge>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_field_is_refused_by_its_name() {
        let good = Config::new("h1", "/sys/fs/bpf/h1", "/sys/fs/cgroup/h1", Ipv4Addr::new(10, 0, 0, 1));
        assert!(good.validate().is_ok());
        let named = |c: Config| c.validate().expect_err("must be refused").to_string();
        assert!(named(Config { instance: "H 1".into(), ..good.clone() }).contains("instance"));
        assert!(named(Config { bpffs_dir: "rel".into(), ..good.clone() }).contains("bpffs_dir"));
        assert!(named(Config { vxlan_port: 0, ..good.clone() }).contains("vxlan_port"));
        assert!(named(Config { vtep_ip: Ipv4Addr::LOCALHOST, ..good.clone() }).contains("vtep_ip"));
        assert!(named(Config { uplink: Uplink::Names(vec![String::new()]), ..good }).contains("uplink"));
    }
}
