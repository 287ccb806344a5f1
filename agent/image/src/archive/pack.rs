//! Writing a file tree as a tar stream.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use tar::EntryType;

use super::writer::{Head, Writer};
use super::{At, Error, MAX_DEPTH, OPAQUE, OPAQUE_XATTR, Result, WHITEOUT, Whiteouts, metadata, resolve};

/// How to pack.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// The name of the packed path in the archive. `None` for its own last component; empty to pack the content of a
    /// folder without a name before it, as layers and `docker export` are.
    pub name: Option<String>,
    /// With [`Whiteouts::Overlay`] the tree is the upper folder of an overlay: its whiteouts become OCI's.
    pub whiteouts: Whiteouts,
    /// Follow `subpath` itself when it is a symbolic link; links further down are packed as links.
    pub follow: bool,
}

/// Writes `subpath` of `root`, with all below it, as an uncompressed tar stream. Names are in byte order. Sockets are
/// left out, as tar has no such thing. Names that vanish meanwhile are left out; a file that shrinks is padded with
/// zeros. Returns the writer.
///
/// # Errors
/// [`Error::NotFound`] for `subpath`, [`Error::TooLarge`] beyond [`MAX_DEPTH`], [`Error::Stream`] when the writer fails,
/// [`Error::Io`].
pub fn pack<W: Write>(root: BorrowedFd<'_>, subpath: &Path, writer: W, options: &PackOptions) -> Result<W> {
    let components = resolve::components(subpath.as_os_str().as_bytes())?;
    let mut packer =
        Packer { writer: Writer::new(writer), whiteouts: options.whiteouts, links: HashMap::new(), depth: 0 };
    let own_name = components.last().copied().unwrap_or(b".");
    let name = options.name.as_ref().map_or(own_name, |name| name.as_bytes());
    let target = if options.follow {
        resolve::join(&resolve::components(&resolve::follow(root, subpath.as_os_str().as_bytes())?)?)
    } else {
        resolve::join(&components)
    };
    let split: Vec<&[u8]> = target.split(|b| *b == b'/').collect();
    let missing = |errno: Errno| match errno {
        Errno::NOENT | Errno::NOTDIR => Error::NotFound(subpath.to_owned()),
        errno => Error::Io { act: "open", path: subpath.to_owned(), source: errno.into() },
    };
    let (leaf, folders) = split.split_last().map_or((&b"."[..], &[][..]), |(leaf, folders)| (*leaf, folders));
    let parent = resolve::open_dir(root, &resolve::join(folders)).map_err(missing)?;
    if !packer.node(parent.as_fd(), leaf, name).map_err(|error| not_found(error, subpath))? {
        return Err(Error::NotFound(subpath.to_owned()));
    }
    packer.writer.finish()
}

fn not_found(error: Error, subpath: &Path) -> Error {
    match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Error::NotFound(subpath.to_owned()),
        other => other,
    }
}

struct Packer<W> {
    writer: Writer<W>,
    whiteouts: Whiteouts,
    /// Archive names of files that have more than one name.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Folders that are being walked, within each other.
    depth: usize,
}

