//! cgroup limits: from Docker's units to `linux.resources`.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::devices::block_number;
use super::error::{Error, oci};
use super::host::Host;
use crate::cgroup::Layout;
use crate::{BlkioRate, Resources};

/// Docker's period where only a number of CPUs is given, in microseconds.
const PERIOD_US: i64 = 100_000;
const NANO: i64 = 1_000_000_000;
/// More CPUs than any kernel is built for: bounds the work of reading a list.
const MOST_CPUS: u32 = 65_536;

/// The OCI form of `limits`, without device rules. Only fields that are set appear: the form for an update as well.
///
/// # Errors
/// [`Error::Field`] naming what is out of range or contradicts another field.
pub fn linux_resources(limits: &Resources, layout: &Layout) -> Result<LinuxResources, Error> {
    let mut value = Map::new();
    let sections = [
        ("memory", memory(limits)?),
        ("cpu", cpu(limits)?),
        ("pids", limits.pids_limit.map(|limit| json!({"limit": if limit <= 0 { -1 } else { limit }}))),
        ("blockIO", block_io(limits)?),
    ];
    for (key, section) in sections {
        value.extend(section.map(|section| (key.to_owned(), section)));
    }
    if layout.is_v2() && limits.memory_swappiness.is_some() {
        return Err(Error::field("MemorySwappiness", "cgroup v2 has no such limit"));
    }
    oci("Resources", Value::Object(value))
}

/// Refuses what this host does not have and nobody may silently lose: CPUs, memory nodes, real-time groups.
pub(super) fn check_host(limits: &Resources, host: &Host) -> Result<(), Error> {
    let sets =
        [("cpus", "CPUs", &limits.cpuset_cpus, &host.cpus), ("mems", "memory nodes", &limits.cpuset_mems, &host.mems)];
    for (short, what, wanted, there) in sets {
        let Some(wanted) = wanted.as_deref().filter(|list| !list.is_empty()) else { continue };
        let numbers = numbers(wanted).ok_or_else(|| Error::CpuList { what: short, value: wanted.to_owned() })?;
        let available: BTreeSet<u32> = numbers_or_none(there);
        if !available.is_empty() && !numbers.is_subset(&available) {
            return Err(Error::CpuSet { what, wanted: wanted.to_owned(), there: there.clone() });
        }
    }
    let real_time = limits.cpu_rt_runtime.is_some_and(|us| us != 0) || limits.cpu_rt_period.is_some_and(|us| us != 0);
    if real_time && !host.real_time {
        let text = "this kernel's cpu controller has no real-time groups (CONFIG_RT_GROUP_SCHED, cgroup v1)";
        return Err(Error::field("CpuRealtimeRuntime and CpuRealtimePeriod", text));
    }
    Ok(())
}

fn numbers_or_none(list: &str) -> BTreeSet<u32> {
    numbers(list).unwrap_or_default()
}

/// The numbers of a list as `0-2,4` (cpuset(7), "List format").
fn numbers(list: &str) -> Option<BTreeSet<u32>> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MOST_CPUS);
    let mut all = BTreeSet::new();
    for part in list.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        if from > to {
            return None;
        }
        all.extend(from..=to);
    }
    Some(all)
}

