//! The tar format, read one entry at a time: ustar, pax (POSIX.1-2001) and GNU long names, with bounds on all that is
//! held in memory. Sparse files are refused by name.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{Error, Result, shown};

const BLOCK: u64 = 512;
/// Most bytes of one long name or pax header. The kernel allows paths of 4 KiB and attributes of 64 KiB.
const MAX_EXTENSION: u64 = 1 << 20;

/// One entry, its long names and pax attributes applied.
pub(crate) struct Entry {
    pub(crate) kind: EntryType,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive that is being read.
pub(crate) struct Reader<R> {
    inner: R,
    /// Bytes of the current entry that were not read yet, and of its padding.
    left: u64,
    padding: u64,
}

/// Values that headers before an entry give to it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive. Skips what was not read of the one before.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header.entry_size().map_err(malformed)?;
            self.open(size);
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(until_nul(&self.extension()?)),
                EntryType::GNULongLink => extensions.link = Some(until_nul(&self.extension()?)),
                EntryType::XHeader => extensions.read_pax(&self.extension()?)?,
                // Defaults for all entries (git's commit id and the like): nothing we use.
                EntryType::XGlobalHeader => {}
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The content of the current entry.
    pub(crate) fn content(&mut self) -> impl Read + '_ {
        Content(self)
    }

    /// Reads what is left of the stream, so that a digest over it is complete.
    pub(crate) fn drain(mut self) -> Result<()> {
        io::copy(&mut self.inner, &mut io::sink()).map_err(Error::Stream).map(drop)
    }

    fn open(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    /// A header block; `None` at the two zero blocks or where the stream ends between entries.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Error::Malformed("it ends in the middle of a header".into())),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Stream(error)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(Error::Malformed("a header's checksum is wrong".into()));
        }
        Ok(Some(header))
    }

    fn extension(&mut self) -> Result<Vec<u8>> {
        if self.left > MAX_EXTENSION {
            return Err(Error::Malformed(format!("a header extension of {} bytes", self.left)));
        }
        let mut bytes = Vec::new();
        let wanted = self.left as usize;
        Content(self).read_to_end(&mut bytes).map_err(Error::Stream)?;
        if bytes.len() != wanted {
            return Err(Error::Malformed("it ends in the middle of a header extension".into()));
        }
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry> {
        let kind = header.entry_type();
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        if extensions.sparse || kind == EntryType::GNUSparse {
            return Err(Error::Unsupported { path: shown(&path), what: "the sparse file format".into() });
        }
        // Only files have content; the size that some writers give to a link is that of its target (tar(5)).
        let has_content = !is_header_only(kind);
        let size = extensions.size.unwrap_or(header.entry_size().map_err(malformed)?);
        let size = if has_content { size } else { 0 };
        self.open(size);
        let old = header.as_old();
        let id = |value: u64| u32::try_from(value).map_err(malformed);
        Ok(Entry {
            kind,
            link: extensions.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            size,
            mode: number(&old.mode, header.mode())? & 0o7777,
            uid: extensions.uid.map_or_else(|| id(number(&old.uid, header.uid())?), Ok)?,
            gid: extensions.gid.map_or_else(|| id(number(&old.gid, header.gid())?), Ok)?,
            mtime: extensions.mtime.map_or_else(|| header_mtime(header), Ok)?,
            device: (device(header.device_major()), device(header.device_minor())),
            xattrs: extensions.xattrs,
            path,
        })
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = io::copy(&mut self.inner.by_ref().take(bytes), &mut io::sink()).map_err(Error::Stream)?;
        // The padding of the last entry may be missing: other readers accept that too.
        if skipped < bytes && bytes - skipped > self.padding {
            return Err(Error::Malformed("it ends in the middle of an entry".into()));
        }
        Ok(())
    }
}

/// A number of a header. Some writers leave a field empty for zero, as other readers take it.
fn number<T: Default>(field: &[u8], read: io::Result<T>) -> Result<T> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    read.map_err(malformed)
}

struct Content<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.0.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.0.inner.read(&mut buffer[..wanted])?;
        self.0.left -= read as u64;
        Ok(read)
    }
}

impl Extensions {
    /// Records are `<length> <key>=<value>\n`, the length counting all of the record. Values may hold any byte.
    fn read_pax(&mut self, mut data: &[u8]) -> Result<()> {
        let broken = || Error::Malformed("a pax header's record is broken".into());
        while !data.is_empty() {
            let space = data.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
            let length = ascii_number(&data[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(broken)?;
            if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
                return Err(broken());
            }
            let record = &data[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let number = || ascii_number(value).ok_or_else(|| Error::Malformed("a pax number is broken".into()));
        let id = || number().and_then(|n| u32::try_from(n).map_err(malformed));
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(id()?),
            b"gid" => self.gid = Some(id()?),
            b"mtime" => {
                self.mtime = Some(pax_time(value).ok_or_else(|| Error::Malformed("a pax time is broken".into()))?)
            }
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn malformed(error: impl ToString) -> Error {
    Error::Malformed(error.to_string())
}

fn is_header_only(kind: EntryType) -> bool {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    matches!(kind, Link | Symlink | Char | Block | Directory | Fifo)
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn ascii_number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

/// `seconds[.fraction]`, may be negative.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds - 1, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

/// Times before 1970 are negative base-256 numbers, which come out as huge ones.
fn header_mtime(header: &Header) -> Result<(i64, u32)> {
    number(&header.as_old().mtime, header.mtime()).map(|seconds| (seconds.cast_signed(), 0))
}

/// Old headers have no device numbers, and some writers leave junk there for files that are no devices.
fn device(number: io::Result<Option<u32>>) -> u32 {
    number.ok().flatten().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_may_hold_newlines_and_equal_signs() {
        let mut extensions = Extensions::default();
        let record = b"31 SCHILY.xattr.user.a=b=c\n\0end\n";
        assert_eq!(record.len(), 32);
        let record = [b"32", &record[2..]].concat();
        extensions.read_pax(&record).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(extensions.xattrs, vec![(b"user.a".to_vec(), b"b=c\n\0end".to_vec())]);
    }

    #[test]
    fn broken_pax_records_are_refused() {
        for bad in [
            &b"5"[..],
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 a=bc\n",
            b"7 abcd\n",
            b"11 uid=-12\n",
            b"99999999999999999999 a=b\n",
        ] {
            assert!(Extensions::default().read_pax(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_empty_number_is_zero_and_a_broken_one_is_refused() {
        let mut header = Header::new_gnu();
        header.set_path("a").unwrap_or_else(|e| panic!("{e}"));
        header.set_size(0);
        let read = |header: &mut Header| {
            header.set_cksum();
            let bytes = [&header.as_bytes()[..], &[0; 1024][..]].concat();
            Reader::new(&bytes[..]).next()
        };
        let entry = read(&mut header).unwrap_or_else(|e| panic!("{e}")).unwrap_or_else(|| panic!("an entry"));
        assert_eq!((entry.mode, entry.uid, entry.mtime), (0, 0, (0, 0)));
        header.as_old_mut().mode = *b"rw-r--r-";
        assert!(read(&mut header).is_err());
    }

    #[test]
    fn pax_times_keep_their_fraction() {
        assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(pax_time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(pax_time(b"3"), Some((3, 0)));
        assert_eq!(pax_time(b"x"), None);
    }

    #[test]
    fn an_endless_long_name_is_refused_before_it_is_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let stream = header.as_bytes().chain(io::repeat(b'a'));
        assert!(matches!(Reader::new(stream).next(), Err(Error::Malformed(_))));
    }
}
