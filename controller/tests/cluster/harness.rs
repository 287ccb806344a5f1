//! Nodes as a host would run them, without the host: a server, a slot, a controller, a folder.

use async_trait::async_trait;
use muster_calls::{Cluster, Error};
use muster_controller::{
    Bootstrap, ClusterEvent, Controller, ControllerConfig, Face, Founding, Published, Slot, Storage, Timing, Witness,
    join, routes,
};
use muster_model::{
    NodeId,
    cluster::{ClusterSpec, NodeDescription},
    spec::{ContainerSpec, EndpointSpec, Labels, Mode, NetworkSpec, ServiceSpec, TaskSpec, UpdateConfig},
};
use muster_mtls::{CertRole, Credentials, JoinToken, Tls, incoming};
use muster_proto::{ClusterService, Clusters};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

/// Generous: other work may hold the machine's disk.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn small_storage() -> Storage {
    Storage { checkpoint_entries: 20, segment_bytes: 64 << 10, ..Storage::default() }
}

/// One host. Everything it started ends with it.
pub struct Host {
    pub tls: Tls,
    pub addr: SocketAddr,
    pub slot: Slot,
    pub storage: Storage,
    /// What it told of the cluster's changes, over all its lives.
    pub told: Arc<Told>,
    dir: TempDir,
    server: JoinHandle<()>,
}

/// Keeps what it is told.
#[derive(Debug, Default)]
pub struct Told(Mutex<Vec<ClusterEvent>>);

impl Witness for Told {
    fn saw(&self, event: ClusterEvent) {
        self.0.lock().expect("no holder panics").push(event);
    }
}

impl Told {
    /// The changes of services so far: action, name, entry.
    pub fn of_services(&self) -> Vec<(&'static str, String, (u64, u32))> {
        let told = self.0.lock().expect("no holder panics");
        told.iter().filter(|e| e.kind == "service").map(|e| (e.action, e.attributes["name"].clone(), e.entry)).collect()
    }
}

struct Api(Slot);

