//! The files of one log, read in order; blocking, driven by [`super::follow`] on a blocking thread.
//!
//! What comes after what is a matter of files and of places in them, never of the times in the lines: the host's clock may have
//! been set back.

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
/// Files behind us that are known again: enough that one of them is left when the last few are damaged.
const PASSED: usize = 64;

/// What a file is known again by, also when it has been compressed: its length, and its first and last bytes, with times among
/// them.
type Ends = (u64, Vec<u8>);

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
    /// The files before the current one, oldest first, as far as a follower may have to know them again.
    passed: VecDeque<Ends>,
    /// An entry at or after `since` was met: all that stand behind it are wanted.
    begun: bool,
}

impl Source {
    /// Opens the files that exist now and finds where to begin. A log that does not exist yet is an empty one.
    pub fn open(path: &Path, options: ReadOptions) -> io::Result<Source> {
        let mut files = open_all(path)?;
        let mut passed = VecDeque::new();
        if let Some(tail) = options.tail {
            let skipped = seek_tail(&mut files, tail)?;
            passed.extend(skipped.iter().map(ends).collect::<io::Result<Vec<_>>>()?);
        }
        let mut queue: VecDeque<File> = files.into();
        let current = queue.pop_front();
        Ok(Source { path: path.to_path_buf(), options, queue, current, pending: Vec::new(), passed, begun: false })
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

    fn wanted(&mut self, entry: &Entry) -> bool {
        self.begun |= self.options.since_ns.is_none_or(|since| entry.time_ns >= since);
        let stream = match entry.stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        };
        stream && self.begun
    }

    /// Moves on to the next newer file; false when the current one is the newest.
    fn advance(&mut self, batch: &mut Batch) -> io::Result<bool> {
        if let Some(next) = self.queue.pop_front() {
            self.switch(next)?;
            return Ok(true);
        }
        if !self.options.follow {
            return Ok(false);
        }
        let Some(current) = &self.current else {
            self.current = open_if_there(&self.path)?;
            return Ok(self.current.is_some());
        };
        let Some(next) = successor(&self.path, current, &self.passed)? else { return Ok(false) };
        // The shim renames before it writes to the new file, so what the old one holds now is all that it will ever hold.
        while self.read_chunk(batch)? > 0 {}
        self.switch(next)?;
        Ok(true)
    }

