//! The FUSE side: a tree in memory, and the list of what was done to it.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags, spawn_mount,
};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const ROOT: u64 = 1;

/// One call that changed something, or made changes durable.
#[derive(Clone, Debug)]
pub enum Event {
    Write {
        ino: u64,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        ino: u64,
        length: u64,
    },
    Fsync {
        ino: u64,
    },
    Link {
        dir: u64,
        name: String,
        ino: u64,
        is_dir: bool,
    },
    Unlink {
        dir: u64,
        name: String,
        ino: u64,
    },
    Rename {
        from: u64,
        name: String,
        to: u64,
        new_name: String,
        ino: u64,
    },
    FsyncDir {
        dir: u64,
    },
    /// The program under test was told that its nth act is durable.
    Ack(usize),
}

/// A file or folder.
#[derive(Clone, Debug)]
pub enum Node {
    File(Vec<u8>),
    Dir(BTreeMap<String, u64>),
}

/// Faults to order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Bytes that files may have in sum; beyond it there is no space.
    pub capacity: Option<usize>,
    pub fail_fsync: bool,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    trace: Vec<Event>,
    faults: Faults,
}

/// A handle on the mounted tree.
#[derive(Clone, Debug)]
pub struct Power(Arc<Mutex<State>>);

/// Unmounts when dropped.
pub struct Mounted {
    pub power: Power,
    pub path: PathBuf,
    session: Option<BackgroundSession>,
    _dir: tempfile::TempDir,
}

impl Mounted {
    /// Mounts a file system with this content, all of it durable.
    pub fn new(content: &Content) -> Self {
        assert!(
            Path::new("/dev/fuse").exists(),
            "this test needs FUSE: /dev/fuse is not there (mknod /dev/fuse c 10 229)"
        );
        let dir = tempfile::tempdir().expect("a temporary folder");
        let power = Power(Arc::new(Mutex::new(State::default())));
        power.load(content);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power".into())];
        let session = spawn_mount(power.clone(), dir.path(), &config)
            .expect("this test mounts a FUSE file system, which needs root and /dev/fuse");
        Self { power, path: dir.path().to_owned(), session: Some(session), _dir: dir }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

/// A whole tree: folders first, then files, by path.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub dirs: Vec<PathBuf>,
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Power {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no handler panics")
    }

    fn load(&self, content: &Content) {
        let mut state = self.state();
        state.next = ROOT;
        state.nodes.insert(ROOT, Node::Dir(BTreeMap::new()));
        for dir in &content.dirs {
            state.add(dir, Node::Dir(BTreeMap::new()));
        }
        for (path, data) in &content.files {
            state.add(path, Node::File(data.clone()));
        }
    }

    /// Notes that the program was told `n` is done.
    pub fn ack(&self, n: usize) {
        self.state().trace.push(Event::Ack(n));
    }

    pub fn trace(&self) -> Vec<Event> {
        self.state().trace.clone()
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// The bytes that files have now, in sum.
    pub fn used(&self) -> usize {
        self.state().used()
    }
}

impl State {
    fn add(&mut self, path: &Path, node: Node) {
        let mut at = ROOT;
        let names: Vec<_> = path.iter().map(|n| n.to_str().expect("plain names")).collect();
        let (last, parents) = names.split_last().expect("not the root");
        for name in parents {
            at = self.dir(at).expect("a folder")[*name];
        }
        self.next += 1;
        let ino = self.next;
        self.nodes.insert(ino, node);
        self.dir_mut(at).expect("a folder").insert((*last).to_owned(), ino);
    }

    fn dir(&self, ino: u64) -> Option<&BTreeMap<String, u64>> {
        match self.nodes.get(&ino)? {
            Node::Dir(entries) => Some(entries),
            Node::File(_) => None,
        }
    }

    fn dir_mut(&mut self, ino: u64) -> Option<&mut BTreeMap<String, u64>> {
        match self.nodes.get_mut(&ino)? {
            Node::Dir(entries) => Some(entries),
            Node::File(_) => None,
        }
    }

    fn file_mut(&mut self, ino: u64) -> Option<&mut Vec<u8>> {
        match self.nodes.get_mut(&ino)? {
            Node::File(data) => Some(data),
            Node::Dir(_) => None,
        }
    }

    fn find(&self, dir: u64, name: &OsStr) -> Option<u64> {
        self.dir(dir)?.get(name.to_str()?).copied()
    }

    fn make(&mut self, dir: u64, name: &OsStr, node: Node) -> Option<FileAttr> {
        let name = name.to_str()?.to_owned();
        let is_dir = matches!(node, Node::Dir(_));
        self.next += 1;
        let ino = self.next;
        self.dir_mut(dir)?.insert(name.clone(), ino);
        self.nodes.insert(ino, node);
        self.trace.push(Event::Link { dir, name, ino, is_dir });
        self.attr(ino)
    }

    fn remove(&mut self, dir: u64, name: &OsStr) -> Option<()> {
        let name = name.to_str()?.to_owned();
        let ino = self.dir_mut(dir)?.remove(&name)?;
        self.trace.push(Event::Unlink { dir, name, ino });
        Some(())
    }

    fn used(&self) -> usize {
        let linked = self.nodes.values().filter_map(|n| match n {
            Node::Dir(entries) => Some(entries.values()),
            Node::File(_) => None,
        });
        linked
            .flatten()
            .map(|ino| match &self.nodes[ino] {
                Node::File(data) => data.len(),
                Node::Dir(_) => 0,
            })
            .sum()
    }

    /// Whether a file may grow to `length`.
    fn has_room(&self, ino: u64, length: usize) -> bool {
        let now = match self.nodes.get(&ino) {
            Some(Node::File(data)) => data.len(),
            _ => 0,
        };
        self.faults.capacity.is_none_or(|capacity| length <= now || self.used() + (length - now) <= capacity)
    }

    fn set_len(&mut self, ino: u64, length: u64) -> Result<(), Errno> {
        if !self.has_room(ino, length as usize) {
            return Err(Errno::ENOSPC);
        }
        self.file_mut(ino).ok_or(Errno::EISDIR)?.resize(length as usize, 0);
        self.trace.push(Event::SetLen { ino, length });
        Ok(())
    }

    fn write(&mut self, ino: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let end = offset as usize + data.len();
        if !self.has_room(ino, end) {
            return Err(Errno::ENOSPC);
        }
        let file = self.file_mut(ino).ok_or(Errno::EISDIR)?;
        if file.len() < end {
            file.resize(end, 0);
        }
        file[offset as usize..end].copy_from_slice(data);
        self.trace.push(Event::Write { ino, offset, data: data.into() });
        Ok(())
    }

    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let (kind, size) = match self.nodes.get(&ino)? {
            Node::File(data) => (FileType::RegularFile, data.len() as u64),
            Node::Dir(_) => (FileType::Directory, 0),
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        })
    }
}

