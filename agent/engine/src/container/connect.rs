//! A container's places on networks: what is asked for at create, and joining and leaving networks later, live.

use super::{actor::Actor, etc, joined, links};
use crate::{
    engine::Shared,
    net::{NetworkRecord, check_driver_opts, check_ifname},
    record::{Durability, Place},
};
use muster_calls::{Error, Kind, Result};
use muster_model::{engine::EndpointSettings, net::Mac};

impl Shared {
    /// A place of a new container on a network as settings ask for it. Which network has a name that none of this host has now
    /// is found out when the container starts, as in Docker: it may be one of the cluster's, or come to be until then.
    ///
    /// # Errors
    /// `Invalid` and `Unimplemented` naming the field.
    pub(crate) fn place_later(&self, name: &str, settings: EndpointSettings) -> Result<Place> {
        match self.networks.find(name) {
            Err(e) if e.kind == Kind::NotFound => Ok(Place { network: name.to_owned(), ..asked_for(settings)? }),
            found => placed(&*found?, asked_for(settings)?),
        }
    }

    /// As [`Shared::place_later`], for a container that there is: the network has to be there too, or the cluster to be asked.
    ///
    /// # Errors
    /// `NotFound`; as [`Shared::place_later`].
    pub(crate) fn place_on(&self, name: &str, settings: EndpointSettings) -> Result<Place> {
        let place = self.place_later(name, settings)?;
        if place.network_id.is_empty() && !self.config.spanning.is_member() {
            self.networks.find(name)?;
        }
        Ok(place)
    }
}

/// The place on this network, if it can have what is asked for.
///
/// # Errors
/// `Invalid` and `Unimplemented` naming the field.
pub(crate) fn placed(network: &NetworkRecord, place: Place) -> Result<Place> {
    if matches!(network.driver.as_str(), "host" | "null") {
        let text = match network.driver.as_str() {
            "host" => "container cannot be disconnected from host network or connected to host network",
            _ => "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        };
        return Err(Error::invalid(text));
    }
    if network.is_remote() {
        check_ifname(&place.driver_opts)?;
    } else {
        check_driver_opts(&place.driver_opts)?;
    }
    if (place.wanted_ip.is_some() || place.wanted_ip6.is_some()) && network.is_predefined() {
        return Err(Error::invalid(
            "invalid config for network bridge: user specified IP address is supported on user defined networks only",
        ));
    }
    let unconfigured =
        (place.wanted_ip.is_some() && !network.subnet_given) || (place.wanted_ip6.is_some() && !network.subnet6_given);
    if unconfigured {
        return Err(Error::invalid(format!(
            "invalid config for network {}: invalid endpoint settings:\nuser specified IP address is supported only when connecting to networks with user configured subnets",
            network.name
        )));
    }
    if !place.aliases.is_empty() && network.is_predefined() {
        return Err(Error::invalid(
            "invalid config for network bridge: invalid endpoint settings:\nnetwork-scoped alias is supported only for containers in user defined networks",
        ));
    }
    Ok(Place { network: network.name.clone(), network_id: network.id.clone(), ..place })
}

/// What settings say of a place, whatever network it is on.
fn asked_for(settings: EndpointSettings) -> Result<Place> {
    let ipam = settings.ipam_config.unwrap_or_default();
    if !ipam.link_local_ips.is_empty() {
        return Err(Error::unimplemented("link-local addresses of endpoints (IPAMConfig.LinkLocalIPs)"));
    }
    let wanted_ip6 = match ipam.ipv6_address.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Error::invalid(format!("invalid IPv6 address: {text}")))?),
    };
    links::check_place(&settings.links)?;
    let wanted_ip = match ipam.ipv4_address.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Error::invalid(format!("invalid IPv4 address: {text}")))?),
    };
    let wanted_mac = match settings.mac_address.as_str() {
        "" => None,
        text => Some(parse_mac(text).ok_or_else(|| Error::invalid(format!("invalid MAC address: {text}")))?),
    };
    Ok(Place {
        wanted_ip,
        wanted_ip6,
        wanted_mac,
        aliases: settings.aliases,
        links: settings.links,
        driver_opts: settings.driver_opts,
        gw_priority: settings.gw_priority,
        ..Place::default()
    })
}

/// Six pairs of hexadecimal digits between colons; no group address.
pub(crate) fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|b| (b.len() == 2 && b.bytes().all(|c| c.is_ascii_hexdigit())).then(|| u8::from_str_radix(b, 16).ok())?)
        .collect::<Option<_>>()?;
    let mac: [u8; 6] = bytes.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(Mac(mac))
}

