//! [`Controller`]: one manager's control plane, running.

use crate::{
    Bootstrap, ControllerConfig, SealKey, StartError,
    claims::Claims,
    clock::{Clock, random_seed},
    credentials::Sealer,
    disk::Disk,
    errors,
    links::Links,
    peers::Addresses,
    storage::{self, Begin},
    turn::{Inbox, Parts, Published, Turn, View},
    witness::Witness,
};
use muster_calls::Error;
use muster_consensus::Consensus;
use muster_controller_core::{Call, Config, Manager, Reply};
use muster_journal::Options;
use muster_model::{NodeId, cluster::Cluster};
use muster_mtls::{Ca, CertRole, Credentials, KeyRequest, NodeIdentity, Tls};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tracing::{info, warn};

/// Requests, messages and events that wait for a turn: some milliseconds' worth. Full, it makes who sends wait.
const INBOX: usize = 1024;
/// How long a founding may take: one write to the own disk.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(30);

/// A running manager. Cheap to clone; ends when the last clone is dropped, in order by [`Controller::shutdown`].
#[derive(Clone)]
pub struct Controller(Arc<Inner>);

struct Inner {
    config: ControllerConfig,
    seal_key: SealKey,
    inbox: mpsc::Sender<Inbox>,
    published: watch::Receiver<Arc<Published>>,
    stopped: watch::Receiver<Option<Stopped>>,
    links: Links,
    sessions: AtomicU64,
    claims: Mutex<Claims>,
    running: Mutex<Option<Running>>,
}

/// Why a controller runs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was told to.
    Shutdown,
    /// It cannot go on, for the reason given: its disk failed, or its state is not what the others have.
    Failed(String),
}

/// The loop's task and the disk's threads.
struct Running {
    turn: JoinHandle<()>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The threads end by themselves once the loop is gone.
        self.turn.abort();
    }
}

