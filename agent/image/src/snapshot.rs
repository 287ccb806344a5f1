//! The file systems of containers: a writable folder over the layers of an image.
//!
//! `snapshots/<container id>/` appears complete, by rename. It pins its layers: they outlive the image while a
//! container stands on them.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, name_of};
use crate::error::{At, blocking};
use crate::marks::{self, Marks};
use crate::store::Layout;
use crate::{Digest, Error, Image, Result, Store, mount};

/// The longest id: a folder's name.
const MAX_ID: usize = 255;

/// The root file system of a container, to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFs {
    /// The container's id.
    pub id: String,
    /// The unpacked layers, highest first, as overlayfs wants them; never empty.
    pub lowerdirs: Vec<PathBuf>,
    /// Where the container's changes go.
    pub upper: PathBuf,
    /// Overlayfs's own folder.
    pub work: PathBuf,
    /// Where it is mounted.
    pub merged: PathBuf,
}

/// A snapshot that exists, of a container that may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The container's id.
    pub id: String,
    /// Whether it is mounted.
    pub mounted: bool,
}

/// What `snapshot.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) image: Digest,
    /// Chain ids, lowest first.
    pub(crate) layers: Vec<Digest>,
    /// What lies above the layers; nothing in snapshots of earlier builds, and where only an image's files are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) marks: Option<Marks>,
}

impl Store {
    /// Makes the writable folder of a container over the layers of `image`. Doing it again is fine.
    ///
    /// # Errors
    /// [`Error::SnapshotExists`] when the container has one of another image; [`Error::InvalidSnapshotId`];
    /// [`Error::Io`].
    pub async fn prepare(&self, image: &Image, container_id: &str) -> Result<RootFs> {
        self.prepare_with(image, container_id, false).await
    }

    /// As [`Store::prepare`], for a container's root: with `/.dockerenv` and `/etc/mtab`, which Docker gives each container.
    /// They are no change of the container's.
    ///
    /// # Errors
    /// As [`Store::prepare`].
    pub async fn prepare_root(&self, image: &Image, container_id: &str) -> Result<RootFs> {
        self.prepare_with(image, container_id, true).await
    }

    async fn prepare_with(&self, image: &Image, container_id: &str, marked: bool) -> Result<RootFs> {
        check_id(container_id)?;
        let mut record = SnapshotRecord { image: image.id, layers: image.chain_ids(), marks: None };
        let lease = self.inner.index.lease(record.layers.clone()).await?;
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        blocking(move || {
            let _lease = lease;
            if marked {
                record.marks = Some(marks::fitting(&inner.layout, &record.layers)?);
            }
            let target = inner.layout.snapshots.join(&id);
            if target.exists() {
                let known = read_record(&target)?;
                return if known == record {
                    Ok(root_fs(&inner.layout, &id, &record))
                } else {
                    Err(Error::SnapshotExists(id))
                };
            }
            // An image that was removed since the caller looked it up may have lost its layers.
            if let Some(gone) = record.layers.iter().find(|layer| !inner.layout.layer(layer).exists()) {
                return Err(Error::NoSuchImage(format!("{} (its layer {gone} is gone)", record.image)));
            }
            let new = inner.layout.ingest_path("snapshot");
            create(&new, &record)?;
            fs::rename(&new, &target).at("rename into place", &target)?;
            durable::sync_dir(&inner.layout.snapshots)?;
            Ok(root_fs(&inner.layout, &id, &record))
        })
        .await
    }

    /// The root file system of a container that was prepared before.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`], [`Error::InvalidSnapshotId`], [`Error::Io`].
    pub async fn root_fs(&self, container_id: &str) -> Result<RootFs> {
        check_id(container_id)?;
        let (layout, id) = (self.inner.layout.clone(), container_id.to_owned());
        blocking(move || Ok(root_fs(&layout, &id, &find(&layout, &id)?))).await
    }

