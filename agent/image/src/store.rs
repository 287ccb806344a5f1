//! The store: its folders, its options, opening it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::durable::{self, UNFINISHED, name_of};
use crate::error::At;
use crate::flight::Flights;
use crate::index::Index;
use crate::marks;
use crate::registry::Registries;
use crate::trash::Trash;
use crate::{Digest, Error, Reference, RegistryConfig, Result};

/// How long an opener waits for the lock, and how often it looks: a helper is far sooner at its exec.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The image store of one host. Cheap to clone; closed when the last clone is dropped.
///
/// All acts on the disk run on blocking threads; [`Store::list`], [`Store::resolve`] and [`Store::get`] read memory.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root()).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) options: Options,
    pub(crate) index: Index,
    pub(crate) flights: Arc<Flights>,
    pub(crate) registries: Registries,
    pub(crate) trash: Trash,
    /// Held as long as the store is open.
    _lock: File,
}

/// Limits and registries of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Mirrors, insecure registries, time-outs.
    pub registries: RegistryConfig,
    /// Layers of one image fetched and unpacked at the same time.
    pub parallel_layers: usize,
    /// Most bytes one layer may unpack to: the guard against decompression bombs.
    pub max_unpacked_bytes: u64,
    /// Most entries one layer may have.
    pub max_entries: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            registries: RegistryConfig::default(),
            // As many as Docker fetches at once.
            parallel_layers: 3,
            // Larger than any layer seen in public images, smaller than a usual disk.
            max_unpacked_bytes: 100 << 30,
            max_entries: 10_000_000,
        }
    }
}

/// The folders of a store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    /// `<hex>`: whole blobs.
    pub(crate) blobs: PathBuf,
    /// `<hex of chain id>/{diff,layer.json}`: unpacked layers.
    pub(crate) layers: PathBuf,
    /// What is being made.
    pub(crate) ingest: PathBuf,
    /// What is being removed.
    pub(crate) trash: PathBuf,
    pub(crate) images: PathBuf,
    pub(crate) refs: PathBuf,
    /// `<container id>/{upper,work,merged,snapshot.json}`.
    pub(crate) snapshots: PathBuf,
    /// The lower folder of images without layers.
    pub(crate) empty: PathBuf,
    /// `{plain,mtab}`: lower folders with what every container finds in its root ([`crate::marks`]).
    pub(crate) marks: PathBuf,
}

/// What `layer.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerMeta {
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) size: u64,
}

impl Layout {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            blobs: root.join("blobs/sha256"),
            layers: root.join("layers"),
            ingest: root.join("ingest"),
            trash: root.join("trash"),
            images: root.join("images"),
            refs: root.join("refs"),
            snapshots: root.join("snapshots"),
            empty: root.join("empty"),
            marks: root.join("marks"),
        }
    }

    fn create(&self) -> Result<()> {
        let all = [
            &self.blobs,
            &self.layers,
            &self.ingest,
            &self.trash,
            &self.images,
            &self.refs,
            &self.snapshots,
            &self.empty,
        ];
        all.iter().try_for_each(|dir| fs::create_dir_all(dir).at("create", dir))?;
        marks::create(&self.marks)?;
        durable::sync_dir(&self.root)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(crate) fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.layers.join(chain_id.hex())
    }

    pub(crate) fn layer_diff(&self, chain_id: &Digest) -> PathBuf {
        self.layer(chain_id).join("diff")
    }

    /// A new name under `ingest/`.
    pub(crate) fn ingest_path(&self, kind: &str) -> PathBuf {
        self.ingest.join(format!("{kind}-{}", durable::unique()))
    }

    /// Reads a small blob (manifest or configuration) and compares it with its digest.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let bytes = fs::read(&path).at("read", &path)?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Error::CorruptBlob { digest: *digest, reason: format!("the store holds {found}") });
        }
        Ok(bytes)
    }

    pub(crate) fn read_layer_meta(&self, chain_id: &Digest) -> Result<LayerMeta> {
        let path = self.layer(chain_id).join("layer.json");
        let bytes = fs::read(&path).at("read", &path)?;
        serde_json::from_slice(&bytes).map_err(std::io::Error::other).at("parse", &path)
    }
}

