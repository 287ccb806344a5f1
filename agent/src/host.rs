//! This host, shared by all its doors: its engine, its network, and the cluster it is a member of, if any.

use crate::{
    cluster::{HostCluster, Member, Origin, Places, advertise_addr, describe},
    config::Config,
    dataplane::HostNetwork,
    directory::Asker,
    operator::{Held, Operator},
    whole::{Wanted, Whereabouts, WholeEngine},
};
use arc_swap::ArcSwapOption;
use muster_calls::{Cluster, Engine, Error, InitCluster, JoinCluster, Result};
use muster_controller::Founding;
use muster_engine::LocalEngine;
use muster_model::{NodeId, net::Subnet};
use muster_mtls::{Caller, CallerKind, JoinToken};
use muster_proto::Target;
use muster_telemetry::recent::Buffer;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;
use tracing::Instrument as _;

/// What networks without a subnet of their own are cut from: like Docker's, and away from its engines' own pools
/// (172.17/12, 192.168/16).
const DEFAULT_POOL: &str = "10.0.0.0/8";
const DEFAULT_PREFIX: u8 = 24;

/// Everything the daemon's doors need.
pub struct Host {
    pub config: Config,
    pub engine: Arc<LocalEngine>,
    pub network: Option<HostNetwork>,
    pub places: Places,
    pub recent: Buffer,
    /// What the cluster endpoint asks other nodes with where this host is a worker's.
    pub operator: Held,
    member: ArcSwapOption<Member>,
    /// Which node things are on that were made through this host, and what waits for an image there.
    pub whereabouts: Whereabouts,
    pub wanted: Wanted,
    /// Founding, joining or leaving is going on.
    moving: AtomicBool,
    /// Told each time that it has ended.
    pub moved: Arc<Notify>,
}

/// What somebody may do who asks through this host.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    pub caller: Caller,
    /// Uses the cluster endpoint, and with it the operator's credential that this host may hold: the socket's mode or the
    /// list of those let in says who that is. Callers from other hosts never do.
    endpoint: bool,
}

impl Rights {
    /// Those of a caller and no more.
    pub fn of(caller: Caller) -> Self {
        Self { caller, endpoint: false }
    }

    /// Those of somebody at one of this host's sockets.
    pub fn local() -> Self {
        Self::of(Caller { kind: CallerKind::Local, via: None })
    }

    /// Those of somebody at this host's cluster endpoint.
    pub fn at_cluster_endpoint() -> Self {
        Self { endpoint: true, ..Self::local() }
    }
}

/// Gives the right to change the membership back.
struct Moving<'a>(&'a Host);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.moving.store(false, Ordering::Release);
        self.0.moved.notify_one();
    }
}

