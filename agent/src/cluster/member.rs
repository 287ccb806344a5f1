//! A membership, running: the door for other nodes, the session, the worker and, on managers, the control plane.
//!
//! One task owns the worker (`keeper`). Order of starting: control plane (a founder must have its state before it is asked), door,
//! session. Order of stopping: session, control plane, door; containers go on unless the host leaves.

use super::{
    describe::{advertise_addr, describe},
    identity::{Facts, IdentityDir},
    keeper::{Keeper, recover},
    ledger::LedgerFile,
    runner::Runner,
    session::{Order, Session, now},
    teller::Teller,
};
use crate::{directory::Directory, door, host::Host};
use anyhow::Context as _;
use muster_agent_core::Ledger;
use muster_calls::{Engine, Error};
use muster_controller::{Bootstrap, Controller, ControllerConfig, Founding, Membership, Slot, Storage, Timing};
use muster_model::{NodeId, cluster::NodeDescription, spec::Role};
use muster_mtls::{CertRole, Tls};
use rand::Rng as _;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// Results that may wait for the worker: some per task that moves at once.
const INPUTS: usize = 1024;
const EVENTS: usize = 64;
const ORDERS: usize = 64;
/// How long leaving waits for the other managers to agree, and again to take up the new role.
const STEP_DOWN: Duration = Duration::from_secs(10);
/// How long it waits for the leader to take note.
const GOODBYE: Duration = Duration::from_secs(5);
/// How often the host looks at its own description: routes and memory change rarely.
const DESCRIBE_EVERY: Duration = Duration::from_secs(30);
/// Until a server that could not be shown a new certificate is tried again; connections that broke meanwhile need none.
const SHOW_AGAIN: Duration = Duration::from_secs(10);

/// Where a membership comes from.
pub enum Origin {
    Founded(Box<Founding>),
    Joined(Box<Membership>),
}

/// How a membership on disk is taken up.
#[derive(Clone, Copy)]
enum Resume {
    AsItWas,
    /// As the only manager.
    Alone {
        listen: Option<SocketAddr>,
        addr: Option<SocketAddr>,
    },
}

/// This host's membership.
pub struct Member {
    tls: Tls,
    directory: Directory,
    slot: Slot,
    /// One renewal at a time: two that take up a manager's seat at once would pull it from under each other.
    renewing: Semaphore,
    identity: IdentityDir,
    facts: watch::Sender<Facts>,
    stop: CancellationToken,
    tasks: Mutex<Option<JoinSet<()>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
    runner: Runner,
    orders: mpsc::Sender<Order>,
    pub(super) places: super::Places,
    ledger: LedgerFile,
}

impl Member {
    /// Begins a membership and writes it down.
    ///
    /// # Errors
    /// In words; the host is then what it was before.
    pub async fn start(
        host: &Arc<Host>,
        listen: SocketAddr,
        addr: SocketAddr,
        origin: Origin,
    ) -> anyhow::Result<Arc<Self>> {
        let identity = IdentityDir::new(&host.config.data_dir);
        // A listener first: a port that is taken must not leave half a member.
        let listener = door::bind(listen).await?;
        let (credentials, managers, bootstrap) = match origin {
            Origin::Founded(f) => {
                let f = *f;
                let bootstrap =
                    Bootstrap::New { cluster: Box::new(f.cluster), first: Box::new(f.first), seal_key: f.seal_key };
                (f.credentials.clone(), vec![(f.credentials.identity().node_id, addr.to_string())], Some(bootstrap))
            }
            Origin::Joined(m) => {
                let managers = m.managers.iter().map(|(id, a)| (*id, a.to_string())).collect();
                (m.credentials.clone(), managers, join_bootstrap(&m)?)
            }
        };
        let tls = Tls::new(credentials.clone())?;
        let facts = Facts { listen_addr: listen, addr, managers, revoked: Vec::new() };
        let slot = Slot::default();
        // The door stands before the control plane starts: its first peers answer at once.
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(door::serve(listener, tls.clone(), host.clone(), slot.clone(), stop.clone()));
        if let Some(bootstrap) = bootstrap {
            let started = start_controller(host, &identity, &tls, addr, bootstrap).await;
            match started {
                Ok(controller) => slot.set(Some(controller)),
                Err(e) => {
                    stop.cancel();
                    let _ = std::fs::remove_dir_all(identity.path());
                    return Err(e);
                }
            }
        }
        if let Err(e) = identity.save(&credentials, &facts) {
            if let Some(controller) = slot.get() {
                controller.shutdown().await;
            }
            stop.cancel();
            return Err(e);
        }
        Self::run(host, tls, identity, facts, slot, stop, tasks, false).await
    }

