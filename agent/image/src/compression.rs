//! Reading layers and archives whatever they are compressed with, and no further than allowed.

use std::io::{self, BufReader, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use crate::{Error, Result};

/// Largest zstd window accepted, as a power of two: 128 MiB, what the `zstd` program accepts without being told to.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Most bytes an xz stream may need to be decoded: that of `xz -9`, whose dictionary has 64 MiB, with room to spare.
const XZ_MEMORY: u64 = 100 << 20;
/// Bytes read ahead of a decoder.
const BUFFER: usize = 128 << 10;

/// The error inside of an [`io::Error`] when more than the allowed bytes came out.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes after decompression")]
pub(crate) struct LimitExceeded(pub(crate) u64);

/// The plain bytes of `reader`: gzip, zstd, xz, bzip2 and uncompressed data are told apart by their first bytes.
///
/// # Errors
/// [`Error::Io`] when the first bytes cannot be read. Reading fails beyond `limit` bytes.
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
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream =
                Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED).map_err(|e| io_error("start xz for", e.into()))?;
            Box::new(XzDecoder::new_stream(reader, stream))
        }
        [b'B', b'Z', b'h', ..] => Box::new(MultiBzDecoder::new(reader)),
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
        let (mut xz, mut bzip2) = (Vec::new(), Vec::new());
        liblzma::read::XzEncoder::new(&plain[..], 1).read_to_end(&mut xz).unwrap_or_else(|error| panic!("{error}"));
        let mut encoder = bzip2::read::BzEncoder::new(&plain[..], bzip2::Compression::fast());
        encoder.read_to_end(&mut bzip2).unwrap_or_else(|error| panic!("{error}"));
        let two = [gzip(&plain[..10]), gzip(&plain[10..])].concat();
        for packed in [plain.clone(), gzip(&plain), zstd, two, xz, bzip2] {
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
    fn an_xz_stream_that_wants_much_memory_is_refused() {
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(&b"few bytes"[..], 0).read_to_end(&mut packed).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(read_all(&packed).ok(), Some(b"few bytes".to_vec()));
        // Its block header (xz file format, 3.1) made to ask for the largest dictionary, 4 GiB.
        let header = 12..12 + usize::from(packed[12]) * 4;
        let filter =
            packed[header.clone()].windows(2).position(|id| id == [0x21, 1]).unwrap_or_else(|| panic!("LZMA2"));
        packed[header.start + filter + 2] = 40;
        let mut crc = flate2::Crc::new();
        crc.update(&packed[header.clone()]);
        packed[header.end..header.end + 4].copy_from_slice(&crc.sum().to_le_bytes());
        assert!(read_all(&packed).is_err(), "it was decoded");
    }

    fn read_all(packed: &[u8]) -> io::Result<Vec<u8>> {
        read(packed, u64::MAX)
    }

    #[test]
    fn broken_streams_of_every_kind_are_errors() {
        for start in [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh9"] {
            assert!(read_all(&[start, b"nothing of the kind follows"].concat()).is_err(), "{start:?}");
        }
    }
}