impl Host {
    pub fn new(
        config: Config,
        engine: Arc<LocalEngine>,
        network: Option<HostNetwork>,
        places: Places,
        recent: Buffer,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            engine,
            network,
            places,
            recent,
            operator: Held::default(),
            member: ArcSwapOption::empty(),
            whereabouts: Whereabouts::default(),
            wanted: Wanted::default(),
            moving: AtomicBool::new(false),
            moved: Arc::default(),
        })
    }

    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.load_full()
    }

    /// Takes up the membership that is on disk, if there is one.
    ///
    /// # Errors
    /// When what is on disk cannot be used.
    pub async fn resume(self: &Arc<Self>) -> anyhow::Result<()> {
        match Member::resume(self).await? {
            Some(member) => self.member.store(Some(member)),
            None => self.places.none(),
        }
        Ok(())
    }

    /// The engine that a call is for.
    ///
    /// # Errors
    /// `NotFound` for a node that is not known; `Unavailable` for other nodes on a host that may not ask them.
    pub fn engine(self: &Arc<Self>, target: Target, caller: &Caller) -> Result<Arc<dyn Engine>> {
        match (target, self.member()) {
            (Target::Here, _) => Ok(self.engine.clone()),
            (Target::Node(name), None) if name == self.config.hostname => Ok(self.engine.clone()),
            (Target::Node(name), None) => {
                Err(Error::not_found(format!("no such node: {name} (this host is in no cluster)")))
            }
            (Target::Node(name), Some(member)) => {
                let asker = Asker::Node { caller: Some(caller.kind.to_string()) };
                let place = member.directory().find(&name, &asker)?;
                if !place.here {
                    member.may_ask_others()?;
                }
                Ok(place.engine)
            }
            (Target::Cluster, _) => Ok(Arc::new(WholeEngine::new(self.clone(), Rights::of(*caller)))),
        }
    }

    pub fn cluster(self: &Arc<Self>, rights: Rights) -> Arc<dyn Cluster> {
        Arc::new(HostCluster::new(self.clone(), rights))
    }

    /// As whom `rights` ask the other nodes: this node by its own certificate where it is a manager, else the operator whose
    /// credential this host holds, where it may be used.
    ///
    /// # Errors
    /// `Unavailable` on a worker's host without such a credential, or with one that is of no use, saying what to do.
    pub fn asker(&self, member: &Member, rights: Rights) -> Result<Asker> {
        let as_node = || Asker::Node { caller: Some(rights.caller.kind.to_string()) };
        let manages = member.may_ask_others();
        if manages.is_ok() && (member.controller().is_some() || !rights.endpoint) {
            return Ok(as_node());
        }
        match (self.operator_of(member, rights)?, manages) {
            (Some(operator), _) => Ok(Asker::Operator(operator)),
            (None, Ok(())) => Ok(as_node()),
            (None, Err(e)) if rights.endpoint => Err(Error::unavailable(format!(
                "{}. Or have this host hold an operator's credential for its cluster endpoint: `muster context create` on a manager's host makes one, docker-cluster-context in musterd's configuration names its file",
                e.message
            ))),
            (None, Err(e)) => Err(e),
        }
    }

    /// The operator that `rights` may act as.
    ///
    /// # Errors
    /// `Unavailable`, when its credential is another cluster's or has run out.
    pub fn operator_of(&self, member: &Member, rights: Rights) -> Result<Option<Arc<Operator>>> {
        let Some(operator) = self.operator.get().filter(|_| rights.endpoint) else { return Ok(None) };
        operator.usable(member.tls().identity().cluster_id, muster_mtls::now())?;
        Ok(Some(operator))
    }

    fn begin(&self) -> Result<Moving<'_>> {
        match self.moving.swap(true, Ordering::AcqRel) {
            true => Err(Error::conflict("this node is founding, joining or leaving a cluster right now")),
            false => Ok(Moving(self)),
        }
    }

    fn not_yet_a_member(&self) -> Result<()> {
        if self.member().is_some() {
            let text = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
            return Err(Error::unavailable(text));
        }
        if Member::is_on_disk(&self.config) {
            return Err(Error::unavailable(
                "This node's membership is on disk and could not be taken up: see musterd's log, and start it anew",
            ));
        }
        Ok(())
    }

    /// Founds a cluster with this host as its first manager.
    ///
    /// # Errors
    /// `Invalid` for addresses; `Unavailable` when it is a member already; `Internal` when the disk or the port refuse.
    pub async fn init(self: Arc<Self>, init: InitCluster) -> Result<NodeId> {
        whole(self.init_now(init)).await
    }

    async fn init_now(self: Arc<Self>, init: InitCluster) -> Result<NodeId> {
        let _moving = self.begin()?;
        if init.force_new_cluster {
            return self.init_alone(init).await;
        }
        self.not_yet_a_member()?;
        let (listen, addr) = self.addresses(init.listen_addr.as_deref(), init.advertise_addr.as_deref())?;
        let pool = init.address_pool.unwrap_or_else(|| DEFAULT_POOL.parse::<Subnet>().expect("a subnet"));
        let prefix = init.subnet_prefix.unwrap_or(DEFAULT_PREFIX);
        let description = describe(&self.config, addr);
        let spec = init.spec.unwrap_or_default();
        spec.validate().map_err(Error::from)?;
        let founding =
            Founding::new(spec, pool, prefix, description, addr).map_err(|e| Error::internal(said(e.into())))?;
        let id = founding.first.node;
        let member = Member::start(&self, listen, addr, Origin::Founded(Box::new(founding)))
            .await
            .map_err(|e| Error::internal(said(e)))?;
        self.member.store(Some(member));
        Ok(id)
    }

    /// Makes this manager the only one of its cluster, with the state that it has: for when the majority is lost for good.
    /// Managers that still run are not asked: they are workers from here on, and are told so when they come.
    async fn init_alone(self: &Arc<Self>, init: InitCluster) -> Result<NodeId> {
        if init.address_pool.is_some() || init.subnet_prefix.is_some() {
            return Err(Error::invalid("default-addr-pool: a cluster that goes on keeps its own"));
        }
        if init.spec.is_some() {
            return Err(Error::invalid("a cluster that goes on keeps its settings: update it afterwards"));
        }
        let member = self.member().ok_or_else(|| {
            Error::unavailable("This node is not part of a swarm: --force-new-cluster goes on with a manager's state")
        })?;
        if member.controller().is_none() {
            return Err(Error::unavailable("This node is not a swarm manager: it has no state to go on with"));
        }
        let (listen, advertise) = (init.listen_addr.as_deref(), init.advertise_addr.as_deref());
        let (new_listen, new_addr) = self.addresses(listen, advertise)?;
        let listen = listen.map(|_| new_listen);
        let addr = advertise.map(|_| new_addr);
        self.member.store(None);
        member.shutdown().await;
        let alone = Member::resume_alone(self, listen, addr).await;
        let member = match alone {
            Ok(member) => member,
            Err(e) => {
                let why = said(e);
                // What was there goes on, if it still can.
                if let Err(error) = self.resume().await {
                    tracing::error!(error = format!("{error:#}"), "the membership could not be taken up again");
                }
                return Err(Error::internal(format!("force-new-cluster: {why}")));
            }
        };
        let id = member.tls().identity().node_id;
        self.member.store(Some(member));
        Ok(id)
    }

    /// Joins the cluster that a token names.
    ///
    /// # Errors
    /// As [`Host::init`]; `Invalid` for a malformed token; what the managers refuse with.
    pub async fn join(self: Arc<Self>, join: JoinCluster) -> Result<NodeId> {
        whole(self.join_now(join)).await
    }

    async fn join_now(self: Arc<Self>, join: JoinCluster) -> Result<NodeId> {
        let token: JoinToken =
            join.token.parse().map_err(|e: muster_mtls::TokenError| Error::invalid(e.to_string()))?;
        let _moving = self.begin()?;
        self.not_yet_a_member()?;
        let (listen, addr) = self.addresses(join.listen_addr.as_deref(), join.advertise_addr.as_deref())?;
        let managers: Vec<String> = join.managers.iter().map(|m| with_port(m)).collect();
        let description = describe(&self.config, addr);
        let membership = muster_controller::join(&managers, &token, &description).await.map_err(refused)?;
        let id = membership.node_id;
        let origin = Origin::Joined(Box::new(membership));
        let member = Member::start(&self, listen, addr, origin).await.map_err(|e| Error::internal(said(e)))?;
        self.member.store(Some(member));
        Ok(id)
    }

    /// Leaves the cluster: its tasks end here, its identity is removed.
    ///
    /// # Errors
    /// `Conflict` for a manager unless `force`; `Unavailable` when it is no member.
    pub async fn leave(self: Arc<Self>, force: bool) -> Result<()> {
        whole(self.leave_now(force)).await
    }

    async fn leave_now(self: Arc<Self>, force: bool) -> Result<()> {
        let _moving = self.begin()?;
        let member = self.member().ok_or_else(|| Error::unavailable("This node is not part of a swarm"))?;
        if member.controller().is_some() && !force {
            return Err(Error::unavailable(
                "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager erases all current state of the swarm, removing another takes its vote away. Use `--force` to ignore this message.",
            ));
        }
        self.member.store(None);
        member.leave(force).await.map_err(|e| Error::internal(said(e)))
    }

    /// The membership ended from the other side.
    pub fn dismissed(&self, member: &Arc<Member>) {
        if self.member().is_some_and(|m| Arc::ptr_eq(&m, member)) {
            self.member.store(None);
        }
    }

    fn addresses(
        &self,
        listen: Option<&str>,
        advertise: Option<&str>,
    ) -> Result<(std::net::SocketAddr, std::net::SocketAddr)> {
        let listen = match listen {
            None => self.config.listen_addr,
            Some(text) => {
                let port = self.config.listen_addr.port();
                let parsed = text.parse().or_else(|_| text.parse().map(|ip| std::net::SocketAddr::new(ip, port)));
                parsed.map_err(|_| Error::invalid(format!("listen address {text:?}: expected IP or IP:PORT")))?
            }
        };
        let advertise = advertise.or(self.config.advertise_addr.as_deref());
        let addr = advertise_addr(advertise, listen).map_err(Error::invalid)?;
        Ok((listen, addr))
    }
}

/// Carries a change of the membership to its end, also when whoever asked for it goes away: half of one is none.
async fn whole<T: Send + 'static>(change: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let change = tokio::spawn(change.instrument(tracing::Span::current()));
    change.await.map_err(|e| Error::internal(e.to_string()))?
}

/// `HOST` means its default port.
fn with_port(addr: &str) -> String {
    if addr.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) {
        addr.to_owned()
    } else {
        format!("{addr}:2377")
    }
}

fn refused(e: muster_controller::JoinError) -> Error {
    use muster_controller::JoinError;
    match e {
        JoinError::Refused { code, message } => muster_proto::from_status(tonic::Status::new(code, message)),
        JoinError::NoManager => Error::invalid("the address of a manager is needed"),
        e @ JoinError::Dial(muster_mtls::DialError::OtherAuthority { .. }) => Error::forbidden(e.to_string()),
        e @ JoinError::Dial(muster_mtls::DialError::Address(_)) => Error::invalid(e.to_string()),
        e => Error::unavailable(e.to_string()),
    }
}

/// An error with its causes, in one line.
fn said(e: anyhow::Error) -> String {
    format!("{e:#}")
}
