//! A container's mounts as the runtime room takes them: sources exist when this has answered.

use super::Volumes;
use crate::record::{Mounted, Record};
use muster_calls::{Error, Result};
use muster_runtime::spec::{Bind, MountRequest, Propagation, Tmpfs};
use std::{fs, path::PathBuf};

impl Volumes {
    /// The mounts of a container that is being started.
    ///
    /// # Errors
    /// When the source of a bind does not exist, or a volume has vanished.
    pub fn acquire(&self, record: &Record) -> Result<Vec<MountRequest>> {
        record.mounts.iter().map(|mount| self.request(mount)).collect()
    }

    fn request(&self, mount: &Mounted) -> Result<MountRequest> {
        if mount.kind == "tmpfs" {
            return Ok(MountRequest::Tmpfs(Tmpfs {
                target: mount.destination.clone(),
                options: mount.tmpfs_options.clone(),
                size: mount.tmpfs_size,
                mode: mount.tmpfs_mode,
            }));
        }
        let source = if mount.kind == "volume" { self.volume_source(mount)? } else { bind_source(mount)? };
        Ok(MountRequest::Bind(Bind {
            source,
            target: mount.destination.clone(),
            read_only: mount.read_only,
            non_recursive: mount.non_recursive,
            propagation: propagation(&mount.propagation),
        }))
    }

    fn volume_source(&self, mount: &Mounted) -> Result<PathBuf> {
        let root = self.mountpoint(&mount.volume);
        if !root.is_dir() {
            return Err(Error::internal(format!("volume {}: its folder {} is gone", mount.volume, root.display())));
        }
        if mount.subpath.is_empty() {
            return Ok(root);
        }
        // A link in the volume must not lead out of it.
        let path = root.join(&mount.subpath);
        let real =
            path.canonicalize().map_err(|e| Error::invalid(format!("cannot access path {}: {e}", path.display())))?;
        let inside = root.canonicalize().is_ok_and(|root| real.starts_with(root));
        inside
            .then_some(real)
            .ok_or_else(|| Error::invalid(format!("subpath {:?} leads out of volume {}", mount.subpath, mount.volume)))
    }
}

fn bind_source(mount: &Mounted) -> Result<PathBuf> {
    let source = &mount.source;
    if !source.exists() {
        if !mount.create_source {
            return Err(Error::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                source.display()
            )));
        }
        fs::create_dir_all(source).map_err(|e| {
            Error::internal(format!("error while creating mount source path '{}': {e}", source.display()))
        })?;
    }
    Ok(source.clone())
}

fn propagation(text: &str) -> Propagation {
    match text {
        "private" => Propagation::Private,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::RShared,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::RSlave,
        _ => Propagation::RPrivate,
    }
}
