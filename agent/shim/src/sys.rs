//! The kernel's calls that the standard library does not have. All `unsafe` of the monitor is here.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Who one is after [`detach`].
pub enum Side {
    /// The process that the daemon started and waits for: to end at once.
    Launcher,
    /// The new one, no child of the daemon's.
    Shim,
}

/// Write end of the pipe that the SIGCHLD handler wakes the loop through.
static WAKE: AtomicI32 = AtomicI32::new(-1);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Closes what was inherited by mistake, leaves the daemon's process group (so that no terminal's signal reaches us), forks away
/// from it, and becomes the reaper of what the OCI runtime leaves behind. The session is left later: [`lead_session`].
pub fn detach() -> io::Result<Side> {
    // SAFETY: no descriptor above 2 is owned by anything in this process yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    // SAFETY: the process has one thread, so the child has all of it; the launcher leads the new group, not the child, which can
    // therefore still make a session.
    if check(unsafe {
        libc::setpgid(0, 0);
        libc::fork()
    })? > 0
    {
        return Ok(Side::Launcher);
    }
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    reset_signals();
    Ok(Side::Shim)
}

/// Makes a session of its own. To be called once the OCI runtime has done its work: a new session is a new scheduling group
/// (sched(7), autogroup), in which a runtime started from it took 20 ms longer.
pub fn lead_session() {
    // SAFETY: no memory is involved. It fails for a group leader only, which the shim is not.
    unsafe { libc::setsid() };
}

/// The default for every signal, nothing blocked: what the daemon ignored or blocked would be inherited by the container.
fn reset_signals() {
    // SAFETY: SIG_DFL is valid for every signal; the two that refuse it, and numbers that are none, return an error.
    unsafe {
        for signal in 1..=64 {
            if signal != libc::SIGPIPE {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Wakes the returned descriptor on every SIGCHLD, and survives the signals by which service managers end things: the shim
/// must outlive the container to record its exit. Handlers, and not ignoring, which the container would inherit.
pub fn watch_children() -> io::Result<OwnedFd> {
    let (read, write) = pipe(libc::O_CLOEXEC | libc::O_NONBLOCK)?;
    WAKE.store(write.as_raw_fd(), Ordering::SeqCst);
    // The handler writes to it as long as the process lives.
    mem::forget(write);
    for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        // SAFETY: the handler is async-signal-safe: it loads an atomic, writes one byte and restores errno.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = wake as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            check(libc::sigaction(signal, &action, std::ptr::null_mut()))?;
        }
    }
    Ok(read)
}

extern "C" fn wake(_signal: libc::c_int) {
    // SAFETY: write(2) is async-signal-safe; errno is this thread's own and is put back.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(WAKE.load(Ordering::SeqCst), [0_u8].as_ptr().cast(), 1);
        *errno = saved;
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub pid: i32,
    /// Exit code; 128 + signal.
    pub code: i32,
    /// 0 for none.
    pub signal: i32,
}

/// The next child that has ended, if any.
pub fn reap() -> Option<Ended> {
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return Some(Ended { pid, code: 128 + signal, signal });
    }
    Some(Ended { pid, code: libc::WEXITSTATUS(status), signal: 0 })
}

/// Sends a signal to a child that has not been reaped.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(|_| ())
}

/// Waits for events; `None` waits for ever. An interruption counts as nothing having happened.
pub fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let millis = timeout.map_or(-1, |wait| i32::try_from(wait.as_millis()).unwrap_or(i32::MAX).saturating_add(1));
    // SAFETY: the slice is valid for its length.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            fds.iter_mut().for_each(|fd| fd.revents = 0);
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// A pipe: read end, write end.
pub fn pipe(flags: libc::c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: `fds` has room for two, and after success both are open and owned by nobody else.
    unsafe {
        check(libc::pipe2(fds.as_mut_ptr(), flags))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// Makes reads and writes return at once.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Sets the size of a terminal.
pub fn set_size(fd: BorrowedFd<'_>, (columns, rows): (u16, u16)) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(|_| ())
}

/// Receives one message with one descriptor, as a runtime sends the pseudo terminal over the console socket.
pub fn receive_fd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut name = [0_u8; 4096];
    // Aligned as cmsghdr must be; room for two descriptors, so that a second one is seen and not leaked.
    let mut control = [0_u64; 8];
    let mut part = libc::iovec { iov_base: name.as_mut_ptr().cast(), iov_len: name.len() };
    // SAFETY: every pointer in the message is valid for the length beside it during the call; control data is walked with the
    // macros made for it, and descriptors that the kernel put there are open and owned by nobody else.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&mut part, 1);
        (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), mem::size_of_val(&control) as _);
        let got = libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC);
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut first = None;
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    let fd = libc::CMSG_DATA(header).cast::<RawFd>().add(index).read_unaligned();
                    first.get_or_insert(OwnedFd::from_raw_fd(fd));
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
        first.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no terminal in the runtime's message"))
    }
}

/// Takes descriptor 1 over as the pipe to whoever started the shim, and leaves `/dev/null` in its place.
pub fn take_stdout() -> File {
    let own = io::stdout().as_fd().try_clone_to_owned();
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        // SAFETY: both descriptors are open; 1 is replaced atomically.
        unsafe { libc::dup2(null.as_raw_fd(), 1) };
    }
    match own {
        Ok(fd) => File::from(fd),
        // SAFETY: descriptor 2 is open as long as the process lives; writes there reach its log at least.
        Err(_) => unsafe { File::from_raw_fd(2) },
    }
}

/// Nanoseconds since 1970.
pub fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// How long until a moment; zero when it has passed.
pub fn until(moment: Instant) -> Duration {
    moment.saturating_duration_since(Instant::now())
}
