//! The engine's network: sandboxes and assignments in, kernel and name server out.
//!
//! One thread owns the kernel's state. What arrives while it works joins its next round, so that ten containers that start
//! together cost one pass; every caller hears how its own container fared.

use crate::{
    dns::{Resolver, SharedNames, Tables},
    host_watch,
};
use anyhow::Context as _;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use muster_agent_core::view;
use muster_ebpf_net::{Bridge, DataPlane, DnsPorts, NoBridge, Surroundings, Watch};
use muster_engine::net::{Foreign, Gateway, Network, NetworkError, NoGateway, Sandbox};
use muster_model::{
    NodeId,
    assignment::AssignmentSet,
    net::Scope,
    view::{Names, NetworkView, NodeView, PublishedKey, PublishedKey6},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the kernel thread: one per container that starts or stops at once.
const INBOX: usize = 1024;

/// A handle to the data plane of this host. Cloning shares it.
#[derive(Clone)]
pub struct HostNetwork {
    tx: mpsc::Sender<Request>,
    names: SharedNames,
    resolvers: Arc<Mutex<BTreeMap<String, Resolver>>>,
    upstream: Vec<IpAddr>,
    /// Sockets of the host's own processes are looked after too.
    serves_host: bool,
}

enum Request {
    Attach(Box<Sandbox>, Option<DnsPorts>, oneshot::Sender<Result<(), NetworkError>>),
    Detach(String, oneshot::Sender<Result<(), NetworkError>>),
    Forget(Scope),
    Bridges(Vec<Gateway>, oneshot::Sender<BTreeMap<String, NoGateway>>),
    Assign(NodeId, Arc<AssignmentSet>),
    /// The host's own addresses or ways out are others now.
    HostChanged,
    /// Everything that ran before the daemon did is known again.
    Release(oneshot::Sender<()>),
    Counters(oneshot::Sender<Vec<(String, u64)>>),
    Close {
        remove: bool,
        done: oneshot::Sender<()>,
    },
}

impl HostNetwork {
    /// Starts the thread, from inside of a runtime. The kernel is not touched before the first container or assignment, so that containers which
    /// outlived the last daemon keep their network until they are attached again.
    ///
    /// # Errors
    /// When the kernel lacks what the data plane needs.
    pub fn start(config: muster_ebpf_net::Config, underlay_mtu: u16, upstream: Vec<IpAddr>) -> anyhow::Result<Self> {
        let serves_host = config.host_cgroup_dir.is_some();
        let plane = DataPlane::open(config).context("data plane")?;
        let names = SharedNames::new(ArcSwap::from_pointee(Names::new()));
        let (tx, rx) = mpsc::channel(INBOX);
        let keeper = Keeper {
            plane,
            names: names.clone(),
            sandboxes: BTreeMap::new(),
            lasting: BTreeMap::new(),
            left: false,
            me: NodeId::default(),
            set: Arc::default(),
            // VXLAN over IPv4 takes 50 bytes: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348, section 5).
            overlay_mtu: underlay_mtu.saturating_sub(50),
            bridges: BTreeMap::new(),
            naming: Vec::new(),
            broken_bridges: BTreeMap::new(),
            last: None,
            holding: true,
        };
        let watch = Watch::open().context("listen for changes of the host's addresses")?;
        let watcher = tokio::spawn(watch_host(watch, tx.clone()));
        std::thread::Builder::new()
            .name("data-plane".to_owned())
            .spawn(move || {
                keeper.run(rx);
                watcher.abort();
            })
            .context("start the data plane's thread")?;
        Ok(Self { tx, names, resolvers: Arc::default(), upstream, serves_host })
    }

    /// Takes the node's assignments as they are now.
    pub async fn assign(&self, me: NodeId, set: Arc<AssignmentSet>) {
        // The thread ends only with the daemon.
        let _ = self.tx.send(Request::Assign(me, set)).await;
    }

    /// Everything that ran before the daemon did is attached again and the assignments are known: from now on the kernel
    /// follows. Before, a view would lack containers that are still to come, and cut them off.
    pub async fn release(&self) {
        let (done, rx) = oneshot::channel();
        if self.tx.send(Request::Release(done)).await.is_ok() {
            let _ = rx.await;
        }
    }

    /// Dropped packets by reason.
    pub async fn counters(&self) -> Vec<(String, u64)> {
        let (tx, rx) = oneshot::channel();
        if self.tx.send(Request::Counters(tx)).await.is_err() {
            return Vec::new();
        }
        rx.await.unwrap_or_default()
    }

    /// Ends the thread; with `remove`, takes everything out of the kernel as well.
    pub async fn close(&self, remove: bool) {
        let (done, rx) = oneshot::channel();
        if self.tx.send(Request::Close { remove, done }).await.is_ok() {
            let _ = rx.await;
        }
    }

    async fn ask(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<(), NetworkError>>) -> Request,
    ) -> Result<(), NetworkError> {
        let (tx, rx) = oneshot::channel();
        let gone = || NetworkError("the data plane has ended".to_owned());
        self.tx.send(make(tx)).await.map_err(|_| gone())?;
        rx.await.map_err(|_| gone())?
    }

    /// The server for names of a container that wants one, on the networks that it is on now.
    async fn resolver(&self, sandbox: &Sandbox) -> Result<Option<DnsPorts>, NetworkError> {
        if !sandbox.dns.embedded {
            return Ok(None);
        }
        let own = sandbox.endpoints.iter().map(|e| e.scope);
        let scopes = own.chain(sandbox.foreign.iter().map(|f| f.scope)).collect();
        let tables = || Tables { scopes: Vec::clone(&scopes), links: sandbox.dns.links.clone() };
        let known = |r: &Resolver| {
            r.set_tables(tables());
            DnsPorts { udp: r.udp_port, tcp: r.tcp_port }
        };
        if let Some(ports) = self.locked(|r| r.get(&sandbox.container_id).map(known)) {
            return Ok(Some(ports));
        }
        let upstream = if sandbox.dns.servers.is_empty() { self.upstream.clone() } else { sandbox.dns.servers.clone() };
        let opened = Resolver::open(&sandbox.netns, tables(), self.names.clone(), upstream).await;
        let resolver = opened.map_err(|e| NetworkError(format!("name server of the container: {e:#}")))?;
        let ports = DnsPorts { udp: resolver.udp_port, tcp: resolver.tcp_port };
        self.locked(|r| r.insert(sandbox.container_id.clone(), resolver));
        Ok(Some(ports))
    }

    fn locked<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Resolver>) -> T) -> T {
        f(&mut self.resolvers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Network for HostNetwork {
    async fn attach(&self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let dns = self.resolver(sandbox).await?;
        self.ask(|tx| Request::Attach(Box::new(sandbox.clone()), dns, tx)).await
    }

    async fn detach(&self, container_id: &str) -> Result<(), NetworkError> {
        let result = self.ask(|tx| Request::Detach(container_id.to_owned(), tx)).await;
        self.locked(|r| r.remove(container_id));
        result
    }

    async fn forget(&self, network: Scope) {
        let _ = self.tx.send(Request::Forget(network)).await; // The thread ends only with the daemon.
    }

    async fn set_gateways(&self, gateways: Vec<Gateway>) -> BTreeMap<String, NoGateway> {
        let ended = || NoGateway::Failed("the data plane has ended".to_owned());
        let gone = || gateways.iter().map(|g| (g.name.clone(), ended())).collect();
        let (tx, rx) = oneshot::channel();
        if self.tx.send(Request::Bridges(gateways.clone(), tx)).await.is_err() {
            return gone();
        }
        rx.await.unwrap_or_else(|_| gone())
    }

    fn provides_dns(&self) -> bool {
        true
    }

    fn serves_host(&self) -> bool {
        self.serves_host
    }

    async fn dropped(&self) -> Vec<(String, u64)> {
        self.counters().await
    }
}

/// Ends with the daemon, or says why it does not watch any more: what changes then is seen with the next container.
async fn watch_host(watch: Watch, tx: mpsc::Sender<Request>) {
    let tell = || async { tx.send(Request::HostChanged).await.is_ok() };
    if let Err(error) = host_watch::run(watch, tell).await {
        tracing::warn!(%error, "changes of the host's addresses are not heard of");
    }
}

/// Who is told how a round went: the container that is attached (`None`: one that goes away), and the answer's way.
type Waiting = (Option<String>, oneshot::Sender<Result<(), NetworkError>>);

/// What could not be wired, and why.
#[derive(Default)]
struct Broken {
    endpoints: BTreeMap<String, String>,
    bridges: BTreeMap<String, NoBridge>,
}

fn bridge(gateway: Gateway) -> (String, Bridge) {
    let mtu = u16::try_from(gateway.mtu).unwrap_or(u16::MAX);
    (gateway.name, Bridge { v4: gateway.v4, v6: gateway.v6, mtu })
}

fn no_gateway(why: NoBridge) -> NoGateway {
    match why {
        NoBridge::Taken => NoGateway::Taken,
        NoBridge::Failed(why) => NoGateway::Failed(why),
    }
}

struct Keeper {
    plane: DataPlane,
    names: SharedNames,
    sandboxes: BTreeMap<String, (Sandbox, Option<DnsPorts>)>,
    /// Networks of this host that had a container: they stay in the view until they are removed, so that the first container
    /// and the last do not set the firewall's rule anew (a process of nft(8), 10 ms).
    lasting: BTreeMap<Scope, NetworkView>,
    /// A container that goes on has left a network: who asked for that sees it gone.
    left: bool,
    me: NodeId,
    set: Arc<AssignmentSet>,
    overlay_mtu: u16,
    bridges: BTreeMap<String, Bridge>,
    /// Who waits for them.
    naming: Vec<oneshot::Sender<BTreeMap<String, NoGateway>>>,
    /// Those that are not there, as the log was told last.
    broken_bridges: BTreeMap<String, NoBridge>,
    /// What the kernel was made equal to last.
    last: Option<(NodeView, Surroundings)>,
    /// Not everything that ran before is known yet.
    holding: bool,
}

impl Keeper {
    fn run(mut self, mut rx: mpsc::Receiver<Request>) {
        while let Some(first) = rx.blocking_recv() {
            let mut waiting = Vec::new();
            let (mut close, mut released) = (None, None);
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Close { remove, done } => {
                        close = Some((remove, done));
                        break;
                    }
                    Request::Release(done) => {
                        self.holding = false;
                        released = Some(done);
                    }
                    other => self.take(other, &mut waiting),
                }
                next = rx.try_recv().ok();
            }
            self.settle(waiting);
            if let Some(done) = released {
                let _ = done.send(());
            }
            if let Some((remove, done)) = close {
                if remove && let Err(error) = self.plane.close_and_remove() {
                    tracing::warn!(
                        error = format!("{:#}", anyhow::Error::new(error)),
                        "the data plane could not be removed whole"
                    );
                }
                let _ = done.send(());
                return;
            }
        }
    }

    fn take(&mut self, request: Request, waiting: &mut Vec<Waiting>) {
        match request {
            Request::Attach(sandbox, dns, reply) => {
                let id = sandbox.container_id.clone();
                let keys: BTreeSet<String> = sandbox.endpoints.iter().map(|e| e.key.clone()).collect();
                let before = self.sandboxes.insert(id.clone(), (*sandbox, dns));
                self.left |= before.is_some_and(|(old, _)| old.endpoints.iter().any(|e| !keys.contains(&e.key)));
                waiting.push((Some(id), reply));
            }
            Request::Detach(id, reply) => {
                self.sandboxes.remove(&id);
                waiting.push((None, reply));
            }
            Request::Forget(network) => drop(self.lasting.remove(&network)),
            Request::Bridges(bridges, reply) => {
                self.bridges = bridges.into_iter().map(bridge).collect(); // by name, which is one network's
                self.naming.push(reply);
            }
            Request::Assign(me, set) => {
                self.me = me;
                self.set = set;
            }
            Request::Counters(reply) => {
                let counters = self.plane.counters().unwrap_or_default();
                let _ = reply.send(
                    counters
                        .into_iter()
                        .filter(|(reason, _)| reason.is_drop())
                        .map(|(reason, n)| (reason.name().to_owned(), n))
                        .collect(),
                );
            }
            // What the kernel was made equal to last was right for another host.
            Request::HostChanged => self.last = None,
            Request::Release(_) | Request::Close { .. } => {}
        }
    }

    /// Makes the kernel and the name server equal to what is known now, and tells everybody who waits.
    fn settle(&mut self, waiting: Vec<Waiting>) {
        let endpoints = self.endpoints();
        let mut names = view::names(&self.set, &endpoints);
        for foreign in self.sandboxes.values().flat_map(|(s, _)| &s.foreign) {
            add_names(&mut names, foreign);
        }
        self.names.store(Arc::new(names));
        let mut view = view::node_view(self.me, &self.set, &endpoints, self.overlay_mtu);
        for endpoint in &endpoints {
            if let Some(network) = view.networks.get_mut(&endpoint.scope)
                && !endpoint.scope.is_local()
            {
                network.mtu = self.overlay_mtu;
            }
        }
        for (scope, network) in &self.lasting {
            view.networks.entry(*scope).or_insert_with(|| network.clone());
        }
        self.lasting = view.networks.iter().filter(|(s, _)| s.is_local()).map(|(s, n)| (*s, n.clone())).collect();
        let around = self.surroundings();
        let failed = if self.holding {
            self.make_bridges()
        } else if self.last.as_ref().is_some_and(|(v, a)| *v == view && *a == around) {
            Ok(Broken::default())
        } else {
            self.sync(view, around)
        };
        if std::mem::take(&mut self.left) {
            self.tidy();
        }
        for reply in self.naming.drain(..) {
            let _ = reply.send(match &failed {
                Ok(broken) => {
                    broken.bridges.iter().map(|(name, why)| (name.clone(), no_gateway(why.clone()))).collect()
                }
                Err(e) => self.bridges.keys().map(|name| (name.clone(), NoGateway::Failed(e.clone()))).collect(),
            });
        }
        for (id, reply) in waiting {
            let outcome = match (&failed, id) {
                (Err(e), Some(_)) => Err(NetworkError(e.clone())),
                (Ok(broken), Some(id)) => match self.broken_endpoint(&id, &broken.endpoints) {
                    Some(why) => Err(NetworkError(why)),
                    None => Ok(()),
                },
                // A container that goes away is gone, whatever else is broken: the next round repairs.
                (_, None) => Ok(()),
            };
            let _ = reply.send(outcome);
        }
        self.tidy();
    }

    /// Takes away the interfaces of containers that are gone: that takes the kernel long, and nobody has to wait for it.
    fn tidy(&mut self) {
        if let Err(error) = self.plane.tidy() {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "interfaces of containers that are gone stay"
            );
            self.last = None;
        }
    }

    fn sync(&mut self, view: NodeView, around: Surroundings) -> Result<Broken, String> {
        self.last = None;
        match self.plane.apply(&view, &around) {
            Ok(report) => {
                for (endpoint, why) in &report.failed {
                    tracing::warn!(%endpoint, %why, "an endpoint could not be wired");
                }
                self.tell_bridges(&report.bridges);
                for note in &report.notes {
                    tracing::warn!(%note, "data plane");
                }
                if report.is_whole() {
                    self.last = Some((view, around));
                }
                Ok(Broken { endpoints: report.failed, bridges: report.bridges })
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::error!(error = format!("{error:#}"), "the data plane could not be brought up to date");
                Err(format!("data plane: {error:#}"))
            }
        }
    }

    /// Gateway devices need no view: they can be there before all else is known, and before a container looks for one.
    fn make_bridges(&mut self) -> Result<Broken, String> {
        if self.naming.is_empty() {
            return Ok(Broken::default());
        }
        let made = self.plane.bridges(&self.bridges);
        let bridges = made.map_err(|error| format!("data plane: {:#}", anyhow::Error::new(error)))?;
        self.tell_bridges(&bridges);
        Ok(Broken { bridges, ..Broken::default() })
    }

    /// Once for each, not once for each container that starts.
    fn tell_bridges(&mut self, broken: &BTreeMap<String, NoBridge>) {
        for (bridge, why) in broken.iter().filter(|(bridge, why)| self.broken_bridges.get(*bridge) != Some(why)) {
            tracing::warn!(%bridge, %why, "the gateway device of a network is not there");
        }
        self.broken_bridges.clone_from(broken);
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            dns: self.sandboxes.values().filter_map(|(s, d)| d.map(|d| (s.netns.clone(), d))).collect(),
            peers: view::peers(self.me, &self.set),
            bridges: self.bridges.clone(),
        }
    }

    fn broken_endpoint(&self, container: &str, broken: &BTreeMap<String, String>) -> Option<String> {
        let (sandbox, _) = self.sandboxes.get(container)?;
        sandbox
            .endpoints
            .iter()
            .find_map(|e| broken.get(&e.key).map(|why| format!("network {}: {why}", e.network_name)))
    }

    fn endpoints(&self) -> Vec<view::Endpoint> {
        self.sandboxes.values().flat_map(|(s, _)| endpoints_of(s)).collect()
    }
}

