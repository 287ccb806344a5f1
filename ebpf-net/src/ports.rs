//! Interfaces of endpoints: a veth pair each, host side in the host's namespace, peer in the container's.
//!
//! The kernel is the record. A pair that is whole says so in the alias of its host side, written last, with a digest of what it was
//! made from; one without it, or with another, is made anew. What can be changed in place (MTU, default route) is
//! changed in place.

use crate::{
    hooks::{Hooks, PacketHook},
    image::GroundPort,
    names::{Names, fnv, mac_for},
    netlink::{Link, Netlink, Route, Route6, VethEnd},
    netns::{Netns, cookie, sysctl},
    report::{Error, Report, chain},
};
use muster_model::{
    net::{Subnet, Subnet6},
    view::{LocalEndpoint, NetworkView, NodeView},
};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

/// The interfaces of one instance, as last seen.
#[derive(Debug, Default)]
pub struct Ports {
    /// Cookies of namespaces, valid as long as an interface of ours lives there.
    cookies: BTreeMap<(PathBuf, u64), u64>,
    /// Host routes that were set: address -> interface index.
    routes: BTreeMap<Ipv4Addr, u32>,
    routes6: BTreeMap<Ipv6Addr, u32>,
    /// Those that the view does not have any more. Their programs stay until they go, and drop what comes from them.
    doomed: Vec<Link>,
}

/// What the work needs at hand; the calling thread is in the host's namespace.
pub struct Bench<'a> {
    pub names: &'a Names,
    pub host: &'a Netns,
    pub netlink: &'a mut Netlink,
    pub hooks: &'a mut Hooks,
    /// Source address of the host towards containers.
    pub source: Option<Ipv4Addr>,
    /// The host's addresses.
    pub addrs: &'a BTreeSet<Ipv4Addr>,
    pub addrs6: &'a BTreeSet<Ipv6Addr>,
}

/// Why one endpoint has no interface.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("its network {0} is not in the view")]
    NoNetwork(String),
    #[error("its namespace {path:?} is gone")]
    Gone { path: PathBuf },
    #[error("its namespace {path:?} cannot be opened")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("its namespace {path:?} is the host's own")]
    HostNamespace { path: PathBuf },
    #[error("interface name {0:?}: expected 1 to 15 bytes")]
    BadName(String),
    #[error("two endpoints want the interface {0}")]
    NameTaken(String),
    #[error("cannot {doing}")]
    Step {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Hook(#[from] Error),
}

fn step(doing: &'static str) -> impl FnOnce(io::Error) -> Fault {
    move |source| Fault::Step { doing, source }
}

/// An endpoint that can have an interface: all that is needed was found.
struct Wanted<'a> {
    key: &'a str,
    veth: String,
    endpoint: &'a LocalEndpoint,
    net: &'a NetworkView,
    netns: &'a Netns,
}

impl Wanted<'_> {
    /// The part of the alias that cannot be changed in place.
    fn identity(&self) -> u64 {
        let e = self.endpoint;
        let net = self.net;
        let mut text = match e.ip.zip(net.v4) {
            Some((ip, net)) => {
                format!("{} {} {ip} {} {} {}", self.netns.inode(), e.ifname, e.mac, net.subnet, net.gateway)
            }
            None => format!("{} {} {}", self.netns.inode(), e.ifname, e.mac),
        };
        if let Some((ip, net)) = e.ip6.zip(net.v6) {
            text.push_str(&format!(" {ip} {} {}", net.subnet, net.gateway));
        }
        fnv(text.as_bytes())
    }

    fn alias(&self, names: &Names) -> String {
        let default_route = if self.endpoint.default_route { "d" } else { "-" };
        let default_route6 = if self.endpoint.default_route6 { "6" } else { "" };
        format!("{}{:016x}:{default_route}{default_route6}:{}", names.alias(), self.identity(), self.net.mtu)
    }

    fn same_identity(&self, names: &Names, link: &Link) -> bool {
        link.alias.starts_with(&format!("{}{:016x}:", names.alias(), self.identity()))
    }
}

