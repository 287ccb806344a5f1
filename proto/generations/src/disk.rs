//! The few things that are done to files, each durable on return. Every function names file and act in its [`Error`].

use crate::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// Makes the entries of a folder durable: creations, renames, removals.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync the folder", dir, e))
}

/// Makes a folder and everything below durable.
pub fn sync_tree(dir: &Path) -> Result<(), Error> {
    for entry in list(dir)? {
        let kind = entry.file_type().map_err(|e| Error::io("look at", &entry.path(), e))?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path()).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", &entry.path(), e))?;
        }
    }
    sync_dir(dir)
}

/// Creates a folder and its parents, durably.
pub fn create_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io("create the folder", dir, e)),
        _ => {}
    }
    dir.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// The entries of a folder.
pub fn list(dir: &Path) -> Result<Vec<fs::DirEntry>, Error> {
    fs::read_dir(dir).and_then(|entries| entries.collect()).map_err(|e| Error::io("list", dir, e))
}

/// Removes a file and makes that durable. A file that is gone already is no error.
pub fn remove_file(path: &Path, dir: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => sync_dir(dir),
    }
}

/// Removes a folder with everything below. One that is gone already is no error.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Replaces a small file in one step: temporary name, sync, rename, sync of the folder.
pub fn replace_file(path: &Path, dir: &Path, contents: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    if let Err(e) = write() {
        // The old file stands; what is left of the new one is also swept at the next start.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path, e));
    }
    sync_dir(dir)
}

/// Length of a file and its CRC-32C, read in pieces.
pub fn checksum(path: &Path) -> Result<(u64, u32), Error> {
    let fail = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(fail)?;
    let mut buffer = vec![0; 256 << 10];
    let (mut length, mut crc) = (0, 0);
    loop {
        let n = file.read(&mut buffer).map_err(fail)?;
        if n == 0 {
            return Ok((length, crc));
        }
        length += n as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..n]);
    }
}
