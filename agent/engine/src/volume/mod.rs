//! Volumes of the local driver: folders under the data folder, with a record each.

mod fill;
mod mount;

use crate::{
    clock,
    container::Containers,
    error::{self, OpenError},
    events::Events,
    names,
    record::{Durability, FILE, Mounted, Record, durable},
};
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
    sync::{Mutex, MutexGuard},
};
use tokio::sync::watch;

/// Label of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct VolumeRecord {
    name: String,
    created: Timestamp,
    labels: Strings,
    options: Strings,
}

/// All volumes of one engine.
#[derive(Debug)]
pub(crate) struct Volumes {
    folder: PathBuf,
    inner: Mutex<Inner>,
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
    /// Reads the records. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]. A folder without a record is a volume that was half-made or half-removed: it goes.
    pub fn open(folder: &Path) -> std::result::Result<Self, OpenError> {
        fs::create_dir_all(folder).map_err(OpenError::io("create", folder))?;
        let mut inner = Inner::default();
        for entry in fs::read_dir(folder).map_err(OpenError::io("read", folder))? {
            let path = entry.map_err(OpenError::io("read", folder))?.path();
            durable::sweep(&path)?;
            match durable::read(&path.join(FILE))?.map(|bytes| serde_json::from_slice::<VolumeRecord>(&bytes)) {
                Some(Ok(record)) => drop(inner.by_name.insert(record.name.clone(), record)),
                Some(Err(e)) => {
                    tracing::error!(path = %path.display(), error = %e, "a volume record cannot be read and is left alone")
                }
                None => durable::remove_tree(&path)?,
            }
        }
        Ok(Self { folder: folder.to_owned(), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Where a volume's files are on the host.
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("_data")
    }

    /// Makes a volume, or finds the one of that name.
    ///
    /// # Errors
    /// `Invalid` for a bad name, `Unimplemented` for drivers and options that are not there.
    pub async fn create(&self, body: VolumeCreate, events: &Events) -> Result<Volume> {
        if body.cluster_volume_spec.is_some() {
            return Err(Error::unimplemented("ClusterVolumeSpec (CSI volumes)"));
        }
        if !matches!(body.driver.as_str(), "" | "local") {
            return Err(Error::not_found(format!(
                "create {}: error looking up volume plugin {}: plugin \"{0}\" not found",
                body.name, body.driver
            )));
        }
        if let Some((key, value)) = body.driver_opts.iter().next() {
            return Err(Error::unimplemented(format!("volume option {key}={value} of driver local")));
        }
        let anonymous = body.name.is_empty();
        let name = if anonymous { names::new_id() } else { body.name };
        if !names::is_valid_object(&name) {
            return Err(Error::invalid(format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        let mut labels = body.labels;
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        self.ensure(&name, labels).await?;
        self.announce_created(events, &name);
        self.inspect(&name)
    }

    /// Makes a volume that is not there. Of several who want it at once, one makes it and the others wait.
    async fn ensure(&self, name: &str, labels: Strings) -> Result<()> {
        let _making = loop {
            let mut coming = match self.begin(name)? {
                Turn::There => return Ok(()),
                Turn::Mine(making) => break making,
                Turn::Wait(coming) => coming,
            };
            let _ = coming.changed().await; // The maker's end is told by the loss of its sender.
        };
        let record = VolumeRecord { name: name.to_owned(), created: clock::now(), labels, options: Strings::new() };
        let (folder, written) = (self.folder.join(name), record.clone());
        error::blocking(move || make(&folder, &written)).await?;
        let mut inner = self.lock();
        inner.fresh.insert(name.to_owned());
        inner.by_name.insert(name.to_owned(), record);
        Ok(())
    }

    fn begin<'a>(&'a self, name: &'a str) -> Result<Turn<'a>> {
        let mut inner = self.lock();
        if inner.by_name.contains_key(name) {
            return Ok(Turn::There);
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
            events.publish("volume", "create", name, [("driver".to_owned(), "local".to_owned())].into());
        }
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
            self.ensure(&mount.volume, labels).await?;
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

    /// Finds a volume.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        let inner = self.lock();
        let record = inner.by_name.get(name).ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))?;
        Ok(self.document(record))
    }

    fn document(&self, record: &VolumeRecord) -> Volume {
        Volume {
            name: record.name.clone(),
            driver: "local".to_owned(),
            mountpoint: self.mountpoint(&record.name).to_string_lossy().into_owned(),
            // Whole seconds, as Docker writes it.
            created_at: Timestamp::from_millis(record.created.as_secs() * 1000).into(),
            labels: record.labels.clone(),
            options: record.options.clone(),
            scope: "local".to_owned(),
            ..Volume::default()
        }
    }

    /// The volumes that a list asks for.
    pub fn list(&self, filters: &Filters) -> Result<VolumeList> {
        filters.allow(&["dangling", "driver", "label", "label!", "name"]).map_err(|e| Error::invalid(e.to_string()))?;
        let dangling = filters.flag("dangling").map_err(|e| Error::invalid(e.to_string()))?;
        let inner = self.lock();
        let takes = |r: &&VolumeRecord| {
            filters.matches_with("name", |given| r.name.contains(given))
                && filters.matches_exactly("driver", "local")
                && crate::container::labels_pass(filters, &r.labels)
                && dangling.is_none_or(|wanted| inner.users.contains_key(&r.name) != wanted)
        };
        let volumes = inner.by_name.values().filter(takes).map(|r| self.document(r)).collect();
        Ok(VolumeList { volumes, warnings: Vec::new() })
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
        let folder = self.folder.join(name);
        let removed = error::blocking(move || {
            // The record goes first: a folder without one is swept at the next start.
            durable::remove_file(&folder.join(FILE)).map_err(error::disk)?;
            durable::remove_tree(&folder).map_err(error::disk)?;
            folder.parent().map_or(Ok(()), |parent| durable::flush_folder(parent).map_err(error::disk))
        })
        .await;
        let mut inner = self.lock();
        inner.going.remove(name);
        if removed.is_err() {
            inner.by_name.insert(name.to_owned(), record);
        }
        removed
    }

    /// Removes the volumes that no container has: anonymous ones, or all with the filter `all`.
    pub async fn prune(&self, filters: &Filters) -> Result<PruneReport> {
        let invalid = |e: muster_model::engine::FilterError| Error::invalid(e.to_string());
        filters.allow(&["all", "label", "label!"]).map_err(invalid)?;
        let all = filters.flag("all").map_err(invalid)?.unwrap_or(false);
        let unused: Vec<String> = {
            let inner = self.lock();
            let chosen = |r: &&VolumeRecord| {
                !inner.users.contains_key(&r.name)
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
        let mut volumes = self.list(&Filters::default())?.volumes;
        let records: Vec<_> = containers.all().iter().map(|h| h.record()).collect();
        for volume in &mut volumes {
            let uses = |r: &Record| r.mounts.iter().any(|m: &Mounted| m.kind == "volume" && m.volume == volume.name);
            let ref_count = records.iter().filter(|r| uses(r)).count() as i64;
            let size = i64::try_from(self.size(&volume.name).await?).unwrap_or(i64::MAX);
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
    There,
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

fn make(folder: &Path, record: &VolumeRecord) -> Result<()> {
    let io = |op: &'static str| {
        let path = folder.to_owned();
        move |source: std::io::Error| error::disk(durable::Error { op, path, source })
    };
    let data = folder.join("_data");
    fs::create_dir_all(&data).map_err(io("create"))?;
    use std::os::unix::fs::PermissionsExt;
    // As Docker: anyone may pass through the folders of volumes that were made for others than root.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).map_err(io("change the mode of"))?;
    let bytes = serde_json::to_vec(record).map_err(|e| Error::internal(format!("volume record: {e}")))?;
    durable::write(&folder.join(FILE), &bytes, Durability::Power).map_err(error::disk)?;
    folder.parent().map_or(Ok(()), |parent| durable::flush_folder(parent).map_err(error::disk))
}

/// Bytes of file content below a folder; what vanishes meanwhile does not count. Links are not followed.
pub(crate) fn tree_size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let mut total = 0u64;
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        total = total.saturating_add(if meta.is_dir() { tree_size(&entry.path()) } else { meta.len() });
    }
    total
}