impl Controller {
    /// Opens the data, starts the threads and the loop; for a new cluster, founds it. `witness` is told what happens.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        config: ControllerConfig,
        bootstrap: Bootstrap,
        witness: Arc<dyn Witness>,
    ) -> Result<Self, StartError> {
        let (begin, seal_key, managers, founding) = match bootstrap {
            Bootstrap::New { cluster, first, seal_key } => {
                (Begin::New(config.node_id.raft_id()), Some(seal_key), Vec::new(), Some((cluster, first)))
            }
            Bootstrap::Join { managers, seal_key } => (Begin::Join, Some(seal_key), managers, None),
            Bootstrap::Resume { managers } => (Begin::Resume, None, managers, None),
            Bootstrap::ForceNew => (Begin::ForceNew(config.node_id, config.addr), None, Vec::new(), None),
        };
        let (dir, segment_bytes) = (config.data_dir.clone(), config.storage.segment_bytes);
        let expected = config.cluster_id;
        let opening = tokio::task::spawn_blocking(move || {
            let options = Options { segment_bytes, ..Options::default() };
            let storage = storage::open(&dir, options, begin)?;
            if let Some(found) = storage.state.cluster().map(|c| c.id).filter(|id| *id != expected) {
                return Err(StartError::OtherCluster { expected, found });
            }
            let path = dir.join("managers.key");
            let seal_key = match seal_key {
                Some(key) => key.save(&path).map(|()| key)?,
                None => SealKey::load(&path)?,
            };
            Ok((storage, seal_key))
        });
        let (storage, seal_key) = opening.await.map_err(|e| StartError::Thread(std::io::Error::other(e)))??;
        let controller = Self::run(config, storage, seal_key, managers, witness)?;
        if let Some((cluster, first)) = founding {
            let call = Call::Init { cluster, first: *first };
            if let Err(e) = controller.found(call).await {
                controller.shutdown().await;
                return Err(StartError::Founding(e.message));
            }
        }
        Ok(controller)
    }

    fn run(
        config: ControllerConfig,
        storage: storage::Storage,
        seal_key: SealKey,
        managers: Vec<(NodeId, SocketAddr)>,
        witness: Arc<dyn Witness>,
    ) -> Result<Self, StartError> {
        let me = config.node_id;
        let seed = random_seed()?;
        let timing = config.timing;
        let raft_config = muster_consensus::Config {
            election_ticks: timing.election_ticks,
            heartbeat_ticks: timing.heartbeat_ticks,
            ..muster_consensus::Config::new(me.raft_id(), seed[0])
        };
        let consensus = Consensus::new(raft_config, storage.start)?;
        let manager = Manager::new(Config::new(me, seed), storage.state);
        let (inbox, received) = mpsc::channel(INBOX);
        let (disk, threads) = Disk::start(storage.journal, storage.checkpoints, inbox.clone())?;
        let hints: Addresses = managers.into_iter().map(|(id, addr)| (id.raft_id(), (id, addr))).collect();
        let (publish, published) = watch::channel(Arc::new(Published::default()));
        let (stop, stopped) = watch::channel(None);
        let turn = Turn::new(Parts {
            clock: Clock::start(),
            timing,
            storage: config.storage,
            me,
            tls: config.tls.clone(),
            sealer: Sealer::new(seal_key.clone(), config.cluster_id),
            manager,
            consensus,
            disk,
            hints,
            inbox: inbox.clone(),
            published: publish,
            witness,
        });
        let turn = tokio::spawn(async move {
            let why = turn.run(received).await.map_or_else(Stopped::Failed, |()| Stopped::Shutdown);
            stop.send_replace(Some(why));
        });
        let links = Links::new(config.tls.clone());
        let running = Mutex::new(Some(Running { turn, threads }));
        let (sessions, claims) = (AtomicU64::new(1), Mutex::new(Claims::starting_at(random_seed()?[0])));
        Ok(Self(Arc::new(Inner { config, seal_key, inbox, published, stopped, links, sessions, claims, running })))
    }

    async fn found(&self, call: Call) -> Result<(), Error> {
        let mut published = self.0.published.clone();
        let leads = timeout(FOUNDING_TIMEOUT, published.wait_for(|p| p.leading)).await;
        leads.map_err(|_| errors::no_majority(FOUNDING_TIMEOUT))?.map_err(|_| errors::stopped())?;
        self.change(call).await.map(drop)
    }

    pub fn node_id(&self) -> NodeId {
        self.0.config.node_id
    }

    pub fn config(&self) -> &ControllerConfig {
        &self.0.config
    }

    pub fn tls(&self) -> &Tls {
        &self.0.config.tls
    }

    /// What this manager knows at this moment. Not proven to be the newest: good for membership checks, addresses and
    /// metrics.
    pub fn published(&self) -> Arc<Published> {
        self.0.published.borrow().clone()
    }

    /// Changes whenever [`Controller::published`] does.
    pub fn watch(&self) -> watch::Receiver<Arc<Published>> {
        self.0.published.clone()
    }

    /// Where managers are, this one included.
    pub fn managers(&self) -> Vec<(NodeId, SocketAddr)> {
        self.published().addresses.values().copied().collect()
    }

    /// Waits until the controller runs no more, and says why.
    pub async fn stopped(&self) -> Stopped {
        let mut stopped = self.0.stopped.clone();
        let why = stopped.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_else(|| Stopped::Failed("the control plane's task was ended".to_owned()))
    }

    /// Hands the leadership on if it leads, ends the loop and waits for the disk. Repeating it changes nothing.
    pub async fn shutdown(&self) {
        // The loop may have ended by itself.
        let _ = self.0.inbox.send(Inbox::Shutdown).await;
        self.stopped().await;
        self.join().await;
    }

    /// Ends at once, as a crash would: nothing is handed on, nothing more is written. Returns when the disk is let go of.
    pub async fn kill(&self) {
        if let Some(running) = self.running().as_ref() {
            running.turn.abort();
        }
        self.join().await;
    }

    async fn join(&self) {
        let Some(mut running) = self.running().take() else { return };
        // Both have told of their failures already.
        let _ = (&mut running.turn).await;
        let threads = std::mem::take(&mut running.threads);
        let _ = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join()))).await;
        info!(node.id = %self.node_id(), "control plane stopped");
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn links(&self) -> &Links {
        &self.0.links
    }

    pub(crate) fn seal_key(&self) -> &SealKey {
        &self.0.seal_key
    }

    /// What keeps registry credentials.
    pub(crate) fn sealer(&self) -> Sealer {
        Sealer::new(self.0.seal_key.clone(), self.0.config.cluster_id)
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.0.sessions.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn tell(&self, message: Inbox) -> Result<(), Error> {
        self.0.inbox.send(message).await.map_err(|_| errors::stopped())
    }

    /// A session's end is told also by who cannot wait.
    pub(crate) fn tell_soon(&self, message: Inbox) {
        if let Err(mpsc::error::TrySendError::Full(message)) = self.0.inbox.try_send(message) {
            let inbox = self.0.inbox.clone();
            tokio::spawn(async move { inbox.send(message).await });
        }
    }

    /// Proposes a change and waits until it is applied here, on the leader.
    pub(crate) async fn change(&self, call: Call) -> Result<Reply, Error> {
        let (reply, answer) = oneshot::channel();
        let trace_parent = muster_telemetry::trace_parent();
        self.tell(Inbox::Call { call: Box::new(call), trace_parent, reply }).await?;
        let patience = self.0.config.timing.call_timeout;
        match timeout(patience, answer).await {
            Ok(answer) => answer.map_err(|_| errors::stopped())?.map_err(errors::from_call_error),
            Err(_) => Err(errors::no_majority(patience)),
        }
    }

    /// The state as of a moment at which this manager was the leader, after this call began.
    pub(crate) async fn read(&self) -> Result<View, Error> {
        let (reply, answer) = oneshot::channel();
        self.tell(Inbox::Read(reply)).await?;
        let patience = self.0.config.timing.call_timeout;
        match timeout(patience, answer).await {
            Ok(answer) => answer.map_err(|_| errors::stopped())?.map_err(errors::from_call_error),
            Err(_) => Err(Error::unavailable(format!("no majority of the managers answered within {patience:?}"))),
        }
    }

    /// The claims of containers that are being made, on the leader. Never held across an await.
    pub(crate) fn claims(&self) -> std::sync::MutexGuard<'_, Claims> {
        self.0.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster object as known here.
    pub(crate) fn cluster_object(&self) -> Result<Arc<Cluster>, Error> {
        let cluster = self.published().state.cluster().cloned();
        cluster.ok_or_else(|| Error::unavailable("this manager has not received the cluster's state yet"))
    }

    /// The authority, its key opened.
    pub(crate) fn authority(&self, cluster: &Cluster) -> Result<Ca, Error> {
        let broken =
            |e: &dyn std::fmt::Display| Error::internal(format!("the certificate authority cannot be used: {e}"));
        let cert = muster_mtls::certificate_from_pem(&cluster.ca_cert_pem).map_err(|e| broken(&e))?;
        let key = self.seal_key().open(cluster.id, &cluster.ca_key_sealed).map_err(|e| broken(&e))?;
        Ca::load(&cert, &key).map_err(|e| broken(&e))
    }

    /// Signs this manager's own next certificate with the authority that it holds, asking nobody, and installs it: for a
    /// manager whose certificate ran out while it was off, so that a whole cluster that was off gets up again.
    ///
    /// # Errors
    /// `Unavailable` before the state is known, `Forbidden` when the state says that this node is no manager.
    pub fn renew_own_certificate(&self) -> Result<Credentials, Error> {
        let cluster = self.cluster_object()?;
        let published = self.published();
        let (id, cluster_id) = (self.node_id(), cluster.id);
        if !published.membership.contains(id.raft_id()) || published.state.node(id).is_none() {
            return Err(Error::forbidden(format!("node {id} is no manager any more")));
        }
        let ca = self.authority(&cluster)?;
        let failed = |e: muster_mtls::Error| Error::internal(e.to_string());
        let request = KeyRequest::new().map_err(failed)?;
        let identity = NodeIdentity { node_id: id, cluster_id, role: CertRole::Manager };
        let lifetime = cluster.spec.certificate_lifetime;
        let leaf = ca.sign_csr(request.csr(), identity, lifetime, muster_mtls::now()).map_err(failed)?;
        let credentials = request.complete(leaf.to_vec(), vec![ca.certificate().clone()]).map_err(failed)?;
        self.tls().install(credentials.clone()).map_err(failed)?;
        warn!(node.id = %id, "signed the own certificate");
        Ok(credentials)
    }
}
