//! What plugins have mounted for us: a note of each use from before the plugin is asked until it has heard of its end, so that a daemon
//! that is killed in between leaves nothing mounted there.

use super::{LOCAL, Volumes};
use crate::{
    engine::Shared,
    error::{self, OpenError},
    record::{Durability, durable},
};
use muster_calls::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

/// How long the start of the daemon waits for plugins; what they have not answered by then goes on beside it.
const AT_START: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    volume: String,
    driver: String,
    /// What the plugin knows this use by.
    user: String,
}

/// The notes on the disk, and those of them that the daemon before has left.
#[derive(Debug)]
pub(super) struct Lent {
    folder: PathBuf,
    left: Mutex<BTreeMap<String, Note>>,
}

impl Lent {
    /// Reads what is there. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]; a note that cannot be read is logged and left alone.
    pub fn open(folder: &Path) -> std::result::Result<Self, OpenError> {
        fs::create_dir_all(folder).map_err(OpenError::io("create", folder))?;
        durable::sweep(folder)?;
        let mut left = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(OpenError::io("read", folder))? {
            let path = entry.map_err(OpenError::io("read", folder))?.path();
            let Some(bytes) = durable::read(&path)? else { continue };
            match serde_json::from_slice::<Note>(&bytes) {
                Ok(note) => drop(left.insert(note.user.clone(), note)),
                Err(e) => {
                    tracing::error!(path = %path.display(), error = %e, "a note of a mounted volume cannot be read and is left alone")
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), left: Mutex::new(left) })
    }

    fn path(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.json"))
    }
}

impl Volumes {
    /// Mounts a plugin's volume for a user, who is noted first.
    ///
    /// # Errors
    /// Those of the disk and of the plugin; it may be mounted in spite of the latter.
    pub(super) async fn lend(&self, volume: &str, driver: &str, user: &str) -> Result<PathBuf> {
        let note = Note { volume: volume.to_owned(), driver: driver.to_owned(), user: user.to_owned() };
        let path = self.lent.path(user);
        error::blocking(move || {
            let bytes = serde_json::to_vec(&note).map_err(|e| Error::internal(e.to_string()))?;
            durable::write(&path, &bytes, Durability::Power).map_err(error::disk)
        })
        .await?;
        self.mount_at_driver(volume, driver, user).await
    }

    /// Ends what [`Volumes::lend`] began. A plugin that answers has heard, whatever it says against it; from one that does not, it
    /// is asked again at the next start.
    pub(super) async fn take_back(&self, volume: &str, driver: &str, user: &str) {
        let heard = match self.unmount_at_driver(volume, driver, user).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%volume, %driver, %error, "a plugin did not unmount a volume");
                error.kind == Kind::Internal
            }
        };
        if !heard {
            return;
        }
        self.left().remove(user);
        let path = self.lent.path(user);
        let struck = error::blocking(move || durable::remove_file(&path).map_err(error::disk)).await;
        if let Err(error) = struck {
            tracing::warn!(%volume, %error, "a plugin will be asked once more to unmount a volume");
        }
    }

    fn left(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Note>> {
        self.lent.left.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A container that runs has this use: it is not to be ended.
    pub(super) fn keep_lent(&self, user: &str) {
        self.left().remove(user);
    }
}

impl Shared {
    /// Has plugins unmount what the daemon before left mounted and no container has. When every container is entered that runs;
    /// nothing is known of those in `unknown`, which may be alive.
    pub(crate) async fn end_lent(self: &Arc<Self>, unknown: &[String]) {
        let of_unknown = |note: &&Note| unknown.iter().any(|id| note.user.starts_with(id.as_str()));
        let left: Vec<Note> = self.volumes.left().values().filter(|note| !of_unknown(note)).cloned().collect();
        if left.is_empty() {
            return;
        }
        let shared = self.clone();
        let (done, ended) = tokio::sync::oneshot::channel();
        self.spawn("volumes that are still mounted", async move {
            for note in left.into_iter().filter(|note| note.driver != LOCAL) {
                shared.volumes.take_back(&note.volume, &note.driver, &note.user).await;
            }
            let _ = done.send(()); // Nobody may be waiting any more.
        });
        let _ = tokio::time::timeout(AT_START, ended).await;
    }
}
