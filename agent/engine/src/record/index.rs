//! The index over records: the bytes of many small files in one place, each with the [`Print`] of the files they were read from.
//!
//! The files are the truth. What the index holds of a record is used only where its files have that very print; whatever is
//! wrong with the index costs reading the files, and nothing else. It is never written while it is read: each writing makes a
//! new closed generation (`muster-generations`) from what the files say then.
//!
//! Records lie in blocks, many to a key of the database, for sled's costs are by keys and bytes, and records are much alike: a
//! block shrinks to a tenth. A block, compressed with zstd:
//!
//! ```text
//! (length of the key u32 | key | print | length of the bytes u32 | bytes)...
//! ```
//!
//! A record's key is the letter of its kind and its folder's name. It holds what the record files hold, environment of
//! containers included, and is for root alone as they are.

use super::print::{self, Print};
use muster_generations::{Error as GenerationError, Generations, Kind, Pairs, disk};
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const KIND: Kind = Kind { name: "muster record index", format: 1 };
/// sled's cache while the database is open: pairs are read once, in order.
const CACHE_BYTES: u64 = 1 << 20;
/// Size of a block before it is compressed: that what does not compress is well below sled's segment, too.
const BLOCK_BYTES: usize = 256 << 10;
/// Larger records, with their keys, are left to their files.
const LARGEST: usize = 128 << 10;
/// Most that an entry takes besides key and bytes.
const HEAD: usize = 64;
/// zstd's fastest: ten times as fast as the disk.
const LEVEL: i32 = 1;

/// Why the index could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Generations(#[from] GenerationError),
    #[error("{op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a block of the index is not understood")]
    Malformed,
    #[error("sled panicked")]
    Panicked,
}

/// The folder of the index.
#[derive(Debug)]
pub(crate) struct Index {
    dir: PathBuf,
    generations: Generations,
}

/// What the index holds of one record.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    key: Vec<u8>,
    print: Print,
    bytes: Vec<u8>,
}

/// What the index knows of some records.
pub(crate) struct Known {
    /// Of each: the bytes of its file, where its files have the print that they had when they were read.
    pub bytes: Vec<Option<Vec<u8>>>,
    /// Entries in the whole index.
    pub entries: usize,
}

impl Known {
    pub fn nothing(of: usize) -> Self {
        Self { bytes: vec![None; of], entries: 0 }
    }
}

/// One kind of record: its letter, its folder, and how the bytes of one are read from its files.
pub(crate) type Source<'a> = (u8, &'a Path, fn(&Path) -> Option<Vec<u8>>);

/// The key of a record.
pub(crate) fn key(kind: u8, name: &str) -> Vec<u8> {
    [&[kind], name.as_bytes()].concat()
}

impl Index {
    pub fn new(dir: PathBuf) -> Self {
        Self { generations: Generations::new(dir.clone(), KIND, CACHE_BYTES), dir }
    }

