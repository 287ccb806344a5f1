//! What is known of one local image, and finding it by what a user typed.

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::index::View;
use crate::{Digest, Error, ImageConfig, Platform, Reference, Result, Store};

/// A local image, complete: all of its layers are unpacked.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of the configuration: the image id.
    pub id: Digest,
    /// Names with a tag, familiar form, sorted: `busybox:latest`.
    pub repo_tags: Vec<String>,
    /// Names with a digest, familiar form, sorted: `busybox@sha256:...`; only of images that were pulled or pushed.
    pub repo_digests: Vec<String>,
    /// The parsed configuration.
    pub config: Arc<ImageConfig>,
    /// The configuration's exact bytes.
    pub raw_config: Bytes,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// Bytes of file content in all layers.
    pub size: u64,
    /// When the image was made; `None` when its configuration does not say.
    pub created: Option<OffsetDateTime>,
    /// What it runs on.
    pub platform: Platform,
    /// Digest of its manifest in this store.
    pub manifest: Digest,
    /// Media type of that manifest.
    pub manifest_type: String,
    /// Bytes of that manifest.
    pub manifest_size: u64,
    /// The image it was committed or built from, where that is known.
    pub parent: Option<Digest>,
    /// When a tag was last set on it.
    pub last_tagged: Option<OffsetDateTime>,
}

/// One layer of a local image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Identity of this layer on top of those below.
    pub chain_id: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the blob as a registry has it.
    pub blob: Digest,
    /// Bytes of that blob.
    pub blob_size: u64,
    /// Bytes of file content.
    pub size: u64,
}

/// One line of `docker history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image id on the newest line, and of ancestors that are known; else `None` (shown as `<missing>`).
    pub id: Option<Digest>,
    /// When, seconds since 1970; 0 when unknown.
    pub created: i64,
    /// By which command.
    pub created_by: String,
    /// Free text.
    pub comment: String,
    /// Bytes of file content of the layer this step made.
    pub size: u64,
    /// Tags, on the newest line.
    pub tags: Vec<String>,
}

impl Image {
    /// Ids of the layer stack from lowest to highest.
    pub fn chain_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.chain_id).collect()
    }

    /// The labels of the image.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config.config.labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// How the image came to be, newest first.
    pub fn history(&self) -> Vec<HistoryEntry> {
        let mut layers = self.layers.iter();
        let step = |step: &crate::History| HistoryEntry {
            id: None,
            created: step.created.as_deref().and_then(crate::config::parse_time).map_or(0, |at| at.unix_timestamp()),
            created_by: step.created_by.clone().unwrap_or_default(),
            comment: step.comment.clone().unwrap_or_default(),
            size: if step.empty_layer { 0 } else { layers.next().map_or(0, |layer| layer.size) },
            tags: Vec::new(),
        };
        let mut entries: Vec<_> = self.config.history.iter().map(step).collect();
        if entries.is_empty() {
            let created = self.created.map_or(0, OffsetDateTime::unix_timestamp);
            let (created_by, comment) = (String::new(), String::new());
            entries.push(HistoryEntry { id: None, created, created_by, comment, size: self.size, tags: Vec::new() });
        }
        entries.reverse();
        if let Some(newest) = entries.first_mut() {
            newest.id = Some(self.id);
            newest.tags.clone_from(&self.repo_tags);
        }
        entries
    }
}

impl Store {
    /// All images, newest first.
    pub fn list(&self) -> Vec<Image> {
        let view = self.inner.index.view();
        let mut images: Vec<_> = view.images.keys().filter_map(|id| view.image(id)).collect();
        images.sort_by_key(|image| (std::cmp::Reverse(image.created), image.id));
        images
    }

    /// Finds an image by name, by `name@digest`, by id, or by a prefix of its id.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::AmbiguousId`], [`Error::InvalidReference`].
    pub fn resolve(&self, text: &str) -> Result<Image> {
        let view = self.inner.index.view();
        let (id, _) = view.find(text)?;
        view.image(&id).ok_or_else(|| Error::NoSuchImage(text.into()))
    }

    /// Finds an image by its id.
    pub fn get(&self, id: &Digest) -> Option<Image> {
        self.inner.index.view().image(id)
    }

    /// The history of an image, newest first; lines of ancestors that are local carry their ids.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let view = self.inner.index.view();
        let mut entries = image.history();
        let mut ancestor = image.parent;
        while let Some(parent) = ancestor.and_then(|id| view.image(&id)) {
            let steps = parent.config.history.len();
            // The ancestor's newest step is followed in this list by all of its older ones.
            if let Some(at) = entries.len().checked_sub(steps).filter(|at| *at > 0 && steps > 0) {
                entries[at].id = Some(parent.id);
                entries[at].tags.clone_from(&parent.repo_tags);
            }
            ancestor = parent.parent.filter(|id| *id != parent.id);
        }
        entries
    }
}

/// How a user's text named an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// By id or a prefix of it.
    Id,
    /// By a name in the index.
    Reference(Reference),
}

impl View {
    /// Finds what `text` names: full id, then name, then id prefix, as Docker orders them.
    pub(crate) fn find(&self, text: &str) -> Result<(Digest, Named)> {
        let missing = || Error::NoSuchImage(text.to_owned());
        let full = Digest::parse(text).ok().or_else(|| Digest::from_hex(text));
        if let Some(id) = full {
            return if self.images.contains_key(&id) { Ok((id, Named::Id)) } else { Err(missing()) };
        }
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference
            && let Some((name, record)) = self.lookup(reference)
        {
            return Ok((record, Named::Reference(name)));
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.is_empty() || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            reference?;
            return Err(missing());
        }
        let mut fitting = self.images.keys().filter(|id| id.hex().starts_with(prefix));
        match (fitting.next(), fitting.next()) {
            (Some(id), None) => Ok((*id, Named::Id)),
            (Some(_), Some(_)) => Err(Error::AmbiguousId(text.into())),
            (None, _) => Err(missing()),
        }
    }

    /// A digest decides where there is one; it may be that of a manifest, an index, or the image itself.
    fn lookup(&self, reference: &Reference) -> Option<(Reference, Digest)> {
        let Some(digest) = reference.digest() else {
            return self.refs.get(reference).map(|record| (reference.clone(), record.image));
        };
        let name = reference.with_digest(*digest);
        if let Some(record) = self.refs.get(&name) {
            return Some((name, record.image));
        }
        let repository = reference.repository();
        let mut same = self.refs.iter().filter(|(name, _)| name.repository() == repository);
        same.find(|(_, record)| record.image == *digest).map(|(name, record)| (name.clone(), record.image))
    }

    /// The image with its names.
    pub(crate) fn image(&self, id: &Digest) -> Option<Image> {
        let stored = self.images.get(id)?;
        let names = || self.refs.iter().filter(|(_, record)| record.image == *id);
        let tagged = |wanted: bool| {
            names().filter(move |(name, _)| name.tag().is_some() == wanted).map(|(name, _)| name.familiar()).collect()
        };
        Some(Image {
            id: *id,
            repo_tags: tagged(true),
            repo_digests: tagged(false),
            size: stored.layers.iter().map(|layer| layer.size).sum(),
            created: stored.config.created_at(),
            platform: stored.config.platform(),
            last_tagged: names().filter(|(name, _)| name.tag().is_some()).map(|(_, record)| record.tagged).max(),
            config: stored.config.clone(),
            raw_config: stored.raw_config.clone(),
            layers: stored.layers.clone(),
            manifest: stored.manifest,
            manifest_type: stored.manifest_type.clone(),
            manifest_size: stored.manifest_size,
            parent: stored.parent,
        })
    }
}
