//! The files of one log, read in order; blocking, driven by [`super::follow`] on a blocking thread.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tracing::warn;

use super::ReadOptions;
use super::entry::{Entry, Stream};

/// Bytes read from a file at once.
const CHUNK: usize = 128 * 1024;
/// Longest line that is kept in memory; a longer one is no entry of ours (the shim splits at 16 KiB, JSON escapes may grow
/// that sixfold).
const MAX_LINE: usize = 1024 * 1024;

/// Entries read by one step, and whether the end of what is there was reached.
pub(super) struct Batch {
    pub entries: Vec<Entry>,
    /// Everything that was in the files is delivered.
    pub at_end: bool,
    /// An entry beyond `until` was met.
    pub past_until: bool,
}

/// A position in the sequence of files.
pub(super) struct Source {
    path: PathBuf,
    options: ReadOptions,
    /// Newer files, opened already, in order.
    queue: VecDeque<File>,
    current: Option<File>,
    /// The begin of a line whose end has not been written yet.
    pending: Vec<u8>,
    /// Of the last entry that was met.
    last_ns: i64,
    /// Entries up to this time were met in a file that has been compressed since: no two have the same time.
    met_until_ns: i64,
}

impl Source {
    /// Opens the files that exist now and finds where to begin. A log that does not exist yet is an empty one.
    pub fn open(path: &Path, options: ReadOptions) -> io::Result<Source> {
        let mut files = open_all(path)?;
        if let Some(tail) = options.tail {
            seek_tail(&mut files, tail)?;
        }
        let mut queue: VecDeque<File> = files.into();
        let current = queue.pop_front();
        Ok(Source {
            path: path.to_path_buf(),
            options,
            queue,
            current,
            pending: Vec::new(),
            last_ns: i64::MIN,
            met_until_ns: i64::MIN,
        })
    }

    /// Reads the next chunk.
    pub fn read(&mut self) -> io::Result<Batch> {
        let mut batch = Batch { entries: Vec::new(), at_end: false, past_until: false };
        while batch.entries.is_empty() && !batch.at_end && !batch.past_until {
            if self.read_chunk(&mut batch)? == 0 {
                batch.at_end = !self.advance(&mut batch)?;
            }
        }
        Ok(batch)
    }

    fn read_chunk(&mut self, batch: &mut Batch) -> io::Result<usize> {
        let Some(file) = &mut self.current else { return Ok(0) };
        let begin = self.pending.len();
        self.pending.resize(begin + CHUNK, 0);
        let read = file.read(&mut self.pending[begin..]);
        self.pending.truncate(begin + read.as_ref().copied().unwrap_or(0));
        let read = read?;
        self.take_lines(batch);
        Ok(read)
    }

    fn take_lines(&mut self, batch: &mut Batch) {
        let mut begin = 0;
        while let Some(len) = self.pending[begin..].iter().position(|byte| *byte == b'\n') {
            let entry = Entry::parse(&self.pending[begin..begin + len]);
            begin += len + 1;
            let Some(entry) = entry else { continue };
            self.last_ns = self.last_ns.max(entry.time_ns);
            if self.options.until_ns.is_some_and(|until| entry.time_ns > until) {
                batch.past_until = true;
                break;
            }
            if self.wanted(&entry) {
                batch.entries.push(entry);
            }
        }
        self.pending.drain(..begin);
        if self.pending.len() > MAX_LINE {
            self.pending.clear();
        }
    }

    fn wanted(&self, entry: &Entry) -> bool {
        let stream = match entry.stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        };
        stream && entry.time_ns > self.met_until_ns && self.options.since_ns.is_none_or(|since| entry.time_ns >= since)
    }

    /// Moves on to the next newer file; false when the current one is the newest.
    fn advance(&mut self, batch: &mut Batch) -> io::Result<bool> {
        if let Some(next) = self.queue.pop_front() {
            self.switch(next);
            return Ok(true);
        }
        if !self.options.follow {
            return Ok(false);
        }
        let Some(current) = &self.current else {
            self.current = open_if_there(&self.path)?;
            return Ok(self.current.is_some());
        };
        let Some((next, found_by_time)) = successor(&self.path, current, self.last_ns)? else { return Ok(false) };
        // The shim renames before it writes to the new file, so what the old one holds now is all that it will ever hold.
        while self.read_chunk(batch)? > 0 {}
        if found_by_time {
            self.met_until_ns = self.last_ns;
        }
        self.switch(next);
        Ok(true)
    }

    fn switch(&mut self, next: File) {
        self.pending.clear();
        self.current = Some(next);
    }
}

/// `path` itself and every `path.N` that exists, newest first.
pub(super) fn all_paths(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for number in 0.. {
        let path = numbered(path, number);
        let zipped = Some(zipped(&path)).filter(|zipped| number > 0 && zipped.exists());
        found.extend(zipped.clone());
        match fs::symlink_metadata(&path) {
            Ok(_) => found.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && zipped.is_some() => {}
            // The newest may be missing for a moment in the middle of a rotation.
            Err(error) if error.kind() == io::ErrorKind::NotFound && number < 2 => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_path_buf();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn zipped(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".gz");
    PathBuf::from(name)
}

/// The file of a number, in whichever form it is there. A compressed one is unpacked into a file without a name beside it.
fn open_number(path: &Path, number: u32) -> io::Result<Option<File>> {
    let plain = numbered(path, number);
    for _ in 0..3 {
        if let Some(file) = open_if_there(&plain)? {
            return Ok(Some(file));
        }
        // The shim removes the plain one only when the other is there: between the two looks it may have been moved on.
        if number > 0
            && let Some(file) = open_if_there(&zipped(&plain))?
        {
            return match unpack(&file, path) {
                Err(error) if is_torn(&error) => {
                    warn!(log = %plain.display(), %error, "a compressed log file is damaged and left out");
                    Ok(None)
                }
                unpacked => unpacked.map(Some),
            };
        }
    }
    Ok(None)
}

fn unpack(file: &File, path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut plain = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut plain)?;
    plain.seek(SeekFrom::Start(0))?;
    Ok(plain)
}

/// The bytes are no whole gzip file.
fn is_torn(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|meta| (meta.dev(), meta.ino()))
}