/// The kernel keeps nothing.
const TTL: Duration = Duration::ZERO;

fn finish(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Filesystem for Power {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        match state.find(parent.0, name).and_then(|ino| state.attr(ino)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let result = size.map_or(Ok(()), |length| state.set_len(ino.0, length));
        match (result, state.attr(ino.0)) {
            (Ok(()), Some(attr)) => reply.attr(&TTL, &attr),
            (Err(e), _) => reply.error(e),
            (_, None) => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        match self.state().make(parent.0, name, Node::Dir(BTreeMap::new())) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.state().make(parent.0, name, Node::File(Vec::new())) {
            Some(attr) => {
                reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(reply, self.state().remove(parent.0, name).ok_or(Errno::ENOENT));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        let full = state.find(parent.0, name).and_then(|ino| state.dir(ino)).is_some_and(|entries| !entries.is_empty());
        if full {
            return reply.error(Errno::ENOTEMPTY);
        }
        finish(reply, state.remove(parent.0, name).ok_or(Errno::ENOENT));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let names = name.to_str().map(str::to_owned).zip(newname.to_str().map(str::to_owned));
        let Some((name, new_name)) = names else { return reply.error(Errno::EINVAL) };
        let Some(ino) = state.dir_mut(parent.0).and_then(|entries| entries.remove(&name)) else {
            return reply.error(Errno::ENOENT);
        };
        let Some(entries) = state.dir_mut(newparent.0) else { return reply.error(Errno::ENOENT) };
        entries.insert(new_name.clone(), ino);
        state.trace.push(Event::Rename { from: parent.0, name, to: newparent.0, new_name, ino });
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.state();
        let Some(data) = state.file_mut(ino.0) else { return reply.error(Errno::EISDIR) };
        let from = (offset as usize).min(data.len());
        let to = (from + size as usize).min(data.len());
        reply.data(&data[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().write(ino.0, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        if state.faults.fail_fsync {
            return reply.error(Errno::EIO);
        }
        state.trace.push(Event::Fsync { ino: ino.0 });
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.state().trace.push(Event::FsyncDir { dir: ino.0 });
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut state = self.state();
        let now = state.file_mut(ino.0).map_or(0, |data| data.len() as u64);
        finish(reply, state.set_len(ino.0, now.max(offset + length)));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.state();
        let Some(entries) = state.dir(ino.0) else { return reply.error(Errno::ENOTDIR) };
        let dots = [(ino.0, FileType::Directory, "."), (ROOT, FileType::Directory, "..")];
        let named = entries.iter().map(|(name, child)| {
            let kind = if state.dir(*child).is_some() { FileType::Directory } else { FileType::RegularFile };
            (*child, kind, name.as_str())
        });
        for (at, (child, kind, name)) in dots.into_iter().chain(named).enumerate().skip(offset as usize) {
            if reply.add(INodeNo(child), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
