//! [`Checkpoints`]: the state as closed sled databases, one per generation.
//!
//! ```text
//! CURRENT                       the number of the generation in force, with a checksum
//! gen-0000000000000007/db/      a sled database nobody has open
//! gen-0000000000000007/MANIFEST its position in the log, its files with their checksums
//! scratch/                      a copy that sled may open (opening writes), swept at start
//! damaged-0000000000000007/     a generation that was found damaged, kept for whoever wants to know why
//! ```

use crate::disk::{self, Lock};
use crate::error::Error;
use crate::frame::Position;
use crate::manifest::Manifest;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a checkpoint is a checkpoint of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The last entry whose effect it contains, and that entry's term.
    pub index: u64,
    pub term: u64,
    /// The managers as of that entry, encoded; opaque here.
    pub membership: Vec<u8>,
}

impl Meta {
    pub fn position(&self) -> Position {
        Position { index: self.index, term: self.term }
    }
}

/// How far the log may be compacted: every checkpoint that could be needed lies at or behind it. Only
/// [`Checkpoints::floor`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor(u64);

impl Floor {
    pub fn index(self) -> u64 {
        self.0
    }
}

/// The checkpoints in one folder.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    cache_bytes: u64,
    /// Sound generations, oldest first; the last is the one in force. At most two once [`Checkpoints::write`] returned.
    kept: Vec<(u64, Meta)>,
    next: u64,
    _lock: Arc<Lock>,
}

/// One sound checkpoint, to be read as often as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    dir: PathBuf,
    scratch: PathBuf,
    cache_bytes: u64,
    manifest: Manifest,
}

impl Checkpoints {
    /// Opens the folder, which exists, and finds the newest sound generation that the log continues: one at or behind
    /// `log_base`.
    pub(crate) fn open(
        dir: &Path,
        cache_bytes: u64,
        log_base: Position,
        lock: Arc<Lock>,
    ) -> Result<(Self, Option<Generation>), Error> {
        disk::remove_tree(&dir.join("scratch"))?;
        let mut this = Self { dir: dir.to_owned(), cache_bytes, kept: Vec::new(), next: 1, _lock: lock };
        let numbers = numbers(dir)?;
        this.next = numbers.last().map_or(1, |n| n + 1);
        let current = this.read_current(&numbers)?;
        let mut reason = String::from("there is none");
        let mut found = None;
        let (switched, interrupted): (Vec<u64>, Vec<u64>) =
            numbers.into_iter().partition(|number| current.is_some_and(|current| *number <= current));
        for number in switched.into_iter().rev() {
            match this.check(number, log_base) {
                Ok(generation) => {
                    this.kept.insert(0, (number, generation.manifest.meta.clone()));
                    found = found.or(Some(generation));
                }
                Err(error) if is_transient(&error) => return Err(error),
                Err(error) if found.is_none() => {
                    tracing::error!(generation = number, %error, "checkpoint is damaged; falling back");
                    reason = error.to_string();
                }
                Err(error) => {
                    tracing::warn!(generation = number, %error, "the older checkpoint is damaged");
                }
            }
        }
        if found.is_none() && (log_base.index > 0 || current.is_some()) {
            return Err(Error::Uncovered { dir: dir.to_owned(), log_base: log_base.index, reason });
        }
        for number in interrupted {
            disk::remove_tree(&this.generation_dir(number))?;
        }
        if found.is_some() {
            this.discard_damaged(current)?;
        }
        Ok((this, found))
    }

