//! Unpacking an archive into a folder of a root.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::reader::{Entry, Reader};
use super::{
    At, Error, MAX_DEPTH, OPAQUE, OPAQUE_XATTR, Result, UnpackOptions, WHITEOUT, WHITEOUT_META, Whiteouts, metadata,
    resolve, shown,
};
use crate::early::Early;

/// Bytes moved at once.
const BUFFER: usize = 256 << 10;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of file content, hard links counted once.
    pub bytes: u64,
}

/// Unpacks an uncompressed tar stream into the folder `subpath` of `root`, which must exist.
///
/// Entries replace what has their name; folders are merged. Missing parent folders are made. The stream is read to
/// its end. What was written before an error stays.
///
/// # Errors
/// [`Error::NotFound`] and [`Error::NotADirectory`] for `subpath`, [`Error::KindDiffers`] with
/// [`UnpackOptions::keep_kinds`], [`Error::Escapes`], [`Error::Malformed`], [`Error::TooLarge`],
/// [`Error::Unsupported`] for sparse files, [`Error::Stream`], [`Error::Io`].
pub fn unpack_into<R: Read>(
    root: BorrowedFd<'_>,
    subpath: &Path,
    reader: R,
    options: &UnpackOptions,
) -> Result<Unpacked> {
    let base = resolve::components(subpath.as_os_str().as_bytes())?;
    match resolve::open_dir(root, &resolve::join(&base)) {
        Ok(_) => {}
        Err(Errno::NOENT) => return Err(Error::NotFound(subpath.to_owned())),
        Err(Errno::NOTDIR) => return Err(Error::NotADirectory(subpath.to_owned())),
        Err(error) => return Err(error).at("open", subpath.as_os_str().as_bytes()),
    }
    let base = base.into_iter().map(<[u8]>::to_vec).collect();
    let (done, folders, parent) = (Unpacked::default(), Vec::new(), None);
    let buffer = vec![0; BUFFER];
    let mut extractor = Extractor { root, base, options, done, folders, parent, buffer };
    let mut reader = Reader::new(reader);
    while let Some(entry) = reader.next()? {
        extractor.entry(&entry, &mut reader)?;
    }
    extractor.finish_folders()?;
    let done = extractor.done;
    reader.drain()?;
    Ok(done)
}

struct Extractor<'a> {
    root: BorrowedFd<'a>,
    base: Vec<Vec<u8>>,
    options: &'a UnpackOptions,
    done: Unpacked,
    /// Folders whose time is set at the end, after their content was made.
    folders: Vec<(Vec<u8>, Entry)>,
    /// The folder of the entry before, which most entries share. Only names in it were touched since it was opened, so
    /// it is still what its path means.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Content on its way.
    buffer: Vec<u8>,
}

