//! Mounting overlays.
//!
//! The mount API takes each lower folder by itself (`lowerdir+`, Linux 6.7) and so up to 500 of them. Older kernels get
//! one option string, which is cut at 4 KiB; there the layers are named by descriptors, which makes room for about 200.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::error::At;
use crate::{Error, Result, RootFs};

/// Changes must be packable later: no redirects and no metadata-only copies in the upper folder.
const PLAIN: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];
/// The page that mount(2) copies, less its final NUL.
const MAX_OPTIONS: usize = 4095;

/// Mounts the overlay unless something is mounted there.
pub(crate) fn mount(root_fs: &RootFs) -> Result<()> {
    if is_mounted(&root_fs.merged)? {
        return Ok(());
    }
    let fail =
        |reason: String| Error::Mount { target: root_fs.merged.clone(), layers: root_fs.lowerdirs.len(), reason };
    // Asked once: such a kernel writes each refusal into its log.
    static TAKES_A_STRING: AtomicBool = AtomicBool::new(false);
    if TAKES_A_STRING.load(Ordering::Relaxed) {
        return mount_string(root_fs).map_err(fail);
    }
    match mount_each(root_fs) {
        Ok(()) => Ok(()),
        // Before 6.5 overlayfs looks at no option before all are there, and takes one page of them.
        Err((Errno::NOSYS | Errno::INVAL, Step::Lower | Step::Option | Step::Create)) => {
            mount_string(root_fs).map_err(fail)?;
            TAKES_A_STRING.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err((errno, step)) => Err(fail(format!("{}: {errno}", step.words()))),
    }
}

/// What was tried when a mount failed.
#[derive(Clone, Copy)]
enum Step {
    Lower,
    Option,
    Create,
    Attach,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Self::Lower => "a layer was refused",
            Self::Option => "an option was refused",
            Self::Create => "the overlay was refused",
            Self::Attach => "it could not be attached",
        }
    }
}

fn mount_each(root_fs: &RootFs) -> Result<(), (Errno, Step)> {
    let at = |step| move |errno| (errno, step);
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at(Step::Lower))?;
    for lower in &root_fs.lowerdirs {
        fsconfig_set_string(&overlay, "lowerdir+", lower).map_err(at(Step::Lower))?;
    }
    fsconfig_set_string(&overlay, "upperdir", &root_fs.upper).map_err(at(Step::Option))?;
    fsconfig_set_string(&overlay, "workdir", &root_fs.work).map_err(at(Step::Option))?;
    // What `mount` shows as the device.
    fsconfig_set_string(&overlay, "source", "overlay").map_err(at(Step::Option))?;
    for (key, value) in PLAIN {
        fsconfig_set_string(&overlay, key, value).map_err(at(Step::Option))?;
    }
    fsconfig_create(&overlay).map_err(at(Step::Create))?;
    let mounted =
        fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(at(Step::Create))?;
    move_mount(&mounted, "", CWD, &root_fs.merged, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(at(Step::Attach))
}

fn mount_string(root_fs: &RootFs) -> Result<(), String> {
    let open = |path: &std::path::PathBuf| File::open(path).map_err(|error| format!("{}: {error}", path.display()));
    let lowers = root_fs.lowerdirs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = lowers.iter().map(|lower| format!("/proc/self/fd/{}", lower.as_raw_fd())).collect();
    let (upper, work) = (open(&root_fs.upper)?, open(&root_fs.work)?);
    let mut options = format!(
        "lowerdir={},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{}",
        names.join(":"),
        upper.as_raw_fd(),
        work.as_raw_fd()
    );
    for (key, value) in PLAIN {
        options = format!("{options},{key}={value}");
    }
    if options.len() > MAX_OPTIONS {
        return Err("too many layers for this kernel: more than about 200 need Linux 6.7".into());
    }
    let options = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
    rustix::mount::mount("overlay", &root_fs.merged, "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(|errno| errno.to_string())
}

/// Unmounts what is mounted there, also when it is in use: it goes away with its last user.
pub(crate) fn unmount(merged: &Path) -> Result<()> {
    // A second mount may lie on the first when two processes raced.
    while is_mounted(merged)? {
        match rustix::mount::unmount(merged, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Somebody was faster.
            Err(Errno::INVAL | Errno::NOENT) => {}
            other => other.at("unmount", merged)?,
        }
    }
    Ok(())
}

/// Whether a mount is attached at `path` itself (statx(2), `STATX_ATTR_MOUNT_ROOT`, Linux 5.8).
pub(crate) fn is_mounted(path: &Path) -> Result<bool> {
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).at("read", path),
    }
}

/// Everything that something is mounted at.
///
/// Source: proc_pid_mountinfo(5); blanks and backslashes in paths are written as a backslash and three octal digits.
pub(crate) fn mounted() -> Result<HashSet<PathBuf>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(table).at("read", table)?;
    let points = text.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    Ok(points.map(|point| PathBuf::from(OsString::from_vec(unescaped(point)))).collect())
}

fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let octal = rest.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                text = &rest[3..];
            }
            None => {
                out.push(*first);
                text = rest;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_table_of_mounts_are_read_as_they_are() {
        assert_eq!(unescaped(br"/a\040b\134c\011/d"), b"/a b\\c\t/d");
        assert_eq!(unescaped(br"/a\04"), br"/a\04");
    }

    #[test]
    fn older_kernels_mount_130_layers_by_descriptor() -> std::result::Result<(), Box<dyn std::error::Error>> {
        assert!(rustix::process::geteuid().is_root(), "this test needs root: it mounts");
        let folder = tempfile::tempdir()?;
        let make = |name: String| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).map(|()| path)
        };
        let lowerdirs =
            (0..130).map(|n| make(format!("a-rather-long-name-of-a-layer-{n}"))).collect::<Result<Vec<_>, _>>()?;
        std::fs::write(lowerdirs[129].join("deepest"), "1")?;
        let [upper, work, merged] = ["upper", "work", "merged"].map(|name| make(name.into()));
        let root_fs = RootFs { id: "x".into(), lowerdirs, upper: upper?, work: work?, merged: merged? };
        let mounted = mount_string(&root_fs);
        let seen = root_fs.merged.join("deepest").exists();
        unmount(&root_fs.merged)?;
        mounted?;
        assert!(seen && !is_mounted(&root_fs.merged)?);
        Ok(())
    }
}
