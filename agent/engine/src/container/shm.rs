//! `/dev/shm` that containers share (`--ipc shareable` and `container:ID`): a tmpfs on the host, bound into each of them, that
//! lives as long as its owner runs.

use super::joined::Joined;
use crate::{engine::Shared, error, record::Record};
use muster_calls::{Error, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the shared memory of a container is mounted on the host; `None`: it has one of its own that nobody sees.
pub(super) fn path(shared: &Shared, record: &Record, joined: &Joined) -> Option<PathBuf> {
    match &joined.ipc {
        Some(owner) => (owner.host.ipc_mode == "shareable").then(|| shared.shm(&owner.id)),
        None => (record.host.ipc_mode == "shareable").then(|| shared.shm(&record.id)),
    }
}

/// Mounts the shared memory of a container that lends its own.
///
/// # Errors
/// `Conflict` for joining a container that does not lend its IPC namespace; those of the mount.
pub(super) async fn make(shared: &Shared, record: &Record, joined: &Joined) -> Result<()> {
    if let Some(owner) = joined.ipc.as_ref().filter(|o| o.host.ipc_mode != "shareable") {
        return Err(Error::conflict(format!(
            "cannot join IPC of a container whose IPC mode is not shareable: {}",
            owner.id
        )));
    }
    if record.host.ipc_mode != "shareable" {
        return Ok(());
    }
    let (path, size) = (shared.shm(&record.id), record.host.shm_size);
    error::blocking(move || {
        let failed = |e: io::Error| Error::internal(format!("mount shared memory at {}: {e}", path.display()));
        remove(&path);
        fs::create_dir_all(&path).map_err(failed)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
        mount(Some("shm"), &path, Some("tmpfs"), flags, Some(format!("mode=1777,size={size}").as_str()))
            .map_err(|e| failed(e.into()))
    })
    .await
}

/// Removes what [`make`] made; one that is not there is no error.
pub(super) fn remove(path: &Path) {
    // Both fail only when there is nothing, or with the mount still there, and then the sweep at the next start comes by again.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(path);
}

/// Removes every mount whose container `keep` does not have.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn sweep(folder: &Path, keep: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !name.to_str().is_some_and(&keep) {
            remove(&folder.join(name));
        }
    }
    Ok(())
}
