//! [`Generations`]: one folder of them, and the acts whose order makes them safe.

use crate::database;
use crate::disk;
use crate::error::Error;
use crate::manifest::{About, Manifest};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the generations of a folder are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Begins every manifest.
    pub name: &'static str,
    /// Version of the form of keys, values and [`About`].
    pub format: u32,
}

/// A folder of generations.
#[derive(Clone, Debug)]
pub struct Generations {
    dir: PathBuf,
    kind: Kind,
    cache_bytes: u64,
}

/// One sound generation, to be read as often as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    dir: PathBuf,
    scratch: PathBuf,
    cache_bytes: u64,
    manifest: Manifest,
}

impl Generations {
    /// Those in `dir`, which exists. `cache_bytes` is what sled may use as its cache, while it is open.
    pub fn new(dir: PathBuf, kind: Kind, cache_bytes: u64) -> Self {
        Self { dir, kind, cache_bytes }
    }

    /// Removes copies that readers left when they died. To be called before the first reader.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn sweep(&self) -> Result<(), Error> {
        disk::remove_tree(&self.dir.join("scratch"))
    }

    /// Every generation there is, whole or not, oldest first.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn numbers(&self) -> Result<Vec<u64>, Error> {
        let mut numbers: Vec<u64> = disk::list(&self.dir)?
            .iter()
            .filter_map(|entry| u64::from_str_radix(entry.file_name().to_str()?.strip_prefix("gen-")?, 16).ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The generation that was switched to last; `None` where none ever was.
    ///
    /// # Errors
    /// [`Error::Damaged`] when nobody can tell.
    pub fn current(&self) -> Result<Option<u64>, Error> {
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
        parsed.map(Some).ok_or_else(|| Error::damaged(&path, 0, "not the number of a generation"))
    }

    /// Writes a generation and makes it the one in force. Each key may come once, in any order; keys and values should be well
    /// below sled's segment of 512 KiB.
    ///
    /// # Errors
    /// The generation before stays in force.
    pub fn write<I>(&self, number: u64, about: &About, pairs: I) -> Result<(), Error>
    where
        I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    {
        self.remove(number)?;
        self.write_closed(number, about, pairs).and_then(|()| self.switch(number)).inspect_err(|_| {
            // Not switched to, so waste; swept at the next start if this fails too. Unless the switch itself is in
            // doubt: then the files stay, and the next start finds out.
            let in_force = match self.current() {
                Ok(current) => current == Some(number),
                Err(Error::Damaged { .. }) => false,
                Err(_) => true,
            };
            if !in_force {
                let _ = self.remove(number);
            }
        })
    }

    fn write_closed<I>(&self, number: u64, about: &About, pairs: I) -> Result<(), Error>
    where
        I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    {
        let dir = self.dir_of(number);
        let db = dir.join("db");
        fs::create_dir_all(&db).map_err(|e| Error::io("create the folder", &db, e))?;
        let keys = database::fill(&db, self.cache_bytes, pairs)?;
        disk::sync_tree(&db)?;
        Manifest::take(&dir, about, keys)?.write(&dir, self.kind)?;
        disk::sync_dir(&dir)?;
        disk::sync_dir(&self.dir)
    }

    /// Makes a generation that is there the one in force.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn switch(&self, number: u64) -> Result<(), Error> {
        let text = format!("{number:016x}");
        let line = format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()));
        disk::replace_file(&self.dir.join("CURRENT"), &self.dir, line.as_bytes())
    }

    /// Compares a generation with what was written, byte for byte.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the first file that differs; [`Error::Format`]; faults of the disk.
    pub fn check(&self, number: u64) -> Result<Generation, Error> {
        static SCRATCH: AtomicU64 = AtomicU64::new(0);
        let dir = self.dir_of(number);
        let manifest = Manifest::read(&dir, self.kind)?;
        manifest.verify(&dir)?;
        let scratch = self.dir.join("scratch").join(SCRATCH.fetch_add(1, Ordering::Relaxed).to_string());
        Ok(Generation { dir, scratch, cache_bytes: self.cache_bytes, manifest })
    }

    /// Removes a generation; one that is not there is no error.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn remove(&self, number: u64) -> Result<(), Error> {
        disk::remove_tree(&self.dir_of(number))
    }

    /// Puts a generation aside, for whoever wants to know why it is damaged. Durable once the folder is synced.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn put_aside(&self, number: u64) -> Result<(), Error> {
        let (from, aside) = (self.dir_of(number), self.dir.join(format!("damaged-{number:016x}")));
        disk::remove_tree(&aside)?;
        fs::rename(&from, &aside).map_err(|e| Error::io("put aside", &from, e))
    }

    /// The folder of a generation.
    pub fn dir_of(&self, number: u64) -> PathBuf {
        self.dir.join(format!("gen-{number:016x}"))
    }
}

