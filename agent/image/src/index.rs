//! The image index: which images exist and which names they have. One thread writes it, everybody reads a whole view.
//!
//! On disk it is one small file per image (`images/<hex of id>.json`) and per name (`refs/<hex of sha256 of the
//! name>.json`). A start reads all of them, and compares manifests and configurations with their digests: hundreds take some
//! milliseconds, and what spared the reading would spare the comparison. A record is written after all it speaks of is
//! durable. Decisions that must be atomic (a removal, a collection of garbage, a lease) run as jobs on the writer's thread,
//! so no lock is held while the disk works.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use crate::durable::{self, name_of};
use crate::error::At;
use crate::image::Layer;
use crate::manifest::{self, Parsed};
use crate::store::Layout;
use crate::trash::Trash;
use crate::{Digest, Error, ImageConfig, Reference, Result};

/// Jobs that may wait for the writer. More callers than this wait in their own tasks.
const QUEUE: usize = 64;

/// All images and names at one instant.
#[derive(Clone, Default)]
pub(crate) struct View {
    pub(crate) images: BTreeMap<Digest, Arc<Stored>>,
    /// Each key has either a tag or a digest.
    pub(crate) refs: BTreeMap<Reference, RefRecord>,
}

/// An image without its names.
pub(crate) struct Stored {
    pub(crate) manifest: Digest,
    pub(crate) manifest_type: String,
    pub(crate) manifest_size: u64,
    pub(crate) parent: Option<Digest>,
    pub(crate) config: Arc<ImageConfig>,
    pub(crate) raw_config: Bytes,
    pub(crate) layers: Vec<Layer>,
}

/// What a name points at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    pub(crate) reference: Reference,
    pub(crate) image: Digest,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) tagged: OffsetDateTime,
}

/// The durable form of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Digest>,
}

/// The handle to the index.
pub(crate) struct Index {
    view: Arc<Mutex<Arc<View>>>,
    leases: Leases,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(&mut Writer) + Send>;
type Leases = Arc<Mutex<HashMap<Digest, usize>>>;

/// Keeps content from being collected while it is not yet, or only just, referred to.
pub(crate) struct Lease {
    leases: Leases,
    digests: Vec<Digest>,
}

/// The thread's side.
pub(crate) struct Writer {
    pub(crate) layout: Layout,
    pub(crate) trash: Trash,
    pub(crate) leases: Leases,
    view: Arc<Mutex<Arc<View>>>,
}

impl Index {
    /// Reads the records and starts the writer.
    pub(crate) fn open(layout: Layout, trash: Trash) -> Result<Self> {
        let view = Arc::new(Mutex::new(Arc::new(read_view(&layout)?)));
        let leases = Leases::default();
        let (jobs, mut inbox) = mpsc::channel::<Job>(QUEUE);
        let root = layout.root.clone();
        let mut writer = Writer { layout, trash, leases: leases.clone(), view: view.clone() };
        let thread = std::thread::Builder::new()
            .name("image-index".into())
            .spawn(move || {
                while let Some(job) = inbox.blocking_recv() {
                    job(&mut writer);
                }
            })
            .at("start a thread for", &root)?;
        Ok(Self { view, leases, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The current view.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `job` on the writer's thread, where nothing else changes the index.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |writer| {
            // The caller may have gone away; the job is done all the same.
            let _ = reply.send(job(writer));
        });
        self.jobs.as_ref().ok_or(Error::Closed)?.send(job).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Protects `digests` (blobs and chain ids) from collection. On the writer's thread, so never amid a collection.
    pub(crate) async fn lease(&self, digests: Vec<Digest>) -> Result<Lease> {
        let leases = self.leases.clone();
        self.run(move |_| {
            let mut held = leases.lock().unwrap_or_else(PoisonError::into_inner);
            digests.iter().for_each(|digest| *held.entry(*digest).or_default() += 1);
            drop(held);
            Ok(Lease { leases, digests })
        })
        .await
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the image index panicked");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            if let Some(count) = held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    held.remove(digest);
                }
            }
        }
    }
}

impl Writer {
    /// The current view.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records an image whose content is in place and durable.
    pub(crate) fn put_image(&mut self, record: &ImageRecord) -> Result<()> {
        let known_parent = self.view().images.get(&record.id).and_then(|stored| stored.parent);
        let record = &ImageRecord { parent: record.parent.or(known_parent), ..record.clone() };
        let stored = read_image(&self.layout, record)?;
        let json = to_json(record);
        durable::replace(&self.layout.images, &format!("{}.json", record.id.hex()), &json)?;
        self.change(|view| view.images.insert(record.id, Arc::new(stored)));
        Ok(())
    }

