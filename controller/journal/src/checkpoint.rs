//! [`Checkpoints`]: the state as closed generations (`muster-generations`), and which of them a manager may start from.

use crate::error::{DiskError, Error};
use crate::frame::Position;
use crate::lock::Lock;
use muster_generations::{self as generations, About, Generations, Kind, disk};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KIND: Kind = Kind { name: "muster checkpoint", format: 1 };

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

    /// As the manifest has it.
    fn to_about(&self) -> About {
        let position = format!("{} {}", self.index, self.term);
        vec![("position", position), ("membership", to_hex(&self.membership))]
    }

    fn of(generation: &generations::Generation) -> Option<Self> {
        let (index, term) = generation.about("position")?.split_once(' ')?;
        let membership = from_hex(generation.about("membership")?)?;
        Some(Self { index: index.parse().ok()?, term: term.parse().ok()?, membership })
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
    generations: Generations,
    /// Sound generations, oldest first; the last is the one in force. At most two once [`Checkpoints::write`] returned.
    kept: Vec<(u64, Meta)>,
    next: u64,
    _lock: Arc<Lock>,
}

/// One sound checkpoint, to be read as often as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    meta: Meta,
    contents: generations::Generation,
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
        let generations = Generations::new(dir.to_owned(), KIND, cache_bytes);
        generations.sweep()?;
        let numbers = generations.numbers()?;
        let next = numbers.last().map_or(1, |n| n + 1);
        let mut this = Self { dir: dir.to_owned(), generations, kept: Vec::new(), next, _lock: lock };
        let current = this.read_current(&numbers)?;
        let mut reason = String::from("there is none");
        let mut found = None;
        let (switched, interrupted): (Vec<u64>, Vec<u64>) =
            numbers.into_iter().partition(|number| current.is_some_and(|current| *number <= current));
        for number in switched.into_iter().rev() {
            match this.check(number, log_base) {
                Ok(generation) => {
                    this.kept.insert(0, (number, generation.meta.clone()));
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
            this.generations.remove(number)?;
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
        self.generations.write(self.next, &meta.to_about(), pairs)?;
        self.kept.push((self.next, meta.clone()));
        self.next += 1;
        while self.kept.len() > 2 {
            let (old, _) = self.kept.remove(0);
            self.generations.remove(old)?;
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
    /// [`Error::Disk`].
    pub fn read(&self) -> Result<Option<Generation>, Error> {
        self.kept.last().map(|(number, _)| self.check(*number, Position::default())).transpose()
    }

    /// The generation in force. When CURRENT itself is damaged, the newest there is: it is checked like any other.
    fn read_current(&self, numbers: &[u64]) -> Result<Option<u64>, Error> {
        match self.generations.current() {
            Err(error @ DiskError::Damaged { .. }) => {
                tracing::error!(%error, "taking the newest sound checkpoint");
                Ok(numbers.last().copied())
            }
            current => Ok(current?),
        }
    }

    fn check(&self, number: u64, log_base: Position) -> Result<Generation, Error> {
        let contents = self.generations.check(number)?;
        let dir = self.generations.dir_of(number);
        let meta =
            Meta::of(&contents).ok_or_else(|| Error::damaged(&dir, 0, "its manifest does not say of what it is"))?;
        if meta.index < log_base.index {
            let what = format!("it is of {}, and the log starts behind {}", meta.index, log_base.index);
            return Err(Error::damaged(&dir, 0, what));
        }
        Ok(Generation { meta, contents })
    }

    /// Puts generations aside that were not found sound, and makes the newest sound one the one in force.
    fn discard_damaged(&self, current: Option<u64>) -> Result<(), Error> {
        let in_force = self.kept.last().map(|(number, _)| *number);
        if in_force != current
            && let Some(number) = in_force
        {
            self.generations.switch(number)?;
        }
        for number in self.generations.numbers()? {
            if !self.kept.iter().any(|(kept, _)| *kept == number) {
                self.generations.put_aside(number)?;
            }
        }
        Ok(disk::sync_dir(&self.dir)?)
    }
}

impl Generation {
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.contents.keys()
    }

    /// All pairs, sorted by key. Works on a copy, since sled writes when it opens; the copy goes when the iterator does.
    ///
    /// # Errors
    /// [`Error::Disk`], also when sled does not find what was written.
    pub fn pairs(&self) -> Result<Pairs, Error> {
        Ok(Pairs(self.contents.pairs()?))
    }
}

/// The pairs of a checkpoint.
pub struct Pairs(generations::Pairs);

impl Iterator for Pairs {
    type Item = Result<(Vec<u8>, Vec<u8>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map_err(Error::from))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// A fault that says nothing about the files' contents.
fn is_transient(error: &Error) -> bool {
    match error {
        Error::Disk(DiskError::DiskFull { .. }) => true,
        Error::Disk(DiskError::Io { source, .. }) => source.kind() != std::io::ErrorKind::NotFound,
        _ => false,
    }
}
