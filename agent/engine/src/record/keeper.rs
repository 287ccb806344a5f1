//! [`Keeper`]: reads all records when the engine opens, and sees to it that an index over them is there where one pays.
//!
//! Few records have none: it is neither written nor opened, and what a host with many has left is removed. Where there are
//! many, it is written some seconds after a start that found much of it missing or stale, and at an orderly end after which the
//! next start would; never while somebody waits for it but that end. Between writings it grows stale, which costs the next
//! start the reading of what has changed.

use super::{
    Record, durable,
    folder::{self, InFolder, Read, Seen},
    index::{self, Index, Known, Source},
};
use crate::volume::VolumeRecord;
use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The index is written anew when this part of the records is not in it as they are: an eighth.
const STALE: usize = 8;

/// Where the records of an engine came from when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordsRead {
    /// Containers and volumes whose files were not opened: the index had their contents.
    pub from_index: usize,
    /// Those whose files were read.
    pub from_files: usize,
}

/// All records that have a folder of their own.
pub(crate) struct Records {
    pub containers: Vec<Read<Record>>,
    pub volumes: Vec<Read<VolumeRecord>>,
}

/// Of one engine.
#[derive(Debug)]
pub(crate) struct Keeper {
    containers: PathBuf,
    volumes: PathBuf,
    index: Index,
    /// From how many records on there is an index.
    from: usize,
    /// At most as many records are not in the index as they are.
    stale: AtomicUsize,
    read: Mutex<RecordsRead>,
    /// Held while the index is written.
    writing: Mutex<()>,
}

