//! One write as bytes: a header, the hard state, the records. Little endian throughout.
//!
//! ```text
//! header, 32 bytes: salt u64 | sequence u64 | body length u32 | body crc u32 | record count u32 | header crc u32
//! body:             term u64 | vote u64 | commit u64 | records: (index u64 | term u64 | length u32 | bytes)*
//! ```
//!
//! `salt` is the segment's own random number: bytes of another life of the same blocks never look like a frame. `sequence`
//! counts the frames of the journal: a damaged frame with a later one behind it was durable once, one without was torn.
//! Frames start at multiples of 8.

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

/// One entry of the log; `data` is opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub index: u64,
    pub term: u64,
    pub data: Vec<u8>,
}

/// What raft must never forget. All zero: nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    /// Who got this node's vote in `term`; 0: nobody.
    pub vote: u64,
    pub commit: u64,
}

pub(crate) const HEADER: usize = 32;
pub(crate) const HARD_STATE: usize = 24;
const RECORD: usize = 20;

/// A frame's header, its own checksum found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) salt: u64,
    pub(crate) sequence: u64,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    pub(crate) count: u32,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&self.salt.to_le_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..20].copy_from_slice(&self.length.to_le_bytes());
        out[20..24].copy_from_slice(&self.crc.to_le_bytes());
        out[24..28].copy_from_slice(&self.count.to_le_bytes());
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` when these bytes are no header of the segment with this salt.
    pub(crate) fn from_bytes(bytes: &[u8; HEADER], salt: u64) -> Option<Self> {
        let header = Header {
            salt: u64_at(bytes, 0),
            sequence: u64_at(bytes, 8),
            length: u32_at(bytes, 16),
            crc: u32_at(bytes, 20),
            count: u32_at(bytes, 24),
        };
        (header.salt == salt && u32_at(bytes, 28) == crc32c::crc32c(&bytes[..28])).then_some(header)
    }
}

/// The place of the next frame: frames start at multiples of 8.
pub(crate) fn align(offset: u64) -> u64 {
    offset.next_multiple_of(8)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 is 8 bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4 is 4 bytes"))
}

/// How long the frame of these records will be, padding included.
pub(crate) fn size<'a>(records: impl IntoIterator<Item = &'a Record>) -> u64 {
    let body: u64 = records.into_iter().map(|r| (RECORD + r.data.len()) as u64).sum();
    align((HEADER + HARD_STATE) as u64 + body)
}

/// Writes a frame into `out`, which is emptied first. The caller has checked that the size fits 32 bits.
pub(crate) fn encode(out: &mut Vec<u8>, salt: u64, sequence: u64, hard: HardState, records: &[Record]) {
    out.clear();
    out.resize(HEADER, 0);
    for field in [hard.term, hard.vote, hard.commit] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for record in records {
        out.extend_from_slice(&record.index.to_le_bytes());
        out.extend_from_slice(&record.term.to_le_bytes());
        out.extend_from_slice(&(record.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&record.data);
    }
    let length = (out.len() - HEADER) as u32;
    let crc = crc32c::crc32c(&out[HEADER..]);
    let header = Header { salt, sequence, length, crc, count: records.len() as u32 };
    out[..HEADER].copy_from_slice(&header.to_bytes());
    out.resize(align(out.len() as u64) as usize, 0);
}

/// Reads a body whose checksum was right. `None` when its lengths do not add up all the same.
pub(crate) fn decode(mut body: &[u8], count: u32) -> Option<(HardState, Vec<Record>)> {
    let hard = hard_state(body.split_off(..HARD_STATE)?);
    let mut records = Vec::new();
    for _ in 0..count {
        let head = body.split_off(..RECORD)?;
        let data = body.split_off(..u32_at(head, 16) as usize)?.to_vec();
        records.push(Record { index: u64_at(head, 0), term: u64_at(head, 8), data });
    }
    body.is_empty().then_some((hard, records))
}

/// Three numbers in a row; `bytes` holds [`HARD_STATE`] of them.
pub(crate) fn hard_state(bytes: &[u8]) -> HardState {
    HardState { term: u64_at(bytes, 0), vote: u64_at(bytes, 8), commit: u64_at(bytes, 16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let records: Vec<_> = (1..4).map(|i| Record { index: i, term: 2, data: vec![i as u8; i as usize] }).collect();
        let hard = HardState { term: 3, vote: 9, commit: 1 };
        let mut bytes = Vec::new();
        encode(&mut bytes, 77, 5, hard, &records);
        assert_eq!(bytes.len() as u64, size(&records));
        let head = bytes[..HEADER].try_into().expect("32 bytes");
        assert_eq!(Header::from_bytes(head, 78), None);
        let header = Header::from_bytes(head, 77).expect("own header");
        let body = &bytes[HEADER..HEADER + header.length as usize];
        assert_eq!(crc32c::crc32c(body), header.crc);
        assert_eq!(decode(body, header.count), Some((hard, records)));
        assert_eq!(decode(&body[..body.len() - 1], header.count), None);
        assert_eq!(decode(&body[..3], 0), None);
    }
}
