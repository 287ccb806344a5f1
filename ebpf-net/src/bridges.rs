//! Gateway devices: the bridge that the host has for each bridge network (`docker0`, `br-...`, or what a user names it), with the
//! network's gateway addresses. Nothing is put into it.
//!
//! Containers do not hang on it, and no packet of theirs passes it: their veth pairs have longer routes of their own. It is there
//! for the host: its address and the route of the subnet are seen, services that listen on the gateway's address are
//! reached by the network's containers, and it is the gateway's address that the host speaks to them with.
//!
//! The kernel is the record: a device of ours says so in its alias. Any other of the name is somebody else's, and left alone.

use crate::{
    host::Survey,
    names::{Names, fnv},
    netlink::{Link, Netlink},
    netns::sysctl,
    ports::silence_ipv6,
};
use muster_model::view::{Network4, Network6};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags};
use std::{collections::BTreeMap, io};

/// A device that is wanted, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    pub v4: Option<Network4>,
    pub v6: Option<Network6>,
    /// Bytes.
    pub mtu: u16,
}

impl Bridge {
    fn is_addressed(&self, survey: &Survey) -> bool {
        self.v4.is_none_or(|net| survey.addrs.contains(&net.gateway))
            && self.v6.is_none_or(|net| survey.addrs6.contains(&net.gateway))
    }

    fn alias(&self, names: &Names, name: &str) -> String {
        format!(
            "{}{:016x}",
            names.bridge_alias(),
            fnv(format!("{name} {:?} {:?} {}", self.v4, self.v6, self.mtu).as_bytes())
        )
    }
}

/// Why a device is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBridge {
    #[error("a device of this name is there already")]
    Taken,
    #[error("{0}")]
    Failed(String),
}

/// The devices as last seen.
#[derive(Debug, Default)]
pub struct Bridges {
    whole: BTreeMap<String, u32>,
    /// Addresses of the host have come or gone by our hand.
    changed: bool,
}

impl Bridges {
    /// Makes the devices those that are wanted; answers with those that could not be made, and why. `survey` tells which of
    /// them have lost their addresses.
    pub fn reconcile(
        &mut self,
        wanted: &BTreeMap<String, Bridge>,
        links: &[Link],
        survey: &Survey,
        names: &Names,
        netlink: &mut Netlink,
    ) -> BTreeMap<String, NoBridge> {
        let mut failed = BTreeMap::new();
        let fits = |link: &Link| wanted.get(&link.name).is_some_and(|b| b.alias(names, &link.name) == link.alias);
        // One that was left half-made has no alias yet, and its name of ours.
        let half_made = |link: &Link| link.name == names.bridge_draft() && names.owns(link);
        for link in links.iter().filter(|l| half_made(l) || (names.owns_bridge(l) && !fits(l))) {
            self.whole.remove(&link.name);
            self.changed = true;
            if let Err(e) = netlink.delete_link(link.index)
                && e.raw_os_error() != Some(libc::ENODEV)
            {
                failed.insert(link.name.clone(), NoBridge::Failed(format!("remove the old device: {e}")));
            }
        }
        let there: BTreeMap<&str, u32> = links.iter().map(|l| (l.name.as_str(), l.index)).collect();
        self.whole.retain(|name, index| {
            there.get(name.as_str()) == Some(index) && wanted.get(name).is_some_and(|b| b.is_addressed(survey))
        });
        for (name, bridge) in wanted {
            if self.whole.contains_key(name) {
                continue;
            }
            let there = links.iter().find(|l| l.name == *name);
            let made = match there {
                Some(link) if fits(link) => finish(name, link.index, bridge, netlink).map(|()| link.index),
                Some(link) if !names.owns_bridge(link) => Err(NoBridge::Taken),
                _ => make(name, bridge, names, netlink),
            };
            match made {
                Ok(index) => {
                    self.changed = true;
                    self.whole.insert(name.clone(), index);
                }
                Err(why) => drop(failed.insert(name.clone(), why)),
            }
        }
        failed
    }

    /// Whether anything was made or removed since this was asked last: then the host's addresses are others, and routes that
    /// named one of them as their source are gone.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

/// Under a name of ours first, so that a half-made one is known for what it is; its own it gets with the alias.
fn make(name: &str, bridge: &Bridge, names: &Names, netlink: &mut Netlink) -> Result<u32, NoBridge> {
    let draft = names.bridge_draft();
    netlink.add_link(&draft, InfoKind::Bridge).map_err(|e| match e.raw_os_error() {
        Some(libc::EOPNOTSUPP) => NoBridge::Failed("this kernel has no bridge devices".to_owned()),
        _ => step("make the device")(e),
    })?;
    let index = if_nametoindex(draft.as_str()).map_err(|e| step("find the device")(e.into()))?;
    let named = vec![LinkAttribute::IfAlias(bridge.alias(names, name)), LinkAttribute::Mtu(u32::from(bridge.mtu))];
    let done = netlink
        .set_link(index, LinkFlags::empty(), named)
        .and_then(|()| netlink.set_link(index, LinkFlags::empty(), vec![LinkAttribute::IfName(name.to_owned())]))
        .map_err(|e| match e.raw_os_error() {
            Some(libc::EEXIST) => NoBridge::Taken, // just now
            _ => step("name the device")(e),
        })
        .and_then(|()| finish(name, index, bridge, netlink));
    if done.is_err() {
        let _ = netlink.delete_link(index); // The first error is the one to be told; what is left is swept.
    }
    done.map(|()| index)
}

fn step(doing: &'static str) -> impl FnOnce(io::Error) -> NoBridge {
    move |e| NoBridge::Failed(format!("{doing}: {e}"))
}

fn finish(name: &str, index: u32, bridge: &Bridge, netlink: &mut Netlink) -> Result<(), NoBridge> {
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
