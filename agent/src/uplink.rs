//! The host's way out, as far as addresses and sizes go: asked of the routing table, in whatever network namespace the
//! daemon lives. Nothing is sent.

use nix::sys::socket::{getsockopt, sockopt::IpMtu};
use std::net::{IpAddr, UdpSocket};

/// TEST-NET-1 (RFC 5737): nobody is there, so the default route is what leads to it.
const NOBODY: &str = "192.0.2.1:9";

/// Connecting a datagram socket only looks the route up.
fn probe() -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(NOBODY)?;
    Ok(socket)
}

/// The address that packets leave with by the default route; `None` without one.
pub fn address() -> Option<IpAddr> {
    probe().and_then(|s| s.local_addr()).ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified())
}

/// The MTU of the interface that the default route leaves by, in bytes (ip(7), IP_MTU); 1500 where there is none.
pub fn mtu() -> u16 {
    let mtu = probe().ok().and_then(|s| getsockopt(&s, IpMtu).ok());
    mtu.and_then(|m| u16::try_from(m).ok()).unwrap_or(1500)
}
