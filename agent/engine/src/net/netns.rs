//! Network namespaces held by a file: made in a thread that lives no longer than that, found again after a restart.

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};
use std::{
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// A namespace that could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {}: {op}: {source}", path.display())]
pub struct Error {
    pub op: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

fn at(op: &'static str, path: &Path) -> impl FnOnce(nix::Error) -> Error {
    let path = path.to_owned();
    move |e| Error { op, path, source: e.into() }
}

/// Makes a namespace with loopback up and binds it to a new file at `path`. Blocks for about a millisecond.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn create(path: &Path) -> Result<(), Error> {
    let io_at = |op| move |source| Error { op, path: path.to_owned(), source };
    fs::File::create(path).map_err(io_at("create"))?;
    let file = path.to_owned();
    // A namespace belongs to a thread: this one unshares, pins the result with a bind mount, and ends.
    let made = std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || unshare_and_pin(&file))
        .map_err(io_at("spawn a thread"))
        .and_then(|thread| {
            thread.join().unwrap_or_else(|_| {
                Err(Error { op: "unshare", path: path.to_owned(), source: io::Error::other("the thread panicked") })
            })
        });
    made.inspect_err(|_| remove(path))
}

fn unshare_and_pin(path: &Path) -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(at("unshare", path))?;
    loopback_up().map_err(at("bring loopback up", path))?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(at("bind mount", path))
}

/// Removes what [`create`] made; processes in the namespace keep it until they end.
pub fn remove(path: &Path) {
    // Both fail only when there is nothing (ENOENT, EINVAL), or with the mount still there, and then the sweep at the next
    // start comes by again.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Removes every namespace in `folder` whose file name `keep` does not want.
///
/// # Errors
/// When the folder cannot be read.
pub fn sweep(folder: &Path, keep: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !name.to_str().is_some_and(&keep) {
            remove(&folder.join(name));
        }
    }
    Ok(())
}

/// Sets IFF_UP on interface 1, which is loopback in every new namespace (rtnetlink(7): RTM_NEWLINK).
fn loopback_up() -> nix::Result<()> {
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32u32.to_ne_bytes()); // nlmsghdr: length, type, flags, sequence, port
    message.extend_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(&[0; 4]); // ifinfomsg: family, padding, type; then index, flags, mask
    message.extend_from_slice(&1i32.to_ne_bytes());
    message.extend_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
    message.extend_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0u8; 512];
    let n = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match answer[..n].get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(nix::Error::from_raw(-code)),
        None => Err(nix::Error::EBADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NSFS_MAGIC of linux/magic.h.
    fn is_live(path: &Path) -> bool {
        nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type().0 as u64 == 0x6e73_6673)
    }

    #[test]
    fn a_namespace_is_live_until_it_is_removed_and_the_sweep_keeps_what_it_is_told_to() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let dir = tempfile::tempdir().expect("temp dir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        create(&a).expect("a");
        create(&b).expect("b");
        assert!(is_live(&a) && is_live(&b));
        sweep(dir.path(), |name| name == "a").expect("sweep");
        assert!(is_live(&a) && !b.exists());
        remove(&a);
        assert!(!a.exists());
    }
}
