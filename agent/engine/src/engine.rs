//! The engine: what all of its rooms share, opening and closing it.

use crate::{
    Change, Changes,
    config::EngineConfig,
    container::{Containers, Handle},
    error::{self, OpenError},
    events::Events,
    exec::Execs,
    image::Roots,
    names,
    net::{Ledger, Networks, Ports, netns},
    plugin::Plugins,
    record::{Durability, Keeper, Record, Records, RecordsRead, durable},
    volume::{Volumes, image_root, sweep_pins},
};
use muster_calls::Result;
use muster_model::engine::Strings;
use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Changes a slow subscriber may be behind before it is told that it missed some.
const CHANGES: usize = 1024;

/// How long after a start the index over records is written, where that pays: what the start has set going is done by then, and
/// the daemon gives memory back later.
const INDEX_AFTER: Duration = Duration::from_secs(3);

/// Docker Engine semantics of one host. Implements [`muster_calls::Engine`].
pub struct LocalEngine {
    pub(crate) shared: Arc<Shared>,
}

/// What every room of an engine can reach.
pub(crate) struct Shared {
    pub config: EngineConfig,
    /// Of the engine, for `info`: kept in the data folder.
    pub id: String,
    pub records: Keeper,
    pub containers: Containers,
    pub networks: Networks,
    pub ledger: Ledger,
    pub ports: Ports,
    pub plugins: Arc<Plugins>,
    pub volumes: Volumes,
    pub roots: Roots,
    pub execs: Execs,
    pub events: Events,
    /// Of the daemon, for `info`: they can change while it runs.
    pub labels: std::sync::RwLock<Vec<String>>,
    pub spec_host: muster_runtime::spec::Host,
    changes: broadcast::Sender<(String, Change)>,
    tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl LocalEngine {
    /// Opens an engine: reads the records, takes up running containers through their shims without touching them, records
    /// the exits that happened meanwhile, applies restart policies, and removes what was left half-made.
    ///
    /// # Errors
    /// [`OpenError`]. A single unreadable container record is logged and left alone: it hides no other container.
    pub async fn open(config: EngineConfig) -> std::result::Result<Arc<Self>, OpenError> {
        let volumes = config.data_dir.join("volumes");
        let containers = config.data_dir.join("containers");
        let folders = [&containers, &volumes, &netns_folder(&config.run_dir), &shm_folder(&config.run_dir)];
        for folder in folders {
            fs::create_dir_all(folder).map_err(OpenError::io("create", folder))?;
        }
        if !config.cgroup_parent.starts_with('/') {
            return Err(OpenError::Config { field: "cgroup_parent", reason: "expected an absolute path".to_owned() });
        }
        durable::sweep(&config.data_dir)?;
        let networks = Networks::open(&config.data_dir.join("networks"), &config)?;
        let plugins = Arc::new(Plugins::new(config.plugin_dirs.clone(), config.plugin_patience));
        let (records, read) = read_records(&config).await?;
        let volumes = Volumes::open(&volumes, read.volumes, &config.data_dir.join("lent"), plugins.clone())?;
        let shared = Arc::new(Shared {
            id: engine_id(&config.data_dir)?,
            records,
            containers: Containers::default(),
            networks,
            ledger: Ledger::open(&config.data_dir.join("endpoints"))?,
            plugins,
            ports: Ports::default(),
            volumes,
            roots: Roots::new(config.images.clone()),
            execs: Execs::default(),
            events: Events::new(),
            labels: std::sync::RwLock::new(config.labels.clone()),
            spec_host: muster_runtime::spec::Host::detect().map_err(OpenError::io("read", Path::new("/proc")))?,
            changes: broadcast::channel(CHANGES).0,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            config,
        });
        crate::adopt::adopt(&shared, read.containers).await?;
        shared.index_later();
        Ok(Arc::new(Self { shared }))
    }

    /// The daemon's configuration was read again: these are its labels now. Tells it as dockerd does.
    pub fn reloaded(&self, labels: Vec<String>) {
        let shown = labels.join(",");
        *self.shared.labels.write().unwrap_or_else(|e| e.into_inner()) = labels;
        let attributes =
            [("labels", shown), ("name", self.shared.config.name.clone())].map(|(k, v)| (k.to_owned(), v)).into();
        self.shared.events.publish("daemon", "reload", self.shared.id.clone(), attributes);
    }

    /// Something happened in the cluster of which this host is a manager: who listens to its events hears of it. `entry` names
    /// it in the whole cluster.
    pub fn cluster_event(&self, entry: String, kind: &str, action: &str, id: String, attributes: Strings) {
        self.shared.events.publish_cluster(entry, kind, action, id, attributes);
    }

    /// Ends the engine's tasks. Containers go on: the next [`LocalEngine::open`] takes them up again.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.clone().write_index().await;
    }

    /// Where the records came from when the engine was opened.
    pub fn records_read(&self) -> RecordsRead {
        self.shared.records.records_read()
    }

    /// What happens to containers from now on. A subscriber that is more than 1024 changes behind gets
    /// [`broadcast::error::RecvError::Lagged`] and must look at every container anew.
    pub fn subscribe(&self) -> Changes {
        self.shared.changes.subscribe()
    }
}

async fn read_records(config: &EngineConfig) -> std::result::Result<(Keeper, Records), OpenError> {
    let keeper = Keeper::new(&config.data_dir, config.index_from);
    let read = tokio::task::spawn_blocking(move || keeper.read().map(|read| (keeper, read))).await;
    Ok(read.map_err(|e| OpenError::io("read", &config.data_dir)(std::io::Error::other(e)))??)
}