    fn switch(&mut self, next: File) -> io::Result<()> {
        self.pending.clear();
        let old = self.current.replace(next);
        if let Some(old) = old.filter(|_| self.options.follow) {
            self.passed.push_back(ends(&old)?);
        }
        while self.passed.len() > PASSED {
            self.passed.pop_front();
        }
        Ok(())
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

fn ends(file: &File) -> io::Result<Ends> {
    let len = file.metadata()?.len();
    let part = len.min(96) as usize;
    let mut bytes = vec![0; part * 2];
    file.read_exact_at(&mut bytes[..part], 0)?;
    file.read_exact_at(&mut bytes[part..], len - part as u64)?;
    Ok((len, bytes))
}

/// The file behind the newest of those that are known: `current`, or where that is damaged one of those before it. Where none of
/// them is left, all that is left is newer.
fn behind(path: &Path, current: &File, passed: &VecDeque<Ends>) -> io::Result<Option<File>> {
    let mut files = open_all(path)?;
    let there: Vec<Ends> = files.iter().map(ends).collect::<io::Result<_>>()?;
    let own = ends(current)?;
    let known = std::iter::once(&own).chain(passed.iter().rev()).filter(|ends| ends.0 > 0);
    let newest = known.filter_map(|known| there.iter().rposition(|ends| ends == known)).next();
    let next = newest.map_or(0, |at| at + 1);
    Ok((next < files.len()).then(|| files.swap_remove(next)))
}

/// The file that was begun after `current` was rotated away; `None` while it is still the newest or a rotation is half done
/// (its last step, making the new file, wakes the follower again).
fn successor(path: &Path, current: &File, passed: &VecDeque<Ends>) -> io::Result<Option<File>> {
    let id = identity(current)?;
    for _ in 0..100 {
        match number_of(path, id)? {
            Some(0) => return Ok(None),
            Some(number) => {
                let next = open_number(path, number - 1)?;
                // Ours unmoved: what was opened in front of it is its true successor.
                if number_of(path, id)? == Some(number) {
                    return Ok(next);
                }
            }
            // Compressed, or rotated out of existence.
            None => return behind(path, current, passed),
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

/// Positions `files` (oldest first) so that about `tail` lines follow; files that hold none of them are taken out, and answered.
fn seek_tail(files: &mut Vec<File>, tail: usize) -> io::Result<Vec<File>> {
    let mut wanted = tail;
    for index in (0..files.len()).rev() {
        let (offset, found) = offset_of_tail(&files[index], wanted)?;
        files[index].seek(SeekFrom::Start(offset))?;
        wanted -= found;
        if wanted == 0 {
            return Ok(files.drain(..index).collect());
        }
    }
    Ok(Vec::new())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const SECOND: i64 = 1_000_000_000;

    fn line(text: &str, second: i64) -> String {
        let time = muster_shim::clock::format(second * SECOND);
        let time = String::from_utf8_lossy(&time);
        format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n")
    }

    /// A log as the shim keeps it: `write` adds a line, `rotate` begins a new file and compresses the old one.
    struct Log(PathBuf);

    impl Log {
        fn write(&self, text: &str, second: i64) {
            let mut file = File::options().create(true).append(true).open(&self.0).expect("open");
            file.write_all(line(text, second).as_bytes()).expect("write");
        }

        fn rotate(&self, keep: u32, compress: bool) {
            for number in (0..keep).rev() {
                let (from, to) = (numbered(&self.0, number), numbered(&self.0, number + 1));
                let _ = fs::rename(&from, &to);
                let _ = fs::rename(zipped(&from), zipped(&to));
            }
            let _ = fs::remove_file(numbered(&self.0, keep));
            let _ = fs::remove_file(zipped(&numbered(&self.0, keep)));
            if compress {
                let plain = numbered(&self.0, 1);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&fs::read(&plain).expect("read")).expect("to memory");
                fs::write(zipped(&plain), encoder.finish().expect("to memory")).expect("write");
                fs::remove_file(plain).expect("remove");
            }
        }
    }

    fn read(source: &mut Source) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let batch = source.read().expect("read");
            all.extend(batch.entries.iter().map(|e| String::from_utf8_lossy(&e.line).trim_end().to_owned()));
            if batch.at_end {
                return all;
            }
        }
    }

    fn follow(log: &Log, options: ReadOptions) -> Source {
        Source::open(&log.0, ReadOptions { follow: true, ..options }).expect("open")
    }

    #[test]
    fn a_follower_behind_compressed_files_reads_on_when_the_clock_was_set_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = Log(dir.path().join("c-json.log"));
        log.write("one", 10_000);
        let mut source = follow(&log, ReadOptions::default());
        assert_eq!(read(&mut source), ["one"]);
        log.write("two", 10_001);
        // An hour back: all that comes now is earlier than what was.
        log.rotate(9, true);
        log.write("three", 6_400);
        assert_eq!(read(&mut source), ["two", "three"]);
        log.rotate(9, true);
        log.write("four", 6_399);
        log.rotate(9, true);
        log.write("five", 6_398);
        assert_eq!(read(&mut source), ["four", "five"]);
        assert_eq!(read(&mut source), [""; 0]);
        assert_eq!(read(&mut follow(&log, ReadOptions::default())), ["one", "two", "three", "four", "five"]);
    }

    #[test]
    fn a_follower_whose_file_was_rotated_out_goes_on_with_the_oldest_that_is_left() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = Log(dir.path().join("c-json.log"));
        log.write("one", 10_000);
        let mut source = follow(&log, ReadOptions::default());
        assert_eq!(read(&mut source), ["one"]);
        for (n, text) in ["lost", "lost too", "three", "four"].into_iter().enumerate() {
            log.rotate(2, n % 2 == 0);
            log.write(text, 6_400 - n as i64);
        }
        assert_eq!(read(&mut source), ["three", "four"]);
    }

    #[test]
    fn nothing_is_read_twice_where_the_own_file_is_damaged_by_its_compression() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = Log(dir.path().join("c-json.log"));
        for (text, second) in [("old", 10_000), ("one", 10_001)] {
            log.write(text, second);
            log.rotate(9, true);
        }
        log.write("two", 10_002);
        let mut source = follow(&log, ReadOptions { tail: Some(2), ..ReadOptions::default() });
        assert_eq!(read(&mut source), ["one", "two"]);
        log.rotate(9, true);
        fs::write(zipped(&numbered(&log.0, 1)), "no gzip file").expect("write");
        log.write("three", 6_400);
        assert_eq!(read(&mut source), ["three"]);
    }

    #[test]
    fn since_begins_at_a_time_and_goes_on_by_place() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = Log(dir.path().join("c-json.log"));
        log.write("before", 10_000);
        log.write("at", 10_005);
        log.write("set back", 6_400);
        let since = ReadOptions { since_ns: Some(10_005 * SECOND), ..ReadOptions::default() };
        assert_eq!(read(&mut follow(&log, since)), ["at", "set back"]);
    }
}
