//! Paths inside of a root: how they are split, opened, and shown.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{At, Error, Result, shown};

/// Nothing resolved under these leaves the root.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Most symbolic links followed for one path, as the kernel's own limit.
const MAX_LINKS: usize = 40;

/// The components of a path, `.` and empty ones left out and `..` taken back.
///
/// # Errors
/// [`Error::Escapes`] when `..` goes above the start, [`Error::Malformed`] for a NUL byte.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.contains(&0) {
        return Err(Error::Malformed(format!("a NUL byte in the name {}", shown(path).display())));
    }
    let mut all = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if all.pop().is_none() {
                    return Err(Error::Escapes { path: shown(path), reason: "too many \"..\"" });
                }
            }
            name => all.push(name),
        }
    }
    Ok(all)
}

/// Components as a path relative to the root; `.` for the root itself.
pub(crate) fn join(components: &[&[u8]]) -> Vec<u8> {
    if components.is_empty() { b".".to_vec() } else { components.join(&b'/') }
}

/// Opens a path inside of the root, following links inside of it.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    retry(|| rustix::fs::openat2(root, OsStr::from_bytes(path), flags | OFlags::CLOEXEC, Mode::empty(), INSIDE))
}

/// `openat2` gives up with EAGAIN when a rename raced with it (openat2(2), `RESOLVE_IN_ROOT`); that is not our error.
fn retry(mut act: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    const ATTEMPTS: usize = 100;
    for _ in 1..ATTEMPTS {
        match act() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    act()
}

/// Opens a folder inside of the root for `*at` calls, its last component too may be a link.
pub(crate) fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Opens a folder inside of the root, making what is missing (owner root, mode 0755).
pub(crate) fn open_or_make_dir(root: BorrowedFd<'_>, components: &[&[u8]]) -> Result<OwnedFd> {
    let whole = join(components);
    match open_dir(root, &whole) {
        Err(Errno::NOENT) => {}
        other => return other.at("open", &whole),
    }
    let mut parent = open_dir(root, b".").at("open", b"/")?;
    for (position, name) in components.iter().enumerate() {
        let path = join(&components[..=position]);
        parent = match open_dir(root, &path) {
            Err(Errno::NOENT) => {
                make_dir(parent.as_fd(), name).at("create", &path)?;
                open_dir(root, &path).at("open", &path)?
            }
            other => other.at("open", &path)?,
        };
    }
    Ok(parent)
}

fn make_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent, OsStr::from_bytes(name), Mode::from_raw_mode(0o755))?;
    // The mode given to mkdir is cut by the umask.
    let dir = open_child(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))
}

/// Opens a name in a folder, never following it.
pub(crate) fn open_child(parent: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
}

/// What a name in a folder is, never following it; `None` when it is not there.
pub(crate) fn lstat(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The kind of a file.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Where a path leads inside of the root once all links are followed, as absolute path; what does not exist is kept as
/// it is written. For showing only: the result is not to be opened by plain path.
pub(crate) fn follow(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>> {
    let mut todo: Vec<Vec<u8>> = split(path);
    todo.reverse();
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(component) = todo.pop() {
        if component == b".." {
            done.pop();
            continue;
        }
        done.push(component);
        let here = done.join(&b'/');
        let Some(target) = read_link(root, &here)? else { continue };
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP).at("follow", path);
        }
        done.pop();
        if target.starts_with(b"/") {
            done.clear();
        }
        todo.extend(split(&target).into_iter().rev());
    }
    Ok([b"/", done.join(&b'/').as_slice()].concat())
}

fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).collect()
}

/// The target of a link whose folders hold no links; `None` for anything else.
fn read_link(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Vec<u8>>> {
    match open(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => match rustix::fs::readlinkat(&fd, Path::new(""), Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            // ENOENT is what an O_PATH descriptor of something that is no link gives (readlinkat(2), since 2.6.39).
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error).at("read the link", path),
        },
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error).at("open", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_never_climb_above_the_root() {
        let clean = |path: &str| components(path.as_bytes()).map(|all| join(&all)).ok();
        assert_eq!(clean("/a/./b//c/"), Some(b"a/b/c".to_vec()));
        assert_eq!(clean("a/../b"), Some(b"b".to_vec()));
        assert_eq!(clean("./"), Some(b".".to_vec()));
        assert_eq!(clean("../a"), None);
        assert_eq!(clean("a/../../b"), None);
        assert_eq!(clean("a\0b"), None);
    }
}
