//! An endpoint of a plugin in a container's network namespace: its interface, its routes, published ports.

use super::{
    Joined,
    driver::{Driver, Endpoint, Route},
    endpoint::ports,
    wire::{self, Plan},
};
use crate::{
    engine::Shared,
    net::{options::IFNAME_OPTION, publish},
    record::{NO_MAC, Place, Record},
};
use muster_calls::{Error, Result};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What interfaces are called where a plugin says nothing.
const PREFIX: &str = "eth";

impl Shared {
    /// Whether a place is on a network of a plugin.
    pub(in crate::net) fn is_remote(&self, place: &Place) -> bool {
        place.cluster.is_none() && self.networks.find(&place.network_id).is_ok_and(|n| n.is_remote())
    }

    pub(in crate::net) fn has_remote(&self, record: &Record) -> bool {
        record.places.iter().any(|p| self.is_remote(p))
    }

    /// Joins the endpoints of plugins to the container's network namespace, which is there now; then the ports are taken, or a
    /// plugin is asked to publish them.
    ///
    /// # Errors
    /// What a plugin or the kernel says. Places keep what they have then: [`Shared::release_places`] takes it back.
    pub(crate) async fn join_places(&self, record: &mut Record) -> Result<()> {
        if !self.has_remote(record) {
            return Ok(());
        }
        for n in 0..record.places.len() {
            self.join_place(record, n).await?;
        }
        // None was there before.
        drop(self.fit_way_out(record).await?);
        self.check_way_out(record)?;
        self.ports_follow_exit(record)?;
        self.follow_exit(record).await
    }

    /// Ports are published on the way out: without one they would be on no host at all.
    fn check_way_out(&self, record: &Record) -> Result<()> {
        if self.exit_place(record).is_some()
            || publish::wanted(&record.config, &record.host, Ipv4Addr::UNSPECIFIED)?.is_empty()
        {
            return Ok(());
        }
        let networks = record.places.iter().filter(|p| self.is_remote(p));
        let open = networks.filter_map(|p| self.networks.find(&p.network_id).ok()).find(|n| !n.internal);
        open.map_or(Ok(()), |network| {
            Err(Error::unimplemented(format!(
                "published ports on network {}, for which plugin {} names no gateway and wants no other",
                network.name, network.driver
            )))
        })
    }

    /// Joins one place, if it is a plugin's and has not joined.
    pub(crate) async fn join_place(&self, record: &mut Record, n: usize) -> Result<()> {
        let place = &record.places[n];
        let Some(got) = place.got.as_ref().filter(|g| g.joined.is_none() && self.is_remote(place)) else {
            return Ok(());
        };
        let network = self.networks.find(&place.network_id)?;
        let driver = Driver::new(&self.plugins, &network.driver);
        let of = Endpoint { network: &network.id, id: &got.endpoint_id };
        let mut entry = self.ledger.get(of.id).ok_or_else(|| Error::internal("an endpoint was not noted"))?;
        entry.joined = true;
        self.ledger.note(&entry).await?;
        let sandbox = self.netns(&record.id);
        let told = driver.join(&of, &sandbox.to_string_lossy(), ports(record)?).await?;
        let leads_out = |r: &Route| r.to.1 == 0 && r.to.0.is_ipv4();
        let own_way = told.closed || told.routes.iter().any(leads_out);
        let mut got = got.clone();
        let mut mac = Some(got.mac).filter(|m| *m != NO_MAC);
        if told.source.is_empty() {
            // A plugin may bring the interface in by itself, or none.
            mac = mac.or(driver.mac(&of).await);
        } else {
            got.ifname = name_for(record, place, &told.prefix);
            let plan = Plan {
                netns: sandbox,
                source: told.source.clone(),
                name: got.ifname.clone(),
                mac,
                ip: (got.ip, got.prefix),
                ip6: got.v6.map(|(ip, net)| (ip, net.subnet.prefix())),
                routes: told.routes,
            };
            entry.interface = Some((got.ifname.clone(), told.source.clone()));
            self.ledger.note(&entry).await?;
            let put = wire::put_in(plan).await;
            if put.is_err() {
                // It is not in there; something else of this name may be.
                entry.interface = None;
                self.ledger.note(&entry).await?;
            }
            mac = Some(put?);
        }
        got.mac = mac.unwrap_or(NO_MAC);
        got.gateway = told.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
        if let Some((_, net)) = &mut got.v6 {
            net.gateway = told.gateway6.unwrap_or(Ipv6Addr::UNSPECIFIED);
        }
        got.joined = Some(Joined { source: told.source, gateway6: told.gateway6, own_way, programmed: false });
        record.places[n].got = Some(got);
        Ok(())
    }

