//! Devices that networks are given a name for (Docker's `com.docker.network.bridge.name`): a bridge that nothing is put into, with
//! the network's gateway addresses.
//!
//! Containers do not hang on it, and no packet of theirs passes it: their veth pairs have longer routes of their own. It is there
//! for the host: its address and the route of the subnet are seen, and services that listen on the gateway's address are
//! reached by the network's containers.

use crate::{
    names::{Names, fnv},
    netlink::{Link, Netlink},
    netns::sysctl,
    ports::silence_ipv6,
};
use muster_model::view::{Network4, Network6};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags};
use std::{collections::BTreeMap, io};

/// A device that is wanted, by the name that a user chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    pub v4: Option<Network4>,
    pub v6: Option<Network6>,
    /// Bytes.
    pub mtu: u16,
}

impl Bridge {
    fn alias(&self, names: &Names, name: &str) -> String {
        format!(
            "{}{:016x}",
            names.bridge_alias(),
            fnv(format!("{name} {:?} {:?} {}", self.v4, self.v6, self.mtu).as_bytes())
        )
    }
}

/// The devices as last seen.
#[derive(Debug, Default)]
pub struct Bridges {
    whole: BTreeMap<String, u32>,
}

impl Bridges {
    /// Makes the devices those that are wanted; answers with those that could not be made, and why.
    pub fn reconcile(
        &mut self,
        wanted: &BTreeMap<String, Bridge>,
        links: &[Link],
        names: &Names,
        netlink: &mut Netlink,
    ) -> BTreeMap<String, String> {
        let mut failed = BTreeMap::new();
        let fits = |link: &Link| wanted.get(&link.name).is_some_and(|b| b.alias(names, &link.name) == link.alias);
        for link in links.iter().filter(|l| names.owns_bridge(l) && !fits(l)) {
            self.whole.remove(&link.name);
            if let Err(e) = netlink.delete_link(link.index)
                && e.raw_os_error() != Some(libc::ENODEV)
            {
                failed.insert(link.name.clone(), format!("remove the old device: {e}"));
            }
        }
        self.whole.retain(|name, index| links.iter().any(|l| l.index == *index && l.name == *name));
        for (name, bridge) in wanted {
            if self.whole.contains_key(name) {
                continue;
            }
            let there = links.iter().find(|l| l.name == *name);
            let made = match there {
                Some(link) if fits(link) => finish(name, link.index, bridge, netlink).map(|()| link.index),
                Some(link) if !names.owns_bridge(link) => Err("a device of this name is there already".to_owned()),
                _ => make(name, bridge, names, netlink),
            };
            match made {
                Ok(index) => drop(self.whole.insert(name.clone(), index)),
                Err(why) => drop(failed.insert(name.clone(), why)),
            }
        }
        failed
    }
}

/// Under a name of ours first, so that a half-made one is known for what it is; its own it gets with the alias.
fn make(name: &str, bridge: &Bridge, names: &Names, netlink: &mut Netlink) -> Result<u32, String> {
    let draft = names.bridge_draft();
    let step = |doing: &'static str| move |e: io::Error| format!("{doing}: {e}");
    netlink.add_link(&draft, InfoKind::Bridge).map_err(|e| match e.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "this kernel has no bridge devices".to_owned(),
        _ => format!("make the device: {e}"),
    })?;
    let index = if_nametoindex(draft.as_str()).map_err(|e| step("find the device")(e.into()))?;
    let named = vec![LinkAttribute::IfAlias(bridge.alias(names, name)), LinkAttribute::Mtu(u32::from(bridge.mtu))];
    let done = netlink
        .set_link(index, LinkFlags::empty(), named)
        .and_then(|()| netlink.set_link(index, LinkFlags::empty(), vec![LinkAttribute::IfName(name.to_owned())]))
        .map_err(step("name the device"))
        .and_then(|()| finish(name, index, bridge, netlink));
    if done.is_err() {
        let _ = netlink.delete_link(index); // The first error is the one to be told; what is left is swept.
    }
    done.map(|()| index)
}

fn finish(name: &str, index: u32, bridge: &Bridge, netlink: &mut Netlink) -> Result<(), String> {
    let step = |doing: &'static str| move |e: io::Error| format!("{doing}: {e}");
    match bridge.v6 {
        None => silence_ipv6(name),
        Some(_) => ["addr_gen_mode=1", "accept_ra=0", "disable_ipv6=0"]
            .iter()
            .filter_map(|setting| setting.split_once('='))
            .try_for_each(|(key, value)| sysctl(&format!("ipv6/conf/{name}/{key}"), value))
            .map_err(step("let it carry IPv6"))?,
    }
    if let Some(net) = bridge.v4 {
        netlink.add_address(index, net.gateway, net.subnet).map_err(step("give it its address"))?;
    }
    netlink.set_link(index, LinkFlags::Up, vec![]).map_err(step("bring it up"))?;
    if let Some(net) = bridge.v6 {
        netlink.add_address6(index, net.gateway, net.subnet).map_err(step("give it its IPv6 address"))?;
    }
    Ok(())
}
