//! The host's own side: its addresses and uplinks, the device between its stack and remote endpoints, forwarding.

use crate::{
    config::{Config, Uplink},
    hooks::{Hooks, PacketHook},
    names::{Names, mac_for},
    netlink::{Link, Netlink, Route, VethEnd},
    netns::sysctl,
    ports::silence_ipv6,
    report::Error,
};
use muster_model::{
    net::{Mac, Scope, Subnet},
    view::NodeView,
};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

/// What VXLAN over IPv4 puts in front of a packet.
pub const TUNNEL_OVERHEAD: u32 = 50;

/// What was found on the host.
#[derive(Debug, Default)]
pub struct Survey {
    /// The host's addresses, loopback excluded.
    pub addrs: BTreeSet<Ipv4Addr>,
    pub addrs6: BTreeSet<Ipv6Addr>,
    /// Interfaces to the rest of the world: name -> index.
    pub uplinks: BTreeMap<String, u32>,
    /// The one with the tunnel address: index, MTU.
    pub tunnel: Option<(u32, u32)>,
    pub notes: Vec<String>,
}

impl Survey {
    /// Looks at the namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Netlink`]; [`Error::Config`] when an uplink that was named is not there.
    pub fn take(config: &Config, names: &Names, links: &[Link], netlink: &mut Netlink) -> Result<Self, Error> {
        let failed = |doing: &str| {
            let doing = doing.to_owned();
            move |source| Error::Netlink { doing, source }
        };
        let addresses = netlink.addresses().map_err(failed("list the host's addresses"))?;
        let addresses6 = netlink.addresses6().map_err(failed("list the host's IPv6 addresses"))?;
        let mut survey = Self {
            addrs: addresses.iter().map(|(_, ip)| *ip).filter(|ip| !ip.is_loopback()).collect(),
            addrs6: addresses6.into_iter().filter(|ip| !ip.is_loopback()).collect(),
            ..Self::default()
        };
        let tunnel =
            addresses.iter().find(|(_, ip)| *ip == config.vtep_ip && !ip.is_unspecified()).map(|(index, _)| *index);
        let chosen: BTreeSet<u32> = match &config.uplink {
            Uplink::Auto => {
                let routes = netlink.routes().map_err(failed("list the host's routes"))?;
                tunnel
                    .into_iter()
                    .chain(routes.iter().filter(|(to, _)| to.prefix() == 0).map(|(_, index)| *index))
                    .chain(netlink.default_routes6().map_err(failed("list the host's IPv6 routes"))?)
                    .collect()
            }
            Uplink::Names(wanted) => wanted.iter().map(|name| named(name, links)).collect::<Result<_, _>>()?,
        };
        for link in links.iter().filter(|l| chosen.contains(&l.index) && !names.owns(l)) {
            if link.ethernet {
                survey.uplinks.insert(link.name.clone(), link.index);
            } else {
                survey.notes.push(format!("uplink {} is no Ethernet interface: not used", link.name));
            }
        }
        survey.tunnel = links
            .iter()
            .find(|l| Some(l.index) == tunnel && survey.uplinks.contains_key(&l.name))
            .map(|l| (l.index, l.mtu));
        if survey.tunnel.is_none() && !config.vtep_ip.is_unspecified() {
            survey
                .notes
                .push(format!("no uplink has the tunnel address {}: other hosts are not reached", config.vtep_ip));
        }
        if survey.uplinks.is_empty() {
            survey.notes.push("no uplink was found: published ports are answered to this host only".to_owned());
        }
        Ok(survey)
    }
}

fn named(name: &str, links: &[Link]) -> Result<u32, Error> {
    let missing = || Error::Config { field: "uplink", why: format!("interface {name:?} does not exist") };
    links.iter().find(|l| l.name == name).map(|l| l.index).ok_or_else(missing)
}

/// The device between the host's stack and remote endpoints: one end of a veth pair. What the host sends into it is put into the
/// tunnel by a program at its egress, what the tunnel brings for the host appears as received from it. Its other end
/// never sees a packet. (A dummy device would do; kernels without that module exist.)
#[derive(Debug, Default)]
pub struct HostDevice {
    /// Routes that lead into it; `None`: not known yet.
    routes: Option<BTreeSet<Subnet>>,
}

impl HostDevice {
    /// Sees to it that the device is there, with `mtu`.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Bpf`].
    pub fn ensure(
        &mut self,
        names: &Names,
        links: &[Link],
        mtu: u32,
        netlink: &mut Netlink,
        hooks: &mut Hooks,
    ) -> Result<(u32, Mac), Error> {
        let (near, far) = (names.host_device(), names.host_device_far());
        let alias = format!("{}host:{mtu}", names.alias());
        let mac = mac_for(&near);
        let index = match links.iter().find(|l| l.name == near) {
            Some(link) if link.alias == alias => link.index,
            old => {
                self.routes = None;
                make_pair(&near, &far, &alias, mtu, old, netlink)
                    .map_err(|source| Error::Netlink { doing: format!("make the device {near}"), source })?
            }
        };
        hooks.attach_interface(PacketHook::Host, &near, index)?;
        Ok((index, mac))
    }

