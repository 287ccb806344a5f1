//! The protocol on a shim's unix socket, version 1.
//!
//! A connection carries frames in both directions: one byte kind, three bytes zero, four bytes payload length (little
//! endian), payload of at most [`MAX_PAYLOAD`] bytes. All integers are little endian. The client's first frame is
//! [`HELLO`] with the range of versions that it speaks; the shim answers [`HELLO`] with the one it chose, or [`ERR`] and
//! closes. Requests may follow the first frame without waiting for the answer. Replies come in the order of the requests;
//! output of an attached connection may come between them.
//!
//! | kind | direction | payload |
//! |---|---|---|
//! | `HELLO` | to the shim | `MSHM`, u16 oldest version, u16 newest version |
//! | `HELLO` | from the shim | `MSHM`, u16 version |
//! | `STATUS` | to the shim | none; answer `STATE` |
//! | `START` | to the shim | none; answer `OK` with the pid, or `ERR` |
//! | `KILL` | to the shim | i32 signal; answer `OK` |
//! | `RESIZE` | to the shim | u16 columns, u16 rows; answer `OK` |
//! | `CLOSE_STDIN` | to the shim | none; answer `OK` |
//! | `REOPEN_LOG` | to the shim | none; answer `OK` |
//! | `WAIT` | to the shim | none; answer `EXIT`, when it has ended and its exit is on disk |
//! | `ATTACH` | to the shim | u8 flags; answer `OK`, then `STDOUT` and `STDERR` frames, then `EXIT` and end of stream |
//! | `STDIN` | to the shim | bytes, only after `ATTACH` with `ATTACH_STDIN`; no answer; the shim stops reading the connection while the process does not take them |
//! | `SHUTDOWN` | to the shim | none; `OK`, and the shim ends, if nothing runs under it; `ERR` otherwise |
//! | `OK` | from the shim | u32 value |
//! | `ERR` | from the shim | u32 [`ErrorCode`], UTF-8 text |
//! | `STATE` | from the shim | u8 [`Phase`], u32 pid |
//! | `EXIT` | from the shim | the text of an exit record, see [`crate::record`] |
//!
//! The same `OK` and `ERR` frames, without `HELLO`, come once on the shim's standard output when it has been started: that is
//! how the one who started it learns the pid of the container's init.

/// First bytes of both `HELLO` payloads.
pub const MAGIC: [u8; 4] = *b"MSHM";
/// Oldest version that this build speaks.
pub const OLDEST: u16 = 1;
/// Newest version that this build speaks.
pub const NEWEST: u16 = 1;
/// Bytes in a frame's header.
pub const HEADER: usize = 8;
/// Most bytes in a frame's payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;

pub const HELLO: u8 = 0x01;
pub const STATUS: u8 = 0x10;
pub const START: u8 = 0x11;
pub const KILL: u8 = 0x12;
pub const RESIZE: u8 = 0x13;
pub const CLOSE_STDIN: u8 = 0x14;
pub const REOPEN_LOG: u8 = 0x15;
pub const WAIT: u8 = 0x16;
pub const ATTACH: u8 = 0x17;
pub const STDIN: u8 = 0x18;
pub const SHUTDOWN: u8 = 0x19;
pub const OK: u8 = 0x82;
pub const ERR: u8 = 0x83;
pub const STATE: u8 = 0x90;
pub const STDOUT: u8 = 0x91;
pub const STDERR: u8 = 0x92;
pub const EXIT: u8 = 0x93;

/// `ATTACH` flag: send `STDOUT` frames (also a terminal's output).
pub const ATTACH_STDOUT: u8 = 1;
/// `ATTACH` flag: send `STDERR` frames.
pub const ATTACH_STDERR: u8 = 2;
/// `ATTACH` flag: take `STDIN` frames.
pub const ATTACH_STDIN: u8 = 4;
/// `ATTACH` flag: close the process's standard input when this connection ends its sending half (Docker's `StdinOnce`).
pub const ATTACH_STDIN_ONCE: u8 = 8;

/// Why the shim refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// The request makes no sense (unknown kind, short payload, wrong order).
    BadRequest = 1,
    /// The process has ended or has not been started.
    NotRunning = 2,
    /// It has no terminal.
    NoTty = 3,
    /// The OCI runtime refused; the text is its own last error.
    Runtime = 4,
    /// It has been started before.
    AlreadyStarted = 5,
    /// No common version.
    Version = 6,
    /// A system call of the shim failed; the text says which.
    System = 7,
    /// `SHUTDOWN` while something runs.
    Busy = 8,
}

