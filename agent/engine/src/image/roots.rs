//! Root file systems of containers: snapshots of the image store by container id.

use crate::{error, volume::tree_size};
use muster_calls::{Error, Result};
use muster_image::{Error as ImageError, Image, RootFs, Store, archive};
use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// The root file systems of one engine.
pub(crate) struct Roots {
    store: Store,
}

impl Roots {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Makes the root of a new container.
    pub async fn prepare(&self, image: &Image, id: &str) -> Result<()> {
        self.store.prepare_root(image, id).await.map(drop).map_err(error::image)
    }

    /// Makes a writable layer over an image that a container mounts: its files and no others.
    pub async fn prepare_image(&self, image: &Image, id: &str) -> Result<()> {
        self.store.prepare(image, id).await.map(drop).map_err(error::image)
    }

    /// Where a container's root is made of.
    pub async fn paths(&self, id: &str) -> Result<RootFs> {
        self.store.root_fs(id).await.map_err(error::image)
    }

    /// Mounts a root and answers with where. A mounted one stays as it is.
    pub async fn mount(&self, id: &str) -> Result<PathBuf> {
        let root = self.paths(id).await?;
        self.store.mount(&root).await.map_err(error::image)?;
        Ok(root.merged)
    }

    /// Unmounts a root. What cannot be unmounted is said in the log, and tried again at the next start of the daemon.
    pub async fn unmount(&self, id: &str) {
        let unmounted = async { self.store.unmount(&self.store.root_fs(id).await?).await }.await;
        match unmounted {
            Ok(()) | Err(ImageError::NoSuchSnapshot(_)) => {}
            Err(e) => tracing::error!(container.id = %id, error = %e, "cannot unmount the root of a container"),
        }
    }

    /// Makes a folder in a root that is not mounted, links followed inside of it; one that is there stays as it is. Costs a mount
    /// only where the image does not show the folder as it is written.
    ///
    /// # Errors
    /// `Internal`, in Docker's words where something else than a folder is in the way.
    pub async fn make_folder(&self, id: &str, path: &str) -> Result<()> {
        if self.store.layers_have_folder(id, path).await.map_err(error::image)? {
            return Ok(());
        }
        let root = self.mount(id).await?;
        let wanted = path.to_owned();
        let made = error::blocking(move || {
            let failed = |e: archive::Error| match &e {
                archive::Error::Io { source, .. } if source.kind() == io::ErrorKind::NotADirectory => {
                    Error::internal(format!("Cannot mkdir: {wanted} is not a directory"))
                }
                _ => Error::internal(format!("Cannot mkdir: {wanted}: {e}")),
            };
            let root = File::open(root).map_err(|e| Error::internal(format!("open the root: {e}")))?;
            archive::mount_point(root.as_fd(), Path::new(&wanted), true).map(drop).map_err(failed)
        })
        .await;
        self.unmount(id).await;
        made
    }

    /// Removes a root; one that is not there is no error.
    pub async fn remove(&self, id: &str) -> Result<()> {
        match self.store.remove_snapshot(id).await {
            Err(ImageError::NoSuchSnapshot(_)) => Ok(()),
            other => other.map_err(error::image),
        }
    }

    /// Every root there is: container id, and whether it is mounted.
    pub async fn all(&self) -> std::result::Result<Vec<(String, bool)>, ImageError> {
        Ok(self.store.snapshots().await?.into_iter().map(|s| (s.id, s.mounted)).collect())
    }

    /// Bytes that a container wrote into its root.
    pub async fn written(&self, id: &str) -> Result<u64> {
        let upper = self.paths(id).await?.upper;
        error::blocking(move || Ok(tree_size(&upper))).await
    }
}
