//! One line of a log file.

use bytes::Bytes;
use muster_shim::clock;
use serde::Deserialize;
use std::borrow::Cow;

/// Where an entry came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One logged line, or a piece of one that was longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When the shim read it, in nanoseconds since 1970.
    pub time_ns: i64,
    /// Which stream it was written to.
    pub stream: Stream,
    /// The text with its newline; without one it is a piece, and the next entry of the stream continues it.
    pub line: Bytes,
}

impl Entry {
    /// Whether the next entry of the same stream continues this line.
    pub fn is_partial(&self) -> bool {
        !self.line.ends_with(b"\n")
    }

    /// Reads one line of the file, without its newline. `None` when it is no entry (cut by a crash, foreign).
    pub fn parse(line: &[u8]) -> Option<Entry> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow, default)]
            log: Cow<'a, str>,
            #[serde(borrow, default)]
            stream: Cow<'a, str>,
            #[serde(borrow)]
            time: Cow<'a, str>,
        }
        let raw: Raw = serde_json::from_slice(line).ok()?;
        let stream = if raw.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
        Some(Entry { time_ns: clock::parse(&raw.time)?, stream, line: Bytes::from(raw.log.into_owned().into_bytes()) })
    }
}