    /// Takes up the membership on disk.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub async fn resume(host: &Arc<Host>) -> anyhow::Result<Option<Arc<Self>>> {
        Self::take_up(host, Resume::AsItWas).await
    }

    /// Takes up the membership on disk as the only manager of its cluster, for good: the others are given up. `addr` and
    /// `listen`: `None` is what they were.
    ///
    /// # Errors
    /// When there is none, it is no manager's, or it cannot be used.
    pub async fn resume_alone(
        host: &Arc<Host>,
        listen: Option<SocketAddr>,
        addr: Option<SocketAddr>,
    ) -> anyhow::Result<Arc<Self>> {
        let member = Self::take_up(host, Resume::Alone { listen, addr }).await?;
        member.context("this host is in no cluster")
    }

    /// Whether a certificate says that this host is a member, taken up or not.
    pub fn is_on_disk(config: &crate::config::Config) -> bool {
        IdentityDir::new(&config.data_dir).is_a_member()
    }

    async fn take_up(host: &Arc<Host>, how: Resume) -> anyhow::Result<Option<Arc<Self>>> {
        let identity = IdentityDir::new(&host.config.data_dir);
        let Some((credentials, mut facts)) = identity.load()? else {
            // What a founding or joining that was cut short left: without a certificate it is nobody's.
            if identity.controller().exists() {
                let _ = std::fs::remove_dir_all(identity.path());
            }
            return Ok(None);
        };
        if let Ok(addr) = advertise_addr(host.config.advertise_addr.as_deref(), facts.listen_addr)
            && addr != facts.addr
        {
            tracing::info!(old = %facts.addr, new = %addr, "this host's address has changed");
            facts.addr = addr;
        }
        if let Resume::Alone { listen, addr } = how {
            facts.listen_addr = listen.unwrap_or(facts.listen_addr);
            facts.addr = addr.unwrap_or(facts.addr);
            facts.managers = vec![(credentials.identity().node_id, facts.addr.to_string())];
        }
        let tls = Tls::new(credentials)?;
        tls.revoke(facts.revoked.iter().cloned().collect());
        let slot = Slot::default();
        let listener = door::bind(facts.listen_addr).await?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(door::serve(listener, tls.clone(), host.clone(), slot.clone(), stop.clone()));
        let manages = tls.identity().role == CertRole::Manager && identity.controller().exists();
        let bootstrap = match how {
            Resume::AsItWas => manages.then(|| Bootstrap::Resume { managers: addresses(&facts.managers) }),
            Resume::Alone { .. } if manages => Some(Bootstrap::ForceNew),
            Resume::Alone { .. } => anyhow::bail!("this host is no manager: it has no state to begin a cluster with"),
        };
        if let Some(bootstrap) = bootstrap {
            let controller = start_controller(host, &identity, &tls, facts.addr, bootstrap).await?;
            slot.set(Some(controller));
        }
        let (started, stopped) = (slot.clone(), stop.clone());
        let run = async {
            if matches!(how, Resume::Alone { .. }) {
                identity.save_facts(&facts)?;
            }
            Self::run(host, tls, identity, facts, slot, stop, tasks, true).await
        };
        let taken_up = run.await;
        if taken_up.is_err() {
            stopped.cancel();
            // It holds its journal: whoever tries next needs that.
            if let Some(controller) = started.get() {
                controller.shutdown().await;
            }
        }
        taken_up.map(Some)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one value, each made in order")]
    async fn run(
        host: &Arc<Host>,
        tls: Tls,
        identity: IdentityDir,
        facts: Facts,
        slot: Slot,
        stop: CancellationToken,
        mut tasks: JoinSet<()>,
        resumed: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let me = tls.identity().node_id;
        let local: Arc<dyn Engine> = host.engine.clone();
        let directory = Directory::new(me, host.config.hostname.clone(), tls.clone(), local);
        let (inputs, inputs_rx) = mpsc::channel(INPUTS);
        let runner = Runner::new(host.engine.clone(), inputs, overlay_mtu(), host.config.hostname.clone());
        let ledger = LedgerFile::new(identity.path());
        let saved = if resumed { ledger.load() } else { Ledger::default() };
        let worker = recover(&runner, saved).await?;
        let (events, events_rx) = mpsc::channel(EVENTS);
        let (orders, orders_rx) = mpsc::channel(ORDERS);
        let (describe_tx, description) = watch::channel(describe(&host.config, facts.addr));
        let (facts, facts_rx) = watch::channel(facts);
        let session = Session { tls: tls.clone(), facts: facts_rx, description, events, orders: orders_rx };
        let stopped = stop.clone();
        tasks.spawn(async move {
            tokio::select! { () = session.run() => {}, () = stopped.cancelled() => {} }
        });
        let member = Arc::new(Self {
            tls,
            directory,
            slot,
            renewing: Semaphore::new(1),
            identity,
            facts,
            stop,
            tasks: Mutex::new(None),
            worker: Mutex::new(None),
            runner: runner.clone(),
            orders: orders.clone(),
            places: host.places.clone(),
            ledger: ledger.clone(),
        });
        let known = Arc::new(worker.assignments().clone());
        member.directory.update(&known);
        host.places.joined(orders.clone(), &known);
        if let Some(network) = &host.network {
            network.assign(me, known).await;
        }
        tasks.spawn(keep_description(member.clone(), host.clone(), describe_tx));
        tasks.spawn(keep_certificate(member.clone(), host.clone()));
        tasks.spawn(show_certificate(member.clone()));
        let keeper = Keeper::new((host.clone(), member.clone()), worker, runner, ledger, orders);
        let handle = tokio::spawn(keeper.run(inputs_rx, events_rx));
        *member.tasks.lock().unwrap_or_else(PoisonError::into_inner) = Some(tasks);
        *member.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        Ok(member)
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub fn controller(&self) -> Option<Controller> {
        self.slot.get()
    }

    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Only managers pass calls on: a worker's certificate opens no other node's door.
    ///
    /// # Errors
    /// `Unavailable` on a worker, with the managers' addresses.
    pub fn may_ask_others(&self) -> Result<(), Error> {
        if self.tls.identity().role == CertRole::Manager {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "this node is a worker: calls for other nodes are taken by managers, at {}",
            self.managers().join(", ")
        )))
    }

    /// The managers' addresses, as last heard of.
    pub fn managers(&self) -> Vec<String> {
        self.facts.borrow().managers.iter().map(|(_, a)| a.clone()).collect()
    }

    pub async fn membership(&self) -> muster_calls::Result<muster_calls::Membership> {
        use muster_calls::Cluster as _;
        if let Some(controller) = self.controller() {
            return controller.local_face().membership().await;
        }
        let identity = self.tls.identity();
        let facts = self.facts.borrow().clone();
        let managers = addresses(&facts.managers);
        Ok(muster_calls::Membership {
            member: Some(muster_calls::Member {
                cluster: identity.cluster_id,
                node: identity.node_id,
                role: if identity.role == CertRole::Manager { Role::Manager } else { Role::Worker },
                addr: facts.addr,
                managers,
                control_available: false,
                nodes: 0,
                manager_count: 0,
                error: String::new(),
            }),
        })
    }

    /// Ends the membership's tasks. Containers go on.
    pub async fn shutdown(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(controller) = self.slot.get() {
            controller.shutdown().await;
            self.slot.set(None);
        }
        self.stop.cancel();
        if let Some(worker) = worker {
            worker.abort();
            let _ = worker.await;
        }
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }

    /// Ends it for good: tells the cluster if it can, ends the tasks' containers, removes what is on disk.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn leave(&self, force: bool) -> anyhow::Result<()> {
        use muster_calls::Cluster as _;
        if let Some(controller) = self.controller() {
            self.step_down(&controller).await;
        }
        if let Some(controller) = self.controller() {
            // The last manager has nobody to tell; the others find out by its silence.
            let told = tokio::time::timeout(Duration::from_secs(5), controller.local_face().leave(force)).await;
            if let Ok(Err(error)) = told {
                tracing::warn!(%error, "the cluster was not told that this node leaves");
            }
        } else {
            self.say_goodbye().await;
        }
        self.shutdown().await;
        self.places.none();
        self.remove_tasks().await;
        // A write that was begun goes on after its task has ended.
        self.ledger.close();
        self.identity.remove()
    }

    /// Has the leader count this node as down from now on. One that does not answer finds out by the node's silence.
    async fn say_goodbye(&self) {
        let (ended, over) = oneshot::channel();
        if self.orders.try_send(Order::Leave(ended)).is_ok() {
            // It answers by ending the session.
            let _ = tokio::time::timeout(GOODBYE, over).await;
        }
    }

    /// Has itself demoted and waits until it is a worker, so that the other managers do not count on its vote. Gives up
    /// where they cannot agree to that: it is the last one, or there is no majority.
    async fn step_down(&self, controller: &Controller) {
        use muster_calls::Cluster as _;
        let face = controller.local_face();
        let demoted = async {
            let node = face.node_inspect(&controller.node_id().to_string()).await?.node;
            let spec = muster_model::spec::NodeSpec { role: Role::Worker, ..node.spec.clone() };
            face.node_update(node.id, node.meta.version, spec).await
        };
        match tokio::time::timeout(STEP_DOWN, demoted).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::info!(%error, "leaving as a manager"),
            Err(_) => return tracing::info!("leaving as a manager: no majority answers"),
        }
        // The session tells the new role; taking it up ends the control plane here.
        let worker = async {
            while self.controller().is_some() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(STEP_DOWN, worker).await.is_err() {
            tracing::warn!("this node was demoted and leaves before it has heard of it");
        }
    }

    async fn remove_tasks(&self) {
        match self.runner.survey().await {
            Ok(found) => {
                for (container, _) in found.into_values() {
                    self.runner.discard_stray(container);
                }
            }
            Err(error) => tracing::warn!(%error, "the containers of tasks could not be listed"),
        }
    }

    /// Gets a new certificate; the role in it may be another.
    pub(super) async fn renew(&self, host: &Host) -> anyhow::Result<()> {
        let _turn = self.renewing.acquire().await.context("renewals have ended")?;
        let facts = self.facts.borrow().clone();
        let managers: Vec<SocketAddr> = addresses(&facts.managers).into_iter().map(|(_, a)| a).collect();
        let membership = match muster_controller::renew(&self.tls, &managers, &describe(&host.config, facts.addr)).await
        {
            Ok(m) => m,
            Err(e) => match self.controller() {
                Some(controller) => {
                    let credentials = controller
                        .renew_own_certificate()
                        .with_context(|| format!("no manager renews the certificate ({e})"))?;
                    return self.identity.save_credentials(&credentials);
                }
                None => return Err(e.into()),
            },
        };
        self.identity.save_credentials(&membership.credentials)?;
        self.tls.install(membership.credentials.clone())?;
        self.took_managers(membership.managers.iter().map(|(id, addr)| (*id, addr.to_string())).collect());
        match (membership.role, self.controller()) {
            (CertRole::Manager, None) => {
                let bootstrap = join_bootstrap(&membership)?.context("a manager's certificate without its key")?;
                let controller = start_controller(host, &self.identity, &self.tls, facts.addr, bootstrap).await?;
                self.slot.set(Some(controller));
                tracing::info!("this node is a manager now");
            }
            (CertRole::Worker, Some(controller)) => {
                self.slot.set(None);
                controller.shutdown().await;
                std::fs::remove_dir_all(self.identity.controller()).context("remove the control plane's data")?;
                tracing::info!("this node is a worker now");
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn took_managers(&self, managers: Vec<(NodeId, String)>) {
        if managers.is_empty() || self.facts.borrow().managers == managers {
            return;
        }
        self.facts.send_modify(|f| f.managers = managers);
        self.save_facts();
    }

    /// Certificates that open no door of this host any more. A manager goes by its own state.
    pub(super) fn took_revoked(&self, revoked: Vec<String>) {
        if self.controller().is_none() {
            self.tls.revoke(revoked.iter().cloned().collect());
        }
        if self.facts.borrow().revoked != revoked {
            self.facts.send_modify(|f| f.revoked = revoked);
            self.save_facts();
        }
    }

    fn save_facts(&self) {
        let facts = self.facts.borrow().clone();
        if let Err(error) = self.identity.save_facts(&facts) {
            tracing::warn!(error = format!("{error:#}"), "what was heard of the managers could not be saved");
        }
    }
}

/// What a manager starts its control plane with; `None` for a worker. What an earlier seat left is removed: its log is not
/// the one that the leader sends.
fn join_bootstrap(m: &Membership) -> anyhow::Result<Option<Bootstrap>> {
    match (m.role, &m.seal_key) {
        (CertRole::Manager, Some(key)) => {
            Ok(Some(Bootstrap::Join { managers: m.managers.clone(), seal_key: key.clone() }))
        }
        (CertRole::Manager, None) => {
            anyhow::bail!("the cluster gave a manager's certificate without the managers' key")
        }
        _ => Ok(None),
    }
}

async fn start_controller(
    host: &Host,
    identity: &IdentityDir,
    tls: &Tls,
    addr: SocketAddr,
    bootstrap: Bootstrap,
) -> anyhow::Result<Controller> {
    let who = tls.identity();
    if !matches!(bootstrap, Bootstrap::Resume { .. } | Bootstrap::ForceNew) {
        match std::fs::remove_dir_all(identity.controller()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).context("remove an earlier control plane's data");
            }
            _ => {}
        }
    }
    std::fs::create_dir_all(identity.path()).with_context(|| format!("create {}", identity.path().display()))?;
    let config = ControllerConfig {
        data_dir: identity.controller(),
        node_id: who.node_id,
        cluster_id: who.cluster_id,
        addr,
        tls: tls.clone(),
        timing: Timing::default(),
        storage: Storage::default(),
    };
    Controller::start(config, bootstrap, Arc::new(Teller::new(host.engine.clone()))).await.context("control plane")
}

