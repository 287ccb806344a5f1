//! The log file: Docker's `json-file` lines, and their rotation.
//!
//! A full disk or a lost folder must not stop the container: what cannot be written is dropped, and each new chunk is another
//! try. The file is not fsynced, as Docker's is not: a power cut may cost the last lines, never the files' form.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use muster_shim::clock;

use crate::compress::zipped;

/// Bytes gathered before a write.
const FLUSH: usize = 64 * 1024;

/// When a new file is begun, and what becomes of the old ones.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Bytes; none for no bound.
    pub max_size: Option<u64>,
    /// Files kept, the current one included; at least 1.
    pub max_file: u32,
    /// All but the current one are compressed.
    pub compress: bool,
}

/// One container's log.
pub struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Rotation,
    /// At work on the file that was rotated away last.
    compressor: Option<Child>,
    buffer: Vec<u8>,
    times: clock::Unique,
    /// The file may end within a line: begin with a newline.
    torn: bool,
    /// A failure has been reported and nothing was written since: the report itself must not fill a disk.
    failing: bool,
}

impl Log {
    /// Opens the log for appending; a line that a crash cut off is ended first.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Log> {
        let (file, size, torn) = open(path)?;
        let (path, buffer, times) = (path.to_path_buf(), Vec::new(), clock::Unique::new());
        Ok(Log { path, file, size, rotation, compressor: None, buffer, times, torn, failing: false })
    }

    /// Opens the file by its name again.
    pub fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.size, self.torn) = open(&self.path)?;
        Ok(())
    }

    /// Adds one entry that came at a time, in nanoseconds since 1970; [`Log::flush`] writes it.
    pub fn entry(&mut self, stderr: bool, line: &[u8], now_ns: i64) {
        if self.rotation.max_size.is_some_and(|max| self.size + self.buffer.len() as u64 >= max) {
            self.flush();
            self.rotate();
        }
        self.buffer.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.buffer, line);
        self.buffer.extend_from_slice(if stderr { b"\",\"stream\":\"stderr" } else { b"\",\"stream\":\"stdout" });
        self.buffer.extend_from_slice(b"\",\"time\":\"");
        self.buffer.extend_from_slice(self.times.at(now_ns));
        self.buffer.extend_from_slice(b"\"}\n");
        if self.buffer.len() >= FLUSH {
            self.flush();
        }
    }

    /// Writes what was added.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.torn {
            self.buffer.insert(0, b'\n');
        }
        match self.file.write_all(&self.buffer) {
            Ok(()) => {
                self.size += self.buffer.len() as u64;
                (self.torn, self.failing) = (false, false);
            }
            Err(error) => {
                self.complain(error);
                self.size = self.file.metadata().map_or(self.size, |meta| meta.len());
                self.torn = true;
            }
        }
        self.buffer.clear();
    }

    /// Begins a new file: `path.1` becomes `path.2` and so on, oldest first, so that a reader who looks from the newest up
    /// never misses one; nothing is written to the old file after its rename.
    fn rotate(&mut self) {
        // Names must not move under the compressor: a rotation that comes so soon waits for it, and the container with it.
        if let Some(mut compressor) = self.compressor.take() {
            let _ = compressor.wait(); // The loop may have reaped it.
        }
        match self.make_room().and_then(|()| self.reopen()) {
            Ok(()) => self.compress(),
            Err(error) => {
                // The old file goes on; the next try is as many bytes away as a full file.
                self.complain(error);
                self.size = 0;
            }
        }
    }

    fn make_room(&self) -> io::Result<()> {
        let oldest = self.rotation.max_file - 1;
        let file = |number| numbered(&self.path, number);
        if oldest == 0 {
            return unless_missing(fs::remove_file(&self.path));
        }
        // Of each number one form is there; neither may stay beside what takes its place.
        unless_missing(fs::remove_file(zipped(&file(oldest))))?;
        if zipped(&file(oldest - 1)).exists() {
            unless_missing(fs::remove_file(file(oldest)))?;
        }
        for number in (0..oldest).rev() {
            unless_missing(fs::rename(file(number), file(number + 1)))?;
            unless_missing(fs::rename(zipped(&file(number)), zipped(&file(number + 1))))?;
        }
        Ok(())
    }

    fn compress(&mut self) {
        if !self.rotation.compress || self.rotation.max_file < 2 {
            return;
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg("compress").arg(numbered(&self.path, 1)).stdin(Stdio::null()).stdout(Stdio::null());
        match command.spawn() {
            Ok(child) => self.compressor = Some(child),
            Err(error) => self.complain(error),
        }
    }

    fn complain(&mut self, error: io::Error) {
        if !self.failing {
            eprintln!("muster-shim: log {}: {error}", self.path.display());
        }
        self.failing = true;
    }
}

fn open(path: &Path) -> io::Result<(File, u64, bool)> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options().create(true).append(true).read(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok((file, size, last != [b'\n']))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_path_buf();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Appends bytes as the inside of a JSON string (RFC 8259 section 7); what is no UTF-8 becomes U+FFFD.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    // The check of a whole text is many times faster than the walk over its valid parts.
    if std::str::from_utf8(bytes).is_ok() {
        return escape_text(out, bytes);
    }
    for chunk in bytes.utf8_chunks() {
        escape_text(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_text(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(at) = text.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\' | 0x7f)) {
        out.extend_from_slice(&text[..at]);
        match text[at] {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)]);
            }
        }
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_escaped_into_valid_json() {
        let mut out = Vec::new();
        escape(&mut out, b"a\"\\\n\t\x01\x7f\xffz");
        assert_eq!(String::from_utf8(out).expect("UTF-8"), "a\\\"\\\\\\n\\t\\u0001\\u007f\u{fffd}z");
    }
}