impl Extractor<'_> {
    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<()> {
        self.count(entry)?;
        let own = resolve::components(&entry.path)?;
        if own.len() > MAX_DEPTH {
            return Err(Error::too_deep());
        }
        let base = self.base.clone();
        let all: Vec<&[u8]> = base.iter().map(Vec::as_slice).chain(own.iter().copied()).collect();
        let Some((name, folders)) = own.split_last().map(|(name, _)| (*name, &all[..all.len() - 1])) else {
            return self.base_folder(entry);
        };
        let parent = self.parent(folders)?;
        let made = self.node(parent.as_fd(), name, &all, entry, reader);
        self.parent = Some((resolve::join(folders), parent));
        made
    }

    fn node<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        all: &[&[u8]],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<()> {
        if self.options.whiteouts == Whiteouts::Overlay && name.starts_with(WHITEOUT.as_bytes()) {
            return self.whiteout(parent, name, entry);
        }
        if entry.kind == EntryType::Link {
            return self.hard_link(parent, name, entry);
        }
        let there = resolve::lstat(parent, name).at("read", &entry.path)?;
        if let Some(there) = &there {
            if entry.kind == EntryType::Directory && resolve::kind(there).is_dir() {
                return self.folder(parent, name, all, entry);
            }
            self.make_room(parent, name, there, entry)?;
        }
        let hides_lower = there.as_ref().is_some_and(is_whiteout);
        match entry.kind {
            EntryType::Directory => {
                rustix::fs::mkdirat(parent, OsStr::from_bytes(name), Mode::from_raw_mode(0o700))
                    .at("create", &entry.path)?;
                if hides_lower && self.options.whiteouts == Whiteouts::Overlay {
                    set_opaque(parent, name, &entry.path)?;
                }
                self.folder(parent, name, all, entry)
            }
            EntryType::Symlink => {
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), parent, OsStr::from_bytes(name))
                    .at("create", &entry.path)?;
                metadata::apply(parent, name, entry, self.options.owner, true)
            }
            EntryType::Char => self.special(parent, name, entry, FileType::CharacterDevice),
            EntryType::Block => self.special(parent, name, entry, FileType::BlockDevice),
            EntryType::Fifo => self.special(parent, name, entry, FileType::Fifo),
            kind if kind.is_file() || kind == EntryType::Continuous => self.file(parent, name, entry, reader),
            other => {
                let what = format!("the type {:?}", char::from(other.as_byte()));
                Err(Error::Unsupported { path: shown(&entry.path), what })
            }
        }
    }

    fn count(&mut self, entry: &Entry) -> Result<()> {
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        let (entries, bytes) = (self.options.max_entries, self.options.max_bytes);
        if self.done.entries > entries {
            return Err(Error::TooLarge { what: "entries", limit: entries });
        }
        if self.done.bytes > bytes {
            return Err(Error::TooLarge { what: "bytes", limit: bytes });
        }
        Ok(())
    }

    fn parent(&mut self, folders: &[&[u8]]) -> Result<OwnedFd> {
        let path = resolve::join(folders);
        match self.parent.take() {
            Some((cached, fd)) if cached == path => Ok(fd),
            _ => resolve::open_or_make_dir(self.root, folders),
        }
    }

    /// An entry for the folder that is unpacked into. A layer gives its root a mode; `docker cp` leaves it alone.
    fn base_folder(&mut self, entry: &Entry) -> Result<()> {
        if self.options.whiteouts == Whiteouts::Literal || entry.kind != EntryType::Directory {
            return Ok(());
        }
        let path = resolve::join(&self.base.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let folder = resolve::open_dir(self.root, &path).at("open", &path)?;
        metadata::apply_to(folder.as_fd(), entry, self.options.owner, false)?;
        self.folders.push((path, entry_times(entry)));
        Ok(())
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, name: &[u8], all: &[&[u8]], entry: &Entry) -> Result<()> {
        metadata::apply(parent, name, entry, self.options.owner, false)?;
        self.folders.push((resolve::join(all), entry_times(entry)));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::from_raw_mode(0o600))
            .at("create", &entry.path)?;
        let mut file = std::fs::File::from(fd);
        let written = copy(&mut reader.content(), &mut file, &mut self.buffer, &entry.path)?;
        if written != entry.size {
            return Err(Error::Malformed(format!("it ends in the middle of {}", shown(&entry.path).display())));
        }
        metadata::apply_to(file.as_fd(), entry, self.options.owner, false)
    }

    fn special(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry, kind: FileType) -> Result<()> {
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        rustix::fs::mknodat(parent, OsStr::from_bytes(name), kind, Mode::from_raw_mode(0o600), device)
            .at("create", &entry.path)?;
        metadata::apply(parent, name, entry, self.options.owner, false)
    }

    /// The target is looked up inside of the root, as a name: a link to a symbolic link links the link itself.
    fn hard_link(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
        let target = resolve::components(&entry.link)?;
        let Some((target_name, folders)) = target.split_last() else {
            return Err(Error::Escapes { path: shown(&entry.path), reason: "a hard link to a folder" });
        };
        let base = self.base.iter().map(Vec::as_slice);
        let folders = resolve::join(&base.chain(folders.iter().copied()).collect::<Vec<_>>());
        let source = resolve::open_dir(self.root, &folders).at("open the target's folder of", &entry.path)?;
        let old = resolve::lstat(source.as_fd(), target_name).at("read the target of", &entry.path)?;
        let old = old.ok_or(Errno::NOENT).at("find the target of", &entry.path)?;
        if let Some(there) = resolve::lstat(parent, name).at("read", &entry.path)? {
            if (there.st_dev, there.st_ino) == (old.st_dev, old.st_ino) {
                return Ok(());
            }
            self.make_room(parent, name, &there, entry)?;
        }
        let names = (OsStr::from_bytes(target_name), OsStr::from_bytes(name));
        rustix::fs::linkat(&source, names.0, parent, names.1, AtFlags::empty()).at("link", &entry.path)
    }

    /// Removes what stands where something else will be made.
    fn make_room(&self, parent: BorrowedFd<'_>, name: &[u8], there: &Stat, entry: &Entry) -> Result<()> {
        let is_dir = resolve::kind(there).is_dir();
        if self.options.keep_kinds && is_dir != (entry.kind == EntryType::Directory) {
            return Err(Error::KindDiffers { path: shown(&entry.path), is_dir });
        }
        match remove(parent, name, is_dir, 0) {
            Err(Errno::NAMETOOLONG) => Err(Error::too_deep()),
            other => other.at("replace", &entry.path),
        }
    }

    /// OCI image-spec, layer.md, "Whiteouts": they hide names of lower layers only, in whatever order they come.
    fn whiteout(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
        if name == OPAQUE.as_bytes() {
            return set_opaque(parent, b".", &entry.path);
        }
        if name.starts_with(WHITEOUT_META.as_bytes()) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::Escapes { path: shown(&entry.path), reason: "a whiteout of no name" });
        }
        match resolve::lstat(parent, hidden).at("read", &entry.path)? {
            Some(there) if resolve::kind(&there).is_dir() => set_opaque(parent, hidden, &entry.path),
            Some(_) => Ok(()),
            None => rustix::fs::mknodat(
                parent,
                OsStr::from_bytes(hidden),
                FileType::CharacterDevice,
                Mode::empty(),
                rustix::fs::makedev(0, 0),
            )
            .at("create", &entry.path),
        }
    }

    /// Last in, first out, so that setting the time of a folder does not touch one that is done.
    fn finish_folders(&mut self) -> Result<()> {
        for (path, entry) in std::mem::take(&mut self.folders).iter().rev() {
            match resolve::open(self.root, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY) {
                Ok(folder) => metadata::set_times(folder.as_fd(), entry)?,
                // A later entry replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error).at("open", path),
            }
        }
        Ok(())
    }
}