    /// Leads the networks that span hosts into the device. Endpoints of this host have longer routes of their own.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn route(
        &mut self,
        view: &NodeView,
        index: u32,
        survey: &Survey,
        source: Option<Ipv4Addr>,
        netlink: &mut Netlink,
    ) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        let spans_hosts = |scope: &Scope| !scope.is_local();
        let mut wanted = BTreeSet::new();
        let spanning = view.networks.iter().filter(|(scope, _)| spans_hosts(scope));
        for (name, subnet) in spanning.filter_map(|(_, n)| Some((&n.name, n.v4?.subnet))) {
            match survey.addrs.iter().find(|ip| subnet.contains(**ip)) {
                Some(ip) => notes.push(format!(
                    "network {name}: {subnet} holds the host's own address {ip}: the host does not reach its remote endpoints"
                )),
                None => drop(wanted.insert(subnet)),
            }
        }
        let failed = |to: &Subnet| {
            let doing = format!("route {to} to other hosts");
            move |source| Error::Netlink { doing, source }
        };
        let there = match self.routes.take() {
            Some(known) => known,
            None => {
                let all = netlink.routes().map_err(|source| Error::Netlink { doing: "list routes".into(), source })?;
                all.into_iter().filter(|(_, oif)| *oif == index).map(|(to, _)| to).collect()
            }
        };
        let route = |to: Subnet| Route { to, ifindex: index, gateway: None, source };
        for to in there.difference(&wanted) {
            netlink.delete_route(&route(*to)).map_err(failed(to))?;
        }
        for to in wanted.difference(&there) {
            netlink.set_route(&route(*to)).map_err(failed(to))?;
        }
        self.routes = Some(wanted);
        Ok(notes)
    }
}

fn make_pair(
    near: &str,
    far: &str,
    alias: &str,
    mtu: u32,
    old: Option<&Link>,
    netlink: &mut Netlink,
) -> io::Result<u32> {
    if let Some(link) = old {
        netlink.delete_link(link.index)?;
    }
    let end = |name| VethEnd { name, mac: mac_for(name), netns: None };
    netlink.add_veth(&end(near), &end(far), mtu)?;
    let (index, other) = (if_nametoindex(near)?, if_nametoindex(far)?);
    for (name, index) in [(far, other), (near, index)] {
        silence_ipv6(name);
        netlink.set_link(index, LinkFlags::Up | LinkFlags::Noarp, vec![])?;
    }
    netlink.set_link(index, LinkFlags::Up, vec![LinkAttribute::IfAlias(alias.to_owned())])?;
    Ok(index)
}

/// Interfaces that go on learning from routers although the host forwards. One that learns would stop doing so when IPv6 forwarding is
/// on; it is told to go on (`accept_ra` 2, ip-sysctl of the kernel), once: who changes it afterwards has the last word.
#[derive(Debug, Default)]
pub struct Learning {
    /// Uplinks that were seen, name -> index. One that is made anew by the name of an uplink will be one, and is told so before it
    /// has a route, for that may be what it is to learn.
    seen: BTreeMap<String, u32>,
}

impl Learning {
    /// Sees to the uplinks that are new.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn keep(&mut self, uplinks: &BTreeMap<String, u32>, links: &[Link]) -> Result<(), Error> {
        for link in links {
            let seen = self.seen.get(&link.name);
            if seen == Some(&link.index) || (seen.is_none() && !uplinks.contains_key(&link.name)) {
                continue;
            }
            let key = format!("ipv6/conf/{}/accept_ra", link.name);
            if std::fs::read_to_string(format!("/proc/sys/net/{key}")).is_ok_and(|v| v.trim() == "1") {
                let path = format!("/proc/sys/net/{key}").into();
                sysctl(&key, "2").map_err(|source| Error::Path { doing: "write", path, source })?;
            }
            self.seen.insert(link.name.clone(), link.index);
        }
        Ok(())
    }
}

/// As [`enable_forwarding`], for IPv6.
///
/// # Errors
/// [`Error::Path`].
pub fn enable_forwarding6() -> Result<(), Error> {
    let path = "/proc/sys/net/ipv6/conf/all/forwarding";
    sysctl("ipv6/conf/all/forwarding", "1").map_err(|source| Error::Path { doing: "write", path: path.into(), source })
}

/// Lets the host pass packets on between its interfaces. It is not switched off again: others may need it by then.
///
/// # Errors
/// [`Error::Path`].
pub fn enable_forwarding() -> Result<(), Error> {
    let failed = |source| Error::Path { doing: "write", path: "/proc/sys/net/ipv4/ip_forward".into(), source };
    sysctl("ipv4/ip_forward", "1").map_err(failed)
}
