//! The root of a container that does not run, with its mounts, in a mount namespace that no process is in.
//!
//! The namespace lives by two open files of the daemon: when they are closed, by whatever end, the kernel takes it away with
//! all that is mounted in it. Nothing of it is seen on the host. In it there is nothing but the container's tree, so that it
//! keeps no other mount of the host from going.

use super::mount::inner;
use crate::record::Mounted;
use muster_calls::{Error, Result};
use muster_image::archive;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, fstat, openat, statx},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, mount_remount,
        move_mount, open_tree, unmount,
    },
};
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Keeps the namespace of an assembled root.
#[derive(Debug)]
pub(crate) struct Apart {
    _namespace: File,
}

impl Apart {
    /// Mounts a root and `mounts` in it, in their order; answers with the root, open. Blocks.
    ///
    /// # Errors
    /// `Internal` naming the mount and the kernel's reason; those of paths inside of volumes.
    pub fn assemble(root: PathBuf, mounts: Vec<Mounted>) -> Result<(File, Self)> {
        let lost = |e: String| Error::internal(format!("mount the files of a container: {e}"));
        // A namespace belongs to a thread: this one unshares, mounts, and ends.
        let thread = std::thread::Builder::new().name("cp".to_owned()).spawn(move || in_thread(&root, &mounts));
        thread.map_err(|e| lost(e.to_string()))?.join().unwrap_or_else(|_| Err(lost("the thread panicked".to_owned())))
    }
}

fn in_thread(root: &Path, mounts: &[Mounted]) -> Result<(File, Apart)> {
    let failed = |what: &str| {
        let what = format!("{what} {}", root.display());
        move |e: io::Error| Error::internal(format!("{what}: {e}"))
    };
    let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS);
    unshared.map_err(io::Error::from).map_err(failed("unshare the mounts for"))?;
    // Nothing that is mounted from here on may reach the host through a shared mount.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(io::Error::from)
        .map_err(failed("make private the mounts for"))?;
    let apart = Apart { _namespace: File::open("/proc/thread-self/ns/mnt").map_err(failed("open the namespace for"))? };
    let open = mounted_root(root).map_err(failed("mount"))?;
    for mount in mounts {
        put_in(&open, mount)?;
    }
    leave_host(&open).map_err(failed("move into"))?;
    Ok((open, apart))
}

/// Mounts the root upon itself, so that it is a mount of this namespace.
fn mounted_root(path: &Path) -> io::Result<File> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    move_mount(&tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&tree, ".", flags, Mode::empty())?.into())
}

fn put_in(root: &File, mount: &Mounted) -> Result<()> {
    let failed = |e: io::Error| {
        Error::internal(format!("mount {} at {} of the container: {e}", mount.source.display(), mount.destination))
    };
    let source = match mount.kind.as_str() {
        "bind" => None,
        _ => inner(mount)?,
    };
    let source = match source {
        Some(inner) => inner,
        None => {
            openat(CWD, &mount.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(e.into()))?
        }
    };
    let folder = FileType::from_raw_mode(fstat(&source).map_err(|e| failed(e.into()))?.st_mode).is_dir();
    let point = archive::mount_point(root.as_fd(), Path::new(&mount.destination), folder)
        .map_err(|e| Error::internal(format!("make the mount point {} of the container: {e}", mount.destination)))?;
    attach(&source, &point, mount).map_err(failed)
}

fn attach(source: &OwnedFd, point: &OwnedFd, mount: &Mounted) -> io::Result<()> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, !mount.non_recursive);
    let tree = open_tree(source, "", flags)?;
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", point, "", by_descriptor)?;
    if mount.read_only {
        make_read_only(Path::new(&format!("/proc/thread-self/fd/{}", tree.as_raw_fd())))?;
        if !mount.read_only_top {
            for below in mounts_below(&tree)? {
                make_read_only(&below)?;
            }
        }
    }
    Ok(())
}

fn make_read_only(path: &Path) -> io::Result<()> {
    Ok(mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, "")?)
}

