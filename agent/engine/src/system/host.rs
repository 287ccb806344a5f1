//! What the host is: read from the kernel when asked.

use std::fs;

/// The kernel's release, as `6.18.44`.
pub(super) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// This machine's architecture in Go's words, as clients know it.
pub(super) fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) struct OsRelease {
    pub pretty_name: String,
    pub version_id: String,
}

/// What os-release(5) says.
pub(super) fn os_release() -> OsRelease {
    let text = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.map(|v| v.trim_matches('"').to_owned()).unwrap_or_default()
    };
    OsRelease { pretty_name: value("PRETTY_NAME"), version_id: value("VERSION_ID") }
}

pub(super) fn cpus() -> i64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as i64)
}

/// Bytes of memory.
pub(super) fn memory() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_ascii_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

pub(super) fn ipv4_forwarding() -> bool {
    fs::read("/proc/sys/net/ipv4/ip_forward").is_ok_and(|b| b.starts_with(b"1"))
}

/// Descriptors this process has open.
pub(super) fn open_files() -> i64 {
    fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as i64)
}
