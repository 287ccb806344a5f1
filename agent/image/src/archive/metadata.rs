//! Owner, mode, extended attributes and times of what was just created.
//!
//! A node may be swapped for a link by somebody else at any moment, so nothing here goes by name: metadata is set on an
//! open descriptor, or through `/proc/self/fd` on an `O_PATH` one.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::reader::Entry;
use super::{At, Error, Result, resolve};

/// Sets all metadata of an entry on its node. `name` in `parent` was made by us a moment ago; `is_link` for a symbolic
/// link, which has no mode.
pub(super) fn apply(
    parent: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    owner: Option<(u32, u32)>,
    is_link: bool,
) -> Result<()> {
    let node = resolve::open_child(parent, name, OFlags::PATH).at("open", &entry.path)?;
    let is_link_now = resolve::kind(&rustix::fs::fstat(&node).at("read", &entry.path)?).is_symlink();
    if is_link_now != is_link {
        return Err(Error::Escapes { path: super::shown(&entry.path), reason: "it was replaced while being written" });
    }
    apply_to(node.as_fd(), entry, owner, is_link)
}

/// Sets all metadata of an entry on an open node, in the order that keeps it: changing the owner clears the setuid bit
/// and file capabilities (chown(2)).
pub(super) fn apply_to(node: BorrowedFd<'_>, entry: &Entry, owner: Option<(u32, u32)>, is_link: bool) -> Result<()> {
    let (uid, gid) = owner.unwrap_or((entry.uid, entry.gid));
    let owners = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(node, "", owners.0, owners.1, AtFlags::EMPTY_PATH).at("change the owner of", &entry.path)?;
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    if !is_link {
        let mode = Mode::from_raw_mode(entry.mode);
        // Most nodes are files open for writing, which need no second walk to them.
        let changed = match rustix::fs::fchmod(node, mode) {
            // What an `O_PATH` descriptor gives (open(2)).
            Err(Errno::BADF) => rustix::fs::chmod(path.as_str(), mode),
            other => other,
        };
        changed.at("change the mode of", &entry.path)?;
    }
    for (key, value) in entry.xattrs.iter().filter(|(key, _)| is_kept(key)) {
        match rustix::fs::setxattr(path.as_str(), OsStr::from_bytes(key), value, XattrFlags::empty()) {
            // The file system has no such attributes, or not on this kind of file: Docker goes on without them too.
            Err(Errno::OPNOTSUPP | Errno::PERM) => {
                tracing::debug!(path = %super::shown(&entry.path).display(), "extended attribute not kept");
            }
            other => other.at("set an attribute of", &entry.path)?,
        }
    }
    set_times(node, entry)
}

/// Only attributes that mean the same on every host. `trusted.overlay.*` would steer overlayfs itself.
pub(super) fn is_kept(key: &[u8]) -> bool {
    key == b"security.capability" || (key.starts_with(b"user.") && !key.starts_with(b"user.overlay."))
}

/// Sets the modification time; the access time is set to the same, so that unpacking twice gives the same tree.
pub(super) fn set_times(node: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    let (seconds, nanoseconds) = entry.mtime;
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(node, "", &times, AtFlags::EMPTY_PATH).at("set the time of", &entry.path)
}
