//! A sled database from its making to its closing, and a copy of one.

use crate::disk;
use crate::error::Error;
use std::fs::{self, File};
use std::path::Path;

pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<sled::Db, Error> {
    sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(cache_bytes)
        .open()
        .map_err(|e| Error::sled("open", path, e))
}

/// Room that has to be there before each batch, besides eight times the batch: sled does not come back from a write that fails for
/// want of it.
const ROOM: u64 = 16 << 20;

/// # Errors
/// [`Error::DiskFull`] when the file system has too little room for `bytes` more. One that does not say what it has is not asked.
fn check_room(path: &Path, bytes: usize) -> Result<(), Error> {
    let fs = nix::sys::statvfs::statvfs(path).map_err(|e| Error::io("look at the room of", path, e.into()))?;
    let there = fs.blocks_available().saturating_mul(fs.fragment_size());
    if fs.blocks() == 0 || there >= ROOM + 8 * bytes as u64 {
        return Ok(());
    }
    Err(Error::DiskFull { op: "write a database", path: path.to_owned() })
}

/// Writes the pairs and closes the database. Returns the number of keys.
pub(crate) fn fill<I>(path: &Path, cache_bytes: u64, pairs: I) -> Result<u64, Error>
where
    I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
{
    const BATCH_BYTES: usize = 1 << 20;
    let fail = |e| Error::sled("write", path, e);
    check_room(path, BATCH_BYTES)?;
    let db = open(path, cache_bytes)?;
    let (mut batch, mut size, mut keys) = (sled::Batch::default(), 0, 0);
    for (key, value) in pairs {
        size += key.len() + value.len();
        keys += 1;
        batch.insert(key, value);
        if size > BATCH_BYTES {
            check_room(path, size)?;
            db.apply_batch(std::mem::take(&mut batch)).map_err(fail)?;
            db.flush().map_err(fail)?;
            size = 0;
        }
    }
    check_room(path, size)?;
    db.apply_batch(batch).map_err(fail)?;
    db.flush().map_err(fail)?;
    let found = db.len() as u64;
    drop(db);
    if found != keys {
        return Err(Error::KeyCount { path: path.to_owned(), expected: keys, found });
    }
    wait_for_sled(path)?;
    Ok(keys)
}

/// sled's own threads may hold the database a moment longer than the last handle. They are gone when its lock is.
fn wait_for_sled(path: &Path) -> Result<(), Error> {
    let db = path.join("db");
    File::open(&db).and_then(|file| file.lock()).map_err(|e| Error::io("wait for the closing of", &db, e))
}

pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(|e| Error::io("create the folder", to, e))?;
    for entry in disk::list(from)? {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(|e| Error::io("look at", &source, e))?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(|e| Error::io("copy", &source, e))?;
        }
    }
    Ok(())
}
