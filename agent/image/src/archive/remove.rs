//! Removing a tree however deep it is: a container may nest folders a hundred thousand deep, where no path reaches and no
//! recursion should go.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::{At, Result, pack};

/// What names of folders on their way out begin with.
const LEAVING: &str = ".leaving-";

/// Removes a folder and all below it, following nothing. Folders within folders are first moved up into `path`, so that
/// nothing is ever deeper than two levels. What is mounted below stays, and is the error. What vanishes meanwhile is no
/// error. False when `stop`, which is asked before each name, said so: what is left can be removed by another call.
///
/// # Errors
/// [`super::Error::Io`], `NotFound` only for `path` itself; part of the tree may be gone.
pub fn remove_tree(path: &Path, stop: &dyn Fn() -> bool) -> Result<bool> {
    let shown = path.as_os_str().as_bytes();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, path, flags, Mode::empty()).at("open", shown)?;
    let mut remover = Remover { top: top.as_fd(), moved: 0, stop };
    loop {
        let names = pack::names(top.as_fd()).at("list", shown)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if !remover.top_name(&name).at("remove", &[shown, b"/", &name].concat())? {
                return Ok(false);
            }
        }
    }
    rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR).at("remove", shown)?;
    Ok(true)
}

struct Remover<'a> {
    top: BorrowedFd<'a>,
    /// How many folders were moved up, for their names.
    moved: u64,
    stop: &'a dyn Fn() -> bool,
}

impl Remover<'_> {
    /// Removes one name of the top; the folders of a folder move up to the top. False when it was told to stop.
    fn top_name(&mut self, name: &[u8]) -> Result<bool, Errno> {
        if (self.stop)() {
            return Ok(false);
        }
        if unlink(self.top, name)? {
            return Ok(true);
        }
        let folder = match open_here(self.top, name) {
            Err(Errno::NOENT) => return Ok(true),
            other => other?,
        };
        for child in pack::names(folder.as_fd())? {
            if (self.stop)() {
                return Ok(false);
            }
            if !unlink(folder.as_fd(), &child)? && !remove_empty(folder.as_fd(), &child)? {
                self.move_up(folder.as_fd(), &child)?;
            }
        }
        // What appeared in it meanwhile is found when the top is listed again.
        remove_empty(self.top, name).map(|_| true)
    }

    fn move_up(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        loop {
            self.moved += 1;
            let to = format!("{LEAVING}{}", self.moved);
            match rustix::fs::renameat_with(folder, OsStr::from_bytes(name), self.top, &to, RenameFlags::NOREPLACE) {
                // Left by an earlier call, or a name of the tree itself.
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                other => return other,
            }
        }
    }
}

/// Removes what is no folder. False for a folder.
fn unlink(parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(parent, OsStr::from_bytes(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // What Linux says of folders, where POSIX has EPERM (unlink(2)).
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a folder. False when there is something in it.
fn remove_empty(parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(parent, OsStr::from_bytes(name), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a folder unless something is mounted on it, which is EBUSY.
fn open_here(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(parent, OsStr::from_bytes(name), flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        Err(Errno::XDEV) => Err(Errno::BUSY),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;

    type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

    /// Makes `levels` folders within each other, and a file in the last.
    fn nest(folder: &Path, levels: usize) -> TestResult {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut deep = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
        for _ in 0..levels {
            rustix::fs::mkdirat(&deep, "d", Mode::RWXU)?;
            deep = rustix::fs::openat(&deep, "d", flags, Mode::empty())?;
        }
        rustix::fs::openat(&deep, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR)?;
        Ok(())
    }

    #[test]
    fn a_tree_that_is_deeper_than_any_path_is_removed() -> TestResult {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("tree");
        fs::create_dir_all(path.join("beside/.leaving-1/x"))?;
        fs::write(path.join("beside/file"), "1")?;
        fs::write(folder.path().join("kept"), "1")?;
        std::os::unix::fs::symlink(folder.path(), path.join("beside/link"))?;
        nest(&path, 5_000)?;
        assert!(!remove_tree(&path, &|| true)?, "it was told to stop");
        assert!(path.join("beside/file").exists(), "it stopped before the first name");
        assert!(remove_tree(&path, &|| false)?);
        let left: Vec<_> = fs::read_dir(folder.path())?.collect::<std::result::Result<_, _>>()?;
        assert_eq!(left.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(), ["kept"]);
        Ok(())
    }

    #[test]
    fn a_removal_that_was_stopped_half_way_is_finished_by_another() -> TestResult {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("tree");
        fs::create_dir(&path)?;
        nest(&path, 20)?;
        let asked = std::cell::Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > 10
        };
        assert!(!remove_tree(&path, &stop)?);
        assert!(path.exists());
        assert!(remove_tree(&path, &|| false)?);
        assert!(!path.exists());
        Ok(())
    }

    #[test]
    fn a_file_or_nothing_in_the_place_of_a_tree_is_an_error_that_names_it() -> TestResult {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x");
        let error = remove_tree(&path, &|| false).expect_err("it is not there");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        fs::write(&path, "1")?;
        remove_tree(&path, &|| false).expect_err("it is a file");
        assert_eq!(fs::read(&path)?, b"1");
        Ok(())
    }

    /// The root of a mount, by descriptor because its folder moves; unmounts also when the test fails.
    struct Mounted(fs::File);

    impl Drop for Mounted {
        fn drop(&mut self) {
            let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
            if let Err(error) = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
                eprintln!("a mount of this test stays: {error}");
            }
        }
    }

    #[test]
    fn what_is_mounted_in_a_tree_stays_and_is_the_error() -> TestResult {
        assert!(rustix::process::geteuid().is_root(), "this test needs root: it mounts");
        for place in ["m", "a/m", "a/b/c/m"] {
            let folder = tempfile::tempdir()?;
            let (data, path) = (folder.path().join("data"), folder.path().join("tree"));
            fs::create_dir(&data)?;
            fs::write(data.join("precious"), "precious")?;
            fs::create_dir_all(path.join(place))?;
            rustix::mount::mount_bind(&data, path.join(place))?;
            let mounted = Mounted(fs::File::open(path.join(place))?);
            let error = remove_tree(&path, &|| false).expect_err("something is mounted");
            let crate::archive::Error::Io { source, .. } = &error else { return Err(error.into()) };
            assert_eq!(source.kind(), std::io::ErrorKind::ResourceBusy, "{place}: {error}: {source}");
            assert_eq!(fs::read_to_string(data.join("precious"))?, "precious", "{place}");
            drop(mounted);
        }
        Ok(())
    }
}
