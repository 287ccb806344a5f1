//! Addresses on the networks of this host: which are taken, which is next; and subnets for new networks. Pure.

use muster_model::{
    net::{Subnet, Subnet6},
    view::Network6,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An address or subnet that cannot be had. The texts are Docker's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("Address already in use")]
    InUse,
    #[error("no available IPv4 addresses on this network's address pools: {network}")]
    Exhausted { network: String },
    #[error("no available IPv6 addresses on this network's address pools: {network}")]
    Exhausted6 { network: String },
    #[error("invalid address {ip}: It does not belong to any of this network's subnets")]
    Outside { ip: IpAddr },
    #[error("all predefined address pools have been fully subnetted")]
    NoSubnet,
}

/// What an address may be drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    /// `--ip-range`: unasked-for addresses come from here.
    pub ip_range: Option<Subnet>,
}

/// The taken addresses of every network, by network id.
#[derive(Clone, Debug, Default)]
pub struct Ipam {
    taken: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    taken6: BTreeMap<String, BTreeSet<Ipv6Addr>>,
}

impl Ipam {
    /// Takes `wanted`, or the lowest free address.
    ///
    /// # Errors
    /// [`Error`].
    pub fn take(&mut self, network: &str, range: Range, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, Error> {
        let taken = self.taken.entry(network.to_owned()).or_default();
        let ip = match wanted {
            Some(ip) => check_static(taken, range, ip)?,
            None => lowest_free(taken, range).ok_or_else(|| Error::Exhausted { network: network.to_owned() })?,
        };
        taken.insert(ip);
        Ok(ip)
    }

    /// As [`Ipam::take`], of a network's IPv6 half; `range` as [`Range::ip_range`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn take6(
        &mut self,
        network: &str,
        net: Network6,
        range: Option<Subnet6>,
        wanted: Option<Ipv6Addr>,
    ) -> Result<Ipv6Addr, Error> {
        let taken = self.taken6.entry(network.to_owned()).or_default();
        let free = |ip: &Ipv6Addr| *ip != net.gateway && *ip != net.subnet.addr() && !taken.contains(ip);
        let ip = match wanted {
            Some(ip) if !net.subnet.contains(ip) => return Err(Error::Outside { ip: ip.into() }),
            Some(ip) if !free(&ip) => return Err(Error::InUse),
            Some(ip) => ip,
            None => {
                // At most one more candidate than taken and reserved addresses is looked at, however wide the pool is.
                let pool = range.unwrap_or(net.subnet);
                let mut candidates = (0..taken.len() as u128 + 4).map_while(|n| pool.nth(n));
                candidates.find(free).ok_or_else(|| Error::Exhausted6 { network: network.to_owned() })?
            }
        };
        taken.insert(ip);
        Ok(ip)
    }

    /// As [`Ipam::hold`].
    pub fn hold6(&mut self, network: &str, ip: Ipv6Addr) {
        self.taken6.entry(network.to_owned()).or_default().insert(ip);
    }

    /// Marks an address as taken that a record says is in use, or that a user keeps out of the pool.
    pub fn hold(&mut self, network: &str, ip: Ipv4Addr) {
        self.taken.entry(network.to_owned()).or_default().insert(ip);
    }

    /// Gives an address back.
    pub fn give_back(&mut self, network: &str, ip: Ipv4Addr) {
        if let Some(taken) = self.taken.get_mut(network) {
            taken.remove(&ip);
        }
    }

    /// As [`Ipam::give_back`].
    pub fn give_back6(&mut self, network: &str, ip: Ipv6Addr) {
        if let Some(taken) = self.taken6.get_mut(network) {
            taken.remove(&ip);
        }
    }

    /// Forgets a removed network.
    pub fn forget(&mut self, network: &str) {
        self.taken.remove(network);
        self.taken6.remove(network);
    }
}

fn check_static(taken: &BTreeSet<Ipv4Addr>, range: Range, ip: Ipv4Addr) -> Result<Ipv4Addr, Error> {
    if !range.subnet.contains(ip) {
        return Err(Error::Outside { ip: ip.into() });
    }
    let reserved = is_reserved(range, ip);
    if reserved || taken.contains(&ip) { Err(Error::InUse) } else { Ok(ip) }
}

fn lowest_free(taken: &BTreeSet<Ipv4Addr>, range: Range) -> Option<Ipv4Addr> {
    let pool = range.ip_range.unwrap_or(range.subnet);
    // At most one more candidate than taken and reserved addresses is looked at, however wide the pool is.
    let bound = pool.size().min(taken.len() as u64 + 4) as u32;
    (0..bound).filter_map(|n| pool.nth(n)).find(|ip| !taken.contains(ip) && !is_reserved(range, *ip))
}

fn is_reserved(range: Range, ip: Ipv4Addr) -> bool {
    let small = range.subnet.prefix() >= 31;
    ip == range.gateway || (!small && (ip == range.subnet.addr() || ip == range.subnet.broadcast()))
}

