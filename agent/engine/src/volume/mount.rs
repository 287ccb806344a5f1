//! A container's mounts as the runtime room takes them: sources exist when this has answered.

use super::{Volumes, active};
use crate::{
    engine::Shared,
    error, names,
    record::{Mounted, Record},
};
use muster_calls::{Error, Result};
use muster_runtime::spec::{Bind, MountRequest, Propagation, Tmpfs};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount},
};
use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The mounts of a container that is being started.
#[derive(Debug, Default)]
pub(crate) struct Acquired {
    pub requests: Vec<MountRequest>,
    /// To be kept until the runtime has made its mounts.
    _held: Vec<Pinned>,
}

/// A path inside of a volume or image, found without following a link out of it and bound in a folder of the engine's own: what
/// the path leads to by the time the runtime comes does not matter any more.
#[derive(Debug)]
struct Pinned(PathBuf);

impl Pinned {
    fn new(fd: &OwnedFd, at: PathBuf) -> std::io::Result<Self> {
        let folder = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode).is_dir();
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        if folder {
            fs::create_dir(&at)?
        } else {
            drop(fs::File::create_new(&at)?)
        }
        let pinned = Self(at);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(fd, "", flags)?;
        move_mount(&tree, "", CWD, &pinned.0, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(pinned)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        unpin(&self.0);
    }
}

/// Takes a pinned path away; what stays is swept at the next start.
fn unpin(at: &Path) {
    let _ = unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    // One of the two is right.
    let _ = fs::remove_dir(at).or_else(|_| fs::remove_file(at));
}

/// Removes what a daemon that died left pinned.
pub(crate) fn sweep_pins(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        unpin(&entry.path());
    }
}

impl Shared {
    /// Mounts what a container that is being started needs; [`Shared::release_mounts`] takes it back, also half-done.
    ///
    /// # Errors
    /// When the source of a bind does not exist or cannot be shared as asked, a volume has vanished or cannot be mounted.
    pub(crate) async fn acquire_mounts(&self, record: &mut Record) -> Result<Acquired> {
        let mut acquired = Acquired::default();
        for index in 0..record.mounts.len() {
            match record.mounts[index].kind.as_str() {
                "volume" => {
                    let name = record.mounts[index].volume.clone();
                    let path = self.volumes.mount_for(&name, &active::use_of(&record.id, index)).await?;
                    record.mounts[index].source = path;
                    self.volume_event(record, index, "mount");
                }
                "image" => {
                    let root = image_root(&record.id, index);
                    record.mounts[index].source = self.roots.mount(&root).await?;
                }
                _ => {}
            }
        }
        let mounts = record.mounts.clone();
        let pins = self.pins().join(names::short(&record.id));
        error::blocking(move || {
            for (index, mount) in mounts.iter().enumerate() {
                let pin = pins.with_extension(index.to_string());
                let request = request(mount, pin, &mut acquired._held)?;
                acquired.requests.push(request);
            }
            Ok(acquired)
        })
        .await
    }

    /// Unmounts what a container had that does not run any more.
    pub(crate) async fn release_mounts(&self, record: &Record) {
        for (index, mount) in record.mounts.iter().enumerate().filter(|(_, m)| m.kind == "volume") {
            self.volumes.give_back(&mount.volume, &active::use_of(&record.id, index)).await;
            if !mount.source.as_os_str().is_empty() {
                self.volume_event(record, index, "unmount");
            }
        }
        self.unmount_images(record).await;
    }

    /// Unmounts the images that a container had mounted.
    pub(crate) async fn unmount_images(&self, record: &Record) {
        for (index, _) in record.mounts.iter().enumerate().filter(|(_, m)| m.kind == "image") {
            self.roots.unmount(&image_root(&record.id, index)).await;
        }
    }

    pub(super) fn volume_event(&self, record: &Record, index: usize, action: &str) {
        let mount = &record.mounts[index];
        let mut attributes = vec![("driver", self.volumes.driver_of(&mount.volume)), ("container", record.id.clone())];
        if action == "mount" {
            attributes.push(("destination", mount.destination.clone()));
            attributes.push(("read/write", (!mount.read_only).to_string()));
            attributes.push(("propagation", mount.propagation.clone()));
        }
        let attributes = attributes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        self.events.publish("volume", action, mount.volume.as_str(), attributes);
    }
}

/// The snapshot of an image that a container has mounted, beside the container's own.
pub(crate) fn image_root(container: &str, index: usize) -> String {
    format!("{container}-image{index}")
}

/// The container whose mount a snapshot is, or whose root.
pub(crate) fn owner_of_root(snapshot: &str) -> &str {
    snapshot.split_once("-image").map_or(snapshot, |(container, _)| container)
}

fn request(mount: &Mounted, pin: PathBuf, held: &mut Vec<Pinned>) -> Result<MountRequest> {
    if mount.kind == "tmpfs" {
        return Ok(MountRequest::Tmpfs(Tmpfs {
            target: mount.destination.clone(),
            options: mount.tmpfs_options.clone(),
            size: mount.tmpfs_size,
            mode: mount.tmpfs_mode,
        }));
    }
    let source = match mount.kind.as_str() {
        "bind" => bind_source(mount)?,
        _ => match inner(mount)? {
            None => mount.source.clone(),
            Some(fd) => {
                unpin(&pin);
                let failed = |e| Error::internal(format!("bind {} of {}: {e}", mount.subpath, mount.source.display()));
                held.push(Pinned::new(&fd, pin.clone()).map_err(failed)?);
                pin
            }
        },
    };
    Ok(MountRequest::Bind(Bind {
        source,
        target: mount.destination.clone(),
        read_only: mount.read_only,
        read_only_top: mount.read_only_top,
        non_recursive: mount.non_recursive,
        propagation: propagation(&mount.propagation),
    }))
}