/// Of a container on a network that is not ours to carry, its names are all that is ours.
fn add_names(names: &mut Names, foreign: &Foreign) {
    let table = names.entry(foreign.scope).or_default();
    for name in foreign.names.iter().map(|n| n.to_ascii_lowercase()) {
        table.names.entry(name.clone()).or_default().push(foreign.ip);
        if let Some(ip) = foreign.ip6 {
            table.names6.entry(name).or_default().push(ip);
        }
    }
}

fn endpoints_of(sandbox: &Sandbox) -> Vec<view::Endpoint> {
    let published = |index: usize| {
        let of_it = sandbox.published.iter().filter(move |p| p.endpoint == index);
        let key = |p: &muster_engine::net::Published| match p.host_ip {
            IpAddr::V4(host_ip) => {
                Some((PublishedKey { protocol: p.protocol, port: p.host_port, host_ip }, p.container_port))
            }
            IpAddr::V6(_) => None,
        };
        of_it.filter_map(key).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let published6 = |index: usize| {
        let of_it = sandbox.published.iter().filter(move |p| p.endpoint == index);
        let key = |p: &muster_engine::net::Published| match p.host_ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(host_ip) => {
                Some((PublishedKey6 { protocol: p.protocol, port: p.host_port, host_ip }, p.container_port))
            }
        };
        of_it.filter_map(key).collect()
    };
    let one = |(index, e): (usize, &muster_engine::net::Endpoint)| view::Endpoint {
        key: e.key.clone(),
        scope: e.scope,
        network_name: e.network_name.clone(),
        internal: e.internal,
        isolated: e.isolated,
        routed: e.routed,
        mtu: u16::try_from(e.mtu).unwrap_or(u16::MAX),
        v4: e.v4,
        v6: e.v6,
        mac: e.mac,
        netns: sandbox.netns.clone(),
        ifname: e.ifname.clone(),
        default_route: e.default_route,
        default_route6: e.default_route6,
        names: e.names.clone(),
        published: published(index),
        published6: published6(index),
    };
    sandbox.endpoints.iter().enumerate().map(one).collect()
}
