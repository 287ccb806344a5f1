//! Reading a segment back, and telling a torn end from damage.

use crate::error::Error;
use crate::frame::{self, HEADER, HardState, Header, Record};
use crate::segment::{HEAD, Head};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What was found behind the last whole frame: a write that the crash cut short. It was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub path: PathBuf,
    pub offset: u64,
}

/// One frame as read.
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) hard: HardState,
    pub(crate) records: Vec<Record>,
}

/// Walks a segment's frames in order.
pub(crate) struct Scan<'a> {
    file: &'a File,
    path: &'a Path,
    salt: u64,
    length: u64,
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
}

impl<'a> Scan<'a> {
    /// `end`: where the next segment says that the frames of this one end; `None` for the last segment.
    pub(crate) fn new(file: &'a File, path: &'a Path, head: &Head, end: Option<u64>) -> Result<Self, Error> {
        let length = file.metadata().map_err(|e| Error::io("look at", path, e))?.len();
        if let Some(end) = end
            && (end > length || end < HEAD as u64)
        {
            let what = format!("{length} bytes long, but the next segment knows of {end}");
            return Err(Error::damaged(path, length.min(end), what));
        }
        let length = end.unwrap_or(length);
        Ok(Self { file, path, salt: head.salt, length, offset: HEAD as u64, sequence: head.sequence })
    }

    /// The next whole frame, or `None` where there is none.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Error> {
        let Some(header) = self.header_at(self.offset)? else { return Ok(None) };
        let body_at = self.offset + HEADER as u64;
        if header.sequence != self.sequence || body_at + u64::from(header.length) > self.length {
            return Ok(None);
        }
        let mut body = vec![0; header.length as usize];
        self.file.read_exact_at(&mut body, body_at).map_err(|e| Error::io("read", self.path, e))?;
        if crc32c::crc32c(&body) != header.crc {
            return Ok(None);
        }
        let Some((hard, records)) = frame::decode(&body, header.count) else {
            return Err(Error::damaged(self.path, self.offset, "a frame's lengths do not add up"));
        };
        let frame = Frame { offset: self.offset, hard, records };
        self.offset = frame::align(body_at + u64::from(header.length));
        self.sequence += 1;
        Ok(Some(frame))
    }

    /// The end of a segment that has a successor: nothing may be missing.
    pub(crate) fn expect_end(&self) -> Result<(), Error> {
        if self.offset == self.length {
            return Ok(());
        }
        let what = format!("no whole frame {} here, though frames went on to offset {}", self.sequence, self.length);
        Err(Error::damaged(self.path, self.offset, what))
    }

    /// The end of the last segment: is there waste behind it, and is it waste? A later frame was only ever written after
    /// this one was durable, so if there is one, this one is damaged and not torn.
    pub(crate) fn inspect_tail(&self) -> Result<Option<TornTail>, Error> {
        const CHUNK: usize = 256 << 10;
        let mut torn = None;
        let mut buffer = vec![0; CHUNK + HEADER];
        let mut at = self.offset;
        while at < self.length {
            let n = read_up_to(self.file, &mut buffer, at).map_err(|e| Error::io("read", self.path, e))?;
            if n == 0 {
                break;
            }
            if torn.is_none() && buffer[..n].iter().any(|b| *b != 0) {
                torn = Some(TornTail { path: self.path.to_owned(), offset: self.offset });
            }
            self.look_for_later(&buffer[..n], at)?;
            at += CHUNK as u64;
        }
        Ok(torn)
    }

    fn look_for_later(&self, chunk: &[u8], at: u64) -> Result<(), Error> {
        let salt = self.salt.to_le_bytes();
        for (step, window) in chunk.windows(HEADER).step_by(8).enumerate() {
            if window[..8] != salt {
                continue;
            }
            let window: &[u8; HEADER] = window.try_into().expect("windows have the size that was asked for");
            let Some(header) = Header::from_bytes(window, self.salt) else { continue };
            if header.sequence > self.sequence {
                let later = at + step as u64 * 8;
                let what =
                    format!("frame {} is damaged; frame {} follows at offset {later}", self.sequence, header.sequence);
                return Err(Error::damaged(self.path, self.offset, what));
            }
        }
        Ok(())
    }

    fn header_at(&self, offset: u64) -> Result<Option<Header>, Error> {
        if offset + HEADER as u64 > self.length {
            return Ok(None);
        }
        let mut bytes = [0; HEADER];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(Header::from_bytes(&bytes, self.salt)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(Error::io("read", self.path, e)),
        }
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read_at(&mut buffer[n..], at + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}
