//! New content on its way into the store: made under `ingest/`, then committed together.
//!
//! The order is the promise: write everything, flush the file system once, rename blobs and layers into place, flush
//! those folders, and only then record the image. A stop at any point leaves garbage at worst.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable;
use crate::error::{At, blocking};
use crate::flight::Flight;
use crate::index::{ImageRecord, Lease};
use crate::store::Inner;
use crate::trash::Trash;
use crate::{Digest, Error, Image, Reference, Result};

/// Content that is not visible yet. Dropping it discards what was not committed.
pub(crate) struct Staging {
    inner: Arc<Inner>,
    /// Shared with blocking work, which may outlive a dropped future.
    pub(crate) claim: Arc<Claim>,
    blobs: Vec<(Temporary, Digest)>,
    layers: Vec<(Temporary, Digest)>,
}

/// What keeps others from making, and the collector from taking, the same content.
pub(crate) struct Claim {
    _flights: Vec<Flight>,
    _lease: Lease,
}

/// A path under `ingest/` that is discarded when dropped.
pub(crate) struct Temporary {
    path: PathBuf,
    trash: Trash,
    keep: bool,
}

impl Temporary {
    pub(crate) fn new(path: PathBuf, trash: Trash) -> Self {
        Self { path, trash, keep: false }
    }

    /// One that stays when dropped: a later attempt finds it by its name, else a collection takes it.
    pub(crate) fn kept(path: PathBuf, trash: Trash) -> Self {
        Self { path, trash, keep: true }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = self.trash.discard(&self.path) {
            tracing::warn!(%error, "unfinished content not discarded; it is swept at the next start");
        }
    }
}

impl Staging {
    /// Claims `digests`: the blobs and chain ids of one image. Waits for others who make one of them.
    pub(crate) async fn begin(inner: Arc<Inner>, digests: Vec<Digest>) -> Result<Self> {
        let lease = inner.index.lease(digests.clone()).await?;
        let flights = inner.flights.claim(digests).await;
        let claim = Arc::new(Claim { _flights: flights, _lease: lease });
        Ok(Self { inner, claim, blobs: Vec::new(), layers: Vec::new() })
    }

    /// Adds a verified blob.
    pub(crate) fn add_blob(&mut self, temporary: Temporary, digest: Digest) {
        self.blobs.push((temporary, digest));
    }

    /// Adds a complete layer folder.
    pub(crate) fn add_layer(&mut self, temporary: Temporary, chain_id: Digest) {
        self.layers.push((temporary, chain_id));
    }

    /// Adds a document from memory.
    pub(crate) async fn add_document(&mut self, bytes: Vec<u8>) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        let temporary = Temporary::new(self.inner.layout.ingest_path("document"), self.inner.trash.clone());
        let temporary = blocking(move || {
            fs::write(temporary.path(), bytes).at("write", temporary.path())?;
            Ok(temporary)
        })
        .await?;
        self.blobs.push((temporary, digest));
        Ok(digest)
    }

    /// Makes all that was added durable and visible; still unreferenced.
    pub(crate) async fn commit(&mut self) -> Result<()> {
        let (blobs, layers) = (std::mem::take(&mut self.blobs), std::mem::take(&mut self.layers));
        let (inner, claim) = (self.inner.clone(), self.claim.clone());
        blocking(move || {
            let _claim = claim;
            if blobs.is_empty() && layers.is_empty() {
                return Ok(());
            }
            let layout = &inner.layout;
            durable::sync_fs(&layout.root)?;
            blobs.into_iter().try_for_each(|(temporary, digest)| place(temporary, &layout.blob(&digest)))?;
            layers.into_iter().try_for_each(|(temporary, chain_id)| place(temporary, &layout.layer(&chain_id)))?;
            durable::sync_dir(&layout.blobs)?;
            durable::sync_dir(&layout.layers)
        })
        .await
    }

    /// Commits and records the image `record` with `names`.
    pub(crate) async fn install(mut self, record: ImageRecord, names: Vec<Reference>) -> Result<Image> {
        self.commit().await?;
        let claim = self.claim.clone();
        self.inner
            .index
            .run(move |writer| {
                // Until the record stands, only the lease protects the content.
                let _claim = claim;
                let known = writer.view().images.get(&record.id).map(|stored| stored.manifest);
                // The same image may come with another manifest (other compression): the newest is kept.
                if known != Some(record.manifest) {
                    writer.put_image(&record)?;
                }
                names.into_iter().try_for_each(|name| writer.put_ref(name, record.id))?;
                writer.view().image(&record.id).ok_or_else(|| Error::NoSuchImage(record.id.to_string()))
            })
            .await
    }
}

/// Moves finished content to its name. What is there already is as good: the name says what it holds.
fn place(mut temporary: Temporary, target: &Path) -> Result<()> {
    temporary.keep = false;
    if target.exists() {
        return Ok(());
    }
    fs::rename(temporary.path(), target).at("rename into place", target)
}
