//! The maps' contents as the kernel programs see them: a mirror of `bpf/layout.h`, sizes asserted.
//!
//! Addresses ([`Addr`]) and ports ([`Port`]) are in network byte order, all else in the machine's. No struct has padding
//! that is not a field, so each is plain bytes.

use muster_model::net::Mac;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Where the pinned maps live below the instance's directory. Changes with the layout: maps of another layout are never
/// re-used (a unit test compares the headers with what this version stands for). A map that alone has changed may take another name
/// instead, so that connections go on over an upgrade.
pub const MAPS_DIR: &str = "maps_3";

/// An IPv4 address as on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub u32);

// SAFETY: a transparent integer.
unsafe impl aya::Pod for Addr {}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(ip.octets()))
    }
}

/// An IPv6 address as on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr6(pub [u32; 4]);

// SAFETY: a transparent array of integers.
unsafe impl aya::Pod for Addr6 {}

impl From<Ipv6Addr> for Addr6 {
    fn from(ip: Ipv6Addr) -> Self {
        let bytes = ip.octets();
        let word = |n: usize| u32::from_ne_bytes([bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }
}

/// A port as on the wire.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

impl From<u16> for Port {
    fn from(port: u16) -> Self {
        Self(port.to_be())
    }
}

pub type MacBytes = [u8; 6];

/// The bytes of a hardware address.
pub fn mac_bytes(mac: Mac) -> MacBytes {
    mac.0
}

macro_rules! mirrored {
    ($($(#[$doc:meta])* struct $name:ident [$size:literal] { $($(#[$fdoc:meta])* $field:ident : $ty:ty),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty),+ }
        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$ty>())+, "no implicit padding");
        // SAFETY: repr(C), Copy, made of integers and arrays of integers only, without padding (asserted above), so any
        // bytes are a value and every byte of a value is initialised.
        unsafe impl aya::Pod for $name {}
    )+};
}

mirrored! {
    /// `struct config`.
    struct Settings [24] { vtep_ip: Addr, uplink: u32, host_if: u32, vxlan_port: Port, host_if_mac: MacBytes, pad: u32 }
    /// `struct iface`, keyed by the ifindex of a host side veth.
    struct Iface [36] {
        scope: u32, ip: Addr, subnet: Addr, mask: Addr, gateway: Addr, flags: u32, mac: MacBytes, host_mac: MacBytes,
    }
    struct MemberKey [8] { scope: u32, index: u32 }
    struct EndpointKey [8] { scope: u32, ip: Addr }
    /// `struct endpoint`; `kind` is one of the `EP_*` constants.
    struct Endpoint [40] {
        kind: u32, ifindex: u32, vtep: Addr, count: u32, set: u64, mac: MacBytes, host_mac: MacBytes, pad: u32,
    }
    /// `struct iface6`, keyed as [`Iface`].
    struct Iface6 [16] { ip: Addr6 }
    /// The value is an [`Endpoint`], local or a gateway.
    struct EndpointKey6 [20] { scope: u32, ip: Addr6 }
    struct BackendKey [16] { set: u64, index: u32, pad: u32 }
    struct Backend [8] { ip: Addr, port: Port, pad: u16 }
    struct PublishedKey [8] { host_ip: Addr, port: Port, proto: u8, pad: u8 }
    struct Published [16] { set: u64, count: u32, scope: u32 }
    struct PublishedKey6 [20] { host_ip: Addr6, port: Port, proto: u8, pad: u8 }
    /// `struct published6`.
    struct Published6 [40] { ip: Addr6, gateway: Addr6, scope: u32, port: Port, pad: u16 }
    /// `struct netns`, keyed by the cookie of a network namespace.
    struct Namespace [76] { flags: u32, dns_udp: Port, dns_tcp: Port, scopes: u32, scope: [u32; NETNS_SCOPES] }
}

pub const EP_LOCAL: u32 = 1;
pub const EP_REMOTE: u32 = 2;
pub const EP_VIP: u32 = 3;
pub const EP_GATEWAY: u32 = 4;
pub const IFACE_INTERNAL: u32 = 1;
pub const IFACE_NO_OUTBOUND: u32 = 2;
pub const IFACE_ALONE: u32 = 4;
pub const IFACE_ROUTED: u32 = 8;
/// In a network's entry, beside its MTU.
pub const NETWORK_ROUTED: u32 = 0x1_0000;
pub const NETNS_HOST: u32 = 1;
pub const NETNS_HOST_V6: u32 = 2;
/// How many networks one namespace can be in.
pub const NETNS_SCOPES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_stored_as_on_the_wire() {
        assert_eq!(Addr::from(Ipv4Addr::new(10, 1, 2, 3)).0.to_ne_bytes(), [10, 1, 2, 3]);
        assert_eq!(Port::from(0x1234).0.to_ne_bytes(), [0x12, 0x34]);
    }

    #[test]
    fn maps_of_another_layout_live_in_another_directory() {
        let text = concat!(include_str!("../bpf/layout.h"), include_str!("../bpf/maps.h"));
        let digest =
            text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(
            (MAPS_DIR, format!("{digest:016x}").as_str()),
            ("maps_3", LAYOUT_DIGEST),
            "layout.h or maps.h changed: a map whose key, value, size or order of counters changed needs another name, or all another MAPS_DIR"
        );
    }

    const LAYOUT_DIGEST: &str = "32bf2ba450d7934d";
}
