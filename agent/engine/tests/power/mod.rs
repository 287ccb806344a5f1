//! A disk that forgets: a real ext4 on a loop device whose backing file is served by FUSE from memory, and which writes down what
//! reached it and when it was told to flush.
//!
//! A prefix of that list, with only some of what came after the last flush, is the disk as a power cut would have left it.
//! Unlike a file system of our own (controller/journal/tests/power) it takes everything that an engine does: extended
//! attributes, hard links, devices, overlay mounts.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags, spawn_mount,
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, UNIX_EPOCH},
};

/// Room of the disk, in bytes; only what is written takes memory.
const SIZE: u64 = 96 << 20;
const PAGE: usize = 4096;
/// What a disk writes whole.
const SECTOR: usize = 512;
const NAME: &str = "disk";
const INODE: u64 = 2;

/// Splitmix64: the test's only source of chance.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn percent(&mut self, p: usize) -> bool {
        self.below(100) < p
    }
}

/// What happened to the disk.
#[derive(Clone, Debug)]
pub enum Event {
    Write {
        offset: u64,
        data: Arc<[u8]>,
    },
    /// All written before is durable.
    Flush,
    /// The program under test was told that its nth act is done.
    Ack(usize),
}

/// The bytes of a disk; what was never written is zero.
#[derive(Clone, Debug, Default)]
pub struct Image(BTreeMap<u64, Box<[u8; PAGE]>>);

impl Image {
    /// A new and empty ext4.
    pub fn formatted() -> Self {
        let dir = scratch();
        let path = dir.path().join(NAME);
        File::create(&path).and_then(|f| f.set_len(SIZE)).expect("an empty image");
        // Without lazy work there is nothing that the kernel would do later by itself.
        let options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4"];
        let made = Command::new("mkfs.ext4").args(options).arg(&path).status();
        assert!(made.expect("mkfs.ext4 (e2fsprogs) is installed").success(), "mkfs.ext4 failed");
        let bytes = fs::read(&path).expect("the image");
        let mut image = Self::default();
        for (at, page) in bytes.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0)) {
            image.write((at * PAGE) as u64, page);
        }
        image
    }

    fn write(&mut self, offset: u64, mut data: &[u8]) {
        let mut at = offset;
        while !data.is_empty() {
            let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let n = data.len().min(PAGE - from);
            let bytes = self.0.entry(page).or_insert_with(|| Box::new([0; PAGE]));
            bytes[from..from + n].copy_from_slice(&data[..n]);
            (data, at) = (&data[n..], at + n as u64);
        }
    }

    fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut out = vec![0; size];
        let mut done = 0;
        while done < size {
            let at = offset + done as u64;
            let from = (at % PAGE as u64) as usize;
            let n = (size - done).min(PAGE - from);
            if let Some(page) = self.0.get(&(at / PAGE as u64)) {
                out[done..done + n].copy_from_slice(&page[from..from + n]);
            }
            done += n;
        }
        out
    }

    /// Writes the image out and mounts it.
    pub fn mount(&self) -> Booted {
        let dir = scratch();
        let path = dir.path().join(NAME);
        let file = File::create(&path).expect("an image");
        file.set_len(SIZE).expect("its length");
        for (page, bytes) in &self.0 {
            file.write_all_at(&bytes[..], page * PAGE as u64).expect("written");
        }
        Booted { disk: Disk::mount(&path), _dir: dir }
    }
}

/// The disk as it develops along the list of events.
pub struct Replay {
    durable: Image,
    pending: Vec<(u64, Arc<[u8]>)>,
}