/// The mount points of all mounts within one, in the order of the table: the outer before the inner.
fn mounts_below(top: &OwnedFd) -> io::Result<Vec<PathBuf>> {
    let top = statx(top, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
    Ok(below(&fs::read_to_string("/proc/thread-self/mountinfo")?, top))
}

/// As [`mounts_below`], of a table as in proc_pid_mountinfo(5): a mount's id, its parent's, and where it is.
fn below(table: &str, top: u64) -> Vec<PathBuf> {
    let (mut inside, mut points) = (vec![top], Vec::new());
    let mut rest: Vec<(u64, u64, &str)> = table
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let mut number = || words.next()?.parse().ok();
            Some((number()?, number()?, words.nth(2)?))
        })
        .collect();
    // The table has no order that one could rely on: until a look over it finds nothing new.
    loop {
        let before = inside.len();
        rest.retain(|(id, parent, point)| {
            let is_inside = inside.contains(parent) && !inside.contains(id);
            if is_inside {
                inside.push(*id);
                points.push(plain(point));
            }
            !is_inside
        });
        if inside.len() == before {
            return points;
        }
    }
}

/// A path of the table, with its octal escapes taken back.
fn plain(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (bytes, mut out) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes[at] == b'\\';
        let code = escaped.then(|| u8::from_str_radix(text.get(at + 1..at + 4)?, 8).ok()).flatten();
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Makes the container's root that of the namespace, and lets go of everything else in it.
fn leave_host(root: &File) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => Ok(unmount(".", UnmountFlags::DETACH)?),
        // A host that runs from its initial memory disk (pivot_root(2)): then the copies of its mounts stay as long as this.
        Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_within_a_mount_are_found_in_whatever_order_and_with_their_real_names() {
        let table = "12 11 0:1 / /r/v/a\\040b rw - t t rw\n11 10 0:1 / /r/v rw - t t rw\n9 1 0:1 / /x rw - t t rw\n13 12 0:1 / /r/v/a\\040b/c rw - t t rw\n";
        let all = below(table, 11);
        assert_eq!(all, [Path::new("/r/v/a b"), Path::new("/r/v/a b/c")]);
        assert_eq!(below(table, 13), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_assembled_root_shows_its_mounts_and_the_host_sees_none_of_them() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let dir = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| dir.path().join(name);
        for folder in ["root", "v", "w"] {
            fs::create_dir(at(folder)).expect("folder");
        }
        fs::write(at("v/f"), "of the volume").expect("file");
        let bind = |source: &str, destination: &str, read_only| Mounted {
            kind: "bind".into(),
            source: at(source),
            destination: destination.into(),
            read_only,
            ..Mounted::default()
        };
        let mounts = vec![bind("v", "/in/v", true), bind("w", "/in/v/none", false)];
        let failed = Apart::assemble(at("root"), mounts).expect_err("no place for a mount in a read-only one");
        assert!(failed.message.contains("/in/v/none"), "{failed}");
        let mounts = vec![bind("v", "/in/v", true), bind("w", "/w", false)];
        let (root, apart) = Apart::assemble(at("root"), mounts).expect("assembled");
        let read = openat(&root, "in/v/f", OFlags::RDONLY, Mode::empty()).expect("there");
        assert_eq!(io::read_to_string(File::from(read)).expect("text"), "of the volume");
        let create = OFlags::CREATE | OFlags::WRONLY;
        assert_eq!(openat(&root, "in/v/g", create, Mode::empty()).expect_err("read-only"), rustix::io::Errno::ROFS);
        openat(&root, "w/g", create, Mode::empty()).expect("written");
        assert!(at("w/g").exists() && !at("root/in/v/f").exists());
        let table = fs::read_to_string("/proc/self/mountinfo").expect("table");
        assert!(!table.contains(&*dir.path().to_string_lossy()), "{table}");
        drop((root, apart));
        fs::remove_dir(at("root/w")).expect("nothing is mounted there");
    }
}
