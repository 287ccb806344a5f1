//! Volumes: a record each under the data folder, and of the local driver the files too.
//!
//! What a driver does is in `driver.rs` (plugins) and `options.rs` (the local driver's mounts); who has what mounted, in
//! `active.rs`; a container's mounts, in `mount.rs`; those of one that does not run, for `docker cp`, in `borrow.rs` and `apart.rs`;
//! copy-up, in `fill.rs`; what plugins must not keep mounted, in `lent.rs`.

mod active;
mod apart;
mod borrow;
mod driver;
mod fill;
mod lent;
mod mount;
mod options;

pub(crate) use apart::Apart;
pub(crate) use borrow::Borrowed;
pub(crate) use mount::{image_root, owner_of_root, sweep_pins};

use crate::{
    clock,
    container::Containers,
    error::{self, OpenError},
    events::Events,
    names,
    plugin::Plugins,
    record::{
        Durability, FILE, Mounted, ReadError, Record, durable,
        folder::{InFolder, Read},
    },
};
use active::Active;
use lent::Lent;
use muster_calls::{Error, Filters, Result};
use muster_model::{
    Timestamp,
    engine::{PruneReport, Strings, Volume, VolumeCreate, VolumeList, VolumeUsage},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::watch;

/// Label of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";
/// The driver that is no plugin.
const LOCAL: &str = "local";
/// The folder of a local volume's files, beside its record.
const DATA: &str = "_data";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeRecord {
    name: String,
    created: Timestamp,
    labels: Strings,
    options: Strings,
    /// Empty: `local`.
    driver: String,
}

impl VolumeRecord {
    fn driver(&self) -> &str {
        if self.driver.is_empty() { LOCAL } else { &self.driver }
    }

    fn is_local(&self) -> bool {
        self.driver() == LOCAL
    }
}

impl InFolder for VolumeRecord {
    const KIND: u8 = b'v';

    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    fn read(folder: &Path) -> std::result::Result<Option<Self>, ReadError> {
        let path = folder.join(FILE);
        let Some(bytes) = durable::read(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| ReadError::Json { path, source })
    }
}

/// All volumes of one engine.
#[derive(Debug)]
pub(crate) struct Volumes {
    folder: PathBuf,
    inner: Mutex<Inner>,
    plugins: Arc<Plugins>,
    active: Active,
    lent: Lent,
}

#[derive(Debug, Default)]
struct Inner {
    by_name: BTreeMap<String, VolumeRecord>,
    /// Containers that mount a volume, running or not.
    users: BTreeMap<String, BTreeSet<String>>,
    /// Volumes that are being made: ends when they are, or could not be.
    coming: BTreeMap<String, watch::Receiver<()>>,
    /// Volumes whose folder is being taken away: none of that name can be made until it is.
    going: BTreeSet<String>,
    /// Made for a container and not announced yet.
    fresh: BTreeSet<String>,
}

impl Volumes {
    /// Takes the records that were `read` in `folder`, and reads in the folder `lent` the notes of what plugins have mounted.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]. A folder without a record is a volume that was half-made or half-removed: it goes.
    pub fn open(
        folder: &Path,
        read: Vec<Read<VolumeRecord>>,
        lent: &Path,
        plugins: Arc<Plugins>,
    ) -> std::result::Result<Self, OpenError> {
        let mut inner = Inner::default();
        for Read { path, record, .. } in read {
            match record {
                Ok(Some(record)) => drop(inner.by_name.insert(record.name.clone(), record)),
                Err(ReadError::File(e)) => return Err(e.into()),
                Err(e) => tracing::error!(error = %e, "a volume record cannot be read and is left alone"),
                Ok(None) => {
                    // A half-removed one may still be mounted: what is mounted there is not ours to delete.
                    options::unmount(&path.join(DATA));
                    durable::remove_tree(&path)?
                }
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            inner: Mutex::new(inner),
            plugins,
            active: Active::default(),
            lent: Lent::open(lent)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().by_name.len()
    }

    pub fn exists(&self, name: &str) -> bool {
        self.lock().by_name.contains_key(name)
    }

    /// Where a volume's files are on the host.
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.folder.join(name).join(DATA)
    }

    fn record(&self, name: &str) -> Option<VolumeRecord> {
        self.lock().by_name.get(name).cloned()
    }

    /// Makes a volume, or finds the one of that name.
    ///
    /// # Errors
    /// `Invalid` for a bad name, `Unimplemented` for drivers and options that are not there.
    pub async fn create(&self, body: VolumeCreate, events: &Events) -> Result<Volume> {
        if body.cluster_volume_spec.is_some() {
            return Err(Error::unimplemented("ClusterVolumeSpec (CSI volumes)"));
        }
        let anonymous = body.name.is_empty();
        let name = if anonymous { names::new_id() } else { body.name };
        if name.len() == 1 && matches!(body.driver.as_str(), "" | "local") {
            return Err(Error::invalid(format!(
                "create {name}: volume name is too short, names should be at least two alphanumeric characters"
            )));
        }
        check_name(&name)?;
        let mut labels = body.labels;
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let record =
            VolumeRecord { name, created: clock::now(), labels, options: body.driver_opts, driver: body.driver };
        let name = record.name.clone();
        self.ensure(record).await?;
        self.announce_created(events, &name);
        self.inspect(&name).await
    }

    /// Makes a volume that is not there. Of several who want it at once, one makes it and the others wait.
    async fn ensure(&self, mut record: VolumeRecord) -> Result<()> {
        let name = record.name.clone();
        let _making = loop {
            let mut coming = match self.begin(&name)? {
                Turn::There(driver) => return same_driver(&record, &driver),
                Turn::Mine(making) => break making,
                Turn::Wait(coming) => coming,
            };
            let _ = coming.changed().await; // The maker's end is told by the loss of its sender.
        };
        if record.driver.is_empty() {
            LOCAL.clone_into(&mut record.driver);
        }
        if record.is_local() {
            options::check(&record.options).map_err(|e| Error::new(e.kind, format!("create {name}: {}", e.message)))?;
        } else {
            self.create_at_driver(&record).await?;
        }
        let (folder, written) = (self.folder.join(&name), record.clone());
        error::blocking(move || make(&folder, &written)).await?;
        let mut inner = self.lock();
        inner.fresh.insert(name.clone());
        inner.by_name.insert(name.clone(), record);
        Ok(())
    }

    fn begin<'a>(&'a self, name: &'a str) -> Result<Turn<'a>> {
        let mut inner = self.lock();
        if let Some(record) = inner.by_name.get(name) {
            return Ok(Turn::There(record.driver().to_owned()));
        }
        if inner.going.contains(name) {
            return Err(Error::conflict(format!("volume {name} is being removed")));
        }
        if let Some(coming) = inner.coming.get(name) {
            return Ok(Turn::Wait(coming.clone()));
        }
        let (told, coming) = watch::channel(());
        inner.coming.insert(name.to_owned(), coming);
        Ok(Turn::Mine(Making { volumes: self, name, _told: told }))
    }

    /// Publishes the making of a volume that nobody was told of yet.
    pub fn announce_created(&self, events: &Events, name: &str) {
        if self.lock().fresh.remove(name) {
            events.publish("volume", "create", name, [("driver".to_owned(), self.driver_of(name))].into());
        }
    }

    /// The driver of a volume; `local` for one that is not there.
    pub fn driver_of(&self, name: &str) -> String {
        self.record(name).map_or_else(|| LOCAL.to_owned(), |record| record.driver().to_owned())
    }

    /// Makes the volumes of a new container where they are missing, and notes that it uses them.
    pub async fn claim(&self, record: &mut Record) -> Result<()> {
        for mount in record.mounts.iter().filter(|m| m.kind == "volume") {
            // First: a removal that comes now sees the user.
            self.lock().users.entry(mount.volume.clone()).or_default().insert(record.id.clone());
            let mut labels = mount.volume_labels.clone();
            if mount.anonymous {
                labels.insert(ANONYMOUS.to_owned(), String::new());
            }
            self.ensure(VolumeRecord {
                name: mount.volume.clone(),
                created: clock::now(),
                labels,
                options: mount.volume_options.clone(),
                driver: mount.volume_driver.clone(),
            })
            .await?;
        }
        Ok(())
    }

    /// Notes the volumes of a container that was read from disk.
    pub fn hold(&self, record: &Record) {
        let mut inner = self.lock();
        for mount in record.mounts.iter().filter(|m| m.kind == "volume") {
            inner.users.entry(mount.volume.clone()).or_default().insert(record.id.clone());
        }
    }

    /// Notes that a container is gone.
    pub fn release(&self, container: &str) {
        let mut inner = self.lock();
        for users in inner.users.values_mut() {
            users.remove(container);
        }
        inner.users.retain(|_, users| !users.is_empty());
    }

    /// Removes the anonymous volumes of a container that is gone, as far as nobody else uses them.
    pub async fn remove_anonymous(&self, record: &Record) {
        for mount in record.mounts.iter().filter(|m| m.anonymous) {
            if let Err(e) = self.remove(&mount.volume, true).await {
                tracing::debug!(volume = %mount.volume, error = %e, "an anonymous volume stays");
            }
        }
    }

    /// Finds a volume: ours, or one that only its plugin knows.
    ///
    /// # Errors
    /// `NotFound`; those of a plugin that does not answer.
    pub async fn inspect(&self, name: &str) -> Result<Volume> {
        match self.record(name) {
            Some(record) if record.is_local() => Ok(self.document(&record)),
            Some(record) => self.document_of_driver(&record).await,
            None => {
                let foreign = self.foreign_volumes().await.0.into_iter().find(|volume| volume.name == name);
                foreign.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
            }
        }
    }

    fn document(&self, record: &VolumeRecord) -> Volume {
        Volume {
            name: record.name.clone(),
            driver: record.driver().to_owned(),
            mountpoint: if record.is_local() {
                self.mountpoint(&record.name).to_string_lossy().into_owned()
            } else {
                String::new()
            },
            // Whole seconds, as Docker writes it.
            created_at: Timestamp::from_millis(record.created.as_secs().saturating_mul(1000)).into(),
            labels: record.labels.clone(),
            options: record.options.clone(),
            scope: "local".to_owned(),
            ..Volume::default()
        }
    }

    /// The volumes that a list asks for. A plugin that does not answer is a warning, and its volumes are shown as recorded.
    pub async fn list(&self, filters: &Filters) -> Result<VolumeList> {
        filters.allow(&["dangling", "driver", "label", "label!", "name"]).map_err(|e| Error::invalid(e.to_string()))?;
        let dangling = filters.flag("dangling").map_err(|e| Error::invalid(e.to_string()))?;
        let (foreign, warnings) = self.foreign_volumes().await;
        let inner = self.lock();
        let names = muster_calls::Patterns::of(filters, "name");
        let takes = |v: &Volume| {
            names.take(&v.name)
                && filters.matches_exactly("driver", &v.driver)
                && crate::container::labels_pass(filters, &v.labels)
                && dangling.is_none_or(|wanted| inner.users.contains_key(&v.name) != wanted)
        };
        let mut volumes: Vec<Volume> = inner.by_name.values().map(|record| self.document(record)).collect();
        for other in foreign {
            match volumes.iter_mut().find(|v| v.name == other.name && v.driver == other.driver) {
                Some(known) => known.mountpoint = other.mountpoint,
                None => volumes.push(other),
            }
        }
        volumes.retain(takes);
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(VolumeList { volumes, warnings })
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// `NotFound` unless `force`; `Conflict`, in Docker's words.
    pub async fn remove(&self, name: &str, force: bool) -> Result<()> {
        let record = {
            let mut inner = self.lock();
            if let Some(users) = inner.users.get(name) {
                let list: Vec<&str> = users.iter().map(String::as_str).collect();
                return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", list.join(", "))));
            }
            match inner.by_name.remove(name) {
                Some(record) => {
                    inner.going.insert(name.to_owned());
                    record
                }
                None if force => return Ok(()),
                None => return Err(Error::not_found(format!("get {name}: no such volume"))),
            }
        };
        let removed = self.remove_parts(&record, force).await;
        let mut inner = self.lock();
        inner.going.remove(name);
        if removed.is_err() {
            inner.by_name.insert(name.to_owned(), record);
        }
        removed
    }

    async fn remove_parts(&self, record: &VolumeRecord, force: bool) -> Result<()> {
        if !record.is_local() {
            // With force the record goes also when its plugin is gone for good.
            match self.remove_at_driver(&record.name, record.driver()).await {
                Err(e) if force => {
                    tracing::warn!(volume = %record.name, error = %e, "removed by force, not by its plugin")
                }
                other => other?,
            }
        }
        let folder = self.folder.join(&record.name);
        error::blocking(move || {
            // What is mounted there is not ours to delete.
            options::unmount(&folder.join(DATA));
            // The record goes first: a folder without one is swept at the next start.
            durable::remove_file(&folder.join(FILE)).map_err(error::disk)?;
            durable::remove_tree(&folder).map_err(error::disk)?;
            folder.parent().map_or(Ok(()), |parent| durable::flush_folder(parent).map_err(error::disk))
        })
        .await
    }

    /// Removes the local volumes without options that no container has: anonymous ones, or all with the filter `all`.
    pub async fn prune(&self, filters: &Filters) -> Result<PruneReport> {
        let invalid = |e: muster_model::engine::FilterError| Error::invalid(e.to_string());
        filters.allow(&["all", "label", "label!"]).map_err(invalid)?;
        let all = filters.flag("all").map_err(invalid)?.unwrap_or(false);
        let unused: Vec<String> = {
            let inner = self.lock();
            let chosen = |r: &&VolumeRecord| {
                !inner.users.contains_key(&r.name)
                    && r.is_local()
                    && r.options.is_empty()
                    && (all || r.labels.contains_key(ANONYMOUS))
                    && crate::container::labels_pass(filters, &r.labels)
            };
            inner.by_name.values().filter(chosen).map(|r| r.name.clone()).collect()
        };
        let (mut deleted, mut reclaimed) = (Vec::new(), 0);
        for name in unused {
            let size = self.size(&name).await.unwrap_or(0);
            // Taken by a container since: it stays.
            if self.remove(&name, true).await.is_ok() {
                deleted.push(name);
                reclaimed += size;
            }
        }
        Ok(PruneReport { volumes_deleted: Some(deleted), space_reclaimed: reclaimed, ..PruneReport::default() })
    }

    /// Every volume with its size and number of containers, for `system df`.
    pub async fn usage(&self, containers: &Containers) -> Result<Vec<Volume>> {
        let mut volumes = self.list(&Filters::default()).await?.volumes;
        let records: Vec<_> = containers.all().iter().map(|h| h.record()).collect();
        for volume in &mut volumes {
            let uses = |r: &Record| r.mounts.iter().any(|m: &Mounted| m.kind == "volume" && m.volume == volume.name);
            let ref_count = records.iter().filter(|r| uses(r)).count() as i64;
            // What others keep is not counted: walking a network's file system may take for ever.
            let own = volume.driver == LOCAL && volume.options.is_empty();
            let size = if own { i64::try_from(self.size(&volume.name).await?).unwrap_or(i64::MAX) } else { -1 };
            volume.usage_data = Some(VolumeUsage { size, ref_count });
        }
        Ok(volumes)
    }

    async fn size(&self, name: &str) -> Result<u64> {
        let path = self.mountpoint(name);
        error::blocking(move || Ok(tree_size(&path))).await
    }
}

/// Who makes a volume.
enum Turn<'a> {
    /// It is there, made by this driver.
    There(String),
    Mine(Making<'a>),
    Wait(watch::Receiver<()>),
}

/// The right to make one volume; given back however the making ends.
struct Making<'a> {
    volumes: &'a Volumes,
    name: &'a str,
    _told: watch::Sender<()>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.volumes.lock().coming.remove(self.name);
    }
}

/// A volume that exists is taken as it is, unless another driver is asked for.
fn same_driver(wanted: &VolumeRecord, driver: &str) -> Result<()> {
    if wanted.driver.is_empty() || wanted.driver == driver {
        return Ok(());
    }
    let name = &wanted.name;
    Err(Error::conflict(format!("create {name}: volume name must be unique: {name} is one of driver {driver}")))
}

fn make(folder: &Path, record: &VolumeRecord) -> Result<()> {
    let io = |op: &'static str| {
        let path = folder.to_owned();
        move |source: std::io::Error| error::disk(durable::Error { op, path, source })
    };
    let data = folder.join(DATA);
    fs::create_dir_all(&data).map_err(io("create"))?;
    use std::os::unix::fs::PermissionsExt;
    // As Docker: anyone may pass through the folders of volumes that were made for others than root.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).map_err(io("change the mode of"))?;
    let bytes = serde_json::to_vec(record).map_err(|e| Error::internal(format!("volume record: {e}")))?;
    durable::write(&folder.join(FILE), &bytes, Durability::Power).map_err(error::disk)?;
    folder.parent().map_or(Ok(()), |parent| durable::flush_folder(parent).map_err(error::disk))
}

/// Bytes of file content below a folder; what vanishes meanwhile does not count, nor what is so deep that no path reaches
/// it. Links are not followed.
pub(crate) fn tree_size(path: &Path) -> u64 {
    let (mut total, mut folders) = (0u64, vec![path.to_owned()]);
    // Not recursive: a container may nest folders as deep as it likes.
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => total = total.saturating_add(meta.len()),
                Err(_) => {}
            }
        }
    }
    total
}

/// Bytes of a volume's name: its folder has it (NAME_MAX of the kernel).
const LONGEST_NAME: usize = 255;

/// Whether this can name a volume.
///
/// # Errors
/// `Invalid`, in Docker's words.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.len() > LONGEST_NAME {
        let shown = &name.chars().take(40).collect::<String>();
        return Err(Error::invalid(format!(
            "create {shown}...: the name of a volume is at most {LONGEST_NAME} characters long, this one is {}",
            name.len()
        )));
    }
    if names::is_valid_object(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}