#[async_trait]
impl Clusters for Api {
    async fn cluster(
        &self,
        method: &'static str,
        extensions: &tonic::Extensions,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<Arc<dyn Cluster>, Error> {
        let mut roles = vec![CertRole::Operator, CertRole::Manager];
        if method == "leave" {
            roles.push(CertRole::Worker);
        }
        let controller = self.0.controller()?;
        let caller = controller.authorize(extensions, metadata, &roles)?;
        Ok(Arc::new(controller.face(caller)))
    }
}

fn serve(listener: TcpListener, tls: &Tls, slot: &Slot) -> JoinHandle<()> {
    let routes = routes(slot).add_service(ClusterService::server(Arc::new(Api(slot.clone()))));
    let accepted = incoming(listener, tls.clone());
    tokio::spawn(async move {
        tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(accepted).await.expect("serves");
    })
}

pub fn description(name: &str, addr: SocketAddr) -> NodeDescription {
    NodeDescription {
        hostname: name.to_owned(),
        os: "linux".into(),
        arch: "x86_64".into(),
        nano_cpus: 4_000_000_000,
        memory_bytes: 8 << 30,
        api_addr: Some(addr),
        vtep: Some(std::net::Ipv4Addr::new(192, 0, 2, (addr.port() % 250) as u8 + 1)),
        features: vec!["ebpf-overlay".into()],
        ..NodeDescription::default()
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    (listener, addr)
}

impl Host {
    fn new(listener: TcpListener, addr: SocketAddr, credentials: Credentials, storage: Storage) -> Self {
        let (tls, slot) = (Tls::new(credentials).expect("valid"), Slot::default());
        let server = serve(listener, &tls, &slot);
        Self { tls, addr, slot, storage, told: Arc::default(), dir: tempfile::tempdir().expect("temp dir"), server }
    }

    /// The first manager of a new cluster.
    pub async fn found(storage: Storage) -> Self {
        Self::found_with(storage, ClusterSpec::default()).await
    }

    pub async fn found_with(storage: Storage, spec: ClusterSpec) -> Self {
        // `RUST_LOG=muster_controller=debug` shows what went on; a second try finds it installed.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let (listener, addr) = listener().await;
        let pool = "10.128.0.0/12".parse().expect("a subnet");
        let founding = Founding::new(spec, pool, 24, description("first", addr), addr).expect("random bytes");
        let Founding { cluster, first, credentials, seal_key } = founding;
        let host = Self::new(listener, addr, credentials, storage);
        host.start(Bootstrap::New { cluster: Box::new(cluster), first: Box::new(first), seal_key }).await;
        host
    }

    /// A new manager, joined through `via`.
    pub async fn join_manager(name: &str, via: &Host, storage: Storage) -> Self {
        let (listener, addr) = listener().await;
        let token = via.tokens().await.1;
        let given = join(&[via.addr.to_string()], &token, &description(name, addr)).await.expect("joined");
        assert_eq!(given.role, CertRole::Manager);
        let host = Self::new(listener, addr, given.credentials, storage);
        let seal_key = given.seal_key.expect("managers are given the key");
        host.start(Bootstrap::Join { managers: given.managers, seal_key }).await;
        host
    }

    /// A new worker, joined through `via`; it has no control plane.
    pub async fn join_worker(name: &str, via: &Host) -> Self {
        let (listener, addr) = listener().await;
        let token = via.tokens().await.0;
        let given = join(&[via.addr.to_string()], &token, &description(name, addr)).await.expect("joined");
        assert_eq!((given.role, given.seal_key), (CertRole::Worker, None));
        Self::new(listener, addr, given.credentials, via.storage)
    }

    pub async fn start(&self, bootstrap: Bootstrap) {
        let config = ControllerConfig {
            data_dir: self.data_dir().to_owned(),
            node_id: self.id(),
            cluster_id: self.tls.identity().cluster_id,
            addr: self.addr,
            tls: self.tls.clone(),
            timing: Timing::default(),
            storage: self.storage,
        };
        self.slot.set(Some(Controller::start(config, bootstrap, self.told.clone()).await.expect("started")));
    }

    /// Starts again from what is on disk.
    pub async fn resume(&mut self) {
        self.restart(Bootstrap::Resume { managers: Vec::new() }).await;
    }

    pub async fn restart(&mut self, bootstrap: Bootstrap) {
        let mut listener = None;
        until("its port is free again", async || {
            listener = TcpListener::bind(self.addr).await.ok();
            listener.is_some()
        })
        .await;
        let listener = listener.expect("bound, or the wait had failed");
        self.server = serve(listener, &self.tls, &self.slot);
        self.start(bootstrap).await;
    }

    /// As a crash of the process: nothing is said to anybody.
    pub async fn crash(&self) {
        self.server.abort();
        let controller = self.controller();
        controller.kill().await;
        self.slot.set(None);
        self.tls.connections().close_where(|_| true);
    }

    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn id(&self) -> NodeId {
        self.tls.identity().node_id
    }

    pub fn controller(&self) -> Controller {
        self.slot.get().expect("runs")
    }

    pub fn api(&self) -> Face {
        self.controller().local_face()
    }

    pub async fn tokens(&self) -> (JoinToken, JoinToken) {
        let tokens = self.api().join_tokens().await.expect("tokens");
        (tokens.worker.parse().expect("well formed"), tokens.manager.parse().expect("well formed"))
    }

    /// Waits until what this manager knows is as wanted.
    pub async fn wait(&self, what: &str, wanted: impl FnMut(&Arc<Published>) -> bool) -> Arc<Published> {
        let mut watch = self.controller().watch();
        let seen = timeout(PATIENCE, watch.wait_for(wanted)).await;
        let last = self.controller().published();
        match seen {
            Ok(Ok(seen)) => seen.clone(),
            _ => panic!(
                "{}: not in time: {what}; leader {:?}, leading {}, {:?}, term {}, applied {}",
                self.id(),
                last.leader,
                last.leading,
                last.membership,
                last.term,
                last.applied
            ),
        }
    }
}

impl Drop for Host {
    /// Waits for the threads that write: the folder goes now, and sled does not come back from a write to a folder that is gone.
    fn drop(&mut self) {
        self.server.abort();
        if let (Some(controller), Ok(runtime)) = (self.slot.get(), tokio::runtime::Handle::try_current()) {
            tokio::task::block_in_place(|| runtime.block_on(controller.kill()));
        }
        self.slot.set(None);
    }
}

/// Three managers, all voters.
pub async fn three(storage: Storage) -> [Host; 3] {
    let a = Host::found(storage).await;
    let b = Host::join_manager("second", &a, storage).await;
    let c = Host::join_manager("third", &a, storage).await;
    for host in [&a, &b, &c] {
        host.wait("three voters", |p| p.membership.voters().len() == 3 && p.leader.is_some()).await;
    }
    [a, b, c]
}

/// The place of the one that leads.
pub async fn leader_of(hosts: &[Host]) -> usize {
    let mut found = 0;
    until("one leads", async || {
        let place = hosts.iter().position(|h| h.controller().published().leading);
        place.inspect(|at| found = *at).is_some()
    })
    .await;
    found
}

/// Polls what no watch tells of.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polled = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, polled).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub fn service(name: &str, replicas: u64) -> ServiceSpec {
    ServiceSpec {
        name: name.to_owned(),
        labels: Labels::new(),
        mode: Mode::Replicated { replicas },
        task: TaskSpec {
            container: ContainerSpec { image: "busybox".into(), ..Default::default() },
            ..Default::default()
        },
        endpoint: EndpointSpec::default(),
        update: UpdateConfig::default(),
        rollback: UpdateConfig::default(),
        networks_beside: false,
    }
}

pub fn network(name: &str) -> NetworkSpec {
    NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() }
}
