//! [`Journal`]: the log's segments, in order, the last one being written to.

use crate::checkpoint::Floor;
use crate::error::Error;
use crate::frame::{self, HardState, Position, Record};
use crate::lock::Lock;
use crate::scan::{Scan, TornTail};
use crate::segment::{self, HEAD, Head, MAX_CAPACITY};
use muster_generations::disk;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the log is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment, preallocated. A larger write gets a segment of its own.
    pub segment_bytes: u64,
    /// sled's cache while a checkpoint is written or read.
    pub checkpoint_cache_bytes: u64,
}

impl Default for Options {
    /// 16 MiB segments: at 256-byte entries about 50,000; 8 MiB of cache.
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, checkpoint_cache_bytes: 8 << 20 }
    }
}

/// The largest single write. Raft's messages are bounded far below.
const LIMIT: u64 = 1 << 30;

/// What the log held when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) base: Position,
    pub(crate) hard: HardState,
    pub(crate) records: Vec<Record>,
    pub(crate) torn: Option<TornTail>,
}

/// What a segment holds.
#[derive(Clone, Copy, Debug)]
struct Extent {
    number: u64,
    /// The log's end when it began.
    base: Position,
    /// The lowest and highest index written in it, also if replaced since.
    min_index: u64,
    max_index: u64,
}

impl Extent {
    fn new(head: &Head) -> Self {
        Self { number: head.number, base: head.base, min_index: u64::MAX, max_index: 0 }
    }

    fn include(&mut self, index: u64) {
        self.min_index = self.min_index.min(index);
        self.max_index = self.max_index.max(index);
    }
}

/// The segment that is written to.
#[derive(Debug)]
struct Active {
    file: File,
    path: PathBuf,
    extent: Extent,
    salt: u64,
    offset: u64,
    capacity: u64,
}

/// The raft log and hard state on disk.
///
/// Everything is durable when a call returns `Ok`. After an `Err` the log is what it was before the call, and the call may
/// be tried again, save for [`Error::Poisoned`].
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    options: Options,
    sealed: Vec<Extent>,
    active: Active,
    /// The sequence of the next frame.
    sequence: u64,
    base: Position,
    last: Position,
    hard: HardState,
    buffer: Vec<u8>,
    poisoned: bool,
    _lock: Arc<Lock>,
}

