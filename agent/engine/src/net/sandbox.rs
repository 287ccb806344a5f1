//! A container's network as one declaration: addresses and ports are taken here, and the data plane is told.

use super::{
    Dns, Endpoint, Foreign, Linked, NetworkRecord, Published, Sandbox,
    networks::{BINDING_OPTION, MTU_OPTION},
    options::IFNAME_OPTION,
    publish, relay,
};
use crate::{
    container::placed,
    engine::Shared,
    names,
    record::{Got, Place, PublishedPort, Record},
};
use muster_calls::{Error, Result};
use muster_model::{
    engine::Strings,
    net::{Mac, Protocol, Scope},
    view::Network4,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Whether containers on this network are found by name: on every one but the default bridge, as in Docker.
pub(crate) fn gives_names(place: &Place) -> bool {
    !place.way_out && (place.spanning || place.cluster.is_some() || place.network != "bridge")
}

/// Ports that are tried where any would do.
const ATTEMPTS: u32 = 100;

/// Docker's words around a network that is not there when a container starts.
fn no_network(e: Error) -> Error {
    Error::new(e.kind, format!("failed to set up container networking: {}", e.message))
}

/// The last 32 bits: what tells the addresses of one network apart, as a rule.
fn low_half(ip: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = ip.octets();
    Ipv4Addr::new(a, b, c, d)
}

/// Whether a plugin said where packets of IPv6 leave.
fn gives_way6(got: &Got) -> bool {
    got.joined.as_ref().is_some_and(|j| j.gateway6.is_some())
}

impl Shared {
    /// Takes an address on each network and the published ports, and notes them in the record. After an error nothing is
    /// taken.
    ///
    /// # Errors
    /// `NotFound` for a network that is gone, Docker's words for taken addresses and ports.
    pub async fn take_places(&self, record: &mut Record) -> Result<()> {
        let taken = self.try_take(record).await;
        if taken.is_err() {
            self.release_places(record).await;
            record.ports.clear();
            record.places.iter_mut().for_each(|p| p.got = None);
        }
        taken
    }

    async fn try_take(&self, record: &mut Record) -> Result<()> {
        for n in 0..record.places.len() {
            let mut place = Place { got: None, ..record.places[n].clone() };
            place.got = Some(self.take_place(record, &mut place, n).await?);
            record.places[n] = place;
        }
        // Where plugins have a say, who publishes ports is known when their endpoints have joined.
        if self.has_remote(record) { Ok(()) } else { self.take_ports(record) }
    }

    /// Takes an address on one network.
    pub(crate) async fn take_place(&self, record: &Record, place: &mut Place, index: usize) -> Result<Got> {
        let ifname = place.driver_opts.get(IFNAME_OPTION).cloned().unwrap_or_else(|| format!("eth{index}"));
        if self.is_spanning(place) {
            return self.take_spanning(record, place, ifname).await;
        }
        if place.cluster.is_none() {
            let network = self.network_of(place).map_err(no_network)?;
            if place.network_id.is_empty() {
                // It was not there when the container was made.
                *place = placed(&network, std::mem::take(place))?;
            }
            if network.asks_plugins() {
                let ifname = if network.is_remote() { String::new() } else { ifname };
                return self.take_remote(record, place, &network, ifname).await;
            }
        }
        self.take_local(&record.id, place, ifname)
    }

    fn network_of(&self, place: &Place) -> Result<Arc<NetworkRecord>> {
        let named = if place.network_id.is_empty() { &place.network } else { &place.network_id };
        self.networks.find(named).or_else(|_| self.networks.find(&place.network))
    }

    fn take_local(&self, container: &str, place: &mut Place, ifname: String) -> Result<Got> {
        let endpoint_id = names::new_id();
        if let Some(cluster) = &place.cluster {
            let ip = place
                .wanted_ip
                .ok_or_else(|| Error::internal(format!("the cluster gave no address on network {}", place.network)))?;
            let mac = place.wanted_mac.unwrap_or(Mac::of(ip));
            return Ok(Got {
                endpoint_id,
                ip,
                mac,
                gateway: cluster.gateway,
                prefix: cluster.subnet.prefix(),
                ifname,
                ..Got::default()
            });
        }
        let network = self.network_of(place)?;
        let (ip, v6) = self.networks.take_addresses(&network, place)?;
        if let Err(e) = self.networks.enter_user(&network, container) {
            self.networks.give_back(&network.id, ip, v6.map(|(ip, _)| ip));
            return Err(e);
        }
        place.network_id.clone_from(&network.id);
        let told_apart_by = v6.filter(|_| ip.is_unspecified()).map_or(ip, |(ip, _)| low_half(ip));
        let mac = place.wanted_mac.unwrap_or(Mac::of(told_apart_by));
        let range = network.range();
        let gateway = range.map_or(Ipv4Addr::UNSPECIFIED, |r| r.gateway);
        let prefix = range.map_or(0, |r| r.subnet.prefix());
        Ok(Got { endpoint_id, ip, mac, gateway, prefix, ifname, v6, joined: None })
    }

    /// Marks what a running container's record says as taken: after a restart of the daemon.
    pub fn hold_places(&self, record: &Record) {
        let mut inner = self.networks.lock();
        for (place, got) in
            record.places.iter().filter(|p| p.cluster.is_none()).filter_map(|p| Some((p, p.got.as_ref()?)))
        {
            got.v4().iter().for_each(|ip| inner.ipam.hold(&place.network_id, *ip));
            got.v6.iter().for_each(|(ip, _)| inner.ipam.hold6(&place.network_id, *ip));
            inner.users.entry(place.network_id.clone()).or_default().insert(record.id.clone());
        }
        drop(inner);
        self.hold_endpoints(record);
        self.hold_attachments(record);
        for port in &record.ports {
            if let Err(e) = self.ports.take(&record.id, port.protocol, port.host_ip, port.host_port..=port.host_port) {
                tracing::warn!(container.id = %record.id, error = %e, "a published port is held by somebody else now");
            }
        }
        if let Err(e) = self.relay_ports(record) {
            tracing::warn!(container.id = %record.id, error = %e, "clients over IPv6 do not reach a published port");
        }
    }

    /// Gives back everything that a record holds.
    pub async fn release_places(&self, record: &Record) {
        self.ports.release(&record.id);
        for place in &record.places {
            self.release_place(&record.id, place).await;
        }
    }

    /// Gives back one place: the endpoint where plugins have a part in it, the address.
    pub(crate) async fn release_place(&self, container: &str, place: &Place) {
        if place.cluster.is_some() {
            return;
        }
        let Some(got) = &place.got else { return };
        self.end_remote(got).await;
        self.networks.give_back(&place.network_id, got.ip, got.v6.map(|(ip, _)| ip));
        let mut inner = self.networks.lock();
        if let Some(users) = inner.users.get_mut(&place.network_id) {
            users.remove(container);
        }
    }

    pub(super) fn take_ports(&self, record: &mut Record) -> Result<()> {
        record.ports.clear();
        let (exit, exit6) = (self.exit_place(record), self.exit_place6(record));
        if exit.is_none() && exit6.is_none() {
            return Ok(());
        }
        let default_ip = exit.and_then(|n| self.option(&record.places[n], BINDING_OPTION));
        for wanted in publish::wanted(&record.config, &record.host, default_ip.unwrap_or(Ipv4Addr::UNSPECIFIED))? {
            let any = Ipv6Addr::UNSPECIFIED.into();
            let lacking = |family: &str| {
                Err(Error::unimplemented(format!(
                    "publishing a container without {family} on an {family} address ({})",
                    wanted.host_ip
                )))
            };
            match (wanted.host_ip, exit, exit6) {
                (IpAddr::V6(_), _, None) => return lacking("IPv6"),
                (IpAddr::V4(_), None, Some(_)) if wanted.any_family => {
                    self.take_port(record, &wanted, any, wanted.host_ports.clone())?;
                }
                (IpAddr::V4(_), None, _) => return lacking("IPv4"),
                _ => {
                    // Every address means those of both families.
                    let both = wanted.any_family && (exit6.is_some() || self.relays(wanted.protocol));
                    self.take_for_families(record, &wanted, both)?;
                }
            }
        }
        self.relay_ports(record).map_err(|e| Error::internal(self.port_refusal(record, &e)))
    }

    /// Takes a port at the address asked for, and the same at every address of IPv6 where `both` families are meant: another one
    /// where several would do and somebody else has that half.
    fn take_for_families(&self, record: &mut Record, wanted: &publish::Wanted, both: bool) -> Result<()> {
        let (mut range, mut attempts) = (wanted.host_ports.clone(), 0);
        loop {
            let port = self.take_port(record, wanted, wanted.host_ip, range.clone())?;
            if !both {
                return Ok(());
            }
            let taken = self.take_port(record, wanted, Ipv6Addr::UNSPECIFIED.into(), port..=port);
            let any = *range.end() == 0;
            attempts += 1;
            match taken {
                Err(_) if (any || port < *range.end()) && attempts < ATTEMPTS => {
                    record.ports.pop();
                    self.ports.give_back(wanted.protocol, wanted.host_ip, port);
                    range = if any { range } else { port + 1..=*range.end() };
                }
                other => return other.map(drop),
            }
        }
    }

    /// Has those ports at every IPv6 address relayed that lead into a container without.
    pub(super) fn relay_ports(&self, record: &Record) -> std::result::Result<(), super::ports::Error> {
        if self.exit_place6(record).is_some() {
            return Ok(());
        }
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let mut there = record.ports.iter().filter(|p| p.host_ip == any && p.protocol == Protocol::Tcp);
        there.try_for_each(|p| self.ports.relay(p.host_port))
    }

    /// Whether clients over IPv6 of a container without are passed on to it.
    fn relays(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Tcp && self.config.network.serves_host() && relay::host_has_ipv6()
    }

    fn take_port(
        &self,
        record: &mut Record,
        wanted: &publish::Wanted,
        host_ip: IpAddr,
        range: super::ports::PortRange,
    ) -> Result<u16> {
        let host_port = self
            .ports
            .take(&record.id, wanted.protocol, host_ip, range)
            .map_err(|e| Error::internal(self.port_refusal(record, &e)))?;
        let (protocol, container_port) = (wanted.protocol, wanted.container_port);
        record.ports.push(PublishedPort { protocol, host_ip, host_port, container_port });
        Ok(host_port)
    }

    fn port_refusal(&self, record: &Record, e: &super::ports::Error) -> String {
        let endpoint =
            record.places.iter().find_map(|p| p.got.as_ref()).map(|g| g.endpoint_id.as_str()).unwrap_or_default();
        format!(
            "failed to set up container networking: driver failed programming external connectivity on endpoint {} ({endpoint}): {e}",
            record.name
        )
    }

    /// The place that packets of IPv4 to elsewhere leave through: of those on networks that are not internal, the first of the
    /// highest priority.
    pub(super) fn exit_place(&self, record: &Record) -> Option<usize> {
        self.exit_among(record, |_| true)
    }

    fn exit_place6(&self, record: &Record) -> Option<usize> {
        let has_way = |place: &Place, g: &Got| if self.is_remote(place) { gives_way6(g) } else { g.v6.is_some() };
        self.exit_of(record, |place, got| got.is_some_and(|g| has_way(place, g)))
    }

    /// As [`Shared::exit_place`], where only some places count.
    pub(super) fn exit_among(&self, record: &Record, counts: impl Fn(&Place) -> bool) -> Option<usize> {
        self.exit_of(record, |place, got| {
            let way = got.is_some_and(|g| !g.gateway.is_unspecified() || gives_way6(g));
            counts(place) && (way || (!self.is_remote(place) && got.is_none()))
        })
    }

    fn exit_of(&self, record: &Record, leads: impl Fn(&Place, Option<&Got>) -> bool) -> Option<usize> {
        let fits = |p: &Place| !self.is_internal(p) && leads(p, p.got.as_ref());
        let open = record.places.iter().enumerate().filter(|(_, p)| fits(p));
        open.max_by_key(|(n, p)| (p.gw_priority, std::cmp::Reverse(*n))).map(|(n, _)| n)
    }

    pub(super) fn is_internal(&self, place: &Place) -> bool {
        match &place.cluster {
            Some(cluster) => cluster.internal,
            None => self.networks.find(&place.network_id).is_ok_and(|n| n.internal),
        }
    }

    fn option<T: std::str::FromStr>(&self, place: &Place, key: &str) -> Option<T> {
        self.networks.find(&place.network_id).ok()?.options.get(key)?.parse().ok()
    }

    /// The declaration of a container's network, from its record.
    pub fn sandbox(&self, record: &Record) -> Sandbox {
        let (exit, exit6) = (self.exit_place(record), self.exit_place6(record));
        // A place without an address is none: it was asked for and not taken yet.
        let placed = record.places.iter().enumerate().filter(|(_, p)| p.got.is_some());
        let endpoints: Vec<Endpoint> =
            placed.filter_map(|(n, p)| self.endpoint(record, p, (exit == Some(n), exit6 == Some(n)))).collect();
        let foreign = record.places.iter().filter_map(|p| self.foreign(record, p)).collect();
        let leads = |six: bool| move |e: &Endpoint| if six { e.default_route6 } else { e.default_route };
        let endpoint = |host_ip: IpAddr| endpoints.iter().position(leads(host_ip.is_ipv6())).unwrap_or(0);
        // What is relayed comes by the port's IPv4 side.
        let carried = record.ports.iter().filter(|p| p.host_ip.is_ipv4() || exit6.is_some());
        let published = carried.map(|p| Published {
            protocol: p.protocol,
            host_ip: p.host_ip,
            host_port: p.host_port,
            container_port: p.container_port,
            endpoint: endpoint(p.host_ip),
        });
        let published = published.collect();
        Sandbox {
            container_id: record.id.clone(),
            container_name: record.name.clone(),
            netns: self.netns(&record.id),
            published,
            endpoints,
            foreign,
            dns: Dns {
                embedded: self.has_embedded_dns(record),
                servers: record.host.dns.iter().filter_map(|s| s.parse().ok()).collect(),
                search: record.host.dns_search.clone(),
                options: record.host.dns_options.clone(),
                links: self.linked(record),
            },
        }
    }

    /// Whether the container asks 127.0.0.11.
    pub fn has_embedded_dns(&self, record: &Record) -> bool {
        self.config.network.provides_dns() && record.places.iter().any(gives_names)
    }

    /// `routes`: whether it carries the default routes of IPv4 and of IPv6.
    fn endpoint(&self, record: &Record, place: &Place, routes: (bool, bool)) -> Option<Endpoint> {
        let got = place.got.as_ref().filter(|_| !self.is_remote(place))?;
        let (scope, subnet, internal, isolated, routed, mtu) = match &place.cluster {
            Some(c) => (c.scope, Some(c.subnet), c.internal, false, false, c.mtu),
            None => {
                let network: &NetworkRecord = &*self.networks.find(&place.network_id).ok()?;
                let mtu = network.options.get(MTU_OPTION).and_then(|m| m.parse().ok()).unwrap_or(self.config.mtu);
                let (isolated, routed) = (network.is_isolated(), network.is_routed());
                (Scope::local(network.scope), network.subnet, network.internal, isolated, routed, mtu)
            }
        };
        Some(Endpoint {
            key: got.endpoint_id.clone(),
            scope,
            network_id: place.network_id.clone(),
            network_name: place.network.clone(),
            internal,
            isolated,
            routed,
            mtu,
            v4: got.v4().zip(subnet).map(|(ip, subnet)| (ip, Network4 { subnet, gateway: got.gateway })),
            v6: got.v6,
            mac: got.mac,
            ifname: got.ifname.clone(),
            default_route: routes.0,
            default_route6: routes.1,
            names: if gives_names(place) { self.dns_names(record, place) } else { Vec::new() },
        })
    }

    /// What the container calls others.
    fn linked(&self, record: &Record) -> Vec<Linked> {
        let scope = |place: &Place| match &place.cluster {
            Some(cluster) => Some(cluster.scope),
            None => self.networks.find(&place.network_id).ok().map(|n| Scope::local(n.scope)),
        };
        let links = crate::container::named_links(record).filter_map(|(alias, target, place)| {
            let scope = match place {
                Some(place) => Some(scope(place)?),
                None => None,
            };
            Some(Linked { alias: alias.to_ascii_lowercase(), target: target.to_ascii_lowercase(), scope })
        });
        let mut all: Vec<Linked> = Vec::new();
        for link in links {
            // Clients write one both into the host configuration and into that of the place.
            let same = |l: &Linked| (&l.alias, &l.target) == (&link.alias, &link.target);
            if !all.iter().any(|l| same(l) && (l.scope.is_none() || l.scope == link.scope)) {
                all.push(link);
            }
        }
        all
    }

    fn foreign(&self, record: &Record, place: &Place) -> Option<Foreign> {
        let got = place.got.as_ref().filter(|_| self.is_remote(place))?;
        let scope = Scope::local(self.networks.find(&place.network_id).ok()?.scope);
        Some(Foreign { scope, ip: got.ip, ip6: got.v6.map(|(ip, _)| ip), names: self.dns_names(record, place) })
    }

    /// What a container is called on a network with names.
    pub fn dns_names(&self, record: &Record, place: &Place) -> Vec<String> {
        let own = [record.name.as_str(), names::short(&record.id)];
        let hostname = Some(record.config.hostname.as_str()).filter(|h| !h.is_empty());
        let mut all: Vec<String> = Vec::new();
        for name in own.into_iter().chain(place.aliases.iter().map(String::as_str)).chain(hostname) {
            if !all.iter().any(|n| n == name) {
                all.push(name.to_owned());
            }
        }
        all
    }

    /// Tells the data plane how the container's network shall be.
    pub async fn sync_network(&self, record: &Record) -> Result<()> {
        if record.places.is_empty() {
            return Ok(());
        }
        let attached = self.config.network.attach(&self.sandbox(record)).await;
        attached.map_err(|e| Error::internal(format!("failed to set up container networking: {e}")))
    }

    /// Publishes `connect` or `disconnect` of each network a container is on.
    pub fn announce_networks(&self, record: &Record, action: &str) {
        for place in record.places.iter().filter(|p| p.got.is_some() && !p.way_out) {
            self.announce_network(record, place, action);
        }
    }

    pub fn announce_network(&self, record: &Record, place: &Place, action: &str) {
        let driver = match &place.cluster {
            Some(_) => "overlay".to_owned(),
            None => self.networks.find(&place.network_id).map_or_else(|_| "bridge".to_owned(), |n| n.driver.clone()),
        };
        let attributes: Strings = [("container", record.id.as_str()), ("name", &place.network), ("type", &driver)]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        self.events.publish("network", action, place.network_id.clone(), attributes);
    }
}
