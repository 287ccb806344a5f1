//! What this host can do, read once at start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::capabilities;
use crate::cgroup::Layout;

/// Abilities and bounds of the host (and of this process on it) that a container's spec must respect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Capabilities that this process can hand on, as `CAP_CHOWN`.
    pub capabilities: BTreeSet<String>,
    /// Hard limits of this process by Docker's name (`nofile`); without CAP_SYS_RESOURCE nothing can be above.
    pub hard_limits: BTreeMap<String, u64>,
    /// `oom_score_adj` of this process; without CAP_SYS_RESOURCE nothing can be below.
    pub oom_score_adj: i32,
    /// AppArmor is on.
    pub apparmor: bool,
    /// Block I/O weights work (there is a scheduler that honours them).
    pub blkio_weight: bool,
    /// Swap is accounted for by the memory controller.
    pub swap_limit: bool,
    /// CPUs that are online, as `0-3`; empty where the kernel does not say.
    pub cpus: String,
    /// Memory nodes that are online, as `0`.
    pub mems: String,
    /// The cpu controller has real-time groups.
    pub real_time: bool,
    /// The cgroup layout.
    pub cgroups: Layout,
    /// The kernel takes system calls of x32 (CONFIG_X86_X32_ABI).
    pub x32: bool,
    /// Folders `thermal_throttle` of the CPUs, which Docker masks.
    pub thermal: Vec<String>,
    /// Root of device nodes.
    pub dev: PathBuf,
}

impl Host {
    /// Reads this host.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn detect() -> std::io::Result<Host> {
        let cgroups = Layout::detect()?;
        let status = fs::read_to_string("/proc/self/status")?;
        Ok(Host {
            capabilities: capabilities::from_mask(bounding(&status)),
            hard_limits: hard_limits(&fs::read_to_string("/proc/self/limits")?),
            oom_score_adj: fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0),
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")),
            blkio_weight: blkio_weight(&cgroups),
            swap_limit: swap_limit(&cgroups),
            cpus: line("/sys/devices/system/cpu/online"),
            mems: line("/sys/devices/system/node/online"),
            real_time: cgroups.v1.get("cpu").is_some_and(|dir| dir.join("cpu.rt_runtime_us").exists()),
            cgroups,
            x32: takes_x32(),
            thermal: thermal(),
            dev: PathBuf::from("/dev"),
        })
    }

    /// Whether limits may be raised and OOM scores lowered.
    pub fn may_raise(&self) -> bool {
        self.capabilities.contains("CAP_SYS_RESOURCE")
    }
}

/// Asked by a call of it, in a process of its own: where a filter of this daemon's own forbids such calls, they end the caller.
#[cfg(target_arch = "x86_64")]
fn takes_x32() -> bool {
    const X32_SYSCALL_BIT: libc::c_long = 0x4000_0000; // asm/unistd.h
    // SAFETY: the child makes two system calls and nothing else.
    match unsafe { libc::fork() } {
        0 => unsafe {
            let pid = libc::syscall(X32_SYSCALL_BIT | libc::SYS_getpid);
            libc::_exit(i32::from(pid < 0))
        },
        -1 => true, // not known: nothing is left out then
        child => {
            let mut status = 0;
            // SAFETY: the child is ours, and status lives.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            waited != child || (libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn takes_x32() -> bool {
    false
}

/// The one line of a file; empty when it is not there.
fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn bounding(status: &str) -> u64 {
    let text = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or("");
    u64::from_str_radix(text.trim(), 16).unwrap_or(0)
}

/// Rows of `/proc/self/limits` (proc_pid_limits(5)): name, soft, hard, unit, in columns of fixed width.
fn hard_limits(text: &str) -> BTreeMap<String, u64> {
    let of_row = |(name, row): &(&str, &str)| {
        let line = text.lines().find(|line| line.starts_with(row))?;
        let hard = line[row.len()..].split_whitespace().nth(1)?;
        Some(((*name).to_owned(), if hard == "unlimited" { u64::MAX } else { hard.parse().ok()? }))
    };
    super::process::RLIMITS.iter().filter_map(of_row).collect()
}

fn blkio_weight(cgroups: &Layout) -> bool {
    let classic = cgroups.v1.get("blkio").is_some_and(|dir| dir.join("blkio.weight").exists());
    let Ok(disks) = fs::read_dir("/sys/block") else { return classic };
    classic
        || disks
            .flatten()
            .any(|disk| fs::read_to_string(disk.path().join("queue/scheduler")).is_ok_and(|text| text.contains("bfq")))
}

fn swap_limit(cgroups: &Layout) -> bool {
    match cgroups.v1.get("memory") {
        Some(dir) => dir.join("memory.memsw.limit_in_bytes").exists(),
        None => cgroups.is_v2(),
    }
}

fn thermal() -> Vec<String> {
    let Ok(entries) = fs::read_dir(Path::new("/sys/devices/system/cpu")) else { return Vec::new() };
    let mut found: Vec<String> = entries
        .flatten()
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}