    /// Mounts it at `merged`. Mounting a mounted one is fine.
    ///
    /// # Errors
    /// [`Error::Mount`].
    pub async fn mount(&self, root_fs: &RootFs) -> Result<()> {
        let root_fs = root_fs.clone();
        blocking(move || mount::mount(&root_fs)).await
    }

    /// Unmounts it. Unmounting one that is not mounted is fine. What still has files open there keeps them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn unmount(&self, root_fs: &RootFs) -> Result<()> {
        let merged = root_fs.merged.clone();
        blocking(move || mount::unmount(&merged)).await
    }

    /// Unmounts and removes the snapshot of a container; its space comes back in the background.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`], [`Error::InvalidSnapshotId`], [`Error::Io`].
    pub async fn remove_snapshot(&self, container_id: &str) -> Result<()> {
        check_id(container_id)?;
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        blocking(move || {
            let path = inner.layout.snapshots.join(&id);
            if !path.exists() {
                return Err(Error::NoSuchSnapshot(id));
            }
            mount::unmount(&path.join("merged"))?;
            inner.trash.discard(&path)?;
            durable::sync_dir(&inner.layout.snapshots)
        })
        .await
    }

    /// All snapshots. After a crash some may be of containers that never came to be: only the caller can tell. Reads none of
    /// their records: thousands are listed in some milliseconds, also by a machine that has just come up.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let layout = self.inner.layout.clone();
        blocking(move || {
            let mounted = mount::mounted()?;
            let mut all: Vec<_> = durable::entries(&layout.snapshots)?
                .iter()
                .map(|path| {
                    let id = name_of(path).unwrap_or_default().to_owned();
                    SnapshotInfo { id, mounted: mounted.contains(&path.join("merged")) }
                })
                .collect();
            all.sort_by(|a, b| a.id.cmp(&b.id));
            Ok(all)
        })
        .await
    }
}

fn check_id(id: &str) -> Result<()> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let valid =
        id.len() <= MAX_ID && id.bytes().all(word) && id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if valid { Ok(()) } else { Err(Error::InvalidSnapshotId(id.chars().take(MAX_ID).collect())) }
}

fn create(new: &Path, record: &SnapshotRecord) -> Result<()> {
    for (name, mode) in [("", 0o700), ("upper", 0o755), ("work", 0o700), ("merged", 0o755)] {
        let path = new.join(name);
        fs::DirBuilder::new().mode(mode).create(&path).at("create", &path)?;
        // The mode given to mkdir is cut by the umask; that of `upper` is what `/` has in the container.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .at("change the mode of", &path)?;
    }
    let json = serde_json::to_vec(record).map_err(std::io::Error::other).at("write", new)?;
    durable::replace(new, "snapshot.json", &json)
}

/// Reads the record of the snapshot at `path`.
pub(crate) fn read_record(path: &Path) -> Result<SnapshotRecord> {
    let path = path.join("snapshot.json");
    let bytes = fs::read(&path).at("read", &path)?;
    serde_json::from_slice(&bytes).map_err(std::io::Error::other).at("parse", &path)
}

/// The record of a container's snapshot.
pub(crate) fn find(layout: &Layout, id: &str) -> Result<SnapshotRecord> {
    let path = layout.snapshots.join(id);
    if path.exists() { read_record(&path) } else { Err(Error::NoSuchSnapshot(id.to_owned())) }
}

pub(crate) fn root_fs(layout: &Layout, id: &str, record: &SnapshotRecord) -> RootFs {
    let mut lowerdirs: Vec<PathBuf> = record.layers.iter().rev().map(|layer| layout.layer_diff(layer)).collect();
    if lowerdirs.is_empty() {
        lowerdirs.push(layout.empty.clone());
    }
    if let Some(marks) = record.marks {
        lowerdirs.insert(0, layout.marks.join(marks.folder()));
    }
    let at = |name| layout.snapshots.join(id).join(name);
    RootFs { id: id.to_owned(), lowerdirs, upper: at("upper"), work: at("work"), merged: at("merged") }
}