    /// What is held of each of these records, which come in the order of their keys.
    ///
    /// # Errors
    /// [`Error`]; the index is worth nothing then.
    pub fn known(&self, wanted: &[(Vec<u8>, Option<Print>)]) -> Result<Known, Error> {
        let unwind = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let Some(mut entries) = self.entries()? else { return Ok(Known::nothing(wanted.len())) };
            let mut bytes = Vec::with_capacity(wanted.len());
            for (key, print) in wanted {
                let held = entries.at(key)?.filter(|entry| Some(entry.print) == *print);
                bytes.push(held.map(|entry| entry.bytes));
            }
            entries.skip_rest()?;
            Ok(Known { bytes, entries: entries.count })
        }));
        unwind.unwrap_or(Err(Error::Panicked))
    }

    /// The entries of the generation in force; `None` where there is none.
    fn entries(&self) -> Result<Option<Entries>, Error> {
        if !self.dir.try_exists().map_err(|source| Error::Io { op: "look for", path: self.dir.clone(), source })? {
            return Ok(None);
        }
        self.generations.sweep()?;
        let Some(number) = self.generations.current()? else { return Ok(None) };
        let pairs = self.generations.check(number)?.pairs()?;
        Ok(Some(Entries { pairs, block: Vec::new().into_iter(), next: None, count: 0 }))
    }

    /// Writes the index anew, of what the files say now, and removes the one before. Of records that have not changed since that
    /// was written, the files are not read. Answers with how many it holds; those that changed a moment ago are left out.
    ///
    /// # Errors
    /// [`Error`]; the one before is in force, if it is worth anything.
    pub fn write(&self, sources: &[Source<'_>]) -> Result<usize, Error> {
        let unwind = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.write_generation(sources)));
        unwind.unwrap_or(Err(Error::Panicked))
    }

    fn write_generation(&self, sources: &[Source<'_>]) -> Result<usize, Error> {
        let failed = |op| move |source| Error::Io { op, path: self.dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed("create"))?;
        let before = self.entries().unwrap_or_else(|error| {
            tracing::debug!(%error, "the index over records is written without the one before");
            None
        });
        let now = print::now(&self.dir).map_err(failed("ask for the time in"))?;
        let mut listed = Vec::new();
        for (kind, folder, bytes) in sources {
            let names =
                super::folder::list(folder).map_err(|e| Error::Io { op: e.op, path: e.path, source: e.source })?;
            listed.extend(names.into_iter().map(|(name, path)| (key(*kind, &name), path, *bytes)));
        }
        let number = self.generations.numbers()?.last().map_or(1, |last| last + 1);
        let mut held = 0;
        let mut reading = Reading { before, now };
        let entries = listed.into_iter().filter_map(|(key, path, bytes)| reading.entry(key, &path, bytes));
        let blocks = Blocks { entries: entries.inspect(|_| held += 1), open: None };
        self.generations.write(number, &Vec::new(), blocks)?;
        for old in self.generations.numbers()?.into_iter().filter(|old| *old != number) {
            self.generations.remove(old)?;
        }
        Ok(held)
    }

    /// Removes the index.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remove(&self) -> Result<(), Error> {
        match fs::symlink_metadata(&self.dir) {
            Ok(metadata) if !metadata.is_dir() => {
                fs::remove_file(&self.dir).map_err(|source| Error::Io { op: "remove", path: self.dir.clone(), source })
            }
            _ => Ok(disk::remove_tree(&self.dir)?),
        }
    }

    pub fn exists(&self) -> bool {
        self.dir.exists()
    }
}

/// The entries of a generation, in the order of their keys.
struct Entries {
    pairs: Pairs,
    block: std::vec::IntoIter<Entry>,
    next: Option<Entry>,
    /// Those that were passed.
    count: usize,
}

