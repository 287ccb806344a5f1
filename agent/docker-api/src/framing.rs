//! Docker's stream framing: eight bytes of header before each piece of output, so that stdout and stderr share a connection.
//!
//! Byte 0 is the stream (0 stdin, 1 stdout, 2 stderr, 3 a message of the engine), bytes 1 to 3 are zero, bytes 4 to 7 are
//! the length, big endian. Containers with a terminal have one stream and no frames.

use bytes::{BufMut, BytesMut};
use muster_calls::{LogChunk, StdStream};
use std::fmt::Write as _;

/// Whether output is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Multiplexed,
    Raw,
}

impl Framing {
    pub const fn of(tty: bool) -> Self {
        if tty { Self::Raw } else { Self::Multiplexed }
    }
}

/// Appends one piece of output. Pieces beyond what a frame can hold (4 GiB) become several frames.
pub(crate) fn put(out: &mut BytesMut, framing: Framing, stream: StdStream, data: &[u8]) {
    if framing == Framing::Raw {
        out.extend_from_slice(data);
        return;
    }
    for part in data.chunks(u32::MAX as usize) {
        out.reserve(8 + part.len());
        out.put_u8(stream as u8);
        out.put_bytes(0, 3);
        out.put_u32(part.len() as u32);
        out.extend_from_slice(part);
    }
}

/// Appends a message of the engine about the stream itself; streams without frames have no place for it.
pub(crate) fn put_error(out: &mut BytesMut, framing: Framing, message: &str) {
    if framing == Framing::Multiplexed {
        put(out, framing, StdStream::System, message.as_bytes());
    }
}

/// What is put before each line of a log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinePrefix {
    /// RFC 3339 with nine digits and a blank.
    pub timestamps: bool,
    /// `key=value,key=value` and a blank, in the order of keys.
    pub details: bool,
}

/// Appends one line of a log with its prefixes.
pub(crate) fn put_line(out: &mut BytesMut, framing: Framing, prefix: LinePrefix, line: &LogChunk) {
    if !prefix.timestamps && !prefix.details {
        return put(out, framing, line.stream, &line.data);
    }
    let mut text = String::new();
    if prefix.timestamps {
        write_time(&mut text, line.time);
    }
    if prefix.details {
        write_details(&mut text, &line.attrs);
    }
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&line.data);
    put(out, framing, line.stream, &bytes);
}

fn write_time(out: &mut String, time: muster_model::Timestamp) {
    let whole = muster_model::Timestamp(time.0.saturating_sub(time.subsec_nanos().into()));
    // The zero time has a text of its own; a line is never from then.
    let text = whole.to_rfc3339();
    let _ = write!(out, "{}.{:09}Z ", text.trim_end_matches('Z'), time.subsec_nanos());
}

fn write_details(out: &mut String, attrs: &[(String, String)]) {
    let escape = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut pairs: Vec<String> = attrs.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect();
    pairs.sort();
    out.push_str(&pairs.join(","));
    out.push(' ');
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use muster_model::Timestamp;

    #[test]
    fn a_frame_is_stream_zeros_length_payload() {
        let mut out = BytesMut::new();
        put(&mut out, Framing::Multiplexed, StdStream::Stderr, b"err\n");
        assert_eq!(&out[..], b"\x02\x00\x00\x00\x00\x00\x00\x04err\n");
    }

    #[test]
    fn a_terminal_has_no_frames_and_no_place_for_messages() {
        let mut out = BytesMut::new();
        put(&mut out, Framing::Raw, StdStream::Stdout, b"x");
        put_error(&mut out, Framing::Raw, "lost");
        assert_eq!(&out[..], b"x");
    }

    #[test]
    fn prefixes_stand_inside_of_the_frame_time_first() {
        let line = LogChunk {
            stream: StdStream::Stdout,
            time: Timestamp(1_500_000_000),
            data: Bytes::from_static(b"hi\n"),
            attrs: vec![("b".into(), "x y".into()), ("a".into(), "1".into())],
        };
        let mut out = BytesMut::new();
        put_line(&mut out, Framing::Raw, LinePrefix { timestamps: true, details: true }, &line);
        assert_eq!(&out[..], b"1970-01-01T00:00:01.500000000Z a=1,b=x+y hi\n");
    }

    #[test]
    fn frames_can_be_taken_apart_again_whatever_they_hold() {
        let pieces: Vec<(u8, Vec<u8>)> =
            (0..200u32).map(|i| ((i % 3) as u8, vec![i as u8; (i * i % 977) as usize])).collect();
        let mut out = BytesMut::new();
        for (stream, data) in &pieces {
            let stream = [StdStream::Stdin, StdStream::Stdout, StdStream::Stderr][usize::from(*stream)];
            put(&mut out, Framing::Multiplexed, stream, data);
        }
        let (mut rest, mut seen) = (&out[..], Vec::new());
        while let [stream, 0, 0, 0, a, b, c, d, tail @ ..] = rest {
            let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            seen.push((*stream, tail[..len].to_vec()));
            rest = &tail[len..];
        }
        // Empty pieces have no frame: a frame of length 0 means nothing to a client.
        let expected: Vec<_> = pieces.into_iter().filter(|(_, data)| !data.is_empty()).collect();
        assert_eq!((seen, rest.len()), (expected, 0));
    }
}
