//! What one host must know of the world to carry its packets and answer its names: a value, computed, never edited in place.
//!
//! `agent-core` computes a [`NodeView`] from the node's assignments and the engine's own endpoints; `ebpf-net` turns it
//! into kernel maps and interfaces; the DNS server answers from it. Equal views give equal kernels.

use crate::net::{Mac, Protocol, Scope, Subnet, Subnet6};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    path::PathBuf,
};

/// Everything the data plane of one host is a function of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Networks that have an endpoint here, or whose endpoints a published port here leads to.
    pub networks: BTreeMap<Scope, NetworkView>,
    /// Endpoints of containers on this host, by endpoint key (container id + network name; any unique text).
    pub local: BTreeMap<String, LocalEndpoint>,
    /// Endpoints on other hosts.
    pub remote: BTreeMap<(Scope, Ipv4Addr), RemoteEndpoint>,
    /// Virtual addresses of services, per network.
    pub vips: BTreeMap<(Scope, Ipv4Addr), Vip>,
    /// Ports that this host answers from outside, by (protocol, port).
    pub published: BTreeMap<PublishedKey, Published>,
    /// The same at IPv6 addresses.
    pub published6: BTreeMap<PublishedKey6, Published6>,
}

/// One network as this host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// For people and for name scopes.
    pub name: String,
    /// All networks have it but those of this host that have IPv6 only.
    pub v4: Option<Network4>,
    /// The largest IP packet a container may send: the underlay's MTU less 50 bytes on networks that span hosts.
    pub mtu: u16,
    /// No way out of the network.
    pub internal: bool,
    /// Its containers do not reach each other directly (Docker's `enable_icc=false`).
    pub isolated: bool,
    /// What its containers send to the outside leaves with their own addresses (Docker's `enable_ip_masquerade=false`): the
    /// world has a route to them. What they did not ask for does not come in all the same.
    pub routed: bool,
    /// Networks of this host may have IPv6, besides or alone.
    pub v6: Option<Network6>,
}

/// The IPv4 half of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network4 {
    pub subnet: Subnet,
    /// Answered for in eBPF (ARP); no interface of the host carries it unless the kernel needs it for outbound traffic.
    pub gateway: Ipv4Addr,
}

/// The IPv6 half of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network6 {
    pub subnet: Subnet6,
    /// Neighbour discovery for it is answered in eBPF.
    pub gateway: Ipv6Addr,
}

/// An endpoint of a container on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    pub scope: Scope,
    /// On a network with IPv4; one of the two there is.
    pub ip: Option<Ipv4Addr>,
    /// On a network with IPv6.
    pub ip6: Option<Ipv6Addr>,
    pub mac: Mac,
    /// The container's network namespace, a path that can be opened and handed to setns(2).
    pub netns: PathBuf,
    /// The interface's name inside: `eth0`, `eth1`, ...
    pub ifname: String,
    /// This endpoint carries the container's default route of IPv4. One at most per namespace.
    pub default_route: bool,
    /// As `default_route`, of IPv6.
    pub default_route6: bool,
}

/// An endpoint on another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteEndpoint {
    /// The tunnel address of the host that has it.
    pub vtep: Ipv4Addr,
    pub mac: Mac,
}

/// A service's address on one network: any port connects to the same port of one of the backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// Addresses in the same scope, in order. Empty: connections are refused.
    pub backends: Vec<Ipv4Addr>,
}

/// A port of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedKey {
    pub protocol: Protocol,
    pub port: u16,
    /// The host address it is published on; `0.0.0.0` is every address.
    pub host_ip: Ipv4Addr,
}

/// A port of this host at an IPv6 address; `::` is every address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedKey6 {
    pub protocol: Protocol,
    pub port: u16,
    pub host_ip: Ipv6Addr,
}

/// Where connections to a published port go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub scope: Scope,
    /// Container address and port of each backend, local and remote. Empty: connections are refused.
    pub backends: Vec<SocketAddrV4>,
}

/// Where connections to a port published at an IPv6 address go: to one container of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published6 {
    pub scope: Scope,
    pub to: SocketAddrV6,
}

/// What the DNS server answers to containers of one network (names lower case, without a trailing dot).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameTable {
    /// service -> VIP (or its tasks for endpoint mode dnsrr), `tasks.SERVICE` -> tasks, container name or alias -> address.
    pub names: BTreeMap<String, Vec<Ipv4Addr>>,
    /// The IPv6 addresses of those names that have any.
    pub names6: BTreeMap<String, Vec<Ipv6Addr>>,
}

/// The name tables of this host's networks.
pub type Names = BTreeMap<Scope, NameTable>;
