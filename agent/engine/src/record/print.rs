//! What tells one content of a record's files from another without opening them.
//!
//! A file that was written to, or replaced, has another time of change, unless that happened within one tick of the clock by
//! which the file system stamps. So a print is worth something only once it is older than such a tick ([`Print::is_settled`]):
//! whoever changes the file from then on leaves another one.

use super::{FILE, RECENT};
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// No kernel's clock of files ticks less often: it does with the scheduler's, at least 100 times a second.
const TICK_NS: i64 = 20_000_000;
/// Of file systems that know seconds only, or two of them (ext4 with inodes of 128 bytes, FAT).
const COARSE_TICK_NS: i64 = 2_100_000_000;
const STAMP: usize = 24;

/// One file, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    /// Of its last change, contents or not: nanoseconds since 1970 by the file system's clock.
    changed_ns: i64,
    size: u64,
}

/// The files of one record: that of the flushed state, and that of a newer one if there is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Print {
    record: Stamp,
    recent: Option<Stamp>,
}

impl Print {
    /// Of the record in `folder`; `None` where there is none, or where it cannot be looked at.
    pub fn of(folder: &Path) -> Option<Self> {
        let record = Stamp::of(&folder.join(FILE)).ok()??;
        let recent = Stamp::of(&folder.join(RECENT)).ok()?;
        Some(Self { record, recent })
    }

    /// Whether every later change leaves another print, if `now` was the file system's time before this one was taken.
    pub fn is_settled(&self, now: i64) -> bool {
        [Some(self.record), self.recent].into_iter().flatten().all(|stamp| stamp.is_settled(now))
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.recent.is_some()));
        for stamp in [Some(self.record), self.recent].into_iter().flatten() {
            out.extend_from_slice(&stamp.inode.to_le_bytes());
            out.extend_from_slice(&stamp.changed_ns.to_le_bytes());
            out.extend_from_slice(&stamp.size.to_le_bytes());
        }
    }

    /// The print at the start of `bytes`, and what follows it.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (flag, rest) = bytes.split_first()?;
        let (record, rest) = Stamp::decode(rest)?;
        match flag {
            0 => Some((Self { record, recent: None }, rest)),
            1 => {
                let (recent, rest) = Stamp::decode(rest)?;
                Some((Self { record, recent: Some(recent) }, rest))
            }
            _ => None,
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::from(&metadata))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn is_settled(&self, now: i64) -> bool {
        let tick = if self.changed_ns % 1_000_000_000 == 0 { COARSE_TICK_NS } else { TICK_NS };
        self.changed_ns.saturating_add(tick) < now
    }

    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (stamp, rest) = bytes.split_at_checked(STAMP)?;
        let (words, _) = stamp.as_chunks::<8>();
        let [inode, changed_ns, size] = *words else { return None };
        let (inode, size) = (u64::from_le_bytes(inode), u64::from_le_bytes(size));
        Some((Self { inode, changed_ns: i64::from_le_bytes(changed_ns), size }, rest))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(metadata: &fs::Metadata) -> Self {
        let changed_ns = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
        Self { inode: metadata.ino(), changed_ns, size: metadata.size() }
    }
}

/// What a file is stamped with that is made now in `folder`, which is on the records' file system: nanoseconds since 1970.
///
/// # Errors
/// Those of the disk.
pub(crate) fn now(folder: &Path) -> io::Result<i64> {
    let path = folder.join("now");
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    let now = Stamp::from(&file.metadata()?).changed_ns;
    fs::remove_file(&path)?;
    Ok(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(changed_ns: i64, recent: Option<i64>) -> Print {
        let stamp = |changed_ns| Stamp { inode: 7, changed_ns, size: 9 };
        Print { record: stamp(changed_ns), recent: recent.map(stamp) }
    }

    #[test]
    fn a_print_is_settled_once_no_file_can_be_stamped_with_its_time_again() {
        let at = 5_000_000_001;
        assert!(!print(at, None).is_settled(at), "the same tick");
        assert!(!print(at, None).is_settled(at + TICK_NS));
        assert!(print(at, None).is_settled(at + TICK_NS + 1));
        assert!(!print(at, Some(at + 5)).is_settled(at + TICK_NS + 1), "its other file is younger");
        assert!(!print(at, None).is_settled(at - 1_000_000_000), "the clock was set back");
        assert!(!print(5_000_000_000, None).is_settled(5_000_000_000 + TICK_NS + 1), "a clock of seconds");
        assert!(print(5_000_000_000, None).is_settled(5_000_000_000 + COARSE_TICK_NS + 1));
    }

    #[test]
    fn a_print_is_read_as_it_was_written_and_nothing_else_is_one() {
        for print in [print(1, None), print(-3, Some(i64::MAX))] {
            let mut bytes = Vec::new();
            print.encode(&mut bytes);
            assert_eq!(Print::decode(&[&bytes[..], b"rest"].concat()), Some((print, &b"rest"[..])));
            for short in 0..bytes.len() {
                assert_eq!(Print::decode(&bytes[..short]), None);
            }
            bytes[0] = 2;
            assert_eq!(Print::decode(&bytes), None);
        }
    }

    #[test]
    fn every_way_to_change_a_settled_record_leaves_another_print() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let at = dir.path();
        let settle = || {
            let before = Print::of(at).expect("a record");
            while !before.is_settled(now(at).expect("the time")) {
                std::thread::yield_now();
            }
            before
        };
        let write = |name: &str, text: &str| fs::write(at.join(name), text).expect("written");
        assert_eq!(Print::of(at), None);
        write(FILE, "one");
        let acts: [(&str, &dyn Fn()); 6] = [
            ("in place, as long as it was", &|| write(FILE, "two")),
            ("replaced", &|| {
                write("other", "abc");
                fs::rename(at.join("other"), at.join(FILE)).expect("renamed");
            }),
            ("a newer state", &|| write(RECENT, "new")),
            ("another newer state", &|| write(RECENT, "old")),
            ("the newer state is gone", &|| fs::remove_file(at.join(RECENT)).expect("removed")),
            ("put back with its old times", &|| {
                let file = fs::File::options().write(true).open(at.join(FILE)).expect("opened");
                let was = file.metadata().and_then(|m| m.modified()).expect("its time");
                write(FILE, "abd");
                file.set_modified(was).expect("set back");
            }),
        ];
        for (how, change) in acts {
            let before = settle();
            change();
            assert_ne!(Print::of(at), Some(before), "{how}");
        }
    }
}
