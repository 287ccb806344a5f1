//! The data plane of one host, from the outside: open, sync, look, remove.

use crate::{
    bpffs,
    bridges::{Bridge, Bridges, NoBridge},
    config::{Config, DnsPorts, Surroundings},
    counters::Reason,
    hooks::{Hooks, PacketHook},
    host::{HostDevice, Learning, Survey, TUNNEL_OVERHEAD, enable_forwarding, enable_forwarding6},
    image::{Ground, GroundPort, MapImage, host_routes, masqueraded, masqueraded6, outbound},
    layout::MAPS_DIR,
    masquerade,
    names::Names,
    netlink::{Link, Netlink},
    netns::{self, Netns},
    ports::{Bench, Ports},
    probe::{Capabilities, probe},
    report::{Error, Report, chain},
    tables::Tables,
};
use muster_model::{
    net::{Subnet, Subnet6},
    view::{LocalEndpoint, NodeView},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Pins of the socket programs: those of containers, those of the host's processes.
const CONTAINERS: &str = "cgroup";
const HOST: &str = "hostcgroup";

/// The kernel's network programs, maps and interfaces of one host. See the crate's head for how to use it.
///
/// Dropping it leaves everything in the kernel as it is, packets go on flowing; [`DataPlane::close_and_remove`] does not.
pub struct DataPlane {
    config: Config,
    names: Names,
    host: Arc<Netns>,
    host_path: PathBuf,
    capabilities: Capabilities,
    hooks: Hooks,
    tables: Tables,
    ports: Ports,
    host_device: HostDevice,
    bridges: Bridges,
    /// What the nft tables hold; `None`: not known.
    masqueraded: Option<BTreeSet<Subnet>>,
    masqueraded6: Option<BTreeSet<Subnet6>>,
    /// The host was told to forward packets, of either family.
    forwards: bool,
    forwards6: bool,
    learning: Learning,
    swept: bool,
}

impl DataPlane {
    /// Loads the programs and opens or makes the pinned maps. What runs from before runs on: the first
    /// [`DataPlane::sync`] replaces it piece by piece, none of which loses a packet.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad configuration, [`Error::Kernel`] when the kernel lacks something that cannot be done
    /// without, [`Error::Netns`], [`Error::Path`], [`Error::Bpf`].
    pub fn open(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let capabilities = probe();
        if !capabilities.sufficient() {
            return Err(Error::Kernel { what: capabilities.to_string() });
        }
        let host_path = config.host_netns.clone().unwrap_or_else(|| "/proc/thread-self/ns/net".into());
        let host = Netns::open(&host_path).map_err(|source| Error::Netns { path: host_path.clone(), source })?;
        bpffs::prepare(&config.bpffs_dir)?;
        let hooks = Hooks::load(&config.bpffs_dir, config.attach, capabilities.tcx, capabilities.set_retval)?;
        let tables = Tables::open(&config.bpffs_dir.join(MAPS_DIR))?;
        Ok(Self {
            names: Names::new(&config.instance),
            config,
            host: Arc::new(host),
            host_path,
            capabilities,
            hooks,
            tables,
            ports: Ports::default(),
            host_device: HostDevice::default(),
            bridges: Bridges::default(),
            masqueraded: None,
            masqueraded6: None,
            forwards: false,
            forwards6: false,
            learning: Learning::default(),
            swept: false,
        })
    }

    /// Makes the kernel equal to the view. May be called at any time, with any view, as often as liked; after a crash or
    /// an error in the middle the next call repairs. An endpoint that cannot be served is named in the report and
    /// holds nobody else up.
    ///
    /// The view is the whole truth: an endpoint that is not in it loses its interface at once. After a restart of the
    /// daemon the first view must therefore be complete; until then the kernel goes on with what it has.
    ///
    /// # Errors
    /// What concerns the whole host; the parts that were done stay done.
    pub fn sync(&mut self, view: &NodeView, around: &Surroundings) -> Result<Report, Error> {
        let report = self.apply(view, around)?;
        self.tidy()?;
        Ok(report)
    }

    /// [`DataPlane::sync`] but for the interfaces that are to go: nothing passes them any more, and [`DataPlane::tidy`] takes
    /// them away. For who has somebody waiting.
    ///
    /// # Errors
    /// As [`DataPlane::sync`].
    pub fn apply(&mut self, view: &NodeView, around: &Surroundings) -> Result<Report, Error> {
        let started = Instant::now();
        let (host, path) = (self.host.clone(), self.host_path.clone());
        let mut report = host.run(&path, || self.sync_here(view, around))??;
        report.took = started.elapsed();
        Ok(report)
    }

    /// Removes the interfaces that the last [`DataPlane::apply`] left over.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Path`]; the next call of `apply` finds what is left.
    pub fn tidy(&mut self) -> Result<(), Error> {
        if self.ports.doomed().next().is_none() {
            return Ok(());
        }
        let (host, path) = (self.host.clone(), self.host_path.clone());
        host.run(&path, || self.ports.remove_doomed(&mut open_netlink()?, &mut self.hooks))?
    }

    /// Makes the host's gateway devices these, and nothing else: for who does not know the whole view yet, and wants to know which of
    /// them there can be. The next [`DataPlane::sync`] is to be told the same.
    ///
    /// # Errors
    /// As [`DataPlane::sync`], of the host as a whole.
    pub fn bridges(&mut self, wanted: &BTreeMap<String, Bridge>) -> Result<BTreeMap<String, NoBridge>, Error> {
        let (host, path) = (self.host.clone(), self.host_path.clone());
        host.run(&path, || {
            let mut netlink = open_netlink()?;
            let links = list_links(&mut netlink)?;
            let survey = Survey::take(&self.config, &self.names, &links, &mut netlink)?;
            Ok(self.bridges.reconcile(wanted, &links, &survey, &self.names, &mut netlink))
        })?
    }

    /// What the kernel programs counted since the maps were made, on all processors together.
    ///
    /// # Errors
    /// [`Error::Bpf`].
    pub fn counters(&self) -> Result<Vec<(Reason, u64)>, Error> {
        self.tables.counters()
    }

    /// What this kernel can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Takes everything of this instance out of the kernel: programs, maps, interfaces, routes, the nft table. Only
    /// `ip_forward` stays on.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is tried all the same.
    pub fn close_and_remove(mut self) -> Result<(), Error> {
        let (host, path) = (self.host.clone(), self.host_path.clone());
        let in_namespace = host.run(&path, || self.remove_here()).and_then(|done| done);
        let pins = bpffs::remove(&self.config.bpffs_dir);
        in_namespace.and(pins)
    }

    /// The whole of a sync; the thread is in the host's namespace.
    fn sync_here(&mut self, view: &NodeView, around: &Surroundings) -> Result<Report, Error> {
        let mut report = Report::default();
        let mut netlink = open_netlink()?;
        let links = list_links(&mut netlink)?;
        let mut survey = Survey::take(&self.config, &self.names, &links, &mut netlink)?;
        // First: their addresses are the host's.
        report.bridges = self.bridges.reconcile(&around.bridges, &links, &survey, &self.names, &mut netlink);
        if self.bridges.take_changed() {
            survey = Survey::take(&self.config, &self.names, &links, &mut netlink)?;
            self.ports.forget_routes();
        }
        let source = survey.addrs.contains(&self.config.vtep_ip).then_some(self.config.vtep_ip);

        let mut bench = Bench {
            names: &self.names,
            host: &self.host,
            netlink: &mut netlink,
            hooks: &mut self.hooks,
            source,
            addrs: &survey.addrs,
            addrs6: &survey.addrs6,
        };
        let ports = self.ports.reconcile(view, &links, &mut bench, &mut report)?;
        let host_if = match survey.tunnel {
            Some((_, mtu)) => {
                let mtu = mtu.saturating_sub(TUNNEL_OVERHEAD);
                Some(self.host_device.ensure(&self.names, &links, mtu, bench.netlink, bench.hooks)?)
            }
            None => None,
        };

        let ground = self.ground(&survey, host_if, ports.clone(), around, &mut report);
        let (image, notes) = MapImage::of(view, &ground);
        report.notes.extend(notes);
        let written = self.tables.write(&image)?;
        (report.entries_written, report.entries_deleted) = (written.put, written.deleted);

        // Programs start or are replaced when the maps they read are right.
        self.attach(view, &survey, &ports, &mut report)?;
        let mut bench = Bench {
            names: &self.names,
            host: &self.host,
            netlink: &mut netlink,
            hooks: &mut self.hooks,
            source,
            addrs: &survey.addrs,
            addrs6: &survey.addrs6,
        };
        let owners = host_routes(view, |key| ports.contains_key(key));
        self.ports.route(view, &owners, &ports, &mut bench)?;
        if let Some((index, _)) = host_if {
            report.notes.extend(self.host_device.route(view, index, &survey, source, &mut netlink)?);
        }
        self.outbound(view, &mut report)?;
        self.outbound6(view, &survey, &links, &mut report)?;
        report.notes.extend(survey.notes);
        if !self.swept {
            bpffs::remove_other_layouts(&self.config.bpffs_dir, MAPS_DIR)?;
            self.swept = true;
        }
        Ok(report)
    }

    fn ground(
        &self,
        survey: &Survey,
        host_if: Option<(u32, muster_model::net::Mac)>,
        ports: BTreeMap<String, GroundPort>,
        around: &Surroundings,
        report: &mut Report,
    ) -> Ground {
        let tunnels = survey.tunnel.is_some();
        let host_cookie = self.config.host_cgroup_dir.as_ref().and_then(|_| netns::cookie().ok());
        Ground {
            vtep_ip: if tunnels { self.config.vtep_ip } else { Ipv4Addr::UNSPECIFIED },
            vxlan_port: self.config.vxlan_port,
            uplink: survey.tunnel.map_or(0, |(index, _)| index),
            host_if,
            host_addrs: survey.addrs.clone(),
            host_addrs6: survey.addrs6.clone(),
            host_cookie,
            dns: self.dns(around, report),
            ports,
            peers: around.peers.iter().filter(|ip| **ip != self.config.vtep_ip).copied().collect(),
        }
    }

    /// DNS servers by cookie of the namespace they listen in.
    fn dns(&self, around: &Surroundings, report: &mut Report) -> BTreeMap<u64, DnsPorts> {
        let mut found = BTreeMap::new();
        for (path, ports) in &around.dns {
            match self.cookie_of(path) {
                Ok(cookie) => drop(found.insert(cookie, *ports)),
                Err(e) => report.notes.push(format!("DNS of {}: {}", path.display(), chain(&e))),
            }
        }
        found
    }

    fn cookie_of(&self, path: &Path) -> Result<u64, Error> {
        let failed = |source| Error::Netns { path: path.to_owned(), source };
        let netns = Netns::open(path).map_err(failed)?;
        netns.enter().map_err(failed)?;
        let cookie = netns::cookie();
        self.host.enter().map_err(|_| Error::Worker)?;
        cookie.map_err(failed)
    }

    fn attach(
        &mut self,
        view: &NodeView,
        survey: &Survey,
        ports: &BTreeMap<String, GroundPort>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut wanted = BTreeSet::from([(self.names.host_device(), PacketHook::Host)]);
        for (name, index) in &survey.uplinks {
            self.hooks.attach_interface(PacketHook::Uplink, name, *index)?;
            wanted.insert((name.clone(), PacketHook::Uplink));
        }
        for (key, endpoint) in &view.local {
            let name = self.names.veth(key);
            for hook in container_hooks(view, endpoint) {
                if let Some(port) = ports.get(key) {
                    self.hooks.attach_interface(*hook, &name, port.ifindex)?;
                }
                wanted.insert((name.clone(), *hook)); // one that could not be looked at now may work still
            }
        }
        for name in self.ports.doomed() {
            wanted.extend([PacketHook::Container, PacketHook::ToContainer].map(|hook| (name.clone(), hook)));
        }
        let containers = &self.config.cgroup_v2_dir;
        let host = self.config.host_cgroup_dir.as_ref().filter(|dir| *dir != containers);
        let mut cgroups = Vec::new();
        for (prefix, dir) in [(CONTAINERS, Some(containers)), (HOST, host)] {
            let Some(dir) = dir else { continue };
            match self.hooks.attach_cgroup(prefix, dir) {
                Ok(()) => cgroups.push(prefix),
                // Packets are translated still; only 127.0.0.11:53 and the host's own processes are without.
                Err(e) => report.notes.push(format!("sockets below {} are not balanced: {}", dir.display(), chain(&e))),
            }
        }
        self.hooks.retain(&wanted, &cgroups)
    }

    fn outbound(&mut self, view: &NodeView, report: &mut Report) -> Result<(), Error> {
        let subnets = masqueraded(view);
        if outbound(view).next().is_some() && !self.forwards {
            enable_forwarding()?;
            self.forwards = true;
        }
        if self.masqueraded.as_ref() == Some(&subnets) {
            return Ok(());
        }
        match masquerade::apply(&self.names, &subnets) {
            Ok(()) => self.masqueraded = Some(subnets),
            Err(e) => {
                // Everything but outbound traffic works without it.
                self.masqueraded = None;
                report.notes.push(format!("containers cannot reach the outside: {e}"));
            }
        }
        Ok(())
    }

    fn outbound6(
        &mut self,
        view: &NodeView,
        survey: &Survey,
        links: &[Link],
        report: &mut Report,
    ) -> Result<(), Error> {
        let subnets = masqueraded6(view);
        let leads_out = outbound(view).any(|n| n.v6.is_some());
        if leads_out || self.forwards6 {
            self.learning.keep(&survey.uplinks, links)?;
        }
        if leads_out && !self.forwards6 {
            enable_forwarding6()?;
            self.forwards6 = true;
        }
        if self.masqueraded6.as_ref() == Some(&subnets) {
            return Ok(());
        }
        match masquerade::apply6(&self.names, &subnets) {
            Ok(()) => self.masqueraded6 = Some(subnets),
            // Hosts without IPv6 have nothing to be cleared of but at the first time, when a daemon before this one may have had.
            Err(e) if subnets.is_empty() => {
                tracing::debug!(error = %e, "no table of IPv6 to be removed");
                self.masqueraded6 = Some(subnets);
            }
            Err(e) => {
                self.masqueraded6 = None;
                report.notes.push(format!("containers cannot reach the outside by IPv6: {e}"));
            }
        }
        Ok(())
    }

    fn remove_here(&mut self) -> Result<(), Error> {
        let mut netlink = open_netlink()?;
        let links = list_links(&mut netlink)?;
        let survey = Survey::take(&self.config, &self.names, &links, &mut netlink);
        let programs = self.hooks.remove_all(survey.iter().flat_map(|s| s.uplinks.keys()));
        let mut interfaces = Ok(());
        for link in links.iter().filter(|l| self.names.owns(l) || self.names.owns_bridge(l)) {
            match netlink.delete_link(link.index) {
                // The other end of a pair went with the first.
                Err(e) if e.raw_os_error() != Some(libc::ENODEV) => {
                    interfaces = Err(Error::Netlink { doing: format!("remove interface {}", link.name), source: e });
                }
                _ => {}
            }
        }
        let rule = if self.capabilities.nft { masquerade::remove(&self.names) } else { Ok(()) };
        programs.and(interfaces).and(rule)
    }
}

/// What runs on the host side of an endpoint's interface. What the host passes on to a network that is masqueraded looks the same
/// whether it was asked for or not: there the table that masquerades tells them apart (`masquerade`).
fn container_hooks(view: &NodeView, endpoint: &LocalEndpoint) -> &'static [PacketHook] {
    match view.networks.get(&endpoint.scope) {
        Some(net) if net.routed || net.internal => &[PacketHook::ToContainer, PacketHook::Container],
        _ => &[PacketHook::Container],
    }
}

fn open_netlink() -> Result<Netlink, Error> {
    Netlink::open().map_err(|source| Error::Netlink { doing: "open a socket".into(), source })
}

fn list_links(netlink: &mut Netlink) -> Result<Vec<Link>, Error> {
    netlink.links().map_err(|source| Error::Netlink { doing: "list interfaces".into(), source })
}