impl Actor {
    /// Joins a network; live when it runs.
    pub(super) async fn connect(&mut self, mut place: Place) -> Result<()> {
        let mode = &self.record.host.network_mode;
        if mode == "host" || joined::target(mode).is_some() {
            let what = if mode == "host" { "host" } else { "container" };
            return Err(Error::forbidden(format!(
                "container sharing network namespace with another container or {what} cannot be connected to any other network"
            )));
        }
        if mode == "none" {
            return Err(Error::forbidden(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        self.not_on(&place)?;
        if !self.record.state.is_running() {
            self.record.places.push(place);
            self.persist(Durability::Power).await?;
            self.publish();
            return Ok(());
        }
        let taken: Vec<&str> =
            self.record.places.iter().filter_map(|p| p.got.as_ref()).map(|g| g.ifname.as_str()).collect();
        let index = (0..).find(|n| !taken.contains(&format!("eth{n}").as_str())).unwrap_or(0);
        place.got = Some(self.shared.take_place(&self.record, &mut place, index).await?);
        // One that was named by its id has its name now.
        if let Err(e) = self.not_on(&place) {
            self.shared.release_place(&self.record.id, &place).await;
            self.shared.release_attachment(&mut place);
            return Err(e);
        }
        let endpoint = place.got.as_ref().map(|g| g.endpoint_id.clone()).unwrap_or_default();
        self.record.places.push(place);
        let connected = self.join_and_apply().await;
        // It has joined meanwhile if it is a plugin's; the container's way out may have come or gone.
        let at = self.record.places.iter().position(|p| p.got.as_ref().is_some_and(|g| g.endpoint_id == endpoint));
        let mut place = at.and_then(|at| self.record.places.get(at)).cloned().unwrap_or_default();
        if connected.is_err() {
            at.into_iter().for_each(|at| drop(self.record.places.remove(at)));
            self.shared.release_place(&self.record.id, &place).await;
            self.shared.release_attachment(&mut place);
            self.restore_places().await;
            return connected;
        }
        links::joined(&self.shared, &self.record, &place).await;
        self.shared.announce_network(&self.record, &place, "connect");
        Ok(())
    }

    fn not_on(&self, place: &Place) -> Result<()> {
        let same = |p: &&Place| {
            p.network == place.network || (!place.network_id.is_empty() && p.network_id == place.network_id)
        };
        match self.record.places.iter().filter(|p| !p.way_out).find(same) {
            Some(there) => Err(Error::forbidden(format!(
                "endpoint with name {} already exists in network {}",
                self.record.name, there.network
            ))),
            None => Ok(()),
        }
    }

    /// Leaves a network; live when it runs.
    pub(super) async fn disconnect(&mut self, network: &str) -> Result<()> {
        let asked_for = |p: &Place| !p.way_out && (p.network == network || p.network_id == network);
        let Some(at) = self.record.places.iter().position(asked_for) else {
            return Err(Error::forbidden(format!(
                "container {} is not connected to network {network}",
                self.record.id
            )));
        };
        let mut place = self.record.places.remove(at);
        let applied = if self.record.state.is_running() {
            self.apply_places().await
        } else {
            self.persist(Durability::Power).await
        };
        if let Err(e) = applied {
            self.record.places.insert(at, place);
            if self.record.state.is_running() {
                self.restore_places().await;
            }
            return Err(e);
        }
        self.shared.release_place(&self.record.id, &place).await;
        self.shared.release_attachment(&mut place);
        self.publish();
        if place.got.is_some() {
            self.shared.announce_network(&self.record, &place, "disconnect");
        }
        Ok(())
    }

    /// Forgets a link; a running container's file and name server do at once, its environment at the next start.
    pub(super) async fn unlink(&mut self, alias: &str) -> Result<()> {
        let before = self.record.clone();
        if !links::remove(&mut self.record, alias) {
            return Err(super::handle::no_such(&format!("{}/{alias}", self.record.name)));
        }
        if let Err(e) = self.persist(Durability::Power).await {
            self.record = before;
            return Err(e);
        }
        self.publish();
        if self.record.state.is_running() {
            links::forget(&self.shared, &self.record, alias).await;
            self.shared.sync_network(&self.record).await?;
        }
        Ok(())
    }

    async fn join_and_apply(&mut self) -> Result<()> {
        let last = self.record.places.len().saturating_sub(1);
        self.shared.join_place(&mut self.record, last).await?;
        self.apply_places().await
    }

    /// Back to what it was before a change of places failed, as far as it goes; the first error is the user's.
    async fn restore_places(&mut self) {
        let gone = self.shared.fit_way_out(&mut self.record).await.ok().flatten();
        let _ = self.shared.ports_follow_exit(&mut self.record);
        let _ = self.shared.sync_network(&self.record).await;
        let _ = self.shared.follow_exit(&mut self.record).await;
        self.shared.release_way_out(&self.record.id, gone).await;
    }

    async fn apply_places(&mut self) -> Result<()> {
        let gone = self.shared.fit_way_out(&mut self.record).await?;
        let applied = self.apply_fitted().await;
        self.shared.release_way_out(&self.record.id, gone).await;
        applied
    }

    async fn apply_fitted(&mut self) -> Result<()> {
        self.shared.ports_follow_exit(&mut self.record)?;
        let sandbox = self.shared.sandbox(&self.record);
        let attached = self.shared.config.network.attach(&sandbox).await;
        attached.map_err(|e| Error::internal(format!("failed to set up container networking: {e}")))?;
        self.shared.follow_exit(&mut self.record).await?;
        etc::rewrite_resolver(&self.shared, &self.record).await?;
        self.persist(Durability::Power).await?;
        self.publish();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_of_one_machine() {
        assert_eq!(parse_mac("02:42:ac:11:00:02"), Some(Mac([2, 0x42, 0xac, 0x11, 0, 2])));
        for bad in
            ["", "01:42:ac:11:00:02", "02:42:ac:11:00", "02:42:ac:11:00:0x", "+2:42:ac:11:00:02", "00:00:00:00:00:00"]
        {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
