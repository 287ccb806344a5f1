//! The bpf(2) commands that the loader library has no words for: renewing a pinned link, asking the kernel what it can do.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_TCX_INGRESS: u32 = 46;

/// Program types and expected attach types that the probe loads (linux/bpf.h).
pub const SCHED_CLS: u32 = 3;
pub const CGROUP_SOCK_ADDR: u32 = 18;
pub const CGROUP_INET4_CONNECT: u32 = 10;

/// `union bpf_attr` as far as any of our commands reaches (through `expected_attach_type`), zero elsewhere.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    /// # Safety
    /// Addresses in the attributes must be valid for what the command does with them.
    unsafe fn call(&self, command: libc::c_int) -> io::Result<libc::c_long> {
        // SAFETY: the attributes live during the call and are as long as said; the rest is the caller's promise.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), self.0.len()) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave this descriptor to us, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a pinned link in one step. `Ok(false)`: nothing is pinned there, or what is pinned hangs on something that
/// is gone (`ENOLINK`); the pin is of no use any more.
///
/// # Errors
/// As bpf(2) `BPF_OBJ_GET` and `BPF_LINK_UPDATE`.
pub fn renew_link(pin: &Path, program: BorrowedFd<'_>) -> io::Result<bool> {
    let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the path is a string that outlives the call.
    let link = match unsafe { Attr::new().u64(0, path.as_ptr() as u64).call(BPF_OBJ_GET) } {
        Ok(fd) => owned(fd)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let update = Attr::new().u32(0, link.as_raw_fd().cast_unsigned()).u32(4, program.as_raw_fd().cast_unsigned());
    // SAFETY: no addresses in it.
    match unsafe { update.call(BPF_LINK_UPDATE) } {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Loads a program that does nothing but call one helper, or nothing at all for helper 0.
///
/// # Errors
/// As bpf(2) `BPF_PROG_LOAD`: `EINVAL` when the kernel has no such program type, attach type or helper.
pub fn try_program(kind: u32, attach: u32, helper: u32) -> io::Result<OwnedFd> {
    let instruction = |code: u8, registers: u8, immediate: u32| -> u64 {
        u64::from(code) | u64::from(registers) << 8 | u64::from(immediate) << 32
    };
    // Arguments 2 to 5 are zero, argument 1 is the context or zero, as the helper wants it.
    let mut code = Vec::new();
    if helper != 0 {
        if helper != HELPER_NETNS_COOKIE {
            code.push(instruction(0xb7, 1, 0));
        }
        code.extend((2..=5).map(|register| instruction(0xb7, register, 0)));
        code.push(instruction(0x85, 0, helper));
    }
    code.push(instruction(0xb7, 0, 1));
    code.push(instruction(0x95, 0, 0));
    let licence = c"GPL";
    let count = u32::try_from(code.len()).map_err(io::Error::other)?;
    let attr = Attr::new()
        .u32(0, kind)
        .u32(4, count)
        .u64(8, code.as_ptr() as u64)
        .u64(16, licence.as_ptr() as u64)
        .u32(68, attach);
    // SAFETY: instructions and licence outlive the call, their count is right.
    owned(unsafe { attr.call(BPF_PROG_LOAD) }?)
}

pub const HELPER_NETNS_COOKIE: u32 = 122;
pub const HELPER_REDIRECT_PEER: u32 = 155;
pub const HELPER_SET_RETVAL: u32 = 187;

/// The kernel has tcx links (6.6): attaching to an interface that cannot exist is then refused for the interface.
pub fn has_tcx() -> bool {
    let Ok(program) = try_program(SCHED_CLS, 0, 0) else { return false };
    let attr = Attr::new()
        .u32(0, program.as_raw_fd().cast_unsigned())
        .u32(4, i32::MAX.cast_unsigned())
        .u32(8, BPF_TCX_INGRESS);
    // SAFETY: no addresses in it.
    match unsafe { attr.call(BPF_LINK_CREATE) } {
        Ok(fd) => owned(fd).is_ok(),
        Err(e) => e.raw_os_error() == Some(libc::ENODEV),
    }
}