impl Store {
    /// Opens the store at `root`, making it if needed, with default options.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it open; [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, Options::default())
    }

    /// Opens the store at `root`. Sweeps what an earlier process left half-made. Blocks on the disk for a moment.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Io`], [`Error::Config`] for a wrong registry configuration.
    pub fn open_with(root: &Path, options: Options) -> Result<Self> {
        fs::create_dir_all(root).at("create", root)?;
        let root = &root.canonicalize().at("resolve", root)?;
        let lock = lock(root)?;
        let layout = Layout::new(root);
        layout.create()?;
        let registries = Registries::new(options.registries.clone())?;
        let trash = Trash::start(layout.trash.clone())?;
        sweep(&layout, &trash)?;
        let index = Index::open(layout.clone(), trash.clone())?;
        let inner = Inner { layout, options, index, flights: Arc::default(), registries, trash, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.inner.layout.root
    }

    /// How registries are reached now.
    pub fn registry_config(&self) -> Arc<RegistryConfig> {
        self.inner.registries.config()
    }

    /// Reaches registries another way from now on; transfers that run go on as they began.
    ///
    /// # Errors
    /// [`Error::Config`]; then nothing has changed.
    pub fn set_registry_config(&self, config: RegistryConfig) -> Result<()> {
        self.inner.registries.reload(config)
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Conflict`] when `target` has a digest: digests name themselves.
    pub async fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        if target.digest().is_some() {
            return Err(Error::Conflict("refusing to create a tag with a digest reference".into()));
        }
        let (source, target) = (source.to_owned(), target.clone());
        self.inner
            .index
            .run(move |writer| {
                let (id, _) = writer.view().find(&source)?;
                writer.put_ref(target, id)
            })
            .await
    }

    /// Reads every blob of an image and compares it with its digest.
    ///
    /// # Errors
    /// [`Error::CorruptBlob`] for the first that differs, [`Error::NoSuchImage`].
    pub async fn verify(&self, id: &Digest) -> Result<()> {
        let image = self.get(id).ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        let layout = self.inner.layout.clone();
        crate::error::blocking(move || {
            layout.read_blob(&image.id)?;
            layout.read_blob(&image.manifest)?;
            image.layers.iter().try_for_each(|layer| verify_blob(&layout.blob(&layer.blob), &layer.blob))
        })
        .await
    }
}

/// Compares a file with its digest.
pub(crate) fn verify_blob(path: &Path, digest: &Digest) -> Result<()> {
    let mut reader = crate::digest::Hashing::new(File::open(path).at("open", path)?);
    std::io::copy(&mut reader, &mut std::io::sink()).at("read", path)?;
    let (_, found, _) = reader.finish();
    if found == *digest {
        return Ok(());
    }
    Err(Error::CorruptBlob { digest: *digest, reason: format!("the store holds {found}") })
}

/// Takes the store for this process. A process killed between fork and exec of a helper leaves its lock to the helper
/// until that has got to its exec: the lock is asked for again for a moment.
fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).at("open", &path)?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked(root.to_owned())),
            other => return other.at("lock", &path).map(|()| file),
        }
    }
}

/// Takes out of sight what was being made when an earlier process ended.
fn sweep(layout: &Layout, trash: &Trash) -> Result<()> {
    durable::entries(&layout.ingest)?.iter().try_for_each(|path| trash.discard(path))?;
    for dir in [&layout.images, &layout.refs] {
        let unfinished = durable::entries(dir)?;
        let mut unfinished = unfinished.iter().filter(|p| name_of(p).is_some_and(|n| n.starts_with(UNFINISHED)));
        unfinished.try_for_each(|path| trash.discard(path))?;
    }
    Ok(())
}