impl Keeper {
    pub fn new(data_dir: &Path, from: usize) -> Self {
        Self {
            containers: data_dir.join("containers"),
            volumes: data_dir.join("volumes"),
            index: Index::new(data_dir.join("record-index")),
            from,
            stale: AtomicUsize::new(0),
            read: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    /// Reads every record; the folders exist. Blocks on the disk.
    ///
    /// # Errors
    /// When a folder cannot be listed or swept.
    pub fn read(&self) -> Result<Records, durable::Error> {
        let containers = folder::look(&self.containers)?;
        let volumes = folder::look(&self.volumes)?;
        let all = containers.len() + volumes.len();
        let Known { bytes: mut known, entries } = self.known(&containers, &volumes);
        let known_volumes = known.split_off(containers.len());
        let (containers, first) = folder::read(containers, known);
        let (volumes, second) = folder::read(volumes, known_volumes);
        let (from_files, from_index) = (first + second, all - first - second);
        // Those that are gone are waste in it.
        self.stale.store(from_files + entries.saturating_sub(all), Ordering::Relaxed);
        *self.lock_read() = RecordsRead { from_index, from_files };
        tracing::debug!(from_index, from_files, "records read");
        Ok(Records { containers, volumes })
    }

    /// Where the records came from.
    pub fn records_read(&self) -> RecordsRead {
        *self.lock_read()
    }

    fn lock_read(&self) -> MutexGuard<'_, RecordsRead> {
        self.read.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn known(&self, containers: &[Seen], volumes: &[Seen]) -> Known {
        let all = containers.len() + volumes.len();
        if all < self.from {
            if self.index.exists() {
                self.drop_index("there are few records");
            }
            return Known::nothing(all);
        }
        let of = |kind: u8| move |seen: &Seen| (index::key(kind, &seen.name), seen.print);
        let wanted: Vec<_> =
            containers.iter().map(of(Record::KIND)).chain(volumes.iter().map(of(VolumeRecord::KIND))).collect();
        self.index.known(&wanted).unwrap_or_else(|error| {
            self.drop_index(&error.to_string());
            Known::nothing(all)
        })
    }

    fn drop_index(&self, why: &str) {
        match self.index.remove() {
            Ok(()) => tracing::info!(why, "the index over records is removed; the records are read from their files"),
            Err(error) => tracing::warn!(why, %error, "the index over records cannot be removed"),
        }
    }

    /// A record was written or removed.
    pub fn changed(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a new index would spare the next start much, with so many records.
    pub fn pays(&self, records: usize) -> bool {
        records >= self.from.max(1) && self.stale.load(Ordering::Relaxed).saturating_mul(STALE) >= records
    }

    /// Writes the index if that pays. Blocks on the disk. What goes wrong is said in the log: the next start reads the files.
    pub fn write(&self, records: usize) {
        let _writing = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        if !self.pays(records) {
            return;
        }
        // What changes from here on counts for the next one.
        let stale = self.stale.swap(0, Ordering::Relaxed);
        let sources: [Source<'_>; 2] =
            [(Record::KIND, &self.containers, Record::bytes), (VolumeRecord::KIND, &self.volumes, VolumeRecord::bytes)];
        match self.index.write(&sources) {
            Ok(held) => tracing::debug!(held, records, "index over records written"),
            Err(error) => {
                self.stale.fetch_add(stale, Ordering::Relaxed);
                tracing::warn!(%error, "the index over records cannot be written");
                self.drop_index("it could not be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Durability, FILE, RECENT, print};
    use proptest::prelude::*;
    use std::fs;

    /// What can befall the folder of records, with an index over it.
    #[derive(Clone, Debug)]
    enum Act {
        /// The engine writes a state, flushed or not.
        Write(u8, u16, bool),
        /// Somebody writes over a file.
        Over(u8, u16),
        /// A power cut spoils a state that was not flushed.
        Spoil(u8),
        Remove(u8),
        Volume(u8, u16),
        /// The index is written.
        Index,
        /// Time goes on.
        Settle,
        /// Something happens to a file of the index.
        Damage(u8, u8),
        /// The next daemon.
        Restart,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0..9u8, any::<u16>(), any::<bool>()).prop_map(|(n, v, flushed)| Act::Write(n, v, flushed)),
            2 => (0..9u8, any::<u16>()).prop_map(|(n, v)| Act::Over(n, v)),
            1 => (0..9u8).prop_map(Act::Spoil),
            2 => (0..9u8).prop_map(Act::Remove),
            2 => (0..5u8, any::<u16>()).prop_map(|(n, v)| Act::Volume(n, v)),
            4 => Just(Act::Index),
            2 => Just(Act::Settle),
            1 => (any::<u8>(), any::<u8>()).prop_map(|(file, how)| Act::Damage(file, how)),
            4 => Just(Act::Restart),
        ]
    }

    /// Names and records, or that one cannot be read.
    type Found = (Vec<(String, Option<Option<Record>>)>, Vec<(String, Option<Option<VolumeRecord>>)>);

    fn found(records: Records) -> Found {
        fn plain<T>(read: Vec<Read<T>>) -> Vec<(String, Option<Option<T>>)> {
            read.into_iter().map(|read| (read.name, read.record.ok())).collect()
        }
        (plain(records.containers), plain(records.volumes))
    }

    struct World {
        dir: tempfile::TempDir,
        keeper: Keeper,
        from_index: usize,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("temporary folder");
            for folder in ["containers", "volumes"] {
                fs::create_dir(dir.path().join(folder)).expect("made");
            }
            let keeper = Keeper::new(dir.path(), 1);
            Self { dir, keeper, from_index: 0 }
        }

        fn folder(&self, kind: &str, n: u8) -> PathBuf {
            self.dir.path().join(kind).join(format!("{n:064x}"))
        }

        fn truth(&self) -> Found {
            fn all<T: InFolder>(folder: &Path) -> Vec<Read<T>> {
                let seen = folder::look(folder).expect("looked");
                let known = vec![None; seen.len()];
                folder::read(seen, known).0
            }
            found(Records { containers: all(&self.keeper.containers), volumes: all(&self.keeper.volumes) })
        }

        fn settle(&self) {
            let began = print::now(self.dir.path()).expect("the time");
            while print::now(self.dir.path()).expect("the time") < began + 25_000_000 {
                std::thread::yield_now();
            }
        }

        fn act(&mut self, act: &Act) {
            match *act {
                Act::Write(n, value, flushed) => {
                    let folder = self.folder("containers", n);
                    fs::create_dir_all(&folder).expect("made");
                    let record = Record { id: format!("{n:064x}"), name: value.to_string(), ..Record::default() };
                    let durability = if flushed { Durability::Power } else { Durability::Process };
                    record.write(&folder, durability).expect("written");
                }
                Act::Over(n, value) => {
                    let path = self.folder("containers", n).join(if value % 2 == 0 { FILE } else { RECENT });
                    if path.exists() {
                        fs::write(path, format!("{{\"version\":1,\"name\":\"{value:05}\"}}")).expect("written");
                    }
                }
                Act::Spoil(n) => {
                    let path = self.folder("containers", n).join(RECENT);
                    if path.exists() {
                        fs::write(path, "").expect("written");
                    }
                }
                Act::Remove(n) => drop(fs::remove_dir_all(self.folder("containers", n))),
                Act::Volume(n, value) => {
                    let folder = self.folder("volumes", n);
                    fs::create_dir_all(&folder).expect("made");
                    let bytes = format!("{{\"name\":\"v{n}\",\"driver\":\"d{value}\"}}");
                    durable::write(&folder.join(FILE), bytes.as_bytes(), Durability::Process).expect("written");
                }
                Act::Index => {
                    self.keeper.changed();
                    self.keeper.stale.store(100, Ordering::Relaxed);
                    self.keeper.write(10);
                }
                Act::Settle => self.settle(),
                Act::Damage(file, how) => self.damage(file, how),
                Act::Restart => self.restart(),
            }
        }

        fn damage(&self, file: u8, how: u8) {
            fn files(dir: &Path) -> Vec<PathBuf> {
                let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
                paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
            }
            let files = files(&self.dir.path().join("record-index"));
            let Some(path) = files.get(usize::from(file) % files.len().max(1)) else { return };
            let mut bytes = fs::read(path).expect("read");
            match how % 3 {
                0 => bytes.truncate(bytes.len() * usize::from(how) / 256),
                1 if !bytes.is_empty() => {
                    let at = bytes.len() * usize::from(how) / 256;
                    bytes[at] ^= how | 1;
                }
                _ => bytes.extend_from_slice(&[how; 40]),
            }
            fs::write(path, bytes).expect("written");
        }

        fn restart(&mut self) {
            self.keeper = Keeper::new(self.dir.path(), 1);
            let truth = self.truth();
            let read = found(self.keeper.read().expect("read"));
            self.from_index += self.keeper.records_read().from_index;
            assert_eq!(read, truth);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn whatever_happens_a_start_with_an_index_reads_what_one_without_reads(acts in prop::collection::vec(act(), 1..60)) {
            let mut world = World::new();
            for act in acts.iter().chain([&Act::Restart, &Act::Index, &Act::Restart]) {
                world.act(act);
            }
        }
    }

    #[test]
    fn an_index_serves_what_did_not_change_and_is_written_when_that_pays() {
        let mut world = World::new();
        for n in 0..9 {
            world.act(&Act::Write(n, u16::from(n), n % 2 == 0));
            world.act(&Act::Volume(n, 7));
        }
        // As a start has it that found no record flushed: those with a recent state only are no records.
        world.restart();
        assert_eq!(world.keeper.records_read(), RecordsRead { from_index: 0, from_files: 18 });
        assert!(world.keeper.pays(18) && !world.keeper.pays(0));
        world.settle();
        world.keeper.write(18);
        assert!(!world.keeper.pays(18), "it is as it should be");
        world.restart();
        assert_eq!(world.keeper.records_read(), RecordsRead { from_index: 14, from_files: 4 }, "without records: 4");
        assert!(world.keeper.pays(18), "4 of 18 would be read again");
        world.act(&Act::Write(0, 77, true));
        world.restart();
        assert_eq!(world.keeper.records_read(), RecordsRead { from_index: 13, from_files: 5 });
    }
}
