//! Files of containers: `docker cp` both ways, `export`, `diff`. Paths are resolved inside of the container's root by the image
//! room's archiver; nothing here opens a path of a container by itself.

use super::{transfer::beside, view::View};
use crate::{container::Command, engine::Shared, error, record::Mounted};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use muster_calls::{Error, PathStat, Result, Stream};
use muster_image::archive::{self, PackOptions, UnpackOptions};
use muster_model::{Timestamp, engine::FilesystemChange};
use std::{fs::File, io, os::fd::AsFd, path::Path, sync::Arc};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

/// Bytes between the packer and the client.
const PIPE: usize = 256 * 1024;

/// An error of the archiver about `path`, as dockerd words it.
fn archive_error(e: &archive::Error, path: &str, name: &str) -> Error {
    match e {
        archive::Error::NotFound(_) => Error::not_found(format!("Could not find the file {path} in container {name}")),
        archive::Error::NotADirectory(_) => Error::invalid("extraction point is not a directory"),
        archive::Error::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Error::forbidden(format!("{e}: {source}"))
        }
        archive::Error::KindDiffers { .. } | archive::Error::Escapes { .. } | archive::Error::Malformed(_) => {
            Error::invalid(e.to_string())
        }
        other => {
            let cause = std::error::Error::source(other).map(|s| format!(": {s}")).unwrap_or_default();
            Error::internal(format!("{other}{cause}"))
        }
    }
}

impl Shared {
    pub(crate) async fn archive_stat(self: &Arc<Self>, id: &str, path: String) -> Result<PathStat> {
        let view = self.view(id).await?;
        error::blocking(move || stat(&view, &path)).await
    }

    pub(crate) async fn archive_get(self: &Arc<Self>, id: &str, path: String) -> Result<(PathStat, Stream<Bytes>)> {
        let view = self.view(id).await?;
        self.container_event(view.record(), "archive-path", &[]);
        let (view, stat, path) = error::blocking(move || stat(&view, &path).map(|s| (view, s, path))).await?;
        let name = names_its_content(&path).then(|| ".".to_owned());
        Ok((stat, pack(view, path, PackOptions { name, ..PackOptions::default() })))
    }

    pub(crate) async fn archive_put(
        self: &Arc<Self>,
        id: &str,
        path: String,
        keep_kinds: bool,
        copy_uid_gid: bool,
        tar: Stream<Bytes>,
    ) -> Result<()> {
        let view = self.view(id).await?;
        let (view, path) = error::blocking(move || check_writable(&view, &path).map(|()| (view, path))).await?;
        self.container_event(view.record(), "extract-to-dir", &[]);
        let reader = SyncIoBridge::new(StreamReader::new(tar.map_err(|e| io::Error::other(e.message))));
        error::blocking(move || {
            // Compressed or not; the disk is the limit in both cases.
            let reader = archive::decompress(reader, u64::MAX).map_err(error::image)?;
            let owner = if copy_uid_gid { owner(&view)? } else { None };
            let options = UnpackOptions { keep_kinds, owner, ..UnpackOptions::default() };
            let unpacked = archive::unpack_into(view.root().as_fd(), Path::new(&path), reader, &options);
            unpacked.map(drop).map_err(|e| archive_error(&e, &path, &view.record().name))
        })
        .await
    }

    pub(crate) async fn container_changes(&self, id: &str) -> Result<Vec<FilesystemChange>> {
        let record = self.find(id)?.record();
        let changes = self.config.images.changes(&record.id).await.map_err(error::image)?;
        let changes = changes.into_iter().map(|c| FilesystemChange { path: c.path, kind: c.kind as u8 }).collect();
        Ok(without_mount_points(changes))
    }

    pub(crate) async fn container_export(&self, id: &str) -> Result<Stream<Bytes>> {
        let handle = self.find(id)?;
        let lease = handle.ask(Command::Lend).await?;
        let record = handle.record();
        // Without its mounts, also while it runs.
        let root =
            File::open(&lease.path).map_err(|e| Error::internal(format!("open the root of {}: {e}", record.id)))?;
        self.container_event(&record, "export", &[]);
        let options = PackOptions { name: Some(String::new()), ..PackOptions::default() };
        Ok(pack(View::plain(root, record, lease), "/".to_owned(), options))
    }
}