/// The first subnet of `prefix` bits in `pools` that overlaps none of `used`.
///
/// # Errors
/// [`Error::NoSubnet`].
pub fn free_subnet(pools: &[(Subnet, u8)], used: &[Subnet]) -> Result<Subnet, Error> {
    pools
        .iter()
        .flat_map(|(pool, prefix)| {
            let step = 1u64 << (32 - u32::from(*prefix));
            (0..pool.size() / step.max(1))
                .filter_map(move |n| Subnet::new(pool.nth(u32::try_from(n * step).ok()?)?, *prefix))
        })
        .find(|candidate| !used.iter().any(|u| u.overlaps(*candidate)))
        .ok_or(Error::NoSubnet)
}

/// A subnet of 64 bits for a network that names none: of the addresses that everybody may draw for himself (RFC 4193, section 3.2),
/// from `random` bits.
pub fn unique_local(random: u64) -> Subnet6 {
    // fd, 40 bits of global id, 16 of subnet id.
    let high = 0xfd << 56 | random & 0x00ff_ffff_ffff_ffff;
    Subnet6::containing(Ipv6Addr::from(u128::from(high) << 64), 64)
}

/// Where subnets of unconfigured networks come from: private ranges, as Docker's defaults.
pub fn default_pools() -> Vec<(Subnet, u8)> {
    let net = |a, b, prefix| Subnet::containing(Ipv4Addr::new(a, b, 0, 0), prefix);
    (17..=31).map(|b| (net(172, b, 16), 16)).chain([(net(192, 168, 16), 20)]).collect()
}

/// The destinations in the text of `/proc/net/route` (proc_net(5)), default routes left out: a new subnet must keep off them.
pub fn parse_routes(text: &str) -> Vec<Subnet> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let number = |i: usize| fields.get(i).and_then(|f| u32::from_str_radix(f, 16).ok()).map(u32::from_be);
            let (destination, mask) = (number(1)?, number(7)?);
            (mask != 0).then(|| Subnet::containing(Ipv4Addr::from(destination), mask.leading_ones() as u8))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str, ip_range: Option<&str>) -> Range {
        let subnet: Subnet = subnet.parse().expect("valid");
        Range { subnet, gateway: subnet.gateway(), ip_range: ip_range.map(|r| r.parse().expect("valid")) }
    }

    #[test]
    fn addresses_are_unique_lowest_first_and_come_back() {
        let (mut ipam, r) = (Ipam::default(), range("10.0.0.0/29", None));
        let all: Vec<u8> = (0..5).map(|_| ipam.take("n", r, None).expect("free").octets()[3]).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        assert!(matches!(ipam.take("n", r, None), Err(Error::Exhausted { .. })));
        ipam.give_back("n", Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!(ipam.take("n", r, None), Ok(Ipv4Addr::new(10, 0, 0, 4)));
    }

    #[test]
    fn a_static_address_must_be_inside_free_and_not_the_gateway() {
        let (mut ipam, r) = (Ipam::default(), range("10.0.0.0/24", Some("10.0.0.128/25")));
        let ip = |d| Ipv4Addr::new(10, 0, 0, d);
        assert_eq!(ipam.take("n", r, None), Ok(ip(128)));
        assert_eq!(ipam.take("n", r, Some(ip(20))), Ok(ip(20)));
        assert_eq!(ipam.take("n", r, Some(ip(20))), Err(Error::InUse));
        assert_eq!(ipam.take("n", r, Some(ip(1))), Err(Error::InUse));
        assert!(matches!(ipam.take("n", r, Some(Ipv4Addr::new(10, 0, 1, 1))), Err(Error::Outside { .. })));
    }

    #[test]
    fn ipv6_addresses_are_unique_and_drawn_from_the_range() {
        let subnet: Subnet6 = "fd00::/64".parse().expect("valid");
        let net = Network6 { subnet, gateway: subnet.gateway() };
        let ip = |text: &str| text.parse::<Ipv6Addr>().expect("valid");
        let mut ipam = Ipam::default();
        assert_eq!(ipam.take6("n", net, None, None), Ok(ip("fd00::2")));
        assert_eq!(ipam.take6("n", net, None, Some(ip("fd00::2"))), Err(Error::InUse));
        assert_eq!(ipam.take6("n", net, None, Some(ip("fd00::1"))), Err(Error::InUse));
        assert!(matches!(ipam.take6("n", net, None, Some(ip("fd01::2"))), Err(Error::Outside { .. })));
        let range = "fd00::ff:0/127".parse().ok();
        let drawn = [ipam.take6("n", net, range, None), ipam.take6("n", net, range, None)];
        assert_eq!(drawn, [Ok(ip("fd00::ff:0")), Ok(ip("fd00::ff:1"))]);
        assert!(matches!(ipam.take6("n", net, range, None), Err(Error::Exhausted6 { .. })));
        assert!(unique_local(u64::MAX).to_string().starts_with("fdff:"));
    }

    #[test]
    fn a_new_subnet_keeps_off_those_in_use() {
        let used = ["172.17.0.0/16", "172.18.4.0/24"].map(|s| s.parse().expect("valid"));
        assert_eq!(free_subnet(&default_pools(), &used).expect("free").to_string(), "172.19.0.0/16");
        let all: Subnet = "0.0.0.0/0".parse().expect("valid");
        assert_eq!(free_subnet(&default_pools(), &[all]), Err(Error::NoSubnet));
    }

    #[test]
    fn host_routes_are_read_without_the_default_route() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                    garbage\n";
        assert_eq!(parse_routes(text), ["172.17.0.0/16".parse().expect("valid")]);
    }
}