fn addresses(managers: &[(NodeId, String)]) -> Vec<(NodeId, SocketAddr)> {
    managers.iter().filter_map(|(id, a)| Some((*id, a.parse().ok()?))).collect()
}

/// What fits into a tunnel over this host's uplink.
pub fn overlay_mtu() -> u16 {
    crate::uplink::mtu().saturating_sub(50)
}

async fn keep_description(member: Arc<Member>, host: Arc<Host>, tx: watch::Sender<NodeDescription>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(DESCRIBE_EVERY) => {}
            () = member.stop.cancelled() => return,
        }
        let addr = member.facts.borrow().addr;
        let next = describe(&host.config, addr);
        tx.send_if_modified(|d| {
            let changed = *d != next;
            *d = next;
            changed
        });
    }
}

async fn keep_certificate(member: Arc<Member>, host: Arc<Host>) {
    loop {
        let due = member.tls.leaf().renew_at(rand::rng().random());
        // Never in a tight loop, and soon again after a clock was set.
        let wait = due.since(now()).clamp(Duration::from_secs(1), Duration::from_secs(3600));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = member.stop.cancelled() => return,
        }
        if now() < due {
            continue;
        }
        if let Err(error) = member.renew(&host).await {
            tracing::warn!(error = format!("{error:#}"), "the certificate could not be renewed; trying again");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

/// Shows each new certificate to the servers that this host has connections to: with the old one's end they would end the
/// session, and streams through other nodes.
async fn show_certificate(member: Arc<Member>) {
    let mut installed = member.tls.installed();
    loop {
        tokio::select! {
            changed = installed.changed() => if changed.is_err() { return },
            () = member.stop.cancelled() => return,
        }
        loop {
            let failed = member.tls.show().await;
            failed.iter().for_each(|error| tracing::debug!(%error, "the new certificate could not be shown"));
            if failed.is_empty() || installed.has_changed().unwrap_or(true) {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(SHOW_AGAIN) => {}
                () = member.stop.cancelled() => return,
            }
        }
    }
}
