//! What a container changed: its upper folder compared with the layers below, for `docker diff`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::archive::extract::is_whiteout;
use crate::archive::{self, pack, resolve};
use crate::error::{At, blocking};
use crate::snapshot::{find, root_fs};
use crate::{Error, Result, Store};

/// One changed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Absolute, as the container sees it; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// How it changed.
    pub kind: ChangeKind,
}

/// How a path changed. The numbers are Docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChangeKind {
    /// It was in the image and is different, or something in it is.
    Modified = 0,
    /// It was not in the image.
    Added = 1,
    /// It was in the image and is gone.
    Deleted = 2,
}

impl Store {
    /// What the container changed in its root file system, sorted by path. It may be running.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchSnapshot`], [`crate::Error::TooLarge`] beyond [`archive::MAX_DEPTH`], [`crate::Error::Io`].
    pub async fn changes(&self, container_id: &str) -> Result<Vec<Change>> {
        let (layout, id) = (self.inner.layout.clone(), container_id.to_owned());
        blocking(move || {
            let root_fs = root_fs(&layout, &id, &find(&layout, &id)?);
            let upper = File::open(&root_fs.upper).at("open", &root_fs.upper)?;
            let lowers = root_fs.lowerdirs.iter().map(open_layer).collect::<Result<Vec<_>>>()?;
            let mut changes = Vec::new();
            match walk(upper.as_fd(), &lowers, b"", 0, &mut changes) {
                Err(Errno::NAMETOOLONG) => {
                    let what = "the depth of folders in the container's root".into();
                    Err(Error::TooLarge { what, limit: archive::MAX_DEPTH as u64 })
                }
                other => other.at("compare", &root_fs.upper).map(|()| changes),
            }
        })
        .await
    }
}

impl Store {
    /// Whether the layers below a container's root have a folder at `path`, with no link on the way: found without a mount.
    /// `false` also where only the mounted root can tell.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchSnapshot`], [`crate::Error::Archive`] for a path that cannot be one, [`crate::Error::Io`].
    pub async fn layers_have_folder(&self, container_id: &str, path: &str) -> Result<bool> {
        let (layout, id, path) = (self.inner.layout.clone(), container_id.to_owned(), path.to_owned());
        blocking(move || {
            let names = resolve::components(path.as_bytes())?;
            if names.is_empty() {
                return Ok(true);
            }
            let root_fs = root_fs(&layout, &id, &find(&layout, &id)?);
            let mut seen = root_fs.lowerdirs.iter().map(open_layer).collect::<Result<Vec<_>>>()?;
            for name in names {
                seen = below(&seen, name).at("look into", &layout.layers)?.folders;
            }
            Ok(!seen.is_empty())
        })
        .await
    }
}

fn open_layer(path: &std::path::PathBuf) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).at("open", path)
}

/// What the layers below have under one name.
pub(crate) struct Below {
    pub(crate) exists: bool,
    /// The folders of that name that are seen through each other, highest first.
    pub(crate) folders: Vec<OwnedFd>,
}

/// Compares one folder and all below it; ENAMETOOLONG where that is too deep.
fn walk(
    upper: BorrowedFd<'_>,
    lowers: &[OwnedFd],
    path: &[u8],
    depth: usize,
    changes: &mut Vec<Change>,
) -> Result<(), Errno> {
    if depth > archive::MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    for name in pack::names(upper)? {
        let child = [path, b"/", &name].concat();
        let Some(stat) = resolve::lstat(upper, &name)? else { continue };
        let below = below(lowers, &name)?;
        let kind = match (is_whiteout(&stat), below.exists) {
            (true, false) => continue,
            (true, true) => ChangeKind::Deleted,
            (false, true) => ChangeKind::Modified,
            (false, false) => ChangeKind::Added,
        };
        changes.push(Change { path: String::from_utf8_lossy(&child).into_owned(), kind });
        if resolve::kind(&stat).is_dir() {
            match open_folder(upper, &name) {
                Ok(folder) => {
                    let opaque = pack::is_opaque(folder.as_fd());
                    walk(folder.as_fd(), if opaque { &[] } else { &below.folders }, &child, depth + 1, changes)?;
                }
                // It vanished or was replaced meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

pub(crate) fn below(lowers: &[OwnedFd], name: &[u8]) -> Result<Below, Errno> {
    let mut below = Below { exists: false, folders: Vec::new() };
    for lower in lowers {
        let Some(stat) = resolve::lstat(lower.as_fd(), name)? else { continue };
        if is_whiteout(&stat) {
            break;
        }
        let is_dir = resolve::kind(&stat).is_dir();
        if !is_dir {
            // Under a folder of a higher layer it is hidden.
            below.exists |= below.folders.is_empty();
            break;
        }
        below.exists = true;
        let folder = open_folder(lower.as_fd(), name)?;
        let opaque = pack::is_opaque(folder.as_fd());
        below.folders.push(folder);
        if opaque {
            break;
        }
    }
    Ok(below)
}

fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    resolve::open_child(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
}