impl Ports {
    /// Makes the interfaces of the view. Faults of single endpoints go into the report. Those that are in it no more wait for
    /// [`Ports::remove_doomed`].
    ///
    /// # Errors
    /// What concerns all of them.
    pub fn reconcile(
        &mut self,
        view: &NodeView,
        links: &[Link],
        bench: &mut Bench<'_>,
        report: &mut Report,
    ) -> Result<BTreeMap<String, GroundPort>, Error> {
        let namespaces = open_namespaces(view);
        let by_name: BTreeMap<&str, &Link> = links.iter().map(|l| (l.name.as_str(), l)).collect();
        let mut wanted = Vec::new();
        let mut kept: BTreeSet<String> = BTreeSet::from([bench.names.host_device(), bench.names.host_device_far()]);
        let mut taken = BTreeSet::new();
        for (key, endpoint) in &view.local {
            match self.want(key, endpoint, view, &namespaces, bench, &mut taken) {
                Ok(w) => {
                    kept.insert(w.veth.clone());
                    wanted.push(w);
                }
                Err(fault) => {
                    if matches!(fault, Fault::Unreadable { .. }) {
                        kept.insert(bench.names.veth(key)); // may work still: not ours to cut
                    }
                    report.failed.insert(key.clone(), chain(&fault));
                }
            }
        }
        self.doomed = links.iter().filter(|l| bench.names.owns(l) && !kept.contains(&l.name)).cloned().collect();
        report.removed.extend(self.doomed.iter().map(|link| link.name.clone()));
        let mut ports = BTreeMap::new();
        for w in &wanted {
            match self.ensure(w, by_name.get(w.veth.as_str()).copied(), bench) {
                Ok((port, created)) => {
                    ports.insert(w.key.to_owned(), port);
                    if created {
                        report.created.push(w.key.to_owned());
                    }
                }
                Err(Fault::Hook(Error::Worker)) => return Err(Error::Worker),
                Err(fault) => {
                    report.failed.insert(w.key.to_owned(), chain(&fault));
                }
            }
        }
        Ok(ports)
    }

    /// Names of the interfaces that go with [`Ports::remove_doomed`].
    pub fn doomed(&self) -> impl Iterator<Item = &String> {
        self.doomed.iter().map(|link| &link.name)
    }

