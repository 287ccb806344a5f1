//! What Docker puts into the root of every container: `/.dockerenv`, by which programs tell that they are in one, and
//! `/etc/mtab`, a link to what the kernel says of the mounts. Both lie in a folder between the image's layers and the
//! container's own: one for all containers, so that neither `diff` nor `commit` takes them for changes.

use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::changes::below;
use crate::error::At;
use crate::store::Layout;
use crate::{Digest, Result};

/// Which of them a root has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Marks {
    /// `/.dockerenv`.
    Plain,
    /// `/.dockerenv` and `/etc/mtab`.
    Mtab,
}

impl Marks {
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Mtab => "mtab",
        }
    }
}

/// Makes the folders, as far as they are not there.
pub(crate) fn create(marks: &Path) -> Result<()> {
    for kind in [Marks::Plain, Marks::Mtab] {
        let root = marks.join(kind.folder());
        fs::create_dir_all(&root).at("create", &root)?;
        let env = root.join(".dockerenv");
        File::options().append(true).create(true).open(&env).at("create", &env)?;
        let executable = Permissions::from_mode(0o755);
        [&root, &env]
            .into_iter()
            .try_for_each(|path| fs::set_permissions(path, executable.clone()).at("open", path))?;
    }
    let etc = marks.join(Marks::Mtab.folder()).join("etc");
    fs::create_dir_all(&etc).at("create", &etc)?;
    fs::set_permissions(&etc, Permissions::from_mode(0o755)).at("open", &etc)?;
    let mtab = etc.join("mtab");
    match symlink("/proc/mounts", &mtab) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.at("create", &mtab),
    }
}

/// What a root over these layers (lowest first) can have. A folder above another gives it its owner and mode: where the image's
/// `/etc` is not as ours, or no folder, it stays alone.
pub(crate) fn fitting(layout: &Layout, layers: &[Digest]) -> Result<Marks> {
    let open = |layer: &Digest| {
        let path = layout.layer_diff(layer);
        File::open(&path).map(OwnedFd::from).at("open", &path)
    };
    let lowers = layers.iter().rev().map(open).collect::<Result<Vec<_>>>()?;
    Ok(if takes_mtab(&lowers).at("look for /etc/mtab in", &layout.layers)? { Marks::Mtab } else { Marks::Plain })
}

fn takes_mtab(lowers: &[OwnedFd]) -> std::result::Result<bool, Errno> {
    let etc = below(lowers, b"etc")?;
    let Some(top) = etc.folders.first() else { return Ok(!etc.exists) };
    let stat = rustix::fs::fstat(top)?;
    let as_ours = stat.st_mode & 0o7777 == 0o755 && stat.st_uid == 0 && stat.st_gid == 0;
    Ok(as_ours && !below(&etc.folders, b"mtab")?.exists)
}