    /// Writes a checkpoint and makes it the one in force. Takes as long as the state is large; the log may be appended to
    /// meanwhile. Each key may come once, in any order; keys and values should be well below sled's segment of 512 KiB.
    ///
    /// # Errors
    /// The checkpoint before stays in force. [`Error::NotNewer`] when `meta` does not lie behind it.
    pub fn write<I>(&mut self, meta: &Meta, pairs: I) -> Result<(), Error>
    where
        I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    {
        if let Some((_, last)) = self.kept.last()
            && meta.index <= last.index
        {
            return Err(Error::NotNewer { index: meta.index, last: last.index });
        }
        let number = self.next;
        let dir = self.generation_dir(number);
        disk::remove_tree(&dir)?;
        let written = self.write_generation(&dir, meta, pairs).and_then(|()| self.switch(number));
        if let Err(error) = written {
            // Not switched to, so waste; swept at the next start if this fails too. Unless the switch itself is in
            // doubt: then the files stay, and the next start finds out.
            if self.read_current(&[]).is_ok_and(|current| current != Some(number)) {
                let _ = disk::remove_tree(&dir);
            }
            return Err(error);
        }
        self.next += 1;
        self.kept.push((number, meta.clone()));
        while self.kept.len() > 2 {
            let (old, _) = self.kept.remove(0);
            disk::remove_tree(&self.generation_dir(old))?;
        }
        Ok(())
    }

    /// How far the log may be compacted now: up to the generation before the one in force, so that the log still continues
    /// that one should the newest be damaged. With only one generation: not past it.
    pub fn floor(&self) -> Floor {
        Floor(self.kept.first().map_or(0, |(_, meta)| meta.index))
    }

    /// What the checkpoint in force is a checkpoint of.
    pub fn latest(&self) -> Option<&Meta> {
        self.kept.last().map(|(_, meta)| meta)
    }

    /// The checkpoint in force, checked anew: for sending it to a peer, or for a backup.
    ///
    /// # Errors
    /// [`Error::Damaged`] and other faults of the disk.
    pub fn read(&self) -> Result<Option<Generation>, Error> {
        self.kept.last().map(|(number, _)| self.check(*number, Position::default())).transpose()
    }

    fn generation_dir(&self, number: u64) -> PathBuf {
        self.dir.join(format!("gen-{number:016x}"))
    }

    fn write_generation<I>(&self, dir: &Path, meta: &Meta, pairs: I) -> Result<(), Error>
    where
        I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    {
        let db = dir.join("db");
        fs::create_dir_all(&db).map_err(|e| Error::io("create the folder", &db, e))?;
        let keys = fill(&db, self.cache_bytes, pairs)?;
        disk::sync_tree(&db)?;
        Manifest::take(dir, meta.clone(), keys)?.write(dir)?;
        disk::sync_dir(dir)?;
        disk::sync_dir(&self.dir)
    }

    fn switch(&self, number: u64) -> Result<(), Error> {
        let text = format!("{number:016x}");
        let line = format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()));
        disk::replace_file(&self.dir.join("CURRENT"), &self.dir, line.as_bytes())
    }

    /// The generation in force. When CURRENT itself is damaged, the newest there is: it is checked like any other.
    fn read_current(&self, numbers: &[u64]) -> Result<Option<u64>, Error> {
        let path = self.dir.join("CURRENT");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let parsed = std::str::from_utf8(&bytes).ok().and_then(|text| {
            let (number, crc) = text.strip_suffix('\n')?.split_once(' ')?;
            let sound = u32::from_str_radix(crc, 16).ok()? == crc32c::crc32c(number.as_bytes());
            sound.then(|| u64::from_str_radix(number, 16).ok())?
        });
        if parsed.is_none() {
            tracing::error!(path = %path.display(), "damaged; taking the newest sound checkpoint");
        }
        Ok(parsed.or(numbers.last().copied()))
    }

    fn check(&self, number: u64, log_base: Position) -> Result<Generation, Error> {
        let dir = self.generation_dir(number);
        let manifest = Manifest::read(&dir)?;
        manifest.verify(&dir)?;
        if manifest.meta.index < log_base.index {
            let what = format!("it is of {}, and the log starts behind {}", manifest.meta.index, log_base.index);
            return Err(Error::damaged(&dir, 0, what));
        }
        static SCRATCH: AtomicU64 = AtomicU64::new(0);
        let scratch = self.dir.join("scratch").join(SCRATCH.fetch_add(1, Ordering::Relaxed).to_string());
        Ok(Generation { dir, scratch, cache_bytes: self.cache_bytes, manifest })
    }

    /// Puts generations aside that were not found sound, and makes the newest sound one the one in force.
    fn discard_damaged(&self, current: Option<u64>) -> Result<(), Error> {
        let in_force = self.kept.last().map(|(number, _)| *number);
        if in_force != current
            && let Some(number) = in_force
        {
            self.switch(number)?;
        }
        for number in numbers(&self.dir)? {
            if !self.kept.iter().any(|(kept, _)| *kept == number) {
                let aside = self.dir.join(format!("damaged-{number:016x}"));
                disk::remove_tree(&aside)?;
                let from = self.generation_dir(number);
                fs::rename(&from, &aside).map_err(|e| Error::io("put aside", &from, e))?;
            }
        }
        disk::sync_dir(&self.dir)
    }
}

