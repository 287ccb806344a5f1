//! From a list of calls to the disk that a cut leaves behind.

use super::Rng;
use super::fs::{Content, Event, ROOT};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What survives of the things that were not synced.
#[derive(Clone, Copy, Debug)]
pub struct Mercy {
    /// Percent of unsynced sectors and names that are there all the same.
    pub keep: u64,
    /// A write survives sector by sector, instead of whole or not at all.
    pub torn: bool,
    /// Names survive in the order they were made, up to some point, as on a journalling file system; otherwise each on
    /// its own.
    pub ordered_names: bool,
}

impl Mercy {
    pub fn draw(rng: &mut Rng) -> Self {
        let keep = [0, 10, 50, 90, 100][rng.below(5) as usize];
        Self { keep, torn: rng.percent(60), ordered_names: rng.percent(50) }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Arc<[u8]>),
    SetLen(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(String, u64),
    /// Only if the name still means this file.
    Remove(String, u64),
    Move {
        name: String,
        new_name: String,
        ino: u64,
    },
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Default)]
struct Dir {
    durable: BTreeMap<String, u64>,
    pending: Vec<NameChange>,
}

/// The disk as it develops along the trace.
#[derive(Debug, Default)]
pub struct Disk {
    files: HashMap<u64, File>,
    dirs: HashMap<u64, Dir>,
}

impl Disk {
    /// The durable start; numbers inodes as [`super::fs::Power`] does.
    pub fn new(content: &Content) -> Self {
        let mut disk = Self::default();
        disk.dirs.insert(ROOT, Dir::default());
        let mut next = ROOT;
        for dir in &content.dirs {
            next += 1;
            disk.name(dir, next);
            disk.dirs.insert(next, Dir::default());
        }
        for (path, data) in &content.files {
            next += 1;
            disk.name(path, next);
            disk.files.insert(next, File { durable: data.clone(), pending: Vec::new() });
        }
        disk
    }

    fn name(&mut self, path: &Path, ino: u64) {
        let mut at = ROOT;
        let names: Vec<_> = path.iter().map(|n| n.to_str().expect("plain names")).collect();
        let (last, parents) = names.split_last().expect("not the root");
        for name in parents {
            at = self.dirs[&at].durable[*name];
        }
        self.dirs.get_mut(&at).expect("a folder").durable.insert((*last).to_owned(), ino);
    }

    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Write { ino, offset, data } => self.change(*ino, Change::Write(*offset, data.clone())),
            Event::SetLen { ino, length } => self.change(*ino, Change::SetLen(*length)),
            Event::Fsync { ino } => {
                if let Some(file) = self.files.get_mut(ino) {
                    for change in std::mem::take(&mut file.pending) {
                        apply(&mut file.durable, &change);
                    }
                }
            }
            Event::Link { dir, name, ino, is_dir } => {
                if *is_dir {
                    self.dirs.insert(*ino, Dir::default());
                } else {
                    self.files.insert(*ino, File::default());
                }
                self.rename(*dir, NameChange::Add(name.clone(), *ino));
            }
            Event::Unlink { dir, name, ino } => self.rename(*dir, NameChange::Remove(name.clone(), *ino)),
            Event::Rename { from, name, to, new_name, ino } => {
                assert_eq!(from, to, "the code under test renames within a folder only");
                let change = NameChange::Move { name: name.clone(), new_name: new_name.clone(), ino: *ino };
                self.rename(*from, change);
            }
            Event::FsyncDir { dir } => {
                if let Some(dir) = self.dirs.get_mut(dir) {
                    for change in std::mem::take(&mut dir.pending) {
                        apply_name(&mut dir.durable, &change);
                    }
                }
            }
            Event::Ack(_) => {}
        }
    }

    fn change(&mut self, ino: u64, change: Change) {
        self.files.get_mut(&ino).expect("created before").pending.push(change);
    }

    fn rename(&mut self, dir: u64, change: NameChange) {
        self.dirs.get_mut(&dir).expect("created before").pending.push(change);
    }

    /// The disk after a cut here.
    pub fn cut(&self, mercy: Mercy, rng: &mut Rng) -> Content {
        let mut out = Content::default();
        self.walk(ROOT, Path::new(""), mercy, rng, &mut out);
        out
    }

    fn walk(&self, ino: u64, path: &Path, mercy: Mercy, rng: &mut Rng, out: &mut Content) {
        let dir = &self.dirs[&ino];
        let mut names = dir.durable.clone();
        let mut alive = true;
        for change in &dir.pending {
            let kept = rng.percent(mercy.keep);
            alive &= kept;
            if if mercy.ordered_names { alive } else { kept } {
                apply_name(&mut names, change);
            }
        }
        for (name, child) in names {
            let path: PathBuf = path.join(name);
            if self.dirs.contains_key(&child) {
                out.dirs.push(path.clone());
                self.walk(child, &path, mercy, rng, out);
            } else {
                out.files.push((path, self.file(child, mercy, rng)));
            }
        }
    }

    fn file(&self, ino: u64, mercy: Mercy, rng: &mut Rng) -> Vec<u8> {
        const SECTOR: usize = 512;
        let file = &self.files[&ino];
        let mut data = file.durable.clone();
        for change in &file.pending {
            match change {
                Change::Write(offset, bytes) if mercy.torn => {
                    // Cut where the disk's sectors are, not where the write began.
                    let mut at = 0;
                    while at < bytes.len() {
                        let room = SECTOR - (*offset as usize + at) % SECTOR;
                        let end = (at + room).min(bytes.len());
                        if rng.percent(mercy.keep) {
                            apply(&mut data, &Change::Write(offset + at as u64, bytes[at..end].into()));
                        }
                        at = end;
                    }
                }
                change => {
                    if rng.percent(mercy.keep) {
                        apply(&mut data, change);
                    }
                }
            }
        }
        data
    }
}

fn apply(data: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, bytes) => {
            let (from, to) = (*offset as usize, *offset as usize + bytes.len());
            if data.len() < to {
                data.resize(to, 0);
            }
            data[from..to].copy_from_slice(bytes);
        }
        Change::SetLen(length) => data.resize(*length as usize, 0),
    }
}

fn apply_name(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Add(name, ino) => {
            names.insert(name.clone(), *ino);
        }
        NameChange::Remove(name, ino) => {
            if names.get(name) == Some(ino) {
                names.remove(name);
            }
        }
        NameChange::Move { name, new_name, ino } => {
            if names.get(name) == Some(ino) {
                names.remove(name);
            }
            names.insert(new_name.clone(), *ino);
        }
    }
}
