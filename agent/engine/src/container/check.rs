//! What a create asks for, field by field: honoured, or refused by name. Defaults are filled in here, so that the record
//! says what is.

use super::{
    etc, joined, links,
    restart::Policy,
    spec::{self, Security},
};
use crate::{
    engine::Shared,
    logging::{Forward, Wanted},
    net::parse_port,
    record::Mounted,
    signal,
};
use muster_calls::{Error, Result};
use muster_model::engine::{ContainerConfig, HealthConfig, HostConfig, Resources};
use muster_runtime::spec::{MountRequest, SpecInput, Tmpfs};

/// Docker's least memory limit, in bytes.
const LEAST_MEMORY: i64 = 6 << 20;
const DEFAULT_SHM_SIZE: i64 = 64 << 20;
/// Bytes of a cgroup's path and of each name in it (NAME_MAX of the kernel): room stays for the mount point and what is below.
const LONGEST_CGROUP: usize = 2048;
const LONGEST_NAME: usize = 255;

/// Checks a configuration with the image's defaults merged in.
///
/// # Errors
/// `Invalid` naming the field.
pub(super) fn config(config: &ContainerConfig) -> Result<()> {
    if !config.stop_signal.is_empty() {
        signal::parse(&config.stop_signal)?;
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for port in config.exposed_ports.iter() {
        parse_port(port)?;
    }
    if let Some(entry) = config.env.iter().find(|e| e.is_empty() || e.starts_with('=')) {
        return Err(Error::invalid(format!("invalid environment variable: {entry}")));
    }
    if config.hostname.len() > 64 || config.hostname.contains(['/', '\0', '\n', ' ']) {
        return Err(Error::invalid(format!(
            "invalid hostname {:?}: at most 64 characters, no spaces",
            config.hostname
        )));
    }
    config.healthcheck.as_ref().map_or(Ok(()), health)
}

fn health(check: &HealthConfig) -> Result<()> {
    let least = 1_000_000; // One millisecond, as in Docker.
    for (field, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if value != 0 && value < least {
            return Err(Error::invalid(format!("{field} in Healthcheck cannot be less than 1ms")));
        }
    }
    if check.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    match check.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD-SHELL" | "") => Ok(()),
        Some("CMD") if check.test.len() > 1 => Ok(()),
        Some("CMD") => Err(Error::invalid("Healthcheck of type CMD needs a command")),
        Some(other) => Err(Error::invalid(format!("Unknown healthcheck type '{other}' (expected 'CMD')"))),
    }
}