/// Drops what this host cannot do and Docker drops too, with a warning for each in Docker's words.
pub fn supported(limits: &Resources, host: &Host) -> (Resources, Vec<String>) {
    let mut limits = limits.clone();
    let mut warnings = Vec::new();
    let mut discard = |set: bool, text: &str| {
        if set {
            warnings.push(text.to_owned());
        }
        set
    };
    if !host.blkio_weight {
        let set = limits.blkio_weight.is_some_and(|weight| weight != 0) || !limits.blkio_weight_device.is_empty();
        discard(set, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.");
        limits.blkio_weight = None;
        limits.blkio_weight_device.clear();
    }
    if !host.swap_limit
        && discard(
            limits.memory_swap.is_some(),
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        )
    {
        limits.memory_swap = None;
    }
    if limits.oom_kill_disable == Some(true) && !host.cgroups.is_v2() && limits.memory.is_none_or(|bytes| bytes == 0) {
        let text = "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.";
        discard(true, text);
    }
    if host.cgroups.is_v2() {
        let swappiness = limits.memory_swappiness.is_some();
        if discard(
            swappiness,
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
        ) {
            limits.memory_swappiness = None;
        }
        let disable = limits.oom_kill_disable == Some(true);
        if discard(disable, "Your kernel does not support OomKillDisable. OomKillDisable discarded.") {
            limits.oom_kill_disable = None;
        }
    }
    (limits, warnings)
}

fn memory(limits: &Resources) -> Result<Option<Value>, Error> {
    let limit = limits.memory.filter(|bytes| *bytes != 0);
    let mut value = Map::new();
    let mut set = |key: &str, number: Option<Value>| value.extend(number.map(|number| (key.to_owned(), number)));
    set("limit", limit.map(Value::from));
    set("reservation", limits.memory_reservation.filter(|bytes| *bytes != 0).map(Value::from));
    set("swap", swap(limit, limits.memory_swap)?.map(Value::from));
    set("swappiness", limits.memory_swappiness.map(Value::from));
    set("disableOOMKiller", limits.oom_kill_disable.map(Value::from));
    if limits.memory_swappiness.is_some_and(|percent| percent > 100) {
        return Err(Error::field("MemorySwappiness", "must be 0 to 100"));
    }
    Ok((!value.is_empty()).then_some(Value::Object(value)))
}

/// Memory plus swap: twice the memory where nothing is said, as in Docker.
fn swap(limit: Option<i64>, swap: Option<i64>) -> Result<Option<i64>, Error> {
    match (limit, swap.filter(|bytes| *bytes != 0)) {
        (limit, None) => Ok(limit.filter(|bytes| *bytes > 0).map(|bytes| bytes.saturating_mul(2))),
        (_, Some(-1)) => Ok(Some(-1)),
        (None, Some(_)) => Err(Error::field("MemorySwap", "needs Memory to be set as well")),
        (Some(limit), Some(swap)) if swap < limit => {
            Err(Error::field("MemorySwap", "must be at least Memory: it is memory and swap together"))
        }
        (_, swap) => Ok(swap),
    }
}

fn cpu(limits: &Resources) -> Result<Option<Value>, Error> {
    let by_count = limits.nano_cpus.filter(|nano| *nano != 0);
    let (mut quota, mut period) =
        (limits.cpu_quota.filter(|quota| *quota != 0), limits.cpu_period.filter(|period| *period != 0));
    if let Some(nano) = by_count {
        if quota.is_some() || period.is_some() {
            return Err(Error::field("NanoCpus", "excludes CpuQuota and CpuPeriod"));
        }
        if nano < NANO / 100 {
            return Err(Error::field("NanoCpus", "must be at least 0.01 CPUs"));
        }
        quota = Some((i128::from(nano) * i128::from(PERIOD_US) / i128::from(NANO)) as i64);
        period = Some(PERIOD_US as u64);
    }
    if quota.is_some_and(|quota| (0..1000).contains(&quota)) {
        return Err(Error::field("CpuQuota", "must be at least 1000 microseconds"));
    }
    if period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
        return Err(Error::field("CpuPeriod", "must be 1000 to 1000000 microseconds"));
    }
    let mut value = Map::new();
    let mut set = |key: &str, number: Option<Value>| value.extend(number.map(|number| (key.to_owned(), number)));
    set("shares", limits.cpu_shares.filter(|shares| *shares != 0).map(Value::from));
    set("quota", quota.map(Value::from));
    set("period", period.map(Value::from));
    set("realtimeRuntime", limits.cpu_rt_runtime.filter(|us| *us != 0).map(Value::from));
    set("realtimePeriod", limits.cpu_rt_period.filter(|us| *us != 0).map(Value::from));
    set("cpus", cpuset("cpus", &limits.cpuset_cpus)?);
    set("mems", cpuset("mems", &limits.cpuset_mems)?);
    Ok((!value.is_empty()).then_some(Value::Object(value)))
}

fn cpuset(what: &'static str, list: &Option<String>) -> Result<Option<Value>, Error> {
    let Some(list) = list.as_ref().filter(|list| !list.is_empty()) else { return Ok(None) };
    match numbers(list) {
        Some(_) => Ok(Some(json!(list))),
        None => Err(Error::CpuList { what, value: list.clone() }),
    }
}