impl Journal {
    /// Opens or creates the log in `dir`, which exists.
    pub(crate) fn open(dir: &Path, options: Options, lock: Arc<Lock>) -> Result<(Self, Contents), Error> {
        let numbers = segment::numbers(dir)?;
        let Some(&newest) = numbers.last() else { return Self::create(dir, options, lock) };
        let (heads, waste) = read_heads(dir, &numbers)?;
        let mut contents = Contents::default();
        let mut sealed = Vec::new();
        let mut tail = None;
        for (at, (head, file)) in heads.iter().enumerate() {
            let path = segment::path(dir, head.number);
            let end = heads.get(at + 1).map(|(next, _)| next.previous_end);
            let read = read_segment(file, &path, head, end, at == 0, &mut contents)?;
            sealed.push(read.extent);
            tail = Some((read, path));
        }
        let (head, file) = heads.into_iter().next_back().expect("there is a newest segment, or we had returned");
        let (read, path) = tail.expect("as many as heads");
        let extent = sealed.pop().expect("as many as heads");
        // What is read may only be in the page cache: the process before us may have died before its sync. From here on
        // it counts as durable, so it has to be.
        file.sync_all().map_err(|e| Error::io("sync", &path, e))?;
        disk::sync_dir(dir)?;
        let length = file.metadata().map_err(|e| Error::io("look at", &path, e))?.len();
        let Head { salt, capacity, .. } = head;
        if length < capacity {
            return Err(Error::MissingSegment { path: segment::path(dir, newest + 1) });
        }
        let file = File::options().read(true).write(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        let last = contents.records.last().map_or(contents.base, |r| Position { index: r.index, term: r.term });
        let mut journal = Self {
            dir: dir.to_owned(),
            options,
            sealed,
            active: Active { file, path, extent, salt, offset: read.offset, capacity },
            sequence: read.sequence,
            base: contents.base,
            last,
            hard: contents.hard,
            buffer: Vec::new(),
            poisoned: false,
            _lock: lock,
        };
        for number in waste {
            disk::remove_file(&segment::path(dir, number), dir)?;
        }
        if let Some(torn) = &contents.torn {
            tracing::info!(path = %torn.path.display(), offset = torn.offset, "the last write was cut short; it was not acknowledged");
            // Never write over a torn end: in a new segment its remains cannot be taken for anything.
            journal.rotate(0)?;
        }
        Ok((journal, contents))
    }

    fn create(dir: &Path, options: Options, lock: Arc<Lock>) -> Result<(Self, Contents), Error> {
        let (base, hard) = (Position::default(), HardState::default());
        let head = Head {
            number: 1,
            salt: segment::salt()?,
            reset: true,
            base,
            previous_end: 0,
            sequence: 1,
            hard,
            capacity: capacity(options, 0),
        };
        let active = new_active(dir, head)?;
        let journal = Self {
            dir: dir.to_owned(),
            options,
            sealed: Vec::new(),
            active,
            sequence: 1,
            base,
            last: base,
            hard,
            buffer: Vec::new(),
            poisoned: false,
            _lock: lock,
        };
        Ok((journal, Contents::default()))
    }

    /// Appends records and the hard state as one write: after a crash both are there, or neither.
    ///
    /// A record replaces the one of its index and everything behind that; otherwise it must follow the last. The records
    /// of several work orders may be given at once, in their order: one sync for all.
    ///
    /// # Errors
    /// [`Error::Hole`], [`Error::BelowBase`], [`Error::TooLarge`]: refused. [`Error::Disk`]: nothing was
    /// appended. [`Error::Poisoned`]: what the disk holds is unknown.
    pub fn append(&mut self, records: &[Record], hard: HardState) -> Result<(), Error> {
        self.check_sound()?;
        let end = self.check_order(records)?;
        let size = frame::size(records);
        if size > LIMIT {
            return Err(Error::TooLarge { bytes: size, limit: LIMIT });
        }
        if self.active.offset + size > self.active.capacity {
            self.rotate(size)?;
        }
        frame::encode(&mut self.buffer, self.active.salt, self.sequence, hard, records);
        let active = &mut self.active;
        active.file.write_all_at(&self.buffer, active.offset).map_err(|e| Error::io("write", &active.path, e))?;
        if let Err(e) = active.file.sync_data() {
            self.poisoned = true;
            return Err(Error::io("sync", &active.path, e));
        }
        active.offset += size;
        records.iter().for_each(|record| active.extent.include(record.index));
        self.sequence += 1;
        self.last = end;
        self.hard = hard;
        self.shrink_buffer();
        Ok(())
    }

    /// Starts the log anew behind `base`: a snapshot has replaced all that was before. Make the snapshot's state durable
    /// as a checkpoint first. Of `hard.commit` at most `base` is kept: entries behind it are not written yet.
    ///
    /// # Errors
    /// As [`Journal::append`]. An error while sweeping the old segments leaves the new log in force.
    pub fn reset(&mut self, base: Position, hard: HardState) -> Result<(), Error> {
        self.check_sound()?;
        let hard = HardState { commit: hard.commit.min(base.index), ..hard };
        let head = Head {
            number: self.active.extent.number + 1,
            salt: segment::salt()?,
            reset: true,
            base,
            previous_end: 0,
            sequence: self.sequence,
            hard,
            capacity: capacity(self.options, 0),
        };
        let active = new_active(&self.dir, head)?;
        let old = std::mem::replace(&mut self.active, active);
        let waste: Vec<u64> = self.sealed.drain(..).map(|s| s.number).chain([old.extent.number]).collect();
        (self.base, self.last, self.hard) = (base, base, hard);
        for number in waste {
            disk::remove_file(&segment::path(&self.dir, number), &self.dir)?;
        }
        Ok(())
    }

    /// Deletes the segments that hold nothing behind `floor`. How far records remain readable after the next start is then
    /// [`Journal::base`].
    ///
    /// # Errors
    /// [`Error::Disk`]; some segments may be gone already.
    pub fn compact(&mut self, floor: Floor) -> Result<(), Error> {
        while let Some(oldest) = self.sealed.first()
            && oldest.max_index <= floor.index()
        {
            // Oldest first, each made durable before the next: no crash leaves a hole among the segments.
            disk::remove_file(&segment::path(&self.dir, oldest.number), &self.dir)?;
            self.sealed.remove(0);
            self.base = self.base_of_rest();
        }
        Ok(())
    }

    /// The position before the first record of the segments that are left; see [`take`] for one that replaced records of
    /// those that are gone.
    fn base_of_rest(&self) -> Position {
        let rest = || self.sealed.iter().chain([&self.active.extent]);
        let base = rest().next().map_or(self.base, |first| first.base);
        let lowest = rest().map(|extent| extent.min_index).min().unwrap_or(u64::MAX);
        if lowest <= base.index { Position { index: lowest.saturating_sub(1), term: 0 } } else { base }
    }

    /// The position before the first record that is kept.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The last record's position, or the base when there is none.
    pub fn last(&self) -> Position {
        self.last
    }

    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// How many segment files there are.
    pub fn segments(&self) -> usize {
        self.sealed.len() + 1
    }

    fn check_sound(&self) -> Result<(), Error> {
        if self.poisoned { Err(Error::Poisoned { path: self.active.path.clone() }) } else { Ok(()) }
    }

    /// Where the log will end.
    fn check_order(&self, records: &[Record]) -> Result<Position, Error> {
        let mut last = self.last;
        for record in records {
            check_follows(record.index, last.index, self.base.index)?;
            last = Position { index: record.index, term: record.term };
        }
        Ok(last)
    }

    /// Begins a new segment with room for a frame of `size`.
    fn rotate(&mut self, size: u64) -> Result<(), Error> {
        let head = Head {
            number: self.active.extent.number + 1,
            salt: segment::salt()?,
            reset: false,
            base: self.last,
            previous_end: self.active.offset,
            sequence: self.sequence,
            hard: self.hard,
            capacity: capacity(self.options, size),
        };
        let active = new_active(&self.dir, head)?;
        let old = std::mem::replace(&mut self.active, active);
        // Only gives back space: the new head says where the old frames end, so it does not matter when this fails.
        if let Err(error) = old.file.set_len(old.offset) {
            tracing::debug!(path = %old.path.display(), %error, "sealed segment keeps its unused space");
        }
        self.sealed.push(old.extent);
        Ok(())
    }

    /// One large write must not cost its memory for ever.
    fn shrink_buffer(&mut self) {
        const KEEP: usize = 1 << 20;
        if self.buffer.capacity() > KEEP {
            self.buffer.clear();
            self.buffer.shrink_to(KEEP);
        }
    }
}

/// A new segment's length: as configured, or what one large frame needs.
fn capacity(options: Options, frame: u64) -> u64 {
    frame::align(options.segment_bytes.clamp(HEAD as u64, MAX_CAPACITY).max(HEAD as u64 + frame))
}

fn new_active(dir: &Path, head: Head) -> Result<Active, Error> {
    Ok(Active {
        file: segment::create(dir, head)?,
        path: segment::path(dir, head.number),
        extent: Extent::new(&head),
        salt: head.salt,
        offset: HEAD as u64,
        capacity: head.capacity,
    })
}

/// The heads from the last reset on, oldest first, and the numbers of the segments before.
#[allow(clippy::type_complexity)]
fn read_heads(dir: &Path, numbers: &[u64]) -> Result<(Vec<(Head, File)>, Vec<u64>), Error> {
    let mut heads: Vec<(Head, File)> = Vec::new();
    for (at, &number) in numbers.iter().enumerate().rev() {
        if let Some((later, _)) = heads.last()
            && later.number != number + 1
        {
            return Err(Error::MissingSegment { path: segment::path(dir, later.number - 1) });
        }
        let path = segment::path(dir, number);
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let head = Head::read(&file, &path, number)?;
        heads.push((head, file));
        if head.reset {
            heads.reverse();
            return Ok((heads, numbers[..at].to_vec()));
        }
    }
    heads.reverse();
    Ok((heads, Vec::new()))
}

/// What reading one segment found out.
struct ReadSegment {
    offset: u64,
    sequence: u64,
    extent: Extent,
}

/// Reads one segment's frames into `contents`.
fn read_segment(
    file: &File,
    path: &Path,
    head: &Head,
    end: Option<u64>,
    first: bool,
    contents: &mut Contents,
) -> Result<ReadSegment, Error> {
    let last = contents.records.last().map_or(contents.base, |r| Position { index: r.index, term: r.term });
    if first {
        contents.base = head.base;
        contents.hard = head.hard;
    } else if head.base != last || head.hard != contents.hard {
        let what = format!("begins behind record {}, but the log before ends at {}", head.base.index, last.index);
        return Err(Error::damaged(path, 32, what));
    }
    let mut extent = Extent::new(head);
    let mut scan = Scan::new(file, path, head, end)?;
    while let Some(frame) = scan.next()? {
        for record in frame.records {
            extent.include(record.index);
            take(record, contents).map_err(|e| Error::damaged(path, frame.offset, e.to_string()))?;
        }
        contents.hard = frame.hard;
    }
    if end.is_some() {
        scan.expect_end()?;
    } else {
        contents.torn = scan.inspect_tail()?;
    }
    Ok(ReadSegment { offset: scan.offset, sequence: scan.sequence, extent })
}

/// Adds a record as read, replacing what it replaced when it was written.
///
/// That may be a record of a segment that is compacted away, written before the floor passed it: then this record and
/// those behind it are all there is of the log, and the term before them is not known any more. Nobody asks for it: the
/// checkpoints lie at the floor or behind.
fn take(record: Record, contents: &mut Contents) -> Result<(), Error> {
    let base = contents.base.index;
    if record.index == 0 {
        return Err(Error::BelowBase { index: 0, base });
    }
    if record.index <= base {
        contents.base = Position { index: record.index - 1, term: 0 };
        contents.records.clear();
    } else {
        check_follows(record.index, base + contents.records.len() as u64, base)?;
        contents.records.truncate((record.index - base - 1) as usize);
    }
    contents.records.push(record);
    Ok(())
}

fn check_follows(index: u64, last: u64, base: u64) -> Result<(), Error> {
    if index <= base {
        return Err(Error::BelowBase { index, base });
    }
    if index > last.saturating_add(1) {
        return Err(Error::Hole { index, last });
    }
    Ok(())
}