    /// Removes the interfaces that the view does not have any more. The kernel takes some 10 ms for each: it waits until no
    /// processor can hold it in its hands (synchronize_net).
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Path`]; what is left is met again by the next [`Ports::reconcile`].
    pub fn remove_doomed(&mut self, netlink: &mut Netlink, hooks: &mut Hooks) -> Result<(), Error> {
        self.doomed.drain(..).try_for_each(|link| remove(&link, netlink, hooks))
    }

    fn want<'a>(
        &self,
        key: &'a str,
        endpoint: &'a LocalEndpoint,
        view: &'a NodeView,
        namespaces: &'a BTreeMap<&Path, io::Result<Netns>>,
        bench: &Bench<'_>,
        taken: &mut BTreeSet<(u64, &'a str)>,
    ) -> Result<Wanted<'a>, Fault> {
        let net =
            view.networks.get(&endpoint.scope).ok_or_else(|| Fault::NoNetwork(format!("{:?}", endpoint.scope)))?;
        if endpoint.ifname.is_empty() || endpoint.ifname.len() > 15 || endpoint.ifname.contains(['/', ' ', '\0']) {
            return Err(Fault::BadName(endpoint.ifname.clone()));
        }
        let path = || endpoint.netns.clone();
        let netns = match namespaces.get(endpoint.netns.as_path()) {
            Some(Ok(netns)) => netns,
            Some(Err(e)) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
                let source = e.raw_os_error().map_or_else(|| io::Error::from(e.kind()), io::Error::from_raw_os_error);
                return Err(Fault::Unreadable { path: path(), source });
            }
            _ => return Err(Fault::Gone { path: path() }),
        };
        if netns.inode() == bench.host.inode() {
            return Err(Fault::HostNamespace { path: path() });
        }
        if !taken.insert((netns.inode(), endpoint.ifname.as_str())) {
            return Err(Fault::NameTaken(endpoint.ifname.clone()));
        }
        Ok(Wanted { key, veth: bench.names.veth(key), endpoint, net, netns })
    }

    /// One interface; true when it was made just now.
    fn ensure(
        &mut self,
        w: &Wanted<'_>,
        link: Option<&Link>,
        bench: &mut Bench<'_>,
    ) -> Result<(GroundPort, bool), Fault> {
        let place = (w.endpoint.netns.clone(), w.netns.inode());
        let alias = w.alias(bench.names);
        let (ifindex, created) = match link {
            Some(link) if link.alias == alias => (link.index, false),
            Some(link) if w.same_identity(bench.names, link) => {
                adjust(w, link, &alias, bench)?;
                (link.index, false)
            }
            stale => {
                if let Some(link) = stale {
                    remove(link, bench.netlink, bench.hooks)?;
                }
                self.cookies.remove(&place);
                (create(w, &alias, bench)?, true)
            }
        };
        let cookie = match self.cookies.get(&place) {
            Some(cookie) => *cookie,
            None => {
                let cookie = inside(w.netns, bench.host, || cookie().map_err(step("read the namespace's cookie")))?;
                self.cookies.insert(place, cookie);
                cookie
            }
        };
        Ok((GroundPort { ifindex, host_mac: mac_for(&w.veth), cookie }, created))
    }

    /// The host has other addresses now: routes may have gone with one, or are to name another as their source.
    pub fn forget_routes(&mut self) {
        self.routes.clear();
        self.routes6.clear();
    }

    /// Sets the host's routes and neighbours to endpoints. `owners`: address -> endpoint key.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn route(
        &mut self,
        view: &NodeView,
        owners: &BTreeMap<Ipv4Addr, &str>,
        ports: &BTreeMap<String, GroundPort>,
        bench: &mut Bench<'_>,
    ) -> Result<(), Error> {
        self.cookies.retain(|(path, _), _| view.local.values().any(|e| &e.netns == path));
        self.routes.retain(|ip, _| owners.contains_key(ip)); // the route went with its interface
        for (ip, key) in owners {
            let (Some(port), Some(endpoint)) = (ports.get(*key), view.local.get(*key)) else { continue };
            if self.routes.get(ip) == Some(&port.ifindex) {
                continue;
            }
            let to = Subnet::containing(*ip, 32);
            // Where the host has the network's gateway, that is what it is called there, as with Docker's bridges.
            let gateway = view.networks.get(&endpoint.scope).and_then(|n| Some(n.v4?.gateway));
            let source = gateway.filter(|ip| bench.addrs.contains(ip)).or(bench.source);
            let route = Route { to, ifindex: port.ifindex, gateway: None, source };
            let failed = |source| Error::Netlink { doing: format!("set the route to {ip}"), source };
            bench.netlink.set_route(&route).map_err(failed)?;
            bench.netlink.set_neighbour(port.ifindex, (*ip).into(), endpoint.mac).map_err(failed)?;
            self.routes.insert(*ip, port.ifindex);
        }
        self.route6(view, ports, bench)
    }

    /// The same for IPv6, where an address is one endpoint's only: networks of one host do not overlap.
    fn route6(
        &mut self,
        view: &NodeView,
        ports: &BTreeMap<String, GroundPort>,
        bench: &mut Bench<'_>,
    ) -> Result<(), Error> {
        let owners: BTreeMap<Ipv6Addr, (&LocalEndpoint, u32)> =
            view.local.iter().filter_map(|(key, e)| Some((e.ip6?, (e, ports.get(key)?.ifindex)))).collect();
        self.routes6.retain(|ip, _| owners.contains_key(ip));
        for (ip, (endpoint, ifindex)) in owners {
            if self.routes6.get(&ip) == Some(&ifindex) {
                continue;
            }
            let failed = |source| Error::Netlink { doing: format!("set the route to {ip}"), source };
            let gateway = view.networks.get(&endpoint.scope).and_then(|n| Some(n.v6?.gateway));
            let source = gateway.filter(|ip| bench.addrs6.contains(ip));
            let route = Route6 { to: Subnet6::containing(ip, 128), ifindex, gateway: None, source };
            bench.netlink.set_route6(&route).map_err(failed)?;
            bench.netlink.set_neighbour(ifindex, ip.into(), endpoint.mac).map_err(failed)?;
            self.routes6.insert(ip, ifindex);
        }
        Ok(())
    }
}

/// Each namespace of the view, opened once.
fn open_namespaces(view: &NodeView) -> BTreeMap<&Path, io::Result<Netns>> {
    let paths: BTreeSet<&Path> = view.local.values().map(|e| e.netns.as_path()).collect();
    paths.into_iter().map(|path| (path, Netns::open(path))).collect()
}

fn remove(link: &Link, netlink: &mut Netlink, hooks: &mut Hooks) -> Result<(), Error> {
    hooks.forget(&link.name)?;
    match netlink.delete_link(link.index) {
        Err(e) if e.raw_os_error() != Some(libc::ENODEV) => {
            Err(Error::Netlink { doing: format!("remove interface {}", link.name), source: e })
        }
        _ => Ok(()),
    }
}

/// Makes a pair whole, or leaves nothing of it.
fn create(w: &Wanted<'_>, alias: &str, bench: &mut Bench<'_>) -> Result<u32, Fault> {
    let near = VethEnd { name: &w.veth, mac: mac_for(&w.veth), netns: None };
    let far = VethEnd { name: &w.endpoint.ifname, mac: w.endpoint.mac, netns: Some(w.netns.as_raw_fd()) };
    bench.netlink.add_veth(&near, &far, u32::from(w.net.mtu)).map_err(step("make the veth pair"))?;
    let index = if_nametoindex(w.veth.as_str()).map_err(|e| step("find the veth pair")(e.into()))?;
    let done = finish(w, index, alias, bench);
    if done.is_err() {
        let link = Link { index, name: w.veth.clone(), alias: String::new(), mac: None, mtu: 0, ethernet: true };
        if let Err(e) = remove(&link, bench.netlink, bench.hooks) {
            tracing::warn!(interface = %w.veth, error = %chain(&e), "a half-made interface stays until the next sync");
        }
    }
    done.map(|()| index)
}

fn finish(w: &Wanted<'_>, index: u32, alias: &str, bench: &mut Bench<'_>) -> Result<(), Fault> {
    match w.endpoint.ip6 {
        Some(_) => route_ipv6(&w.veth).map_err(step("let the host side carry IPv6"))?,
        None => silence_ipv6(&w.veth),
    }
    inside(w.netns, bench.host, || configure_inside(w))?;
    bench.hooks.attach_interface(PacketHook::Container, &w.veth, index)?;
    let named = vec![LinkAttribute::IfAlias(alias.to_owned())];
    bench.netlink.set_link(index, LinkFlags::Up, named).map_err(step("bring the host side up"))
}

/// The container's side: loopback, address, neighbour of the gateway, default route. The thread is in its namespace.
fn configure_inside(w: &Wanted<'_>) -> Result<(), Fault> {
    let e = w.endpoint;
    match e.ip6 {
        Some(_) => own_ipv6(&e.ifname).map_err(step("let the container's interface carry IPv6"))?,
        None => silence_ipv6(&e.ifname),
    }
    let mut netlink = Netlink::open().map_err(step("open netlink in the container's namespace"))?;
    let find = |name: &str| if_nametoindex(name).map_err(|e| step("find the container's interface")(e.into()));
    let index = find(&e.ifname)?;
    netlink.set_link(find("lo")?, LinkFlags::Up, vec![]).map_err(step("bring the container's loopback up"))?;
    if let Some((ip, net)) = e.ip.zip(w.net.v4) {
        netlink.add_address(index, ip, net.subnet).map_err(step("give the container its address"))?;
    }
    netlink.set_link(index, LinkFlags::Up, vec![]).map_err(step("bring the container's interface up"))?;
    if let Some(net) = e.ip.and(w.net.v4) {
        netlink
            .set_neighbour(index, net.gateway.into(), mac_for(&w.veth))
            .map_err(step("set the container's neighbour entry of its gateway"))?;
    }
    if let Some((ip, net)) = e.ip6.zip(w.net.v6) {
        netlink.add_address6(index, ip, net.subnet).map_err(step("give the container its IPv6 address"))?;
        netlink
            .set_neighbour(index, net.gateway.into(), mac_for(&w.veth))
            .map_err(step("set the container's neighbour entry of its IPv6 gateway"))?;
    }
    if e.default_route {
        set_default_route(&mut netlink, index, w, true)?;
    }
    if e.default_route6 {
        set_default_route6(&mut netlink, index, w, true)?;
    }
    Ok(())
}

fn set_default_route(netlink: &mut Netlink, index: u32, w: &Wanted<'_>, on: bool) -> Result<(), Fault> {
    let Some(net) = w.endpoint.ip.and(w.net.v4) else { return Ok(()) };
    let everywhere = Subnet::containing(Ipv4Addr::UNSPECIFIED, 0);
    let route = Route { to: everywhere, ifindex: index, gateway: Some(net.gateway), source: None };
    let done = if on { netlink.set_route(&route) } else { netlink.delete_route(&route) };
    done.map_err(step("set the container's default route"))
}

fn set_default_route6(netlink: &mut Netlink, index: u32, w: &Wanted<'_>, on: bool) -> Result<(), Fault> {
    let Some(net) = w.endpoint.ip6.and(w.net.v6) else { return Ok(()) };
    let everywhere = Subnet6::containing(Ipv6Addr::UNSPECIFIED, 0);
    let route = Route6 { to: everywhere, ifindex: index, gateway: Some(net.gateway), source: None };
    let done = if on { netlink.set_route6(&route) } else { netlink.delete_route6(&route) };
    done.map_err(step("set the container's IPv6 default route"))
}

/// What can be changed while the container runs.
fn adjust(w: &Wanted<'_>, link: &Link, alias: &str, bench: &mut Bench<'_>) -> Result<(), Fault> {
    let mtu = u32::from(w.net.mtu);
    inside(w.netns, bench.host, || {
        let mut netlink = Netlink::open().map_err(step("open netlink in the container's namespace"))?;
        let index =
            if_nametoindex(w.endpoint.ifname.as_str()).map_err(|e| step("find the container's interface")(e.into()))?;
        netlink
            .set_link(index, LinkFlags::empty(), vec![LinkAttribute::Mtu(mtu)])
            .map_err(step("set the container's MTU"))?;
        set_default_route(&mut netlink, index, w, w.endpoint.default_route)?;
        set_default_route6(&mut netlink, index, w, w.endpoint.default_route6)
    })?;
    let both = vec![LinkAttribute::Mtu(mtu), LinkAttribute::IfAlias(alias.to_owned())];
    bench.netlink.set_link(link.index, LinkFlags::Up, both).map_err(step("set the MTU of the host side"))
}

/// Runs `work` in the container's namespace on this thread, and comes back.
fn inside<T>(netns: &Netns, host: &Netns, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    netns.enter().map_err(step("enter the container's namespace"))?;
    let done = work();
    // A thread that cannot come back must do nothing more: the whole sync ends.
    host.enter().map_err(|_| Fault::Hook(Error::Worker))?;
    done
}

/// The host side of an interface that carries IPv6: no address of its own, nothing learnt.
fn route_ipv6(interface: &str) -> io::Result<()> {
    set_ipv6(interface, &[("addr_gen_mode", "1"), ("accept_ra", "0"), ("disable_ipv6", "0")])
}

/// The container's side: the addresses it is given, no waiting for others to object, nothing learnt from routers.
fn own_ipv6(interface: &str) -> io::Result<()> {
    set_ipv6(interface, &[("accept_dad", "0"), ("accept_ra", "0"), ("autoconf", "0"), ("disable_ipv6", "0")])
}

fn set_ipv6(interface: &str, settings: &[(&str, &str)]) -> io::Result<()> {
    settings.iter().try_for_each(|(name, value)| sysctl(&format!("ipv6/conf/{interface}/{name}"), value))
}

/// No link-local address, no neighbour discovery: what the data plane would drop anyway is not sent. A kernel without
/// IPv6, or a read-only /proc, is no reason to fail.
pub fn silence_ipv6(interface: &str) {
    if let Err(e) = sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1") {
        tracing::debug!(interface, error = %e, "IPv6 is not switched off");
    }
}
