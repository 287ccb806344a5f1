//! Small files that are whole or absent: temporary name, fsync, rename, fsync of the folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How much a write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process: the page cache is enough. For what another file says too, or what a power cut ends anyway.
    /// A power cut may leave the file empty, also where it replaced one that was flushed (ext4 with `noauto_da_alloc`, XFS).
    Process,
    /// A power cut: the file and its folder are flushed.
    Power,
}

/// A file that could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}: {source}", path.display())]
pub struct Error {
    pub op: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl Error {
    pub(crate) fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { op, path, source }
    }
}

/// Ends the names of files that are being written; what carries it at start is left over and may go.
pub const TEMPORARY: &str = ".tmp";

/// Puts `bytes` at `path`, replacing what is there, with permission bits 0600. On an error the old content stays.
///
/// # Errors
/// [`Error`], for instance of a full disk; the temporary file is removed then.
pub fn write(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    rename_into(path, bytes, durability)?;
    flush_folder_of(path, durability)
}

/// Puts `bytes` at `path`, as [`write`] with [`Durability::Power`], and removes a file of the same folder that they make
/// obsolete. Who dies in between leaves both.
///
/// # Errors
/// [`Error`].
pub fn supersede(path: &Path, bytes: &[u8], obsolete: &Path) -> Result<(), Error> {
    rename_into(path, bytes, Durability::Power)?;
    remove_file(obsolete)?;
    flush_folder_of(path, Durability::Power)
}

fn flush_folder_of(path: &Path, durability: Durability) -> Result<(), Error> {
    match (durability, path.parent()) {
        (Durability::Power, Some(folder)) => flush_folder(folder),
        _ => Ok(()),
    }
}

fn rename_into(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    // Unlike every other name, so that two writers of one file do not meet in it.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}{TEMPORARY}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(name);
    write_temporary(&temporary, bytes, durability)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::at("rename", path)))
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary); // Best effort: the start-up sweep takes what stays.
        })
}

fn write_temporary(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).map_err(Error::at("create", path))?;
    file.write_all(bytes).map_err(Error::at("write", path))?;
    match durability {
        Durability::Power => file.sync_all().map_err(Error::at("flush", path)),
        Durability::Process => Ok(()),
    }
}

/// Removes what writers that died left in a folder; one that is not there is no error.
///
/// # Errors
/// [`Error`] when the folder cannot be read.
pub fn sweep(folder: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::at("read", folder))?,
    };
    for path in entries.flatten().map(|e| e.path()) {
        if path.to_string_lossy().ends_with(TEMPORARY) && path.is_file() {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Flushes the names in a folder.
///
/// # Errors
/// [`Error`] when it cannot be opened or flushed.
pub fn flush_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::at("flush", folder))
}

/// Reads a file; `None` when it is not there.
///
/// # Errors
/// [`Error`] for every other failure.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::at("read", path)(e)),
    }
}

/// Removes a folder and all below, however deep containers made it, but nothing that is mounted there; one that is not
/// there is no error.
///
/// # Errors
/// [`Error`] naming the folder.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    use muster_image::archive::Error as TreeError;
    match muster_image::archive::remove_tree(path, &|| false) {
        Ok(_) => Ok(()),
        Err(TreeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(TreeError::Io { act, path, source }) => Err(Error::at(act, &path)(source)),
        Err(e) => Err(Error::at("remove", path)(io::Error::other(e))),
    }
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// [`Error`] naming the file.
pub fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::at("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_replaces_the_old_one_and_leaves_no_temporary_behind() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.json");
        write(&path, b"one", Durability::Power).expect("first");
        write(&path, b"two", Durability::Process).expect("second");
        assert_eq!(read(&path).expect("readable").as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1);
    }

    #[test]
    fn the_sweep_takes_temporary_files_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temp dir");
        for name in ["a.json", "a.json.7.tmp"] {
            fs::write(dir.path().join(name), "x").expect("file");
        }
        sweep(dir.path()).expect("swept");
        sweep(&dir.path().join("none")).expect("nothing to sweep");
        let left: Vec<_> = fs::read_dir(dir.path()).expect("dir").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["a.json"]);
    }

    #[test]
    fn a_tree_is_removed_however_deep_it_is_and_one_that_is_gone_is_no_error() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("tree");
        fs::create_dir(&path).expect("folder");
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let none = rustix::fs::Mode::empty();
        let mut deep = rustix::fs::openat(rustix::fs::CWD, &path, flags, none).expect("open");
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&deep, "d", rustix::fs::Mode::RWXU).expect("made");
            deep = rustix::fs::openat(&deep, "d", flags, none).expect("open");
        }
        remove_tree(&path).expect("removed");
        assert!(!path.exists());
        remove_tree(&path).expect("it is gone");
        fs::write(&path, "x").expect("file");
        assert!(remove_tree(&path).expect_err("a file").to_string().contains("tree"));
    }

    #[test]
    fn a_write_that_fails_keeps_the_old_content() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("gone").join("a.json");
        let error = write(&path, b"x", Durability::Power).expect_err("no folder");
        assert!(error.to_string().contains("a.json"), "{error}");
        assert_eq!(read(&path).expect("readable"), None);
    }
}
