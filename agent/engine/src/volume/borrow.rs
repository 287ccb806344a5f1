//! The volumes and images of a container that does not run, mounted for as long as somebody copies its files.

use super::mount::{image_root, require_source};
use crate::{
    engine::Shared,
    error, names,
    record::{Mounted, Record},
};
use muster_calls::Result;
use std::sync::Arc;

/// Mounts with their sources in place, given back when this goes.
pub(crate) struct Borrowed {
    shared: Arc<Shared>,
    record: Arc<Record>,
    use_of: String,
    /// In the order in which they are to be mounted; without those that live in memory while a container runs.
    pub mounts: Vec<Mounted>,
    /// The volumes that were asked for so far, as indices into the record's mounts, and whether they are there.
    volumes: Vec<(usize, bool)>,
}

impl Shared {
    /// Has the volumes and images of a container mounted, which does not run.
    ///
    /// # Errors
    /// As [`Shared::acquire_mounts`]; nothing is held then.
    pub(crate) async fn borrow_mounts(self: &Arc<Self>, record: &Arc<Record>) -> Result<Borrowed> {
        // No two have the same name, not of two lives of the daemon either.
        let use_of = format!("{}-cp{}", record.id, names::short(&names::new_id()));
        let (mounts, volumes) = (own_files(self, record), Vec::new());
        let mut borrowed = Borrowed { shared: self.clone(), record: record.clone(), use_of, mounts, volumes };
        for (index, mount) in record.mounts.iter().enumerate().filter(|(_, m)| m.kind != "tmpfs") {
            let mut mount = mount.clone();
            match mount.kind.as_str() {
                "volume" => {
                    // Before it is asked for: it may be mounted in spite of an error.
                    borrowed.volumes.push((index, false));
                    mount.source = self.volumes.mount_for(&mount.volume, &borrowed.use_at(index)).await?;
                    borrowed.volumes.last_mut().into_iter().for_each(|(_, mounted)| *mounted = true);
                    self.volume_event(record, index, "mount");
                }
                // Goes with the root that was lent for the copy.
                "image" => mount.source = self.roots.mount(&image_root(&record.id, index)).await?,
                _ => {
                    let checked = mount.clone();
                    error::blocking(move || require_source(&checked)).await?;
                }
            }
            borrowed.mounts.push(mount);
        }
        borrowed.mounts.sort_by_key(|m| m.destination.matches('/').count());
        Ok(borrowed)
    }
}

/// The files that the engine wrote for the container when it ran last.
fn own_files(shared: &Shared, record: &Record) -> Vec<Mounted> {
    let folder = shared.folder(&record.id);
    let file = |name: &str| Mounted {
        kind: "bind".into(),
        source: folder.join(name),
        destination: format!("/etc/{name}"),
        ..Mounted::default()
    };
    let taken = |m: &Mounted| record.mounts.iter().any(|other| other.destination == m.destination);
    ["hosts", "hostname", "resolv.conf"].map(file).into_iter().filter(|m| m.source.exists() && !taken(m)).collect()
}

impl Borrowed {
    fn use_at(&self, index: usize) -> String {
        format!("{}-{index}", self.use_of)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let uses: Vec<_> =
            self.volumes.iter().map(|(index, mounted)| (*index, *mounted, self.use_at(*index))).collect();
        if uses.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (shared, record) = (self.shared.clone(), self.record.clone());
        self.shared.spawn("volumes of a copy", async move {
            for (index, mounted, user) in uses {
                shared.volumes.give_back(&record.mounts[index].volume, &user).await;
                if mounted {
                    shared.volume_event(&record, index, "unmount");
                }
            }
        });
    }
}
