//! Packets made by hand, as hexadecimal digits for [`Actor`](crate::actor::Actor)'s `frame` and `datagram`.

use muster_model::net::Mac;
use std::net::{Ipv4Addr, Ipv6Addr};

pub const MORE_FRAGMENTS: u16 = 0x2000;
pub const UDP: u8 = 17;
pub const TCP: u8 = 6;

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An Ethernet header, and what follows. `to` and `kind` are hexadecimal digits.
pub fn ethernet(to: &str, from: Ipv4Addr, kind: &str, rest: &str) -> String {
    format!("{to}{}{kind}{rest}", hex(&Mac::of(from).0))
}

/// An IPv4 packet with a header of 20 bytes whose checksum is right. `fragment`: flags and offset in units of 8 bytes.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, proto: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a small packet").to_be_bytes();
    let [high, low] = fragment.to_be_bytes();
    let mut bytes = vec![0x45, 0, length[0], length[1], 0x12, 0x34, high, low, 64, proto, 0, 0];
    bytes.extend(from.octets().into_iter().chain(to.octets()));
    let sum: u32 = bytes.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("one carry at most");
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet without extension headers.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a small packet").to_be_bytes();
    let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], proto, 64];
    bytes.extend(from.octets().into_iter().chain(to.octets()));
    bytes.extend(payload);
    bytes
}

/// A UDP header without a checksum and its data. `length` of the header is that of the whole.
pub fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("a small datagram");
    let mut bytes: Vec<u8> = [from, to, length, 0].iter().flat_map(|n| n.to_be_bytes()).collect();
    bytes.extend(data);
    bytes
}

/// A TCP header without options and without a checksum.
pub fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = [from, to, 0, 1, 0, 0].iter().flat_map(|n| n.to_be_bytes()).collect();
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

/// The same with the checksum that is right between those addresses.
pub fn tcp_between(from_ip: Ipv4Addr, to_ip: Ipv4Addr, from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut bytes = tcp(from, to, flags);
    let length = u16::try_from(bytes.len()).expect("a header").to_be_bytes();
    let mut summed: Vec<u8> =
        from_ip.octets().into_iter().chain(to_ip.octets()).chain([0, TCP]).chain(length).collect();
    summed.extend(&bytes);
    let mut sum: u32 = summed.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[16..18].copy_from_slice(&(!sum as u16).to_be_bytes());
    bytes
}

/// A tunnel's packet in which `inner` is, as UDP carries it (RFC 7348).
pub fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x08, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend([2, 0x42, 0, 0, 0, 1, 2, 0x42, 0, 0, 0, 2, 8, 0]);
    bytes.extend(inner);
    bytes
}