impl Entries {
    /// The entry of a key. Keys are asked for in their order.
    fn at(&mut self, key: &[u8]) -> Result<Option<Entry>, Error> {
        while let Some(entry) = self.take()? {
            match entry.key.as_slice().cmp(key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(entry)),
                std::cmp::Ordering::Greater => {
                    self.count -= 1;
                    self.next = Some(entry);
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn skip_rest(&mut self) -> Result<(), Error> {
        while self.take()?.is_some() {}
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if let Some(entry) = self.next.take().or_else(|| self.block.next()) {
                self.count += 1;
                return Ok(Some(entry));
            }
            let Some(pair) = self.pairs.next() else { return Ok(None) };
            // A block is never larger; what claims to be is refused.
            let block = zstd::bulk::decompress(&pair?.1, BLOCK_BYTES).map_err(|_| Error::Malformed)?;
            self.block = decode_block(&block).ok_or(Error::Malformed)?.into_iter();
        }
    }
}

/// Reads records for a new generation.
struct Reading {
    before: Option<Entries>,
    /// The file system's time before the first look.
    now: i64,
}

impl Reading {
    fn entry(&mut self, key: Vec<u8>, path: &Path, read: fn(&Path) -> Option<Vec<u8>>) -> Option<Entry> {
        // The look comes before the reading: bytes that are newer than their print are never asked for.
        let print = Print::of(path).filter(|print| print.is_settled(self.now))?;
        let known = match self.before.as_mut().map(|before| before.at(&key)) {
            Some(Ok(entry)) => entry.filter(|entry| entry.print == print),
            Some(Err(_)) => {
                self.before = None;
                None
            }
            None => None,
        };
        let entry = known.or_else(|| Some(Entry { key, print, bytes: read(path)? }));
        entry.filter(|entry| entry.bytes.len() + entry.key.len() <= LARGEST)
    }
}

/// Entries as pairs of the database.
struct Blocks<I: Iterator<Item = Entry>> {
    entries: I,
    /// The first entry of the next block.
    open: Option<Entry>,
}

impl<I: Iterator<Item = Entry>> Iterator for Blocks<I> {
    type Item = (Vec<u8>, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.open.take().or_else(|| self.entries.next())?;
        let key = first.key.clone();
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        encode(&first, &mut block);
        for entry in self.entries.by_ref() {
            if block.len() + entry.bytes.len() + entry.key.len() + HEAD > BLOCK_BYTES {
                self.open = Some(entry);
                break;
            }
            encode(&entry, &mut block);
        }
        // Fails for want of memory only; an index that ends early is sound.
        Some((key, zstd::bulk::compress(&block, LEVEL).ok()?))
    }
}

fn encode(entry: &Entry, out: &mut Vec<u8>) {
    // No key and no record is larger than LARGEST.
    out.extend_from_slice(&(entry.key.len() as u32).to_le_bytes());
    out.extend_from_slice(&entry.key);
    entry.print.encode(out);
    out.extend_from_slice(&(entry.bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(&entry.bytes);
}

fn decode_block(mut block: &[u8]) -> Option<Vec<Entry>> {
    fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
    }
    let mut entries = Vec::new();
    while !block.is_empty() {
        let (key, rest) = part(block)?;
        let (print, rest) = Print::decode(rest)?;
        let (bytes, rest) = part(rest)?;
        entries.push(Entry { key: key.to_vec(), print, bytes: bytes.to_vec() });
        block = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FILE;

    /// A file system whose clock of files ticks with the scheduler's, as that of every one does before Linux 6.13.
    struct Coarse(tempfile::TempDir);

    impl Coarse {
        fn new() -> Self {
            let at = tempfile::tempdir().expect("temporary folder");
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("ramfs"), at.path(), Some("ramfs"), flags, None::<&str>)
                .expect("a ramfs is mounted, for which this test needs root");
            Self(at)
        }
    }

    impl Drop for Coarse {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }

    fn set(folder: &Path, text: &str) {
        fs::write(folder.join(FILE), text).expect("written");
    }

    /// Reads a record, which is changed just then; and the one whose turn is next was changed just before.
    fn read_among_changes(folder: &Path) -> Option<Vec<u8>> {
        let bytes = fs::read(folder.join(FILE)).ok()?;
        set(folder, "new");
        let number: u32 = folder.file_name()?.to_str()?.parse().ok()?;
        let next = folder.with_file_name(format!("{:03}", number + 1));
        if next.exists() {
            set(&next, "old");
        }
        Some(bytes)
    }

    #[test]
    fn a_record_that_changes_in_the_tick_in_which_it_is_read_for_the_index_is_never_taken_from_it() {
        let disk = Coarse::new();
        let (records, index) = (disk.0.path().join("records"), Index::new(disk.0.path().join("index")));
        for n in 0..100 {
            fs::create_dir_all(records.join(format!("{n:03}"))).expect("made");
            set(&records.join(format!("{n:03}")), "old");
        }
        index.write(&[(b'x', &records, read_among_changes)]).expect("written");
        let wanted: Vec<_> = (0..100).map(|n| format!("{n:03}")).collect();
        let wanted: Vec<_> = wanted.iter().map(|name| (key(b'x', name), Print::of(&records.join(name)))).collect();
        let known = index.known(&wanted).expect("read").bytes;
        assert!(known.iter().flatten().all(|bytes| bytes == b"new"), "{known:?}");
    }

    #[test]
    fn records_of_every_size_and_number_come_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (records, index) = (dir.path().join("records"), Index::new(dir.path().join("index")));
        let sizes = [0, 1, 2_000, BLOCK_BYTES - 50, BLOCK_BYTES, BLOCK_BYTES + 1, LARGEST - 10, LARGEST, LARGEST + 1];
        for (n, size) in sizes.iter().cycle().take(60).enumerate() {
            let folder = records.join(format!("{n:03}"));
            fs::create_dir_all(&folder).expect("made");
            set(&folder, &"x".repeat(*size));
        }
        let began = print::now(dir.path()).expect("the time");
        while print::now(dir.path()).expect("the time") < began + 25_000_000 {
            std::thread::yield_now();
        }
        let source: Source<'_> = (b'x', &records, |folder| fs::read(folder.join(FILE)).ok());
        let held = index.write(&[source]).expect("written");
        assert_eq!(index.write(&[source]).expect("written again, from the one before"), held);
        let names: Vec<_> = (0..61).map(|n| format!("{n:03}")).collect();
        let wanted: Vec<_> = names.iter().map(|name| (key(b'x', name), Print::of(&records.join(name)))).collect();
        let Known { bytes: known, entries } = index.known(&wanted).expect("read");
        assert_eq!((known.len(), entries), (61, held));
        for (name, known) in names.iter().zip(&known) {
            let file = fs::read(records.join(name).join(FILE)).ok().filter(|bytes| bytes.len() + name.len() < LARGEST);
            assert_eq!(known.as_ref().map(Vec::len), file.as_ref().map(Vec::len), "{name}");
        }
        index.remove().expect("removed");
        assert!(!index.exists() && index.known(&wanted).expect("there is none").bytes.iter().all(Option::is_none));
    }
}
