//! The tar format, written: ustar headers, with a pax header before those that do not fit (POSIX.1-2001).

use std::io::{self, Write};

use tar::{EntryType, Header};

use super::{Error, Result};

const BLOCK: usize = 512;
/// Largest user or group number of a ustar header: seven octal digits.
const MAX_ID: u32 = 0o7_777_777;
/// Largest size and time of a ustar header: eleven octal digits.
const MAX_NUMBER: u64 = 0o77_777_777_777;

/// What an entry's headers say.
pub(crate) struct Head<'a> {
    pub(crate) kind: EntryType,
    pub(crate) path: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970: fractions are left out, as Docker does.
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// An archive that is being written.
pub(crate) struct Writer<W> {
    inner: W,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes the headers of an entry. `size` bytes of content and [`Writer::pad`] must follow.
    pub(crate) fn head(&mut self, head: &Head<'_>) -> Result<()> {
        let pax = pax_records(head);
        if !pax.is_empty() {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..13].copy_from_slice(b"PaxHeaders.0/");
            header.set_entry_type(EntryType::XHeader);
            header.set_size(pax.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_cksum();
            self.bytes(header.as_bytes())?;
            self.bytes(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        let header = ustar(head).map_err(Error::Stream)?;
        self.bytes(header.as_bytes())
    }

    /// Content of the current entry.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(Error::Stream)
    }

    /// Fills the last block of `size` bytes of content.
    pub(crate) fn pad(&mut self, size: u64) -> Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.bytes(&[0; BLOCK][over..]) }
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.bytes(&[0; 2 * BLOCK])?;
        self.inner.flush().map_err(Error::Stream)?;
        Ok(self.inner)
    }
}

fn ustar(head: &Head<'_>) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    let cut = |bytes: &[u8], field: &mut [u8; 100]| {
        let length = bytes.len().min(field.len());
        field[..length].copy_from_slice(&bytes[..length]);
    };
    cut(head.path, &mut header.as_old_mut().name);
    cut(head.link, &mut header.as_old_mut().linkname);
    header.set_entry_type(head.kind);
    header.set_size(head.size.min(MAX_NUMBER));
    header.set_mode(head.mode);
    header.set_uid(head.uid.min(MAX_ID).into());
    header.set_gid(head.gid.min(MAX_ID).into());
    header.set_mtime(u64::try_from(head.mtime).unwrap_or(0).min(MAX_NUMBER));
    if matches!(head.kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(head.device.0)?;
        header.set_device_minor(head.device.1)?;
    }
    header.set_cksum();
    Ok(header)
}

/// What the ustar header of `head` has no room for.
fn pax_records(head: &Head<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    let plain = |bytes: &[u8]| bytes.len() <= 100 && bytes.is_ascii();
    if !plain(head.path) {
        pax_record(&mut records, b"path", head.path);
    }
    if !plain(head.link) {
        pax_record(&mut records, b"linkpath", head.link);
    }
    if head.size > MAX_NUMBER {
        pax_record(&mut records, b"size", head.size.to_string().as_bytes());
    }
    if !u64::try_from(head.mtime).is_ok_and(|mtime| mtime <= MAX_NUMBER) {
        pax_record(&mut records, b"mtime", head.mtime.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], head.uid), (b"gid", head.gid)] {
        if id > MAX_ID {
            pax_record(&mut records, key, id.to_string().as_bytes());
        }
    }
    for (name, value) in head.xattrs {
        pax_record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// `<length> <key>=<value>\n`; the length counts its own digits.
fn pax_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        for value in [0, 1, 85, 86, 87, 88, 89, 90, 985, 986, 987, 988, 989, 990] {
            let mut record = Vec::new();
            pax_record(&mut record, b"path", &vec![b'x'; value]);
            let text = String::from_utf8_lossy(&record);
            assert_eq!(text.split(' ').next().and_then(|n| n.parse().ok()), Some(record.len()), "{value}");
        }
    }
}