    /// Points a name at an image.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when the image is gone.
    pub(crate) fn put_ref(&mut self, reference: Reference, image: Digest) -> Result<()> {
        if !self.view().images.contains_key(&image) {
            return Err(Error::NoSuchImage(image.to_string()));
        }
        let record = RefRecord { reference: reference.clone(), image, tagged: OffsetDateTime::now_utc() };
        durable::replace(&self.layout.refs, &ref_file(&reference), &to_json(&record))?;
        self.change(|view| view.refs.insert(reference, record));
        Ok(())
    }

    /// Drops a name.
    pub(crate) fn drop_ref(&mut self, reference: &Reference) -> Result<()> {
        self.trash.discard(&self.layout.refs.join(ref_file(reference)))?;
        durable::sync_dir(&self.layout.refs)?;
        self.change(|view| view.refs.remove(reference));
        Ok(())
    }

    /// Drops an image. Its content is garbage from now on, unless others share it.
    pub(crate) fn drop_image(&mut self, id: &Digest) -> Result<()> {
        self.trash.discard(&self.layout.images.join(format!("{}.json", id.hex())))?;
        durable::sync_dir(&self.layout.images)?;
        self.change(|view| view.images.remove(id));
        Ok(())
    }

    /// Copies, changes and publishes the view. Views are small: a few hundred pointers.
    fn change<T>(&mut self, change: impl FnOnce(&mut View) -> T) {
        let mut view = View::clone(&self.view());
        change(&mut view);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have string keys and plain fields only")
}

fn ref_file(reference: &Reference) -> String {
    format!("{}.json", Digest::of(reference.canonical().as_bytes()).hex())
}

/// Reads all records. One that cannot be read, or whose content is not there, is reported and left out: a broken image
/// must not keep the others from running.
fn read_view(layout: &Layout) -> Result<View> {
    let mut view = View::default();
    for path in records(&layout.images)? {
        let read = read_json::<ImageRecord>(&path).and_then(|r| Ok((r.id, read_image(layout, &r)?)));
        match read {
            Ok((id, stored)) => drop(view.images.insert(id, Arc::new(stored))),
            Err(error) => tracing::warn!(%error, path = %path.display(), "image record ignored"),
        }
    }
    for path in records(&layout.refs)? {
        match read_json::<RefRecord>(&path) {
            Ok(record) if view.images.contains_key(&record.image) => {
                drop(view.refs.insert(record.reference.clone(), record));
            }
            Ok(record) => tracing::warn!(image = %record.image, name = %record.reference, "name without image ignored"),
            Err(error) => tracing::warn!(%error, path = %path.display(), "name record ignored"),
        }
    }
    Ok(view)
}

fn records(dir: &std::path::Path) -> Result<Vec<PathBuf>> {
    let mut paths = durable::entries(dir)?;
    paths.retain(|path| name_of(path).is_some_and(|name| name.ends_with(".json") && !name.starts_with('.')));
    Ok(paths)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &std::path::Path) -> Result<T> {
    let bytes = std::fs::read(path).at("read", path)?;
    serde_json::from_slice(&bytes).map_err(std::io::Error::other).at("parse", path)
}

/// Reads what the store holds of an image; the documents are compared with their digests, layers must be in place.
fn read_image(layout: &Layout, record: &ImageRecord) -> Result<Stored> {
    let raw_manifest = layout.read_blob(&record.manifest)?;
    let Parsed::Manifest(manifest) = manifest::parse(&raw_manifest, &record.manifest)? else {
        let reason = "it is an index, not an image".into();
        return Err(Error::Malformed { what: "manifest", digest: record.manifest, reason });
    };
    let raw_config = layout.read_blob(&record.id)?;
    let config = parse_config(&raw_config, &record.id)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(layer_mismatch(&record.id, config.rootfs.diff_ids.len(), manifest.layers.len()));
    }
    let mut parent = None;
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for (diff_id, blob) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
        let chain_id = Digest::chain(parent.as_ref(), diff_id);
        let size = layout.read_layer_meta(&chain_id)?.size;
        layers.push(Layer { chain_id, diff_id: *diff_id, blob: blob.digest, blob_size: blob.size, size });
        parent = Some(chain_id);
    }
    Ok(Stored {
        manifest: record.manifest,
        manifest_type: manifest.media_type.unwrap_or_else(|| manifest::OCI_MANIFEST.into()),
        manifest_size: raw_manifest.len() as u64,
        parent: record.parent,
        config: Arc::new(config),
        raw_config: raw_config.into(),
        layers,
    })
}

/// Parses an image configuration.
pub(crate) fn parse_config(bytes: &[u8], digest: &Digest) -> Result<ImageConfig> {
    serde_json::from_slice(bytes).map_err(|error| Error::Malformed {
        what: "image config",
        digest: *digest,
        reason: error.to_string(),
    })
}

/// The configuration and the manifest speak of different numbers of layers.
pub(crate) fn layer_mismatch(id: &Digest, config: usize, manifest: usize) -> Error {
    let reason = format!("it has {config} diff_ids, its manifest {manifest} layers");
    Error::Malformed { what: "image config", digest: *id, reason }
}