impl Generation {
    /// What it says of itself by that name.
    pub fn about(&self, name: &str) -> Option<&str> {
        self.manifest.about.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
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
        database::copy_tree(&self.dir.join("db"), &scratch.0)?;
        let db = database::open(&scratch.0, self.cache_bytes)?;
        let found = db.len() as u64;
        if found != self.manifest.keys {
            return Err(Error::KeyCount { path: self.dir.clone(), expected: self.manifest.keys, found });
        }
        Ok(Pairs { pairs: db.iter(), _db: db, scratch })
    }
}

/// The pairs of a generation.
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
            tracing::debug!(%error, "the copy of a generation stays until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { name: "test of generations", format: 3 };

    fn pairs(n: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..n).map(|i| (format!("k{i:06}").into_bytes(), vec![i as u8; 300])).collect()
    }

    fn read(generation: &Generation) -> Vec<(Vec<u8>, Vec<u8>)> {
        generation.pairs().expect("opened").collect::<Result<_, _>>().expect("read")
    }

    #[test]
    fn what_was_written_is_read_as_often_as_wanted_and_says_what_it_is_about() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let of = Generations::new(dir.path().to_owned(), KIND, 1 << 20);
        assert_eq!(of.current().expect("readable"), None);
        let about = vec![("position", "7 3".to_owned()), ("empty", String::new())];
        of.write(1, &about, pairs(500).into_iter().rev()).expect("written");
        of.write(2, &Vec::new(), pairs(2)).expect("written");
        assert_eq!((of.numbers().expect("listed"), of.current().expect("there")), (vec![1, 2], Some(2)));
        let first = of.check(1).expect("sound");
        assert_eq!((first.about("position"), first.about("empty"), first.about("x")), (Some("7 3"), Some(""), None));
        assert_eq!((read(&first), read(&first), first.keys()), (pairs(500), pairs(500), 500));
        assert_eq!(read(&of.check(2).expect("sound")), pairs(2));
        of.remove(1).expect("removed");
        assert_eq!(of.numbers().expect("listed"), [2]);
    }

    #[test]
    fn what_differs_from_what_was_written_is_named_before_sled_sees_it() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let of = Generations::new(dir.path().to_owned(), KIND, 1 << 20);
        of.write(1, &Vec::new(), pairs(50)).expect("written");
        let other = Generations::new(dir.path().to_owned(), Kind { format: 4, ..KIND }, 1 << 20);
        assert!(matches!(other.check(1), Err(Error::Format { found: 3, known: 4, .. })));
        let other = Generations::new(dir.path().to_owned(), Kind { name: "another", ..KIND }, 1 << 20);
        assert!(matches!(other.check(1), Err(Error::Damaged { .. })));
        for file in ["db/db", "db/conf", "MANIFEST"] {
            let path = of.dir_of(1).join(file);
            let bytes = fs::read(&path).expect("there");
            let mut wrong = bytes.clone();
            wrong[bytes.len() / 2] ^= 1;
            for contents in [wrong, bytes[..bytes.len() - 1].to_vec(), Vec::new()] {
                fs::write(&path, contents).expect("written");
                assert!(matches!(of.check(1), Err(Error::Damaged { .. })), "{file}");
            }
            fs::remove_file(&path).expect("removed");
            assert!(of.check(1).is_err(), "{file}");
            fs::write(&path, bytes).expect("written");
            of.check(1).expect("sound again");
        }
        fs::write(dir.path().join("CURRENT"), "gibberish").expect("written");
        assert!(matches!(of.current(), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_and_the_generation_before_stays_in_force() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let of = Generations::new(dir.path().to_owned(), KIND, 1 << 20);
        of.write(1, &Vec::new(), pairs(3)).expect("written");
        let twice = of.write(2, &Vec::new(), pairs(2).into_iter().chain(pairs(1)));
        assert!(matches!(twice, Err(Error::KeyCount { expected: 3, found: 2, .. })), "{twice:?}");
        assert_eq!((of.numbers().expect("listed"), of.current().expect("there")), (vec![1], Some(1)));
    }
}