/// The path in a volume or image that is to be mounted; `None`: its root. Resolved by the kernel below the root (openat2(2), RESOLVE_BENEATH), so
/// that no link in it leads out.
pub(super) fn inner(mount: &Mounted) -> Result<Option<OwnedFd>> {
    let (root, name) = (&mount.source, if mount.kind == "image" { &mount.image } else { &mount.volume });
    if !root.is_dir() {
        return Err(Error::internal(format!("{} {name}: its folder {} is gone", mount.kind, root.display())));
    }
    if mount.subpath.is_empty() {
        return Ok(None);
    }
    let failed = |e: rustix::io::Errno| match e {
        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => {
            Error::invalid(format!("subpath {:?} leads out of {} {name}", mount.subpath, mount.kind))
        }
        e => Error::invalid(format!("cannot access path {}: {e}", root.join(&mount.subpath).display())),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let folder = openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // The kernel asks to try again when a rename elsewhere raced with the walk.
    let opened = (0..16)
        .map(|_| openat2(&folder, mount.subpath.as_str(), flags, Mode::empty(), resolve))
        .find(|opened| !matches!(opened, Err(rustix::io::Errno::AGAIN)))
        .unwrap_or(Err(rustix::io::Errno::AGAIN));
    opened.map(Some).map_err(failed)
}

fn bind_source(mount: &Mounted) -> Result<PathBuf> {
    require_source(mount)?;
    check_propagation(&mount.source, &mount.propagation)?;
    Ok(mount.source.clone())
}

/// Makes the source of a bind where it is missing and may be made.
pub(super) fn require_source(mount: &Mounted) -> Result<()> {
    let source = &mount.source;
    if source.exists() {
        return Ok(());
    }
    if !mount.create_source {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            source.display()
        )));
    }
    fs::create_dir_all(source)
        .map_err(|e| Error::internal(format!("error while creating mount source path '{}': {e}", source.display())))
}

/// A mount can be shared with the host, or follow it, only where the host's own mount is shared.
fn check_propagation(source: &Path, wanted: &str) -> Result<()> {
    let shared = matches!(wanted, "shared" | "rshared");
    if !shared && !matches!(wanted, "slave" | "rslave") {
        return Ok(());
    }
    let failed = |e: std::io::Error| Error::internal(format!("{}: {e}", source.display()));
    let real = source.canonicalize().map_err(failed)?;
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    let (point, optional) = mount_of(&table, &real);
    let is = |word: &str| optional.iter().any(|field| field.starts_with(word));
    if is("shared:") || (!shared && is("master:")) {
        return Ok(());
    }
    let kind = if shared { "shared" } else { "shared or slave" };
    let text = format!("path {} is mounted on {point} but it is not a {kind} mount", source.display());
    Err(Error::internal(text))
}

/// Mount point and optional fields of the mount that a path lies on (proc_pid_mountinfo(5)); the last of those that fit
/// covers the others.
fn mount_of<'a>(table: &'a str, path: &Path) -> (&'a str, Vec<&'a str>) {
    let fields = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(4);
        let point = words.next()?;
        Some((point, words.skip(1).take_while(|word| *word != "-").collect::<Vec<_>>()))
    });
    let fitting = fields.filter(|(point, _)| path.starts_with(point.replace("\\040", " ")));
    fitting.fold(("/", Vec::new()), |best, next| if next.0.len() >= best.0.len() { next } else { best })
}

fn propagation(text: &str) -> Propagation {
    match text {
        "private" => Propagation::Private,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::RShared,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::RSlave,
        _ => Propagation::RPrivate,
    }
}

impl Volumes {
    /// Where documents say that a volume is: of a plugin's, where it was mounted last.
    pub(crate) fn shown_source(&self, mount: &Mounted) -> PathBuf {
        match self.driver_of(&mount.volume).as_str() {
            super::LOCAL => self.mountpoint(&mount.volume),
            _ => mount.source.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_mount_of_a_path_is_the_innermost_one() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 x rw\n2 1 0:5 / /a rw - tmpfs t rw\n3 2 0:6 / /a/b rw shared:7 master:2 - tmpfs t rw\n";
        assert_eq!(mount_of(table, Path::new("/ab")), ("/", vec!["shared:1"]));
        assert_eq!(mount_of(table, Path::new("/a/c")), ("/a", vec![]));
        assert_eq!(mount_of(table, Path::new("/a/b/c")), ("/a/b", vec!["shared:7", "master:2"]));
    }

    #[test]
    fn a_link_in_a_volume_does_not_lead_out_of_it() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path().join("v");
        fs::create_dir_all(root.join("in")).expect("folder");
        for (name, to) in [("out", "/etc"), ("up", "../.."), ("fine", "in")] {
            std::os::unix::fs::symlink(to, root.join(name)).expect("link");
        }
        let of = |subpath: &str| {
            let mount = Mounted {
                kind: "volume".into(),
                volume: "v".into(),
                source: root.clone(),
                subpath: subpath.into(),
                ..Mounted::default()
            };
            let path = |fd: OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("open");
            inner(&mount).map(|fd| path(fd.expect("a path inside")))
        };
        for good in ["in", "fine"] {
            assert_eq!(of(good).expect("inside"), root.join("in").canonicalize().expect("there"));
        }
        for bad in ["out", "up", "out/passwd"] {
            assert!(of(bad).expect_err("outside").message.contains("leads out of"), "{bad}");
        }
        assert!(of("none").expect_err("missing").message.starts_with("cannot access path"));
    }
}
