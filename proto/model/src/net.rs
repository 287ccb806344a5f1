//! Addresses as the data plane and the allocator see them.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address every endpoint with this IPv4 address carries: `02:42` followed by its four bytes, as Docker does, so
    /// that neighbours can be computed instead of learnt.
    pub const fn of(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv4 network: the address has no bits set outside of the prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    addr: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid subnet: {why}; expected for example 10.20.0.0/24")]
pub struct SubnetParseError {
    pub text: String,
    pub why: &'static str,
}

impl Subnet {
    /// `None` when `prefix` is above 32 or `addr` has bits outside of it.
    pub fn new(addr: Ipv4Addr, prefix: u8) -> Option<Self> {
        let net = Self { addr, prefix };
        (prefix <= 32 && u32::from(addr) & !net.mask() == 0).then_some(net)
    }

    /// The network that `addr` lies in. `prefix` above 32 counts as 32.
    pub fn containing(addr: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        let mask = Self { addr, prefix }.mask();
        Self { addr: Ipv4Addr::from(u32::from(addr) & mask), prefix }
    }

    pub const fn addr(self) -> Ipv4Addr {
        self.addr
    }

    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The netmask as a number in host byte order.
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.addr)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.addr) || other.contains(self.addr)
    }

    /// How many addresses, network and broadcast address included.
    pub fn size(self) -> u64 {
        1u64 << (32 - u32::from(self.prefix))
    }

    /// The `n`-th address, 0 being the network address. `None` outside of the network.
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        (u64::from(n) < self.size()).then(|| Ipv4Addr::from(u32::from(self.addr) + n))
    }

    /// The gateway: the first host address.
    pub fn gateway(self) -> Ipv4Addr {
        self.nth(1).unwrap_or(self.addr)
    }

    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addr) | !self.mask())
    }
}

impl FromStr for Subnet {
    type Err = SubnetParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why| SubnetParseError { text: text.chars().take(80).collect(), why };
        let (addr, prefix) = text.split_once('/').ok_or_else(|| refuse("no prefix length"))?;
        let addr: Ipv4Addr = addr.parse().map_err(|_| refuse("not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(|| refuse("the prefix is not 0 to 32"))?;
        Self::new(addr, prefix).ok_or_else(|| refuse("address bits are set outside of the prefix"))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An IPv6 network: the address has no bits set outside of the prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet6 {
    addr: Ipv6Addr,
    prefix: u8,
}

impl Subnet6 {
    /// `None` when `prefix` is above 128 or `addr` has bits outside of it.
    pub fn new(addr: Ipv6Addr, prefix: u8) -> Option<Self> {
        (prefix <= 128 && Self::containing(addr, prefix).addr == addr).then_some(Self { addr, prefix })
    }

    /// The network that `addr` lies in. `prefix` above 128 counts as 128.
    pub fn containing(addr: Ipv6Addr, prefix: u8) -> Self {
        let prefix = prefix.min(128);
        Self { addr: Ipv6Addr::from(u128::from(addr) & mask6(prefix)), prefix }
    }

    pub const fn addr(self) -> Ipv6Addr {
        self.addr
    }

    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn contains(self, ip: Ipv6Addr) -> bool {
        u128::from(ip) & mask6(self.prefix) == u128::from(self.addr)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.addr) || other.contains(self.addr)
    }

    /// The `n`-th address, 0 being the network's own (the anycast address of its routers). `None` outside of the network.
    pub fn nth(self, n: u128) -> Option<Ipv6Addr> {
        let ip = Ipv6Addr::from(u128::from(self.addr).checked_add(n)?);
        self.contains(ip).then_some(ip)
    }

    /// The gateway: the first host address.
    pub fn gateway(self) -> Ipv6Addr {
        self.nth(1).unwrap_or(self.addr)
    }
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Subnet6 {
    type Err = SubnetParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why| SubnetParseError { text: text.chars().take(80).collect(), why };
        let (addr, prefix) = text.split_once('/').ok_or_else(|| refuse("no prefix length"))?;
        let addr: Ipv6Addr = addr.parse().map_err(|_| refuse("not an IPv6 address"))?;
        let prefix: u8 =
            prefix.parse().ok().filter(|p| *p <= 128).ok_or_else(|| refuse("the prefix is not 0 to 128"))?;
        Self::new(addr, prefix).ok_or_else(|| refuse("address bits are set outside of the prefix"))
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl fmt::Debug for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Subnet6 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet6 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The IP protocol number (RFC 9293, RFC 768).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What keeps endpoints apart in the kernel: a VXLAN network identifier (RFC 7348, 24 bits) for networks that span hosts,
/// or, with [`Scope::LOCAL_BIT`] set, a number that means something on this host only and never goes on a wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(pub u32);

impl Scope {
    pub const LOCAL_BIT: u32 = 1 << 31;

    pub const fn vni(vni: u32) -> Self {
        Self(vni & 0x00ff_ffff)
    }

    pub const fn local(n: u32) -> Self {
        Self(n | Self::LOCAL_BIT)
    }

    pub const fn is_local(self) -> bool {
        self.0 & Self::LOCAL_BIT != 0
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_local() { "local" } else { "vni" };
        write!(f, "{kind}:{}", self.0 & !Self::LOCAL_BIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_no_bits_outside_of_its_prefix() {
        assert!("10.1.0.0/24".parse::<Subnet>().is_ok());
        for bad in ["10.1.0.1/24", "10.1.0.0", "10.1.0.0/33", "x/8", "10.1.0.0/-1", ""] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_widest_and_the_narrowest_network_do_arithmetic() {
        let all: Subnet = "0.0.0.0/0".parse().expect("valid");
        assert!(all.contains(Ipv4Addr::new(255, 1, 2, 3)));
        assert_eq!(all.size(), 1 << 32);
        let one: Subnet = "10.0.0.7/32".parse().expect("valid");
        assert_eq!(one.nth(0), Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(one.nth(1), None);
    }

    #[test]
    fn an_ipv6_network_does_arithmetic_to_its_ends() {
        for bad in ["fd00::1/64", "fd00::", "fd00::/129", "10.0.0.0/8", ""] {
            assert!(bad.parse::<Subnet6>().is_err(), "{bad}");
        }
        let net: Subnet6 = "fd00:0:0:7::/64".parse().expect("valid");
        assert_eq!(net.gateway(), "fd00:0:0:7::1".parse::<Ipv6Addr>().expect("valid"));
        assert_eq!(net.nth(1 << 64), None);
        let all: Subnet6 = "::/0".parse().expect("valid");
        assert!(all.overlaps(net) && net.overlaps(all) && all.nth(u128::MAX).is_some());
        let one: Subnet6 = "fd00::7/128".parse().expect("valid");
        assert_eq!((one.nth(0), one.nth(1)), (Some(one.addr()), None));
    }

    #[test]
    fn overlap_is_symmetric() {
        let a: Subnet = "10.1.0.0/16".parse().expect("valid");
        let b: Subnet = "10.1.3.0/24".parse().expect("valid");
        let c: Subnet = "10.2.0.0/16".parse().expect("valid");
        assert!(a.overlaps(b) && b.overlaps(a) && !a.overlaps(c) && !c.overlaps(b));
    }
}
