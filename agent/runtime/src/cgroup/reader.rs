//! Reading counters and members of a container's cgroup, and the few acts that need no runtime: kill and thaw.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::Paths;
use crate::stats::{Blkio, BlkioEntry, Cpu, Memory, Pids, Stats};

/// Nanoseconds in a tick of `/proc/stat` and of `cpuacct.stat`: USER_HZ is 100 in every Linux ABI.
const TICK_NS: u64 = 10_000_000;

impl Paths {
    /// The file whose `oom_kill` line counts the kills of the OOM killer in this cgroup.
    pub fn oom_file(&self) -> Option<std::path::PathBuf> {
        let dir = self.controller("memory")?;
        Some(dir.join(if self.v1.contains_key("memory") { "memory.oom_control" } else { "memory.events" }))
    }
}

/// Reads all counters. Files that this kernel does not have count as zero.
///
/// # Errors
/// `NotFound` when the cgroup is gone; others as the kernel gives them.
pub fn read_stats(paths: &Paths) -> io::Result<Stats> {
    if !paths.all().iter().any(|dir| dir.exists()) {
        return Err(ErrorKind::NotFound.into());
    }
    let mut stats = if paths.v1.is_empty() { unified(paths) } else { legacy(paths) };
    let (host_ns, online) = host_cpu()?;
    (stats.cpu.host_ns, stats.cpu.online) = (host_ns, online);
    let machine = host_memory()?;
    if stats.memory.limit == 0 || stats.memory.limit > machine {
        stats.memory.limit = machine;
    }
    Ok(stats)
}

fn legacy(paths: &Paths) -> Stats {
    let number = |controller: &str, file: &str| paths.controller(controller).map_or(0, |dir| read_number(dir, file));
    let table = |controller: &str, file: &str| {
        paths.controller(controller).map(|dir| read_table(dir, file)).unwrap_or_default()
    };
    let (acct, cpu) = (table("cpuacct", "cpuacct.stat"), table("cpu", "cpu.stat"));
    let per_cpu = paths.controller("cpuacct").map(|dir| read_text(dir, "cpuacct.usage_percpu")).unwrap_or_default();
    let usage = number("memory", "memory.usage_in_bytes");
    Stats {
        cpu: Cpu {
            total_ns: number("cpuacct", "cpuacct.usage"),
            user_ns: get(&acct, "user") * TICK_NS,
            system_ns: get(&acct, "system") * TICK_NS,
            per_cpu_ns: per_cpu.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
            periods: get(&cpu, "nr_periods"),
            throttled_periods: get(&cpu, "nr_throttled"),
            throttled_ns: get(&cpu, "throttled_time"),
            ..Cpu::default()
        },
        memory: Memory {
            usage,
            max_usage: number("memory", "memory.max_usage_in_bytes"),
            limit: number("memory", "memory.limit_in_bytes"),
            fail_count: number("memory", "memory.failcnt"),
            swap: number("memory", "memory.memsw.usage_in_bytes").saturating_sub(usage),
            oom_kills: oom_kills(paths),
            stat: table("memory", "memory.stat"),
        },
        pids: Pids { current: number("pids", "pids.current"), limit: number("pids", "pids.max") },
        blkio: legacy_blkio(paths.controller("blkio")),
    }
}

fn unified(paths: &Paths) -> Stats {
    let Some(dir) = &paths.unified else { return Stats::default() };
    let cpu = read_table(dir, "cpu.stat");
    let micros = |key: &str| get(&cpu, key) * 1000;
    Stats {
        cpu: Cpu {
            total_ns: micros("usage_usec"),
            user_ns: micros("user_usec"),
            system_ns: micros("system_usec"),
            periods: get(&cpu, "nr_periods"),
            throttled_periods: get(&cpu, "nr_throttled"),
            throttled_ns: micros("throttled_usec"),
            ..Cpu::default()
        },
        memory: Memory {
            usage: read_number(dir, "memory.current"),
            max_usage: read_number(dir, "memory.peak"),
            limit: read_number(dir, "memory.max"),
            fail_count: get(&read_table(dir, "memory.events"), "max"),
            swap: read_number(dir, "memory.swap.current"),
            oom_kills: oom_kills(paths),
            stat: read_table(dir, "memory.stat"),
        },
        pids: Pids { current: read_number(dir, "pids.current"), limit: read_number(dir, "pids.max") },
        blkio: unified_blkio(&read_text(dir, "io.stat")),
    }
}

fn legacy_blkio(dir: Option<&Path>) -> Blkio {
    let Some(dir) = dir else { return Blkio::default() };
    // The scheduler's counters where there is one that counts, else the throttle's (which count under a rule only).
    let first = |files: [&str; 2]| {
        files.iter().map(|file| legacy_entries(&read_text(dir, file))).find(|list| !list.is_empty()).unwrap_or_default()
    };
    Blkio {
        service_bytes: first(["blkio.bfq.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive"]),
        serviced: first(["blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive"]),
    }
}