/// What `finish_folders` needs of an entry.
fn entry_times(entry: &Entry) -> Entry {
    let (path, link, xattrs) = (entry.path.clone(), Vec::new(), Vec::new());
    Entry { path, link, xattrs, ..*entry }
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    resolve::kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn set_opaque(parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
    let folder = resolve::open_child(parent, name, OFlags::RDONLY | OFlags::DIRECTORY).at("open", path)?;
    rustix::fs::fsetxattr(&folder, OPAQUE_XATTR, b"y", XattrFlags::empty()).at("make opaque", path)
}

/// Removes a name and all under it, following nothing; ENAMETOOLONG where that is too deep. It may be in the root of a
/// running container: nothing can be moved up there, as [`super::remove_tree`] does, for overlayfs moves no folder of a
/// lower layer.
fn remove(parent: BorrowedFd<'_>, name: &[u8], is_dir: bool, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    if !is_dir {
        return rustix::fs::unlinkat(parent, OsStr::from_bytes(name), AtFlags::empty());
    }
    let folder = resolve::open_child(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for child in super::pack::names(folder.as_fd())? {
        let is_dir = resolve::lstat(folder.as_fd(), &child)?.is_some_and(|stat| resolve::kind(&stat).is_dir());
        remove(folder.as_fd(), &child, is_dir, depth + 1)?;
    }
    rustix::fs::unlinkat(parent, OsStr::from_bytes(name), AtFlags::REMOVEDIR)
}

/// Copies content, keeping apart whether the archive or the file failed.
fn copy(from: &mut impl Read, to: &mut std::fs::File, buffer: &mut [u8], path: &[u8]) -> Result<u64> {
    use io::Write;
    let (mut written, mut early) = (0, Early::default());
    loop {
        let read = match from.read(buffer) {
            Ok(0) => return Ok(written),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Stream(error)),
        };
        to.write_all(&buffer[..read]).at("write", path)?;
        written += read as u64;
        early.reached(to, written);
    }
}