fn block_io(limits: &Resources) -> Result<Option<Value>, Error> {
    let mut value = Map::new();
    if let Some(weight) = limits.blkio_weight.filter(|weight| *weight != 0) {
        value.insert("weight".into(), json!(weight_in_range("BlkioWeight", weight)?));
    }
    let mut weights = Vec::new();
    for device in &limits.blkio_weight_device {
        let (major, minor) = block_number(&device.path)?;
        let weight = weight_in_range("BlkioWeightDevice", device.weight)?;
        weights.push(json!({"major": major, "minor": minor, "weight": weight}));
    }
    if !weights.is_empty() {
        value.insert("weightDevice".into(), Value::Array(weights));
    }
    let rates = [
        ("throttleReadBpsDevice", &limits.blkio_read_bps),
        ("throttleWriteBpsDevice", &limits.blkio_write_bps),
        ("throttleReadIOPSDevice", &limits.blkio_read_iops),
        ("throttleWriteIOPSDevice", &limits.blkio_write_iops),
    ];
    for (key, rates) in rates.iter().filter(|(_, rates)| !rates.is_empty()) {
        let rates: Result<Vec<Value>, Error> = rates.iter().map(throttle).collect();
        value.insert((*key).into(), Value::Array(rates?));
    }
    Ok((!value.is_empty()).then_some(Value::Object(value)))
}

fn throttle(rate: &BlkioRate) -> Result<Value, Error> {
    let (major, minor) = block_number(&rate.path)?;
    Ok(json!({"major": major, "minor": minor, "rate": rate.rate}))
}

fn weight_in_range(field: &'static str, weight: u16) -> Result<u16, Error> {
    if (10..=1000).contains(&weight) { Ok(weight) } else { Err(Error::field(field, "must be 10 to 1000")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limits: Resources) -> Value {
        serde_json::to_value(linux_resources(&limits, &Layout::default()).expect("valid")).expect("JSON")
    }

    #[test]
    fn cpus_become_a_quota_and_memory_brings_as_much_swap() {
        let value = of(Resources { nano_cpus: Some(1_500_000_000), memory: Some(1 << 20), ..Resources::default() });
        assert_eq!((&value["cpu"]["quota"], &value["cpu"]["period"]), (&json!(150_000), &json!(100_000)));
        assert_eq!((&value["memory"]["limit"], &value["memory"]["swap"]), (&json!(1 << 20), &json!(2 << 20)));
    }

    #[test]
    fn cpus_that_are_not_there_are_refused_and_real_time_without_a_kernel_for_it() {
        let host = Host { cpus: "0-1".into(), mems: "0".into(), ..Host::default() };
        let with = |cpus: &str| Resources { cpuset_cpus: Some(cpus.into()), ..Resources::default() };
        assert!(check_host(&with("0,1"), &host).is_ok());
        let text = check_host(&with("0-7"), &host).expect_err("missing").to_string();
        assert!(text.contains("requested 0-7, available: 0-1"), "{text}");
        let real_time = Resources { cpu_rt_runtime: Some(1000), ..Resources::default() };
        assert!(check_host(&real_time, &host).expect_err("none").to_string().contains("CpuRealtime"));
        assert_eq!(numbers("0-4294967295"), None);
    }

    #[test]
    fn an_empty_request_limits_nothing() {
        assert_eq!(of(Resources::default()), json!({}));
        assert_eq!(of(Resources { pids_limit: Some(0), ..Resources::default() }), json!({"pids": {"limit": -1}}));
    }

    #[test]
    fn contradictions_are_refused_by_the_fields_name() {
        let refused =
            |limits: Resources| linux_resources(&limits, &Layout::default()).expect_err("invalid").to_string();
        let both = Resources { nano_cpus: Some(NANO), cpu_quota: Some(1000), ..Resources::default() };
        assert!(refused(both).starts_with("NanoCpus"));
        let less = Resources { memory: Some(100), memory_swap: Some(50), ..Resources::default() };
        assert!(refused(less).starts_with("MemorySwap"));
        let set = Resources { cpuset_cpus: Some("3-1".into()), ..Resources::default() };
        assert!(refused(set).starts_with("Invalid value 3-1 for cpuset cpus"));
    }
}