/// Lines of `8:0 Read 4096`; the closing `Total 4096` has no device and is left out.
fn legacy_entries(text: &str) -> Vec<BlkioEntry> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let op = words.next()?.to_ascii_lowercase();
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op,
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(of_line).collect()
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn unified_blkio(text: &str) -> Blkio {
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|word| word.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut blkio.service_bytes, "read"),
                "wbytes" => (&mut blkio.service_bytes, "write"),
                "rios" => (&mut blkio.serviced, "read"),
                "wios" => (&mut blkio.serviced, "write"),
                _ => continue,
            };
            let Ok(value) = value.parse() else { continue };
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    blkio
}

/// Kills by the OOM killer so far; 0 when the cgroup is gone.
pub fn oom_kills(paths: &Paths) -> u64 {
    let text = paths.oom_file().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    get(&parse_table(&text), "oom_kill")
}

/// All pids in the cgroup and in those below it; none when it is gone.
///
/// # Errors
/// As the kernel gives them, but for absence.
pub fn processes(paths: &Paths) -> io::Result<Vec<u32>> {
    let Some(dir) = paths.unified.as_deref().filter(|dir| dir.exists()).or_else(|| paths.controller("freezer")) else {
        return Ok(Vec::new());
    };
    let mut pids = Vec::new();
    collect(dir, &mut pids)?;
    Ok(pids)
}

fn collect(dir: &Path, pids: &mut Vec<u32>) -> io::Result<()> {
    let Some(text) = absent_is_none(fs::read_to_string(dir.join("cgroup.procs")))? else { return Ok(()) };
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
    let Some(entries) = absent_is_none(fs::read_dir(dir))? else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), pids)?;
    }
    Ok(())
}

/// Sends a signal to each pid; one that has ended is passed over.
///
/// # Errors
/// `InvalidInput` for a number that is no signal; others as the kernel gives them.
pub(crate) fn signal(pids: &[u32], signal: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(signal).ok_or(ErrorKind::InvalidInput)?;
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        match rustix::process::kill_process(pid, signal) {
            Err(error) if error != Errno::SRCH => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Kills everything in the cgroup, frozen or not. One write where the kernel has `cgroup.kill` (5.14), else as many rounds as
/// it takes to catch up with forks.
///
/// # Errors
/// As the kernel gives them; a cgroup that is gone is no error.
pub fn kill_all(paths: &Paths) -> io::Result<()> {
    if let Some(dir) = &paths.unified {
        match fs::write(dir.join("cgroup.kill"), "1") {
            Ok(()) => return thaw(paths),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Before 5.14 the file cannot be made; on a hybrid machine whose runtime left the tree out, neither.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    for _ in 0..1000 {
        let pids = processes(paths)?;
        if pids.is_empty() {
            return Ok(());
        }
        signal(&pids, Signal::KILL.as_raw())?;
        thaw(paths)?;
    }
    Ok(())
}

/// Whether the cgroup is frozen (or on its way there).
pub fn freezer_frozen(paths: &Paths) -> bool {
    match paths.v1.get("freezer") {
        Some(dir) => matches!(read_text(dir, "freezer.state").trim(), "FROZEN" | "FREEZING"),
        None => paths.unified.as_ref().is_some_and(|dir| read_number(dir, "cgroup.freeze") == 1),
    }
}

/// Thaws the cgroup, so that a pending SIGKILL takes effect. One that is gone is no error.
///
/// # Errors
/// As the kernel gives them.
pub fn thaw(paths: &Paths) -> io::Result<()> {
    let written = match (paths.v1.get("freezer"), &paths.unified) {
        (Some(dir), _) => fs::write(dir.join("freezer.state"), "THAWED"),
        (None, Some(dir)) => fs::write(dir.join("cgroup.freeze"), "0"),
        (None, None) => Ok(()),
    };
    absent_is_none(written).map(|_| ())
}

/// Nothing in place of an error that says that the cgroup has been removed.
fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_text(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

/// A file of one number; `max` and what is missing are 0.
fn read_number(dir: &Path, file: &str) -> u64 {
    read_text(dir, file).trim().parse().unwrap_or(0)
}

fn read_table(dir: &Path, file: &str) -> BTreeMap<String, u64> {
    parse_table(&read_text(dir, file))
}

fn parse_table(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect()
}

fn get(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}

/// CPU time of the machine since boot and its number of CPUs online, from `/proc/stat` (proc_stat(5)). Guest time is part of
/// user time there, so only the first eight columns are added, and Docker adds the first seven.
fn host_cpu() -> io::Result<(u64, u32)> {
    let text = fs::read_to_string("/proc/stat")?;
    let mut cpus = 0;
    let mut total = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("cpu")) {
        match line.strip_prefix(' ') {
            Some(all) => {
                let ticks = all.split_whitespace().take(7).filter_map(|word| word.parse::<u64>().ok());
                total = ticks.sum::<u64>() * TICK_NS;
            }
            None => cpus += 1,
        }
    }
    Ok((total, cpus))
}

/// The machine's memory in bytes.
fn host_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_counters_of_both_versions_read_alike() {
        let v2 = unified_blkio("8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\nnonsense\n");
        let v1 = legacy_entries("8:0 Read 4096\n8:0 Write 0\nTotal 4096\n");
        assert_eq!(v2.service_bytes, v1);
        assert_eq!(v2.serviced.len(), 2);
    }
}
