//! Places in a root where something is mounted, or where a path leads.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{At, Error, Result, resolve};

/// Opens (`O_PATH`) what `path` is in `root`, links followed inside of it; what is missing is made: folders, and at the end a
/// folder or an empty file.
///
/// # Errors
/// [`Error::Escapes`], [`Error::Malformed`], [`Error::Io`].
pub fn mount_point(root: BorrowedFd<'_>, path: &Path, folder: bool) -> Result<OwnedFd> {
    // Only to know what a link to nothing leads to; everything is opened below the root again.
    let real = resolve::follow(root, path.as_os_str().as_bytes())?;
    let components = resolve::components(&real)?;
    if folder {
        return resolve::open_or_make_dir(root, &components);
    }
    let Some((name, folders)) = components.split_last() else {
        return Err(Error::NotFound(path.to_owned()));
    };
    let parent = resolve::open_or_make_dir(root, folders)?;
    match resolve::open_child(parent.as_fd(), name, OFlags::PATH) {
        Err(Errno::NOENT) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            rustix::fs::openat(&parent, OsStr::from_bytes(name), flags, Mode::from_raw_mode(0o644))
                .at("create", &real)?;
            resolve::open_child(parent.as_fd(), name, OFlags::PATH).at("open", &real)
        }
        other => other.at("open", &real),
    }
}

/// Where a path leads inside of a root once all links are followed, as absolute path; what does not exist is kept as it is
/// written. For showing and comparing only: it is not to be opened by plain path.
///
/// # Errors
/// [`Error::Io`].
pub fn resolved(root: BorrowedFd<'_>, path: &Path) -> Result<PathBuf> {
    let real = resolve::follow(root, path.as_os_str().as_bytes())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(real)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn mount_points_are_made_inside_of_the_root_whatever_links_say() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let root = dir.path().join("root");
        fs::create_dir(&root)?;
        fs::create_dir(dir.path().join("outside"))?;
        std::os::unix::fs::symlink("../../outside", root.join("up"))?;
        std::os::unix::fs::symlink("/none/at/all", root.join("dangling"))?;
        let open = File::open(&root)?;
        mount_point(open.as_fd(), Path::new("/up/deep"), true)?;
        mount_point(open.as_fd(), Path::new("/dangling"), false)?;
        mount_point(open.as_fd(), Path::new("/dangling"), false)?;
        assert!(root.join("outside/deep").is_dir());
        assert!(root.join("none/at/all").is_file());
        assert_eq!(fs::read_dir(dir.path().join("outside"))?.count(), 0);
        assert!(mount_point(open.as_fd(), Path::new("/none/at/all/x"), true).is_err(), "a file is no folder");
        assert_eq!(resolved(open.as_fd(), Path::new("/up/../up/x"))?, Path::new("/outside/x"));
        Ok(())
    }
}