/// All files, oldest first. Files only ever move to higher numbers, so going up misses none; one met twice is kept once.
fn open_all(path: &Path) -> io::Result<Vec<File>> {
    let mut files: Vec<File> = Vec::new();
    let mut missing = 0;
    for number in 0.. {
        let Some(file) = open_number(path, number)? else {
            missing += 1;
            if missing > 1 {
                break;
            }
            continue;
        };
        if !met_before(&files, &file)? {
            files.push(file);
        }
    }
    files.reverse();
    Ok(files)
}

/// Whether a file is among those, as itself or, compressed meanwhile, as one of the same bytes at both ends.
fn met_before(files: &[File], file: &File) -> io::Result<bool> {
    let (id, ends) = (identity(file)?, ends(file)?);
    for known in files {
        if identity(known)? == id || (ends.0 > 0 && self::ends(known)? == ends) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Length, and the first and last bytes: a time among them.
fn ends(file: &File) -> io::Result<(u64, Vec<u8>)> {
    let len = file.metadata()?.len();
    let part = len.min(96) as usize;
    let mut bytes = vec![0; part * 2];
    file.read_exact_at(&mut bytes[..part], 0)?;
    file.read_exact_at(&mut bytes[part..], len - part as u64)?;
    Ok((len, bytes))
}

/// Time of the last entry of a file; none in an empty one.
fn last_time(file: &File) -> io::Result<Option<i64>> {
    let (offset, _) = offset_of_tail(file, 1)?;
    let mut line = vec![0; (file.metadata()?.len() - offset).min(MAX_LINE as u64) as usize];
    file.read_exact_at(&mut line, offset)?;
    Ok(Entry::parse(line.strip_suffix(b"\n").unwrap_or(&line)).map(|entry| entry.time_ns))
}

/// The oldest file that has an entry later than this time.
fn after(path: &Path, time_ns: i64) -> io::Result<Option<File>> {
    for file in open_all(path)? {
        if last_time(&file)?.is_none_or(|last| last > time_ns) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The file that was begun after `current` was rotated away; `None` while it is still the newest or a rotation is half done
/// (its last step, making the new file, wakes the follower again).
fn successor(path: &Path, current: &File, last_ns: i64) -> io::Result<Option<(File, bool)>> {
    let id = identity(current)?;
    for _ in 0..100 {
        match number_of(path, id)? {
            Some(0) => return Ok(None),
            Some(number) => {
                let next = open_number(path, number - 1)?;
                // Ours unmoved: what was opened in front of it is its true successor.
                if number_of(path, id)? == Some(number) {
                    return Ok(next.map(|next| (next, false)));
                }
            }
            // Compressed, or rotated out of existence: the oldest that is left and has something later is the nearest.
            None => return Ok(after(path, last_ns)?.map(|next| (next, true))),
        }
    }
    Ok(None)
}

fn number_of(path: &Path, id: (u64, u64)) -> io::Result<Option<u32>> {
    let mut missing = 0;
    for number in 0.. {
        match fs::symlink_metadata(numbered(path, number)) {
            Ok(meta) if (meta.dev(), meta.ino()) == id => return Ok(Some(number)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing += 1,
            Err(error) => return Err(error),
        }
        if missing > 1 {
            break;
        }
    }
    Ok(None)
}

/// Positions `files` (oldest first) so that about `tail` lines follow; files that hold none of them are dropped.
fn seek_tail(files: &mut Vec<File>, tail: usize) -> io::Result<()> {
    let mut wanted = tail;
    for index in (0..files.len()).rev() {
        let (offset, found) = offset_of_tail(&files[index], wanted)?;
        files[index].seek(SeekFrom::Start(offset))?;
        wanted -= found;
        if wanted == 0 {
            files.drain(..index);
            break;
        }
    }
    Ok(())
}

/// Where the last `wanted` whole lines of a file begin, and how many there are (at most `wanted`).
fn offset_of_tail(file: &File, wanted: usize) -> io::Result<(u64, usize)> {
    let len = file.metadata()?.len();
    let mut block = vec![0; CHUNK];
    let mut end = len;
    // Newlines met so far, going backwards; the one that ends the line before the wanted ones is one more than wanted.
    let mut newlines = 0;
    while end > 0 {
        let begin = end.saturating_sub(CHUNK as u64);
        let part = &mut block[..(end - begin) as usize];
        file.read_exact_at(part, begin)?;
        for at in (0..part.len()).rev().filter(|at| part[*at] == b'\n') {
            if newlines == wanted {
                return Ok((begin + at as u64 + 1, wanted));
            }
            newlines += 1;
        }
        end = begin;
    }
    Ok((0, newlines))
}