/// Whether a path means what is in a folder: `FOLDER/.`. Clients then find `./` at the head of all names.
fn names_its_content(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// `uid[:gid]` of a container's user, for `docker cp -a`; a name is looked up in the container's own files.
fn owner(view: &View) -> Result<Option<(u32, u32)>> {
    let user = view.record().config.user.as_str();
    if user.is_empty() {
        return Ok(None);
    }
    let (name, group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    let passwd = read_inside(view.root(), "etc/passwd");
    let row = passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.first() == Some(&name) || f.get(2) == Some(&name));
    let field = |n: usize| row.as_ref().and_then(|f| f.get(n)?.parse().ok());
    let unknown = || Error::invalid(format!("unable to find user {user} in container {}", view.record().name));
    let uid: u32 = name.parse().ok().or_else(|| field(2)).ok_or_else(unknown)?;
    let groups = read_inside(view.root(), "etc/group");
    let named =
        |g: &str| groups.lines().find_map(|l| l.strip_prefix(g)?.strip_prefix(':')?.split(':').nth(1)?.parse().ok());
    let gid = match group {
        Some(group) => group.parse().ok().or_else(|| named(group)).ok_or_else(unknown)?,
        None => field(3).unwrap_or(0),
    };
    Ok(Some((uid, gid)))
}

/// A small file of a root, links resolved inside of it (openat2(2), RESOLVE_IN_ROOT); empty where it cannot be read.
fn read_inside(root: &File, path: &str) -> String {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    use std::io::Read;
    const MOST: u64 = 1 << 20;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut text = String::new();
    let opened = openat2(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty(), inside);
    let read = opened.map_err(io::Error::from).and_then(|file| File::from(file).take(MOST).read_to_string(&mut text));
    if read.is_ok() { text } else { String::new() }
}

/// Whether something may be written at `path`, as dockerd sees it: into a mount that is not read-only, or into a root that is
/// not. What an archive leads to from there, the kernel judges.
fn check_writable(view: &View, path: &str) -> Result<()> {
    let failed = |e| archive_error(&e, path, &view.record().name);
    archive::stat(view.root().as_fd(), Path::new(path)).map_err(failed)?;
    let real = archive::resolved(view.root().as_fd(), Path::new(path)).map_err(failed)?;
    let record = view.record();
    // A tmpfs is there while the container runs only.
    let there = record.mounts.iter().filter(|m| m.kind != "tmpfs" || record.state.is_running());
    // Links of the root lead to mounts too.
    let at = |m: &Mounted| {
        archive::resolved(view.root().as_fd(), Path::new(&m.destination))
            .unwrap_or_else(|_| m.destination.clone().into())
    };
    let inner = there.map(|m| (at(m), m)).filter(|(at, _)| real.starts_with(at));
    match inner.max_by_key(|(at, _)| at.as_os_str().len()).map(|(_, mount)| mount) {
        Some(mount) if mount.read_only => Err(Error::forbidden("mounted volume is marked read-only")),
        None if record.host.readonly_rootfs => Err(Error::forbidden("container rootfs is marked read-only")),
        _ => Ok(()),
    }
}

fn stat(view: &View, path: &str) -> Result<PathStat> {
    let stat = archive::stat(view.root().as_fd(), Path::new(path))
        .map_err(|e| archive_error(&e, path, &view.record().name))?;
    Ok(PathStat {
        name: if names_its_content(path) { ".".to_owned() } else { stat.name },
        size: stat.size,
        mode: stat.mode,
        mtime: Timestamp(i64::try_from(stat.mtime.unix_timestamp_nanos()).unwrap_or(0)),
        link_target: stat.link_target,
    })
}

/// Mount points of what every container is given: made by the runtime where the image has none. dockerd hides them in a layer
/// of their own.
const GIVEN: &[&str] =
    &["/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc", "/sbin/docker-init", "/sys"];

/// The changes without [`GIVEN`], and without folders that are changed by nothing else.
fn without_mount_points(changes: Vec<FilesystemChange>) -> Vec<FilesystemChange> {
    let is_given = |c: &FilesystemChange| c.kind == 1 && GIVEN.contains(&c.path.as_str());
    let below = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    let only_holds_given = |c: &FilesystemChange| {
        let mut inside = changes.iter().filter(|other| below(&other.path, &c.path)).peekable();
        inside.peek().is_some() && inside.all(is_given)
    };
    changes.iter().filter(|c| !is_given(c) && !only_holds_given(c)).cloned().collect()
}

/// A tar of `path`, made while it is read.
fn pack(view: View, path: String, options: PackOptions) -> Stream<Bytes> {
    let (writer, reader) = tokio::io::duplex(PIPE);
    let work = error::blocking(move || {
        let writer = io::BufWriter::with_capacity(64 * 1024, SyncIoBridge::new(writer));
        let packed = archive::pack(view.root().as_fd(), Path::new(&path), writer, &options);
        packed.map(drop).map_err(|e| archive_error(&e, &path, &view.record().name))
    });
    beside(Box::pin(work), ReaderStream::new(reader).map_err(|e| Error::internal(e.to_string())).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_of_the_engines_own_are_no_changes() {
        let change = |path: &str, kind| FilesystemChange { path: path.to_owned(), kind };
        let of = |list: &[(&str, u8)]| {
            let list = list.iter().map(|(p, k)| change(p, *k)).collect();
            without_mount_points(list).into_iter().map(|c| c.path).collect::<Vec<_>>()
        };
        assert_eq!(of(&[("/dev", 1), ("/etc", 0), ("/etc/hosts", 1), ("/tmp", 0), ("/tmp/x", 1)]), ["/tmp", "/tmp/x"]);
        assert_eq!(of(&[("/etc", 0), ("/etc/hosts", 1), ("/etc/mine", 1)]), ["/etc", "/etc/mine"]);
        assert_eq!(of(&[("/etc/hosts", 0), ("/mode", 0)]), ["/etc/hosts", "/mode"]);
    }
}
