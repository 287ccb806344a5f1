//! Which containers have which volume mounted: a local volume with options is mounted for its first user and unmounted after
//! its last; a plugin is told of each.

use super::{Volumes, options};
use crate::{error, record::Record};
use muster_calls::Result;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
};

/// The users of one volume that is mounted while it has some. Locked around the mount itself, on a blocking thread.
type Users = Arc<Mutex<BTreeSet<String>>>;

#[derive(Debug, Default)]
pub(super) struct Active {
    by_name: Mutex<BTreeMap<String, Users>>,
}

impl Active {
    fn of(&self, volume: &str) -> Users {
        self.by_name.lock().unwrap_or_else(|e| e.into_inner()).entry(volume.to_owned()).or_default().clone()
    }
}

impl Volumes {
    /// Where a volume's files are, mounted for the user `id` until [`Volumes::give_back`].
    ///
    /// # Errors
    /// `Internal` with the kernel's or the plugin's reason; when the volume has vanished.
    pub(super) async fn mount_for(&self, name: &str, id: &str) -> Result<PathBuf> {
        let record = self.record(name).ok_or_else(|| {
            muster_calls::Error::internal(format!("volume {name}: there is no record of it any more"))
        })?;
        if !record.is_local() {
            return self.lend(name, record.driver(), id).await;
        }
        let path = self.mountpoint(name);
        if record.options.is_empty() {
            return Ok(path);
        }
        let (users, id) = (self.active.of(name), id.to_owned());
        error::blocking(move || {
            let mut users = users.lock().unwrap_or_else(|e| e.into_inner());
            if users.is_empty() {
                options::unmount(&path);
                options::mount_at(&record.options, &path)?;
            }
            users.insert(id);
            Ok(path)
        })
        .await
    }

    /// Ends what [`Volumes::mount_for`] began. What a plugin says against it goes into the log: the container is gone.
    pub(super) async fn give_back(&self, name: &str, id: &str) {
        let Some(record) = self.record(name) else { return };
        if !record.is_local() {
            return self.take_back(name, record.driver(), id).await;
        }
        if record.options.is_empty() {
            return;
        }
        let (users, id, path) = (self.active.of(name), id.to_owned(), self.mountpoint(name));
        let ended = error::blocking(move || {
            let mut users = users.lock().unwrap_or_else(|e| e.into_inner());
            if users.remove(&id) && users.is_empty() {
                options::unmount(&path);
            }
            Ok(())
        });
        if let Err(e) = ended.await {
            tracing::error!(volume = %name, error = %e, "a volume may still be mounted");
        }
    }

    /// Notes what a container that runs already has mounted: after a restart of the daemon.
    pub(crate) fn hold_mounts(&self, record: &Record) {
        for (name, id) in uses(record) {
            self.keep_lent(&id);
            self.active.of(&name).lock().unwrap_or_else(|e| e.into_inner()).insert(id);
        }
    }

    /// Unmounts the volumes that nobody holds: of containers that ended while no daemon was there.
    pub(crate) async fn unmount_unheld(&self) {
        let names: Vec<String> =
            self.lock().by_name.values().filter(|r| !r.options.is_empty()).map(|r| r.name.clone()).collect();
        for name in names {
            let (users, path) = (self.active.of(&name), self.mountpoint(&name));
            let looked = error::blocking(move || {
                if users.lock().unwrap_or_else(|e| e.into_inner()).is_empty() {
                    options::unmount(&path);
                }
                Ok(())
            });
            if let Err(e) = looked.await {
                tracing::error!(volume = %name, error = %e, "a volume may still be mounted");
            }
        }
    }
}

/// The volumes of a container, each with what its use is called: one volume may be mounted at two places.
pub(super) fn uses(record: &Record) -> impl Iterator<Item = (String, String)> + '_ {
    let volumes = record.mounts.iter().enumerate().filter(|(_, m)| m.kind == "volume");
    volumes.map(|(index, m)| (m.volume.clone(), use_of(&record.id, index)))
}

pub(super) fn use_of(container: &str, index: usize) -> String {
    format!("{container}-{index}")
}
