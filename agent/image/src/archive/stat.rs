//! What a path of a container is, as `docker cp` asks for it.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use time::OffsetDateTime;

use super::{At, Error, Result, resolve};

/// Docker's `X-Docker-Container-Path-Stat` (Docker Engine API, `ContainerArchiveInfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// Last component of the path; `/` for the root.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode`: permissions in the low nine bits, kinds and setuid, setgid, sticky in the high ones.
    pub mode: u32,
    /// Modification time.
    pub mtime: OffsetDateTime,
    /// For a symbolic link: the absolute path it leads to inside of the root. Else empty.
    pub link_target: String,
}

/// Describes `path` of `root`: links in its folders are followed inside of the root, a link at its end is not.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::NotADirectory`] when a component is a file, or the path ends in `/` and is none;
/// [`Error::Io`].
pub fn stat(root: BorrowedFd<'_>, path: &Path) -> Result<PathStat> {
    let bytes = path.as_os_str().as_bytes();
    let components = resolve::components(bytes)?;
    let (leaf, folders) = components.split_last().map_or((&b"."[..], &[][..]), |(leaf, folders)| (*leaf, folders));
    let missing = |errno: Errno| match errno {
        Errno::NOENT => Error::NotFound(path.to_owned()),
        Errno::NOTDIR => Error::NotADirectory(path.to_owned()),
        errno => Error::Io { act: "open", path: path.to_owned(), source: errno.into() },
    };
    let parent = resolve::open_dir(root, &resolve::join(folders)).map_err(missing)?;
    let found = resolve::lstat(parent.as_fd(), leaf).at("read", bytes)?;
    let found = found.ok_or_else(|| Error::NotFound(path.to_owned()))?;
    let kind = resolve::kind(&found);
    if bytes.ends_with(b"/") && !kind.is_dir() && !kind.is_symlink() {
        return Err(Error::NotADirectory(path.to_owned()));
    }
    let target = if kind.is_symlink() { resolve::follow(root, &resolve::join(&components))? } else { Vec::new() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(PathStat {
        name: if components.is_empty() { "/".into() } else { text(leaf) },
        size: found.st_size,
        mode: go_mode(&found),
        mtime: mtime(&found),
        link_target: text(&target),
    })
}

fn mtime(stat: &Stat) -> OffsetDateTime {
    let nanoseconds = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Go, `io/fs`, `FileMode`.
fn go_mode(stat: &Stat) -> u32 {
    let kind = match resolve::kind(stat) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| stat.st_mode & bit != 0).fold(0, |all, (_, go)| all | go);
    kind | special | (stat.st_mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_and_links_are_described_as_docker_does() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir_all(dir.path().join("a/b"))?;
        std::fs::write(dir.path().join("a/b/file"), "12345")?;
        std::os::unix::fs::symlink("/a/b", dir.path().join("link"))?;
        std::os::unix::fs::symlink("../../../link/file", dir.path().join("a/up"))?;
        let root = std::fs::File::open(dir.path())?;
        let of = |path: &str| stat(root.as_fd(), Path::new(path));
        assert_eq!((of("/")?.name.as_str(), of("/")?.mode >> 31), ("/", 1));
        assert_eq!((of("/link/file")?.size, of("/link/file")?.mode & 0o777), (5, 0o644));
        assert_eq!(of("link")?.link_target, "/a/b");
        assert_eq!(of("/a/up")?.link_target, "/a/b/file");
        assert!(matches!(of("/none"), Err(Error::NotFound(_))));
        assert!(matches!(of("/a/b/file/x"), Err(Error::NotADirectory(_))));
        assert!(matches!(of("/a/b/file/"), Err(Error::NotADirectory(_))));
        Ok(())
    }
}
