//! A container's endpoint on a network of a plugin, or with an address of one: taken, and ended.

use super::{
    NULL_IPAM,
    driver::{Driver, Endpoint, Interface, port_options},
    ledger::Entry,
    pools::Pools,
};
use crate::{
    engine::Shared,
    names,
    net::{NetworkRecord, publish},
    record::{Got, NO_MAC, Place, Record},
};
use muster_calls::{Error, Result};
use muster_model::{
    engine::Strings,
    net::{Mac, Protocol, Subnet6},
    view::Network6,
};
use serde_json::{Map, Value};
use std::net::{Ipv4Addr, Ipv6Addr};

impl Shared {
    /// Takes an endpoint: addresses, and what the network's plugin makes. After an error nothing is taken, or it is owed.
    pub(in crate::net) async fn take_remote(
        &self,
        record: &Record,
        place: &mut Place,
        network: &NetworkRecord,
        ifname: String,
    ) -> Result<Got> {
        self.settle_with(network).await;
        let driver = if network.is_remote() { network.driver.clone() } else { String::new() };
        let mut entry = Entry {
            endpoint: names::new_id(),
            container: record.id.clone(),
            network: network.id.clone(),
            created: network.is_remote(),
            driver,
            ipam_driver: network.ipam_driver.clone(),
            ..Entry::default()
        };
        self.networks.enter_user(network, &record.id)?;
        place.network_id.clone_from(&network.id);
        let mut got = Got { endpoint_id: entry.endpoint.clone(), ifname, ..Got::default() };
        let mut asked = false;
        let taken = match self.ledger.note(&entry).await {
            Ok(()) => self.fill_endpoint(record, place, network, (&mut entry, &mut asked), &mut got).await,
            Err(e) => Err(e),
        };
        if let Err(e) = taken {
            if entry.created && !asked {
                // The plugin is away, and is owed nothing for it.
                entry.created = false;
                let _ = self.ledger.note(&entry).await; // An older note says more than is so, and does no harm.
            }
            let taken = Place { got: Some(got), ..place.clone() };
            self.release_place(&record.id, &taken).await;
            return Err(e);
        }
        Ok(got)
    }

    async fn fill_endpoint(
        &self,
        record: &Record,
        place: &Place,
        network: &NetworkRecord,
        (entry, asked): (&mut Entry, &mut bool),
        got: &mut Got,
    ) -> Result<()> {
        let mut given = Interface { mac: place.wanted_mac, ..Interface::default() };
        match network.ipam_driver.as_str() {
            "" => {
                let (ip, ip6) = self.networks.take_addresses(network, place)?;
                (got.ip, got.v6) = (ip, ip6);
                let prefix = network.subnet.map_or(32, muster_model::net::Subnet::prefix);
                given.ip = Some((ip, prefix));
                given.ip6 = ip6.map(|(ip, net)| (ip, net.subnet.prefix()));
            }
            NULL_IPAM => {}
            _ => self.ask_addresses(place, network, entry, &mut given).await?,
        }
        if network.is_remote() {
            let driver = Driver::new(&self.plugins, &network.driver);
            let of = Endpoint { network: &network.id, id: &entry.endpoint };
            let mut options = ports(record)?;
            options.extend(place.driver_opts.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))));
            given = driver.create_endpoint(&of, &given, options, asked).await?;
        }
        let (ip, prefix) = given.ip.ok_or_else(|| {
            Error::internal(format!(
                "network {}: neither its IPAM driver nor its plugin gave an IPv4 address",
                network.name
            ))
        })?;
        (got.ip, got.prefix) = (ip, prefix);
        got.v6 = given.ip6.map(|(ip, prefix)| (ip, half(network, ip, prefix)));
        // Of a plugin's interface it is known when it is there.
        let drawn = if network.is_remote() { NO_MAC } else { Mac::of(ip) };
        got.mac = given.mac.unwrap_or(drawn);
        got.gateway = network.gateway.filter(|_| !network.is_remote()).unwrap_or(Ipv4Addr::UNSPECIFIED);
        Ok(())
    }

    /// Addresses of an address plugin, each noted as soon as it is had.
    async fn ask_addresses(
        &self,
        place: &Place,
        network: &NetworkRecord,
        entry: &mut Entry,
        given: &mut Interface,
    ) -> Result<()> {
        let pools = Pools::new(&self.plugins, &network.ipam_driver);
        let options: Strings = pools.options_for(&mut given.mac).await?;
        let foreign = |ip: &dyn std::fmt::Display| {
            Error::internal(format!("plugin {}: address {ip} is not of network {}", network.ipam_driver, network.name))
        };
        if let Some(pool) = &network.pool {
            let wanted = place.wanted_ip.map(|ip| ip.to_string()).unwrap_or_default();
            let (ip, prefix) = pools.take::<Ipv4Addr>(&pool.id, &wanted, &options).await?;
            entry.addresses.push((pool.id.clone(), ip.into()));
            self.ledger.note(entry).await?;
            if !network.subnet.is_some_and(|s| s.contains(ip)) {
                return Err(foreign(&ip));
            }
            given.ip = Some((ip, prefix));
        }
        if let Some(pool) = &network.pool6 {
            let wanted = place.wanted_ip6.map(|ip| ip.to_string()).unwrap_or_default();
            let (ip, prefix) = pools.take::<Ipv6Addr>(&pool.id, &wanted, &options).await?;
            entry.addresses.push((pool.id.clone(), ip.into()));
            self.ledger.note(entry).await?;
            if !network.subnet6.is_some_and(|s| s.contains(ip)) {
                return Err(foreign(&ip));
            }
            given.ip6 = Some((ip, prefix));
        }
        Ok(())
    }
}

/// The IPv6 half of a network as an endpoint sees it. A plugin's gateway is known when the endpoint has joined.
fn half(network: &NetworkRecord, ip: Ipv6Addr, prefix: u8) -> Network6 {
    let gateway = network.gateway6.filter(|_| !network.is_remote()).unwrap_or(Ipv6Addr::UNSPECIFIED);
    Network6 { subnet: network.subnet6.unwrap_or_else(|| Subnet6::containing(ip, prefix)), gateway }
}

/// What plugins are told of a container's ports.
pub(super) fn ports(record: &Record) -> Result<Map<String, Value>> {
    let exposed: Vec<(u16, Protocol)> =
        record.config.exposed_ports.iter().filter_map(|port| publish::parse_port(port).ok()).collect();
    Ok(port_options(&exposed, &publish::wanted(&record.config, &record.host, Ipv4Addr::UNSPECIFIED)?))
}