impl ErrorCode {
    /// The code of a number on the wire.
    pub fn from_wire(code: u32) -> Option<ErrorCode> {
        use ErrorCode::*;
        [BadRequest, NotRunning, NoTty, Runtime, AlreadyStarted, Version, System, Busy]
            .into_iter()
            .find(|known| *known as u32 == code)
    }
}

/// What the process under the shim is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// An exec that has not been started, or a container whose runtime works on creating it.
    Preparing = 0,
    /// A container whose init waits for `START`.
    Created = 1,
    /// It runs (or is paused).
    Running = 2,
    /// It has ended; its output may still be draining.
    Ended = 3,
}

impl Phase {
    /// The phase of a number on the wire.
    pub fn from_wire(phase: u8) -> Option<Phase> {
        [Phase::Preparing, Phase::Created, Phase::Running, Phase::Ended].into_iter().find(|known| *known as u8 == phase)
    }
}

/// Appends a frame to `out`. The payload must not be longer than [`MAX_PAYLOAD`]; what is beyond is cut off (only texts of
/// errors can be that long).
pub fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    out.extend_from_slice(&header(kind, payload.len()));
    out.extend_from_slice(payload);
}

/// The header of a frame.
pub fn header(kind: u8, len: usize) -> [u8; HEADER] {
    let len = (len.min(MAX_PAYLOAD) as u32).to_le_bytes();
    [kind, 0, 0, 0, len[0], len[1], len[2], len[3]]
}

/// Appends an `ERR` frame.
pub fn put_error(out: &mut Vec<u8>, code: ErrorCode, text: &str) {
    let mut payload = (code as u32).to_le_bytes().to_vec();
    payload.extend_from_slice(text.as_bytes());
    put(out, ERR, &payload);
}

/// Appends the client's `HELLO`.
pub fn put_hello(out: &mut Vec<u8>) {
    let mut payload = MAGIC.to_vec();
    payload.extend_from_slice(&OLDEST.to_le_bytes());
    payload.extend_from_slice(&NEWEST.to_le_bytes());
    put(out, HELLO, &payload);
}

/// The version to speak with a client whose `HELLO` payload this is.
pub fn choose_version(hello: &[u8]) -> Option<u16> {
    let rest = hello.strip_prefix(&MAGIC)?;
    let (oldest, newest) = (u16_at(rest, 0)?, u16_at(rest, 2)?);
    let common = newest.min(NEWEST);
    (common >= oldest.max(OLDEST)).then_some(common)
}

/// A frame that cannot be: the connection is beyond repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The first frame of `bytes`: its kind, its payload's range, and where the next begins; `None` while it is incomplete.
///
/// # Errors
/// [`Malformed`] when the header promises more than [`MAX_PAYLOAD`] bytes.
pub fn parse(bytes: &[u8]) -> Result<Option<(u8, std::ops::Range<usize>)>, Malformed> {
    let Some(len) = u32_at(bytes, 4) else { return Ok(None) };
    let len = len as usize;
    if len > MAX_PAYLOAD {
        return Err(Malformed);
    }
    let end = HEADER + len;
    Ok((bytes.len() >= end).then_some((bytes[0], HEADER..end)))
}

/// The u16 at an offset.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The u32 at an offset.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_only_when_it_is_whole() {
        let mut bytes = Vec::new();
        put(&mut bytes, STDOUT, b"hello");
        put(&mut bytes, EXIT, b"");
        for cut in 0..HEADER + 5 {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let (kind, payload) = parse(&bytes).expect("well formed").expect("whole");
        assert_eq!((kind, &bytes[payload.clone()]), (STDOUT, &b"hello"[..]));
        assert_eq!(parse(&bytes[payload.end..]), Ok(Some((EXIT, HEADER..HEADER))));
    }

    #[test]
    fn a_header_that_promises_too_much_is_malformed() {
        assert_eq!(parse(&[STDIN, 0, 0, 0, 1, 0, 1, 0]), Err(Malformed));
    }

    #[test]
    fn the_newest_common_version_is_chosen_and_strangers_are_refused() {
        let hello = |oldest: u16, newest: u16| [&MAGIC[..], &oldest.to_le_bytes(), &newest.to_le_bytes()].concat();
        assert_eq!(choose_version(&hello(1, 9)), Some(1));
        assert_eq!(choose_version(&hello(2, 9)), None);
        assert_eq!(choose_version(b"GET / HTTP/1.1"), None);
    }
}
