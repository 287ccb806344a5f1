//! Reading layers and archives whatever they are compressed with, and no further than allowed.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

/// Largest zstd window accepted, as a power of two: 128 MiB, what the `zstd` program accepts without being told to.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Bytes read ahead of a decoder.
const BUFFER: usize = 128 << 10;

/// The error inside of an [`io::Error`] when more than the allowed bytes came out.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes after decompression")]
pub(crate) struct LimitExceeded(pub(crate) u64);

/// The plain bytes of `reader`: gzip, zstd and uncompressed data are told apart by their first bytes.
///
/// # Errors
/// [`Error::Unsupported`] for other compressions, by name. Reading fails beyond `limit` bytes.
pub(crate) fn decoder<'a, R: Read + Send + 'a>(reader: R, limit: u64) -> Result<Box<dyn Read + Send + 'a>> {
    let mut reader = reader;
    let start = peek(&mut reader).map_err(|source| io_error("read", source))?;
    let reader = BufReader::with_capacity(BUFFER, io::Cursor::new(start.clone()).chain(reader));
    let plain: Box<dyn Read + Send + 'a> = match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(reader).map_err(|e| io_error("start zstd for", e))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|e| io_error("start zstd for", e))?;
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(Error::Unsupported("xz compression".into())),
        [b'B', b'Z', b'h', ..] => return Err(Error::Unsupported("bzip2 compression".into())),
        _ => Box::new(reader),
    };
    Ok(Box::new(Limited { inner: plain, left: limit, limit }))
}

/// The first six bytes; fewer only at the end of the input.
fn peek<R: Read>(reader: &mut R) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(6);
    reader.by_ref().take(6).read_to_end(&mut start)?;
    Ok(start)
}

fn io_error(act: &'static str, source: io::Error) -> Error {
    Error::Io { act, path: "a compressed stream".into(), source }
}

struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            // The zstd decoder takes an empty buffer for a lack of progress.
            return Ok(0);
        }
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(LimitExceeded(self.limit)))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn read(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        decoder(bytes, limit).map_err(io::Error::other)?.read_to_end(&mut plain).map(|_| plain)
    }

    #[test]
    fn every_supported_compression_gives_the_same_bytes() {
        let plain = vec![7_u8; 100_000];
        let zstd = zstd::encode_all(&plain[..], 1).unwrap_or_else(|error| panic!("{error}"));
        for packed in [plain.clone(), gzip(&plain), zstd, [gzip(&plain[..10]), gzip(&plain[10..])].concat()] {
            assert_eq!(read(&packed, 100_000).ok().as_ref(), Some(&plain));
        }
        assert_eq!(read(b"", 0).ok(), Some(Vec::new()));
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let error = read(&gzip(&vec![0; 10 << 20]), 1 << 20).err().unwrap_or_else(|| panic!("10 MiB passed"));
        assert!(error.get_ref().is_some_and(|inner| inner.is::<LimitExceeded>()), "{error}");
    }

    #[test]
    fn other_compressions_are_refused_by_name() {
        let error = decoder(&b"\xfd7zXZ\0rest"[..], 1).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("xz compression is not supported"));
    }
}
