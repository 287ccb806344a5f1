//! Segment files: their names, their heads, and how one comes into being.
//!
//! A segment appears under its name only when it is preallocated, has its head, and is durable; its name is made durable
//! before the first frame goes in. Head, 96 bytes:
//!
//! ```text
//! magic 8 | format u32 | flags u32 | number u64 | salt u64 | base index u64 | base term u64 | previous end u64
//! | first sequence u64 | term u64 | vote u64 | commit u64 | capacity in units of 8 bytes u32 | crc u32
//! ```

use crate::error::{DiskError, Error};
use crate::frame::{HARD_STATE, HardState, Position, hard_state, u32_at, u64_at};
use muster_generations::disk;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"muster\0J";
const FORMAT: u32 = 1;
const RESET: u32 = 1;
pub(crate) const HEAD: usize = 96;

/// What a segment says about itself and its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Segments are numbered without holes.
    pub(crate) number: u64,
    pub(crate) salt: u64,
    /// The log starts anew here: earlier segments are waste that was not swept yet.
    pub(crate) reset: bool,
    /// The last record before this segment.
    pub(crate) base: Position,
    /// Where the frames of the segment before end; what lies behind was torn. 0 after a reset.
    pub(crate) previous_end: u64,
    /// The sequence of this segment's first frame.
    pub(crate) sequence: u64,
    /// The hard state when this segment began, so that earlier ones may go.
    pub(crate) hard: HardState,
    /// The file's length while it is written to, a multiple of 8. It is cut once there is a next segment: a shorter file
    /// without one has lost it.
    pub(crate) capacity: u64,
}

/// Half of what the head's field can say.
pub(crate) const MAX_CAPACITY: u64 = 16 << 30;

impl Head {
    fn to_bytes(self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&if self.reset { RESET } else { 0 }.to_le_bytes());
        let fields = [
            self.number,
            self.salt,
            self.base.index,
            self.base.term,
            self.previous_end,
            self.sequence,
            self.hard.term,
            self.hard.vote,
            self.hard.commit,
        ];
        for (at, field) in fields.into_iter().enumerate() {
            out[16 + at * 8..24 + at * 8].copy_from_slice(&field.to_le_bytes());
        }
        out[88..92].copy_from_slice(&((self.capacity / 8) as u32).to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEAD - 4]);
        out[HEAD - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn from_bytes(bytes: &[u8; HEAD], path: &Path) -> Result<Self, Error> {
        if &bytes[..8] != MAGIC {
            return Err(Error::damaged(path, 0, "no segment of a journal"));
        }
        if u32_at(bytes, HEAD - 4) != crc32c::crc32c(&bytes[..HEAD - 4]) {
            return Err(Error::damaged(path, 0, "the segment's head has a wrong checksum"));
        }
        let found = u32_at(bytes, 8);
        if found != FORMAT {
            return Err(DiskError::Format { path: path.to_owned(), found, known: FORMAT }.into());
        }
        Ok(Head {
            number: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            reset: u32_at(bytes, 12) & RESET != 0,
            base: Position { index: u64_at(bytes, 32), term: u64_at(bytes, 40) },
            previous_end: u64_at(bytes, 48),
            sequence: u64_at(bytes, 56),
            hard: hard_state(&bytes[64..64 + HARD_STATE]),
            capacity: u64::from(u32_at(bytes, 88)) * 8,
        })
    }

    /// Reads and checks the head of the segment at `path`.
    pub(crate) fn read(file: &File, path: &Path, number: u64) -> Result<Self, Error> {
        let mut bytes = [0; HEAD];
        file.read_exact_at(&mut bytes, 0).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::damaged(path, 0, "shorter than a segment's head"),
            _ => Error::io("read", path, e),
        })?;
        let head = Self::from_bytes(&bytes, path)?;
        if head.number != number {
            let what = format!("the file is named {number:016x}, its head says {:016x}", head.number);
            return Err(Error::damaged(path, 16, what));
        }
        Ok(head)
    }
}

pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.seg"))
}

/// The numbers of the segments in `dir`, sorted. Sweeps what an interrupted creation left.
pub(crate) fn numbers(dir: &Path) -> Result<Vec<u64>, Error> {
    let mut numbers = Vec::new();
    for entry in disk::list(dir)? {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with(".tmp") {
            disk::remove_file(&entry.path(), dir)?;
        } else if let Some(hex) = name.strip_suffix(".seg")
            && let Ok(number) = u64::from_str_radix(hex, 16)
            && path(dir, number) == entry.path()
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A random number that no earlier content of the disk's blocks can know.
pub(crate) fn salt() -> Result<u64, Error> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    File::open(source).and_then(|mut f| f.read_exact(&mut bytes)).map_err(|e| Error::io("read", source, e))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Makes a segment of `head.capacity` bytes, durable with its name on return.
///
/// # Errors
/// [`Error::Disk`] and others leave nothing behind.
pub(crate) fn create(dir: &Path, head: Head) -> Result<File, Error> {
    let target = path(dir, head.number);
    let temporary = target.with_extension("tmp");
    let made = fill(&temporary, head).and_then(|file| {
        fs::rename(&temporary, &target).map_err(|e| Error::io("name", &target, e))?;
        disk::sync_dir(dir)?;
        Ok(file)
    });
    if made.is_err() {
        // Swept at the next start if this fails too.
        let _ = fs::remove_file(&temporary);
        let _ = fs::remove_file(&target);
    }
    made
}

fn fill(temporary: &Path, head: Head) -> Result<File, Error> {
    let bytes = head.capacity;
    let fail = |e| Error::io("preallocate", temporary, e);
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(temporary)
        .map_err(|e| Error::io("create", temporary, e))?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes as i64) {
        Ok(()) => {}
        // No fallocate here (NFS, some FUSE): zeros do it too, only slower.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => zero(&file, bytes).map_err(fail)?,
        Err(e) => return Err(fail(e.into())),
    }
    file.write_all_at(&head.to_bytes(), 0).map_err(|e| Error::io("write", temporary, e))?;
    file.sync_all().map_err(|e| Error::io("sync", temporary, e))?;
    Ok(file)
}

fn zero(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 256 << 10];
    let mut at = 0;
    while at < bytes {
        let n = zeros.len().min((bytes - at) as usize);
        file.write_all_at(&zeros[..n], at)?;
        at += n as u64;
    }
    Ok(())
}