impl Replay {
    pub fn new(start: &Image) -> Self {
        Self { durable: start.clone(), pending: Vec::new() }
    }

    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Write { offset, data } => self.pending.push((*offset, data.clone())),
            Event::Flush => {
                for (offset, data) in self.pending.drain(..) {
                    self.durable.write(offset, &data);
                }
            }
            Event::Ack(_) => {}
        }
    }

    /// The disk after a cut here: `keep` percent of the sectors that were not flushed are there all the same.
    pub fn cut(&self, keep: usize, rng: &mut Rng) -> Image {
        let mut image = self.durable.clone();
        for (offset, data) in &self.pending {
            for (at, sector) in data.chunks(SECTOR).enumerate() {
                if rng.percent(keep) {
                    image.write(offset + (at * SECTOR) as u64, sector);
                }
            }
        }
        image
    }
}

/// A mounted ext4, unmounted when dropped.
pub struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(image: &Path) -> Self {
        let at = tempfile::tempdir().expect("temporary folder");
        // The way a careless mount has it: a rename over a file that was not flushed may leave an empty file.
        let options = ["-t", "ext4", "-o", "loop,noauto_da_alloc"];
        let out = Command::new("mount").args(options).arg(image).arg(at.path()).output().expect("mount runs");
        assert!(
            out.status.success(),
            "an ext4 cannot be mounted by a loop device: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Self(at)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let base = self.path().to_string_lossy().into_owned();
        let below =
            table.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| p.starts_with(&base)).collect::<Vec<_>>();
        for point in below.iter().rev() {
            let _ = nix::mount::umount2(*point, nix::mount::MntFlags::empty())
                .or_else(|_| nix::mount::umount2(*point, nix::mount::MntFlags::MNT_DETACH));
        }
    }
}

/// A machine that came up again: its disk.
pub struct Booted {
    pub disk: Disk,
    _dir: tempfile::TempDir,
}

/// A disk in use, every write to it noted. The mount goes before the session that serves it.
pub struct Recorded {
    pub disk: Disk,
    pub power: Power,
    _session: Session,
}

impl Recorded {
    pub fn new(start: &Image) -> Self {
        assert!(
            Path::new("/dev/fuse").exists(),
            "this test needs FUSE: /dev/fuse is not there (mknod /dev/fuse c 10 229)"
        );
        let at = tempfile::tempdir().expect("temporary folder");
        let power = Power(Arc::new(Mutex::new(State { image: start.clone(), trace: Vec::new() })));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power".into())];
        let session =
            spawn_mount(power.clone(), at.path(), &config).expect("FUSE mounts, which needs root and /dev/fuse");
        let session = Session(Some(session), at);
        Self { disk: Disk::mount(&session.1.path().join(NAME)), power, _session: session }
    }
}

struct Session(Option<BackgroundSession>, tempfile::TempDir);

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            let _ = session.umount_and_join();
        }
    }
}

struct State {
    image: Image,
    trace: Vec<Event>,
}

/// The backing file's side: it holds the bytes and notes what comes.
#[derive(Clone)]
pub struct Power(Arc<Mutex<State>>);

impl Power {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no handler panics")
    }

    /// Notes that the program was told `n` is done.
    pub fn ack(&self, n: usize) {
        self.state().trace.push(Event::Ack(n));
    }

    pub fn trace(&self) -> Vec<Event> {
        self.state().trace.clone()
    }
}

/// In memory: these images need no durability of their own.
fn scratch() -> tempfile::TempDir {
    let shm = PathBuf::from("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    dir.expect("temporary folder")
}

fn attr(ino: u64) -> FileAttr {
    let (kind, size) = if ino == INODE { (FileType::RegularFile, SIZE) } else { (FileType::Directory, 0) };
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: PAGE as u32,
    }
}

/// Nothing here ever changes but the bytes.
const TTL: Duration = Duration::from_secs(3600);

impl Filesystem for Power {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME { reply.entry(&TTL, &attr(INODE), Generation(0)) } else { reply.error(Errno::ENOENT) }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = u64::from(size).min(SIZE.saturating_sub(offset)) as usize;
        reply.data(&self.state().image.read(offset, size));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        state.image.write(offset, data);
        state.trace.push(Event::Write { offset, data: data.into() });
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.state().trace.push(Event::Flush);
        reply.ok();
    }
}
