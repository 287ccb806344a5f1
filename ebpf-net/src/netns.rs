//! Working inside other network namespaces, on threads that end afterwards.

use crate::report::Error;
use nix::sched::{CloneFlags, setns};
use std::{
    fs::File,
    io,
    net::UdpSocket,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

/// The file system type of namespace files (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// `SO_NETNS_COOKIE` (kernel 5.14): the number that `bpf_get_netns_cookie` gives for the namespace's sockets.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    inode: u64,
}

impl Netns {
    /// Opens the namespace that `path` leads to.
    ///
    /// # Errors
    /// `NotFound` when nothing is there, `InvalidInput` when it is a file of another kind (a mount point whose namespace is
    /// gone), else what open(2) says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let kind = nix::sys::statfs::fstatfs(&file).map_err(io::Error::from)?.filesystem_type().0;
        if kind != NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a namespace"));
        }
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// Tells namespaces apart while they live; a number may be given again later.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    pub fn as_raw_fd(&self) -> libc::c_int {
        self.file.as_raw_fd()
    }

    /// Moves the calling thread into the namespace.
    ///
    /// # Errors
    /// As setns(2).
    pub fn enter(&self) -> io::Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    }

    /// Runs `work` on a fresh thread inside the namespace.
    ///
    /// # Errors
    /// [`Error::Netns`] when it cannot be entered, [`Error::Worker`] when `work` panics.
    pub fn run<T: Send>(&self, path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let body = || {
            self.enter().map_err(|source| Error::Netns { path: path.to_owned(), source })?;
            Ok(work())
        };
        std::thread::scope(|threads| threads.spawn(body).join().unwrap_or(Err(Error::Worker)))
    }
}

/// The cookie of the calling thread's namespace.
///
/// # Errors
/// As socket(2); `ENOPROTOOPT` before kernel 5.14.
pub fn cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    let mut value = 0u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the pointers are to live locals, len holds the size of the first.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut value).cast(), &raw mut len)
    };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Writes a setting below `/proc/sys/net` of the calling thread's namespace.
///
/// # Errors
/// As open(2) and write(2).
pub fn sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    if std::fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value)
}