/// What a client's own configuration cannot ask for at once (moby, `runconfig.validateNetMode`); what the image brings does
/// not count.
///
/// # Errors
/// `Invalid`, in Docker's words.
pub(super) fn conflicts(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    let shares = joined::target(&host.network_mode).is_some();
    let publishes = !host.port_bindings.is_empty() || host.publish_all_ports;
    let conflicts = [
        (host.uts_mode == "host" && !config.hostname.is_empty(), "hostname and the UTS mode"),
        (shares && !config.hostname.is_empty(), "hostname and the network mode"),
        (
            shares && !host.links.is_empty(),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (shares && !host.dns.is_empty(), "dns and the network mode"),
        (shares && !host.extra_hosts.is_empty(), "custom host-to-IP mapping and the network mode"),
        (shares && !config.mac_address.is_empty(), "mac-address and the network mode"),
        (shares && publishes, "port publishing and the container type network mode"),
        (shares && config.exposed_ports.iter().next().is_some(), "port exposing and the container type network mode"),
    ];
    match conflicts.into_iter().find(|(so, _)| *so) {
        Some((_, what)) => Err(Error::invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

/// Checks a host configuration and fills in its defaults.
///
/// # Errors
/// `Invalid`, `Conflict` or `Unimplemented` naming the field.
pub(super) fn host(shared: &Shared, host: &mut HostConfig) -> Result<Vec<String>> {
    refused(host)?;
    resources(host)?;
    let vetted = muster_runtime::spec::vet(&spec::draft(host), &shared.spec_host);
    let mut warnings = vetted.map_err(|e| Error::invalid(e.to_string()))?;
    if host.network_mode == "host" && !host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    discard(shared, &mut host.resources);
    modes(shared, host)?;
    links::check(shared, host)?;
    let policy =
        Policy::parse(&host.restart_policy.name, host.restart_policy.maximum_retry_count).map_err(Error::invalid)?;
    if host.auto_remove && policy != Policy::No {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    if host.restart_policy.name.is_empty() {
        host.restart_policy.name = "no".to_owned();
    }
    for port in host.port_bindings.keys() {
        parse_port(port)?;
    }
    for entry in &host.extra_hosts {
        etc::split_extra_host(entry).ok_or_else(|| Error::invalid(format!("bad format for add-host: \"{entry}\"")))?;
    }
    for server in &host.dns {
        server
            .parse::<std::net::IpAddr>()
            .map_err(|_| Error::invalid(format!("bad nameserver address {server}: {server} is not an ip address")))?;
    }
    let security = Security::parse(&host.security_opt)?;
    let profile = security.apparmor.as_deref().filter(|name| !matches!(*name, "" | "unconfined"));
    if let Some(name) = profile.filter(|_| !shared.spec_host.apparmor) {
        return Err(Error::invalid(format!("--security-opt apparmor={name}: this kernel has no AppArmor")));
    }
    if host.log_config.kind.is_empty() {
        host.log_config.kind.clone_from(&shared.config.log_driver);
        for (key, value) in &shared.config.log_options {
            host.log_config.config.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let log = Wanted::parse(&host.log_config)?;
    if log.forward == Some(Forward::Otlp(None)) && shared.config.otlp_endpoint.is_none() {
        let text =
            "log driver otlp needs --log-opt otlp-endpoint=http://HOST:PORT: the daemon has no endpoint of its own";
        return Err(Error::invalid(text));
    }
    if matches!(log.forward, Some(Forward::Otlp(_))) && shared.config.otlp.is_none() {
        return Err(Error::unimplemented("log driver otlp (this daemon exports no logs)"));
    }
    match host.shm_size {
        0 => host.shm_size = DEFAULT_SHM_SIZE,
        n if n < 0 => return Err(Error::invalid("SHM size can not be less than 0")),
        _ => {}
    }
    Ok(warnings)
}

/// Checks the options of tmpfs mounts.
///
/// # Errors
/// `Invalid` naming the option.
pub(super) fn tmpfs(shared: &Shared, mounts: &[Mounted]) -> Result<()> {
    let requests = mounts.iter().filter(|m| m.kind == "tmpfs").map(|m| {
        MountRequest::Tmpfs(Tmpfs {
            target: m.destination.clone(),
            options: m.tmpfs_options.clone(),
            size: m.tmpfs_size,
            mode: m.tmpfs_mode,
        })
    });
    let input = SpecInput { mounts: requests.collect(), ..SpecInput::default() };
    muster_runtime::spec::vet(&input, &shared.spec_host).map(drop).map_err(|e| Error::invalid(e.to_string()))
}

/// Takes out what the warnings said is discarded, so that documents show what is.
fn discard(shared: &Shared, r: &mut Resources) {
    let (kept, _) = muster_runtime::spec::supported(&spec::resources(r), &shared.spec_host);
    if kept.blkio_weight.is_none() {
        r.blkio_weight = 0;
    }
    if kept.blkio_weight_device.is_empty() {
        r.blkio_weight_device.clear();
    }
    if kept.memory_swap.is_none() {
        r.memory_swap = 0;
    }
    if kept.memory_swappiness.is_none() {
        r.memory_swappiness = None;
    }
    if kept.oom_kill_disable.is_none() {
        r.oom_kill_disable = Some(false);
    }
}

/// What is known and not done.
fn refused(host: &HostConfig) -> Result<()> {
    let r = &host.resources;
    let fields = [
        (!host.cgroup.is_empty(), "Cgroup"),
        (r.kernel_memory != 0, "KernelMemory"),
        (r.kernel_memory_tcp != 0, "KernelMemoryTCP"),
        (r.cpu_count != 0, "CpuCount"),
        (r.cpu_percent != 0, "CpuPercent"),
        (r.io_maximum_iops != 0, "IOMaximumIOps"),
        (r.io_maximum_bandwidth != 0, "IOMaximumBandwidth"),
    ];
    if let Some(request) = r.device_requests.first() {
        return Err(Error::invalid(format!(
            "could not select device driver {:?} with capabilities: {}",
            request.driver,
            sets(&request.capabilities)
        )));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        let text = format!("invalid isolation {:?}: linux only supports 'default'", host.isolation);
        return Err(Error::invalid(text));
    }
    if let Some(key) = host.storage_opt.keys().find(|key| *key != "size") {
        return Err(Error::invalid(format!("Unknown option {key}")));
    }
    if !host.storage_opt.is_empty() {
        let text = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";
        return Err(Error::new(muster_calls::Kind::Unimplemented, text));
    }
    if let Some((_, field)) = fields.into_iter().find(|(set, _)| *set) {
        return Err(Error::unimplemented(field));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        let text = format!("invalid userns mode: {}: expected host (this engine remaps no users)", host.userns_mode);
        return Err(Error::invalid(text));
    }
    match host.runtime.as_str() {
        "" | "runc" | "io.containerd.runc.v2" => Ok(()),
        other => Err(Error::invalid(format!("unknown or invalid runtime name: {other}"))),
    }
}

/// A list of lists as Go prints it, which is how Docker does.
fn sets(lists: &[Vec<String>]) -> String {
    let one = |words: &Vec<String>| format!("[{}]", words.join(" "));
    format!("[{}]", lists.iter().map(one).collect::<Vec<_>>().join(" "))
}

/// Checks limits and fills in what follows from them.
///
/// # Errors
/// `Invalid`, in Docker's words.
pub(super) fn resources(host: &mut HostConfig) -> Result<()> {
    let r = &mut host.resources;
    let bad = |text: &str| Err(Error::invalid(text));
    if r.memory != 0 && r.memory < LEAST_MEMORY {
        return bad("Minimum memory limit allowed is 6MB");
    }
    if r.memory_swap > 0 && r.memory == 0 {
        return bad("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if r.memory_swap > 0 && r.memory_swap < r.memory {
        return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory > 0 && r.memory_swap == 0 {
        // As Docker: as much swap as memory.
        r.memory_swap = r.memory.saturating_mul(2);
    }
    if r.memory_reservation != 0 && r.memory_reservation < LEAST_MEMORY {
        return bad("Minimum memory reservation allowed is 6MB");
    }
    if r.memory > 0 && r.memory_reservation > r.memory {
        return bad("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    r.memory_swappiness = r.memory_swappiness.filter(|n| *n != -1);
    if r.memory_swappiness.is_some_and(|n| !(0..=100).contains(&n)) {
        return bad("Invalid value for memory swappiness, valid memory swappiness range is 0-100");
    }
    if r.nano_cpus != 0 && (r.cpu_period != 0 || r.cpu_quota != 0) {
        let other = if r.cpu_period != 0 { "Period" } else { "Quota" };
        return Err(Error::invalid(format!("Conflicting options: Nano CPUs and CPU {other} cannot both be set")));
    }
    cpus(r.nano_cpus)?;
    if r.cpu_shares < 0 {
        return Err(Error::invalid(format!("invalid CPU shares ({}): value must be a positive integer", r.cpu_shares)));
    }
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        return bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1_000 {
        return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if r.blkio_weight != 0 && !(10..=1000).contains(&r.blkio_weight) {
        return bad("Range of blkio weight is from 10 to 1000");
    }
    r.pids_limit = r.pids_limit.filter(|n| *n != 0);
    r.oom_kill_disable.get_or_insert(false);
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    let parent = &mut host.resources.cgroup_parent;
    cgroup_parent(parent)?;
    if !parent.is_empty() && !parent.starts_with('/') {
        // Docker: relative to the cgroup of the host's init.
        parent.insert(0, '/');
    }
    Ok(())
}

/// A container whose cgroup no path can name could be started and removed by nobody.
fn cgroup_parent(parent: &str) -> Result<()> {
    let why = if parent.split('/').any(|p| p == "..") {
        "it climbs"
    } else if parent.chars().any(char::is_control) {
        "it has control characters"
    } else if parent.len() > LONGEST_CGROUP || parent.split('/').any(|p| p.len() > LONGEST_NAME) {
        "it is too long for a path below the cgroup file system"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("invalid cgroup-parent {:?}: {why}", parent.chars().take(80).collect::<String>())))
}

fn cpus(nano: i64) -> Result<()> {
    let online = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as i64;
    if nano < 0 || nano > online * 1_000_000_000 {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {online}.00, as there are only {online} CPUs available"
        )));
    }
    Ok(())
}

fn modes(shared: &Shared, host: &mut HostConfig) -> Result<()> {
    let find = |name: &str| shared.find(name);
    if matches!(host.network_mode.as_str(), "" | "default") {
        host.network_mode = "bridge".to_owned();
    }
    host.network_mode = joined::by_id(&host.network_mode, find)?;
    host.pid_mode = joined::by_id(&host.pid_mode, find)?;
    host.ipc_mode = joined::by_id(&host.ipc_mode, find)?;
    if host.ipc_mode.is_empty() {
        host.ipc_mode = "private".to_owned();
    }
    let fits = |mode: &str, words: &[&str]| words.contains(&mode) || joined::target(mode).is_some();
    let checks = [
        ("IPC", &host.ipc_mode, fits(&host.ipc_mode, &["private", "shareable", "host", "none"])),
        ("PID", &host.pid_mode, fits(&host.pid_mode, &["", "host"])),
        ("UTS", &host.uts_mode, matches!(host.uts_mode.as_str(), "" | "host")),
        ("cgroup namespace", &host.cgroupns_mode, matches!(host.cgroupns_mode.as_str(), "" | "private" | "host")),
    ];
    if let Some((what, mode, _)) = checks.into_iter().find(|(.., ok)| !ok) {
        return Err(Error::invalid(format!("invalid {what} mode: {mode}")));
    }
    if host.cgroupns_mode.is_empty() {
        // Docker's default: the host's on cgroup v1, its own on v2.
        host.cgroupns_mode =
            if shared.spec_host.cgroups.is_v2() && !host.privileged { "private" } else { "host" }.to_owned();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let with = |change: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            resources(&mut host)
        };
        assert!(with(|h| h.resources.memory = 1).is_err());
        assert!(with(|h| h.resources.memory_swap = 64 << 20).is_err());
        assert!(with(|h| (h.resources.nano_cpus, h.resources.cpu_quota) = (1, 5000)).is_err());
        assert!(with(|h| h.resources.nano_cpus = 1_000_000_000_000).is_err());
        assert!(with(|h| h.oom_score_adj = 1001).is_err());
        assert!(with(|h| h.resources.cgroup_parent = "/a/../b".into()).is_err());
        assert!(with(|h| h.resources.cgroup_parent = "a/b".into()).is_ok());
        assert!(with(|h| h.resources.cgroup_parent = "a\0b".into()).is_err());
        assert!(with(|h| h.resources.cgroup_parent = "a\nb".into()).is_err());
        assert!(with(|h| h.resources.cgroup_parent = "a".repeat(256)).is_err());
        assert!(with(|h| (h.resources.memory_swappiness, h.resources.pids_limit) = (Some(-1), Some(0))).is_ok());
    }

    #[test]
    fn swap_is_as_much_as_memory_where_nobody_says() {
        let mut host = HostConfig::default();
        host.resources.memory = 64 << 20;
        resources(&mut host).expect("valid");
        assert_eq!(host.resources.memory_swap, 128 << 20);
    }

    #[test]
    fn unsupported_fields_are_refused_by_name() {
        let host = HostConfig { isolation: "hyperv".into(), ..HostConfig::default() };
        assert!(refused(&host).expect_err("isolation").message.contains("hyperv"));
        let host = HostConfig { runtime: "kata".into(), ..HostConfig::default() };
        assert!(refused(&host).expect_err("runtime").message.contains("kata"));
    }
}
