//! The data plane of one host: kernel programs, maps, interfaces, routes; a function of [`NodeView`] and of nothing else.
//!
//! [`DataPlane::open`] loads the programs (or takes over the pinned ones of the daemon's last life), [`DataPlane::sync`]
//! makes the kernel equal to a view, [`DataPlane::close_and_remove`] takes everything away again. All calls block and may
//! be made from any thread (not from an async task: use a thread of your own or `spawn_blocking`); work in other network
//! namespaces happens on short-lived threads, so the caller's namespace never changes.
//!
//! Pinned in bpffs: maps and links. A daemon that ends, however it ends, leaves the kernel carrying packets; the next
//! `open` + first `sync` swap the programs in place, packet by packet.
//!
//! What it never does: decide anything (who gets which address is the controller's), write a map entry that is no
//! function of the view, touch rules or interfaces that it did not make. A host firewall that drops forwarded packets (`FORWARD` policy) is left as it is, and stops
//! outbound traffic of containers.
//!
//! IPv6 is carried on networks of one host: neighbour discovery, containers among each other, published ports, and the way out.
//! The host's own firewall has two rules of ours for each family: what leaves a network that is not routed is masqueraded, and nothing
//! but answers to that is passed on to it.
//!
//! What is sent to all of a network (broadcast, multicast) is given to its other containers of the same host.
//!
//! Not there: IPv6 between hosts (dropped and counted), broadcast and multicast between hosts, uplinks without an Ethernet header, ICMP errors about
//! translated connections of IPv4 inside of a network (those of routers on a client's way are translated). A connected datagram
//! socket keeps its backend until it connects again. Two hosts that translate the same client address and port to the same
//! backend at the same time are told apart by nobody: the later connection has to try again.
//!
//! Read first: [`Config`], [`DataPlane`], then `image` (view -> maps) and `bpf/layout.h` (what a map holds).
//!
//! [`NodeView`]: muster_model::view::NodeView

mod bpffs;
mod bridges;
mod config;
mod counters;
mod hooks;
mod host;
mod image;
mod layout;
mod masquerade;
mod names;
mod netlink;
mod netns;
mod plane;
mod ports;
mod probe;
mod report;
mod sys;
mod tables;
mod watch;

pub use bridges::{Bridge, NoBridge};
pub use config::{Attach, Config, DnsPorts, Surroundings, Uplink, VXLAN_PORT};
pub use counters::Reason;
pub use host::TUNNEL_OVERHEAD;
pub use plane::DataPlane;
pub use probe::{Capabilities, OLDEST_KERNEL, probe};
pub use report::{Error, Report};
pub use watch::Watch;
