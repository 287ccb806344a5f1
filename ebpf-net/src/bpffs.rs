//! The bpf file system that pins live in.

use crate::report::Error;
use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::statfs,
};
use std::{fs, io, path::Path};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Path { doing, path, source }
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path).map_err(io::Error::from)?.filesystem_type().0 == BPF_FS_MAGIC)
}

/// Makes `dir`, mounting a bpf file system on its parent when that is none.
///
/// # Errors
/// [`Error::Path`].
pub fn prepare(dir: &Path) -> Result<(), Error> {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(failed("create", parent))?;
    if !is_bpffs(parent).map_err(failed("look at", parent))? {
        mount(
            Some("bpf"),
            parent,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            None::<&str>,
        )
        .map_err(|e| failed("mount a bpf file system on", parent)(e.into()))?;
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", dir)(e)),
        _ => Ok(()),
    }
}

/// Removes `dir` with all pins, and the mount below it when nobody else uses it and it is not the system's.
///
/// # Errors
/// [`Error::Path`].
pub fn remove(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        } else {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    fs::remove_dir(dir).map_err(failed("remove", dir))?;
    let parent = dir.parent().unwrap_or(Path::new("/"));
    if parent == Path::new("/sys/fs/bpf") {
        return Ok(());
    }
    let others = fs::read_dir(parent)
        .map_err(failed("list", parent))?
        .filter_map(Result::ok)
        .any(|e| !e.file_name().to_string_lossy().ends_with(".debug"));
    if !others && let Err(e) = umount(parent) {
        // Not a mount point itself but a directory in somebody's, or in use: theirs to unmount.
        tracing::debug!(path = %parent.display(), error = %e, "the bpf mount stays");
    }
    Ok(())
}

/// Maps of the current layout that have another name now.
const RETIRED: [&str; 1] = ["counters"];

/// Removes maps of other layouts, and those that the current one has no more: an older version's, once nothing runs on them.
///
/// # Errors
/// [`Error::Path`].
pub fn remove_other_layouts(dir: &Path, current: &str) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(failed("list", dir))?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("maps_") && name != current {
            fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    for path in RETIRED.map(|name| dir.join(current).join(name)) {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(e)),
            _ => {}
        }
    }
    Ok(())
}
