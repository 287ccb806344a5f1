//! Garbage: content that no image, container snapshot or running transfer needs.

use std::collections::BTreeSet;
use std::fs;
use std::sync::PoisonError;

use crate::durable::{self, name_of};
use crate::error::At;
use crate::index::Writer;
use crate::remove::{Removal, names, names_left};
use crate::snapshot::read_record;
use crate::{Digest, Image, Removed, Result, Store, Usage};

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Names, images and layers, in order.
    pub removed: Vec<Removed>,
    /// Bytes of file content in the layers that went, as Docker counts.
    pub reclaimed: u64,
}

/// Where the space of a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of file content in all unpacked layers, each counted once (Docker's `LayersSize`).
    pub layers: u64,
    /// Bytes of all blobs.
    pub blobs: u64,
}

/// What a collection took away.
#[derive(Default)]
pub(crate) struct Collected {
    layers: Vec<Digest>,
    /// Of file content in those layers.
    layer_bytes: u64,
    /// Of everything.
    bytes: u64,
}

impl Store {
    /// Removes images that no container uses: those without a tag, or with `all` also tagged ones. `chosen` is asked
    /// for each and must not block.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub async fn prune(
        &self,
        all: bool,
        usage: Usage,
        chosen: impl Fn(&Image) -> bool + Send + 'static,
    ) -> Result<PruneReport> {
        self.inner
            .index
            .run(move |writer| {
                let mut removal =
                    Removal { writer, usage: &usage, force: false, prune_parents: true, done: Vec::new() };
                removal.prune(all, &chosen)?;
                let mut removed = removal.done;
                let collected = writer.collect()?;
                removed.extend(collected.layers.into_iter().map(Removed::Layer));
                Ok(PruneReport { removed, reclaimed: collected.layer_bytes })
            })
            .await
    }

    /// Takes away content that nothing refers to, such as what failed pulls left. Returns the bytes that come back.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub async fn collect(&self) -> Result<u64> {
        self.inner.index.run(|writer| Ok(writer.collect()?.bytes)).await
    }

    /// Adds up the space of layers and blobs.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let layout = self.inner.layout.clone();
        crate::error::blocking(move || {
            let mut usage = DiskUsage::default();
            for path in durable::entries(&layout.layers)? {
                if let Some(chain_id) = name_of(&path).and_then(Digest::from_hex) {
                    usage.layers += layout.read_layer_meta(&chain_id).map_or(0, |meta| meta.size);
                }
            }
            for path in durable::entries(&layout.blobs)? {
                usage.blobs += fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
            }
            Ok(usage)
        })
        .await
    }
}

impl Removal<'_> {
    /// Children before parents: an image is looked at again until a round removes none.
    fn prune(&mut self, all: bool, chosen: &dyn Fn(&Image) -> bool) -> Result<()> {
        loop {
            let view = self.writer.view();
            let parents: BTreeSet<Digest> = view.images.values().filter_map(|stored| stored.parent).collect();
            let free = |image: &Image| {
                let unnamed = image.repo_tags.is_empty();
                (all || unnamed) && self.usage.of(&image.id).is_none() && !parents.contains(&image.id) && chosen(image)
            };
            let images: Vec<Image> = view.images.keys().filter_map(|id| view.image(id)).filter(free).collect();
            if images.is_empty() {
                return Ok(());
            }
            for image in images {
                for name in names(&self.writer.view(), &image.id) {
                    self.writer.drop_ref(&name)?;
                    self.done.push(Removed::Untagged(name.familiar()));
                }
                // An earlier removal of this round may have taken it as a parent.
                if self.writer.view().images.contains_key(&image.id) && !names_left(&self.writer.view(), &image.id) {
                    self.delete(&image.id)?;
                }
            }
        }
    }
}

impl Writer {
    /// Collects garbage and adds the layers that went to `done`.
    pub(crate) fn collect_after(&mut self, mut done: Vec<Removed>) -> Result<Vec<Removed>> {
        if done.iter().any(|removed| matches!(removed, Removed::Deleted(_))) {
            done.extend(self.collect()?.layers.into_iter().map(Removed::Layer));
        }
        Ok(done)
    }

    /// Renames into the trash what nothing refers to. Runs on the writer's thread: no image, name or lease comes into
    /// being meanwhile.
    pub(crate) fn collect(&mut self) -> Result<Collected> {
        let live = self.live()?;
        let mut collected = Collected::default();
        for path in durable::entries(&self.layout.layers)? {
            let Some(chain_id) = name_of(&path).and_then(Digest::from_hex).filter(|id| !live.contains(id)) else {
                continue;
            };
            collected.layer_bytes += self.layout.read_layer_meta(&chain_id).map_or(0, |meta| meta.size);
            self.trash.discard(&path)?;
            collected.layers.push(chain_id);
        }
        collected.bytes = collected.layer_bytes;
        for path in durable::entries(&self.layout.blobs)? {
            if name_of(&path).and_then(Digest::from_hex).is_some_and(|digest| !live.contains(&digest)) {
                collected.bytes += fs::symlink_metadata(&path).at("read", &path)?.len();
                self.trash.discard(&path)?;
            }
        }
        for path in durable::entries(&self.layout.ingest)? {
            // Parts of fetches that were given up. Everything else in there belongs to somebody.
            let part = name_of(&path).and_then(|name| name.strip_suffix(".part")).and_then(Digest::from_hex);
            if part.is_some_and(|digest| !live.contains(&digest)) {
                collected.bytes += fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
                self.trash.discard(&path)?;
            }
        }
        Ok(collected)
    }

    /// Blobs and chain ids that are needed.
    fn live(&self) -> Result<BTreeSet<Digest>> {
        let mut live: BTreeSet<Digest> =
            self.leases.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        for (id, stored) in &self.view().images {
            live.extend([*id, stored.manifest]);
            live.extend(stored.layers.iter().flat_map(|layer| [layer.chain_id, layer.blob]));
        }
        for path in durable::entries(&self.layout.snapshots)? {
            match read_record(&path) {
                Ok(record) => live.extend(record.layers),
                // Removed since it was listed.
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(live)
    }
}