fn netns_folder(run_dir: &Path) -> PathBuf {
    run_dir.join("netns")
}

fn shm_folder(run_dir: &Path) -> PathBuf {
    run_dir.join("shm")
}

fn engine_id(data_dir: &Path) -> std::result::Result<String, OpenError> {
    let path = data_dir.join("engine-id");
    if let Some(id) = durable::read(&path)?.and_then(|b| String::from_utf8(b).ok()).filter(|id| names::is_hex(id)) {
        return Ok(id);
    }
    let id = names::new_id();
    durable::write(&path, id.as_bytes(), Durability::Power)?;
    Ok(id)
}

impl Shared {
    /// The durable folder of a container.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.config.data_dir.join("containers").join(id)
    }

    /// Where a container's log is.
    pub fn log_path(&self, id: &str) -> PathBuf {
        self.folder(id).join(format!("{id}-json.log"))
    }

    /// The file that holds a container's network namespace.
    pub fn netns(&self, id: &str) -> PathBuf {
        netns_folder(&self.config.run_dir).join(names::short(id))
    }

    /// Where paths inside of volumes are bound while a container is being started.
    pub fn pins(&self) -> PathBuf {
        self.config.run_dir.join("pins")
    }

    /// Where what is known of a container's execs is kept; gone after a reboot, as they are.
    pub fn execs_folder(&self, id: &str) -> PathBuf {
        self.config.run_dir.join(crate::exec::KEPT_FOLDER).join(id)
    }

    /// Where the shared memory of a container is mounted, if others may share it.
    pub fn shm(&self, id: &str) -> PathBuf {
        shm_folder(&self.config.run_dir).join(names::short(id))
    }

    /// Removes every network namespace and shared memory of a container that is not in `keep`. Whatever is not called as
    /// containers are stays: of a folder that others use as well (`/run`: ip(8) has its namespaces there) they lose nothing.
    pub fn sweep_run_dir(&self, keep: &[String]) -> std::io::Result<()> {
        sweep_pins(&self.pins());
        let kept = |name: &str| !names::is_short(name) || keep.iter().any(|id| names::short(id) == name);
        netns::sweep(&netns_folder(&self.config.run_dir), kept)?;
        crate::container::sweep_shm(&shm_folder(&self.config.run_dir), kept)
    }

    /// Starts a task that the engine waits for at shutdown. A task that panics is an error in the log, not a silence.
    pub fn spawn(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        let inner = tokio::spawn(task);
        let abort = inner.abort_handle();
        self.tasks.spawn(async move {
            if let Err(e) = inner.await
                && e.is_panic()
            {
                tracing::error!(task = what, error = %e, "a task of the engine died");
            }
        });
        abort
    }

    /// Does an act to its end even if its caller goes away: what must not be broken off half-way.
    pub async fn finish<T: Send + 'static>(&self, act: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let done = self.tasks.spawn(act).await;
        done.unwrap_or_else(|e| Err(muster_calls::Error::internal(format!("a task of the engine died: {e}"))))
    }

    /// Has the index over records written in a while, if a start that comes after this one would be spared much by it.
    fn index_later(self: &Arc<Self>) {
        if !self.records.pays(self.record_count()) {
            return;
        }
        let shared = self.clone();
        self.spawn("index over records", async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = tokio::time::sleep(INDEX_AFTER) => shared.clone().write_index().await,
            }
        });
    }

    async fn write_index(self: Arc<Self>) {
        let count = self.record_count();
        if !self.records.pays(count) {
            return;
        }
        if let Err(error) = tokio::task::spawn_blocking(move || self.records.write(count)).await {
            tracing::error!(%error, "the writing of the index over records died");
        }
    }

    fn record_count(&self) -> usize {
        self.containers.count() + self.volumes.count()
    }

    /// Writes a container's record.
    pub async fn write_record(&self, record: &Record, durability: Durability) -> Result<()> {
        self.records.changed();
        let (record, folder) = (record.clone(), self.folder(&record.id));
        error::blocking(move || record.write(&folder, durability).map_err(error::disk)).await
    }

    /// Finds a container.
    pub fn find(&self, name: &str) -> Result<Arc<Handle>> {
        self.containers.find(name)
    }

    /// Tells the subscribers.
    pub fn changed(&self, id: &str, change: Change) {
        let _ = self.changes.send((id.to_owned(), change)); // No subscriber is no error.
    }

    /// Publishes an event of a container, with its labels, image and name.
    pub fn container_event(&self, record: &Record, action: &str, extra: &[(&str, &str)]) {
        let mut attributes: Strings = record.config.labels.clone();
        attributes.insert("image".to_owned(), record.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        self.events.publish("container", action, record.id.clone(), attributes);
    }

    /// Removes everything a container that does not run owns; its folder last.
    pub async fn discard_container(&self, record: &Record, volumes: bool) -> Result<()> {
        self.config.runtime.delete(&record.id, true).await.map_err(error::runtime)?;
        self.roots.remove(&record.id).await?;
        for (index, _) in record.mounts.iter().enumerate().filter(|(_, m)| m.kind == "image") {
            self.roots.remove(&image_root(&record.id, index)).await?;
        }
        self.volumes.release(&record.id);
        if volumes {
            self.volumes.remove_anonymous(record).await;
        }
        let folder = self.folder(&record.id);
        self.records.changed();
        error::blocking(move || {
            // The record goes first: a folder without one is swept at the next start.
            durable::remove_file(&folder.join(crate::record::FILE)).map_err(error::disk)?;
            durable::remove_tree(&folder).map_err(error::disk)
        })
        .await
    }
}