impl Generation {
    pub fn meta(&self) -> &Meta {
        &self.manifest.meta
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.manifest.keys
    }

    /// All pairs, sorted by key. Works on a copy, since sled writes when it opens; the copy goes when the iterator does.
    ///
    /// # Errors
    /// Faults of the disk, or [`Error::KeyCount`] when sled does not find what was written.
    pub fn pairs(&self) -> Result<Pairs, Error> {
        let scratch = Scratch(self.scratch.clone());
        disk::remove_tree(&scratch.0)?;
        copy_tree(&self.dir.join("db"), &scratch.0)?;
        let db = open_db(&scratch.0, self.cache_bytes)?;
        let found = db.len() as u64;
        if found != self.manifest.keys {
            return Err(Error::KeyCount { path: self.dir.clone(), expected: self.manifest.keys, found });
        }
        Ok(Pairs { pairs: db.iter(), _db: db, scratch })
    }
}

/// The pairs of a checkpoint.
pub struct Pairs {
    pairs: sled::Iter,
    _db: sled::Db,
    scratch: Scratch,
}

impl Iterator for Pairs {
    type Item = Result<(Vec<u8>, Vec<u8>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.pairs.next()? {
            Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
            Err(e) => Err(Error::sled("read", &self.scratch.0, e)),
        })
    }
}

/// A folder that goes with its value; one that is left by a crash is swept at the next start.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = disk::remove_tree(&self.0) {
            tracing::debug!(%error, "a checkpoint's copy stays until the next start");
        }
    }
}

fn open_db(path: &Path, cache_bytes: u64) -> Result<sled::Db, Error> {
    sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(cache_bytes)
        .open()
        .map_err(|e| Error::sled("open", path, e))
}

/// Writes the pairs and closes the database. Returns the number of keys.
fn fill<I>(path: &Path, cache_bytes: u64, pairs: I) -> Result<u64, Error>
where
    I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
{
    const BATCH_BYTES: usize = 1 << 20;
    let fail = |e| Error::sled("write", path, e);
    let db = open_db(path, cache_bytes)?;
    let (mut batch, mut size, mut keys) = (sled::Batch::default(), 0, 0);
    for (key, value) in pairs {
        size += key.len() + value.len();
        keys += 1;
        batch.insert(key, value);
        if size > BATCH_BYTES {
            db.apply_batch(std::mem::take(&mut batch)).map_err(fail)?;
            size = 0;
        }
    }
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

fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
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

fn numbers(dir: &Path) -> Result<Vec<u64>, Error> {
    let mut numbers: Vec<u64> = disk::list(dir)?
        .iter()
        .filter_map(|entry| u64::from_str_radix(entry.file_name().to_str()?.strip_prefix("gen-")?, 16).ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A fault that says nothing about the files' contents.
fn is_transient(error: &Error) -> bool {
    match error {
        Error::DiskFull { .. } => true,
        Error::Io { source, .. } => source.kind() != std::io::ErrorKind::NotFound,
        _ => false,
    }
}
