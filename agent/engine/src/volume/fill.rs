//! Copy-up: a volume that is empty gets what the image has at its mount point, when the container is made.

use crate::{
    engine::Shared,
    error,
    record::{Mounted, Record},
};
use muster_calls::{Error, Result};
use muster_image::archive::{self, PackOptions, UnpackOptions};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

impl Shared {
    /// Fills the empty volumes of a new container from its image.
    ///
    /// # Errors
    /// When the root cannot be mounted or read, or the disk is full.
    pub(crate) async fn fill_volumes(&self, record: &Record) -> Result<()> {
        for (index, mount) in record.mounts.iter().enumerate() {
            if mount.kind != "volume" || mount.no_copy || !mount.subpath.is_empty() {
                continue;
            }
            let user = format!("{}-fill{index}", record.id);
            let data = self.volumes.mount_for(&mount.volume, &user).await?;
            let filled = self.fill(record, mount, data).await;
            self.volumes.give_back(&mount.volume, &user).await;
            filled?;
        }
        Ok(())
    }

    async fn fill(&self, record: &Record, mount: &Mounted, data: PathBuf) -> Result<()> {
        let looked = data.clone();
        if !error::blocking(move || Ok(is_empty(&looked))).await? {
            return Ok(());
        }
        let root = self.roots.mount(&record.id).await?;
        let from = mount.destination.clone();
        let filled = error::blocking(move || copy_up(&root, &from, &data)).await;
        self.roots.unmount(&record.id).await;
        filled
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Copies the folder `from` of a root into `to`, with owner and mode of the folder itself. Links in `from` never lead out of
/// the root: the kernel resolves the path inside of it (openat2(2), RESOLVE_IN_ROOT).
fn copy_up(root: &Path, from: &str, to: &Path) -> Result<()> {
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        Error::internal(format!("cannot fill the volume at {from} from the image: {what}: {e}"))
    };
    let root = File::open(root).map_err(|e| failed("open the root", &e))?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let source = match openat2(
        &root,
        from.trim_start_matches('/'),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        inside,
    ) {
        Ok(folder) => File::from(folder),
        // The image has nothing there, or a file: the volume stays empty.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(failed("open", &e)),
    };
    let target = File::open(to).map_err(|e| failed("open the volume", &e))?;
    copy_tree(&source, &target).map_err(|e| failed("copy", &e))?;
    copy_owner(&source, &target).map_err(|e| failed("set the owner", &e))
}

/// Packs one folder and unpacks it into another at the same time.
fn copy_tree(source: &File, target: &File) -> std::result::Result<(), archive::Error> {
    let (reader, writer) = io::pipe().map_err(archive::Error::Stream)?;
    let options = PackOptions { name: Some(String::new()), ..PackOptions::default() };
    std::thread::scope(|threads| {
        let packing = threads.spawn(|| archive::pack(source.as_fd(), Path::new("."), writer, &options).map(drop));
        let unpacked = archive::unpack_into(target.as_fd(), Path::new("."), reader, &UnpackOptions::default());
        // The unpacker's error is the first cause: the packer then fails for want of a reader.
        unpacked?;
        packing.join().unwrap_or_else(|_| Err(archive::Error::Stream(io::Error::other("the packing thread panicked"))))
    })
}

fn copy_owner(source: &File, target: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let meta = source.metadata()?;
    std::os::unix::fs::fchown(target, Some(meta.uid()), Some(meta.gid()))?;
    target.set_permissions(meta.permissions())
}