    /// Host ports are the engine's as long as packets leave through a network of its own; else they are the plugin's to
    /// publish. Before the data plane is told.
    pub(crate) fn ports_follow_exit(&self, record: &mut Record) -> Result<()> {
        let exit = self.exit_place(record);
        match exit {
            Some(n) if self.is_remote(&record.places[n]) => {
                self.ports.release(&record.id);
                record.ports.clear();
                Ok(())
            }
            _ if !record.ports.is_empty() => self.relay_ports(record).map_err(|e| Error::internal(e.to_string())),
            _ => self.take_ports(record),
        }
    }

    /// Makes the place that packets leave through the one that has the default routes and the published ports, among those
    /// of plugins. After the data plane was told.
    pub(crate) async fn follow_exit(&self, record: &mut Record) -> Result<()> {
        if !self.has_remote(record) {
            return Ok(());
        }
        let exit = self.exit_place(record);
        for n in 0..record.places.len() {
            self.route_place(record, n, exit == Some(n)).await?;
        }
        Ok(())
    }

    async fn route_place(&self, record: &mut Record, n: usize, here: bool) -> Result<()> {
        let place = &record.places[n];
        let Some(got) = place.got.as_ref().filter(|_| self.is_remote(place)) else { return Ok(()) };
        let Some(joined) = got.joined.clone() else { return Ok(()) };
        if !joined.source.is_empty() {
            let gateway = Some(got.gateway).filter(|g| !g.is_unspecified());
            let by = (gateway, joined.gateway6);
            wire::route_default(self.netns(&record.id), got.ifname.clone(), by, here).await?;
        }
        let publish = here && record.ports.is_empty();
        if publish == joined.programmed {
            return Ok(());
        }
        let network = self.networks.find(&place.network_id)?;
        let driver = Driver::new(&self.plugins, &network.driver);
        let of = Endpoint { network: &network.id, id: &got.endpoint_id };
        if publish {
            if let Some(mut entry) = self.ledger.get(of.id) {
                entry.programmed = true;
                self.ledger.note(&entry).await?;
            }
            let wanted = !publish::wanted(&record.config, &record.host, Ipv4Addr::UNSPECIFIED)?.is_empty();
            if !driver.publish(&of, ports(record)?).await? && wanted {
                return Err(Error::unimplemented(format!(
                    "published ports on a network of plugin {}, which publishes none",
                    network.driver
                )));
            }
        } else {
            driver.unpublish(&of).await?;
        }
        if let Some(joined) = record.places[n].got.as_mut().and_then(|g| g.joined.as_mut()) {
            joined.programmed = publish;
        }
        Ok(())
    }
}

/// The interface's name in the container: as the endpoint's options say, or the first number that is free.
fn name_for(record: &Record, place: &Place, prefix: &str) -> String {
    if let Some(name) = place.driver_opts.get(IFNAME_OPTION) {
        return name.clone();
    }
    let prefix = if prefix.is_empty() { PREFIX } else { prefix };
    let others: Vec<&str> = record.places.iter().filter_map(|p| p.got.as_ref()).map(|g| g.ifname.as_str()).collect();
    (0_u32..)
        .map(|n| format!("{prefix}{n}"))
        .find(|name| !others.contains(&name.as_str()))
        .unwrap_or_else(|| format!("{prefix}0"))
}