impl<W: Write> Packer<W> {
    /// Writes one name of `parent` and what is below it as `path`. False when it is not there.
    fn node(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<bool> {
        let Some(stat) = resolve::lstat(parent, name).at("read", path)? else {
            return Ok(false);
        };
        match resolve::kind(&stat) {
            FileType::Directory => self.folder(parent, name, path),
            FileType::RegularFile => self.file(parent, name, path),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, OsStr::from_bytes(name), Vec::new()).at("read", path)?;
                self.head(path, &stat, EntryType::Symlink, target.as_bytes(), 0, &[]).map(|()| true)
            }
            FileType::CharacterDevice if self.whiteouts == Whiteouts::Overlay && stat.st_rdev == 0 => {
                self.whiteout(path).map(|()| true)
            }
            FileType::CharacterDevice => self.head(path, &stat, EntryType::Char, b"", 0, &[]).map(|()| true),
            FileType::BlockDevice => self.head(path, &stat, EntryType::Block, b"", 0, &[]).map(|()| true),
            FileType::Fifo => self.head(path, &stat, EntryType::Fifo, b"", 0, &[]).map(|()| true),
            _ => Ok(true),
        }
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<bool> {
        let folder = match resolve::open_child(parent, name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            other => other.at("open", path)?,
        };
        let stat = rustix::fs::fstat(&folder).at("read", path)?;
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        if !prefix.is_empty() {
            let xattrs = xattrs(folder.as_fd(), path)?;
            self.head(&prefix, &stat, EntryType::Directory, b"", 0, &xattrs)?;
        }
        if self.whiteouts == Whiteouts::Overlay && is_opaque(folder.as_fd()) {
            self.empty_file(&[prefix.as_slice(), OPAQUE.as_bytes()].concat())?;
        }
        if self.depth == MAX_DEPTH {
            return Err(Error::too_deep());
        }
        self.depth += 1;
        for child in names(folder.as_fd()).at("list", path)? {
            self.node(folder.as_fd(), &child, &[prefix.as_slice(), &child].concat())?;
        }
        self.depth -= 1;
        Ok(true)
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<bool> {
        // Without O_NONBLOCK a fifo swapped in would block us for ever.
        let file = match resolve::open_child(parent, name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(false),
            other => other.at("open", path)?,
        };
        let stat = rustix::fs::fstat(&file).at("read", path)?;
        if !resolve::kind(&stat).is_file() {
            return Ok(false);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned() {
                return self.head(path, &stat, EntryType::Link, &first, 0, &[]).map(|()| true);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let xattrs = xattrs(file.as_fd(), path)?;
        self.head(path, &stat, EntryType::Regular, b"", size, &xattrs)?;
        self.content(&mut std::fs::File::from(file), size, path)?;
        Ok(true)
    }

    fn content(&mut self, file: &mut std::fs::File, size: u64, path: &[u8]) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = match file.read(&mut buffer[..wanted]) {
                // It shrank since its size was written.
                Ok(0) => {
                    buffer[..wanted].fill(0);
                    wanted
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.at("read", path)?,
            };
            self.writer.bytes(&buffer[..read])?;
            left -= read as u64;
        }
        self.writer.pad(size)
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        self.empty_file(&[&path[..at], WHITEOUT.as_bytes(), &path[at..]].concat())
    }

    fn empty_file(&mut self, path: &[u8]) -> Result<()> {
        let (link, device, xattrs) = (&b""[..], (0, 0), &[][..]);
        let kind = EntryType::Regular;
        self.writer.head(&Head { kind, path, link, size: 0, mode: 0o600, uid: 0, gid: 0, mtime: 0, device, xattrs })
    }

    fn head(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: EntryType,
        link: &[u8],
        size: u64,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<()> {
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let (mode, mtime) = (stat.st_mode & 0o7777, stat.st_mtime);
        self.writer.head(&Head {
            kind,
            path,
            link,
            size,
            mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime,
            device,
            xattrs,
        })
    }
}

/// The names in an open folder, in byte order, without `.` and `..`.
pub(crate) fn names(folder: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

pub(crate) fn is_opaque(folder: BorrowedFd<'_>) -> bool {
    let mut value = [0_u8; 2];
    rustix::fs::fgetxattr(folder, OPAQUE_XATTR, &mut value[..]).is_ok_and(|length| value[..length] == *b"y")
}

/// The attributes worth keeping, in byte order.
fn xattrs(file: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    /// The kernel's limits (xattr(7)).
    const MAX: usize = 64 << 10;
    let mut list = vec![0_u8; MAX];
    let length = match rustix::fs::flistxattr(file, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other.at("list the attributes of", path)?,
    };
    let mut kept = Vec::new();
    for key in list[..length].split(|b| *b == 0).filter(|key| !key.is_empty() && metadata::is_kept(key)) {
        let mut value = vec![0_u8; MAX];
        match rustix::fs::fgetxattr(file, OsStr::from_bytes(key), &mut value[..]) {
            Err(Errno::NODATA) => {}
            other => {
                value.truncate(other.at("read an attribute of", path)?);
                kept.push((key.to_vec(), value));
            }
        }
    }
    kept.sort();
    Ok(kept)
}
