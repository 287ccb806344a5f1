//! From a container's record to what the runtime room builds an OCI spec of.

use super::{
    etc,
    joined::{Joined, namespace},
    links, shm,
};
use crate::{engine::Shared, record::Record};
use muster_calls::Result;
use muster_model::engine::{self, Ulimit};
use muster_runtime::{
    BlkioRate, BlkioWeight, Resources,
    spec::{DeviceMapping, MountRequest, NamespaceMode, Namespaces, Rlimit, SeccompProfile, SpecInput},
};
use std::path::PathBuf;

/// What of a new container's host configuration can be checked before it has a root: see [`muster_runtime::spec::vet`].
pub(super) fn draft(host: &engine::HostConfig) -> SpecInput {
    SpecInput {
        privileged: host.privileged,
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        device_cgroup_rules: host.resources.device_cgroup_rules.clone(),
        rlimits: host.resources.ulimits.iter().map(rlimit).collect(),
        oom_score_adj: host.oom_score_adj as i32,
        resources: resources(&host.resources),
        ..SpecInput::default()
    }
}

/// What the OCI spec of a container is built of.
///
/// # Errors
/// `Invalid` for security options that cannot be; they were checked at create.
pub(super) fn input(
    shared: &Shared,
    record: &Record,
    root: PathBuf,
    mounts: Vec<MountRequest>,
    joined: &Joined,
) -> Result<SpecInput> {
    let (config, host) = (&record.config, &record.host);
    let security = Security::parse(&host.security_opt)?;
    let parent = if host.resources.cgroup_parent.is_empty() {
        &shared.config.cgroup_parent
    } else {
        &host.resources.cgroup_parent
    };
    Ok(SpecInput {
        rootfs: root,
        readonly_rootfs: host.readonly_rootfs,
        args: std::iter::once(record.path.clone()).chain(record.args.iter().cloned()).collect(),
        env: config.env.iter().cloned().chain(links::environment(shared, record)).collect(),
        cwd: config.working_dir.clone(),
        tty: config.tty,
        user: config.user.clone(),
        group_add: host.group_add.clone(),
        // A container that shares another's network shares its host name (Docker does the same).
        hostname: joined.net.as_ref().map_or(&config.hostname, |other| &other.config.hostname).clone(),
        domainname: Some(config.domainname.clone()).filter(|d| !d.is_empty()),
        privileged: host.privileged,
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        seccomp: security.seccomp,
        no_new_privileges: security.no_new_privileges,
        apparmor_profile: security.apparmor,
        masked_paths: if security.paths_unconfined { Some(Vec::new()) } else { host.masked_paths.clone() },
        readonly_paths: if security.paths_unconfined { Some(Vec::new()) } else { host.readonly_paths.clone() },
        writable_cgroups: security.writable_cgroups,
        no_shm: host.ipc_mode == "none",
        namespaces: namespaces(shared, record, joined),
        shm_size: u64::try_from(host.shm_size).unwrap_or(0),
        shm_path: shm::path(shared, record, joined),
        etc: etc::files(shared, record, joined),
        mounts,
        devices: host.resources.devices.iter().map(device).collect(),
        device_cgroup_rules: host.resources.device_cgroup_rules.clone(),
        rlimits: host.resources.ulimits.iter().map(rlimit).collect(),
        sysctls: host.sysctls.clone(),
        oom_score_adj: host.oom_score_adj as i32,
        init: host.init.unwrap_or(false).then(|| shared.config.shim.clone()),
        resources: resources(&host.resources),
        cgroups_path: format!("{}/{}", parent.trim_end_matches('/'), record.id),
        annotations: host.annotations.clone(),
    })
}

fn namespaces(shared: &Shared, record: &Record, joined: &Joined) -> Namespaces {
    let host = &record.host;
    let of = |mode: &str, joined: &Option<std::sync::Arc<Record>>, kind: &str| match joined {
        Some(other) => namespace(other, kind),
        None if mode == "host" => NamespaceMode::Host,
        None => NamespaceMode::New,
    };
    let own_file = |of: &Record| (!of.places.is_empty()).then(|| NamespaceMode::Path(shared.netns(&of.id)));
    let by_file = if host.network_mode == "host" { None } else { own_file(joined.net.as_deref().unwrap_or(record)) };
    let net = by_file.unwrap_or_else(|| of(&host.network_mode, &joined.net, "net"));
    Namespaces {
        net,
        ipc: of(&host.ipc_mode, &joined.ipc, "ipc"),
        pid: of(&host.pid_mode, &joined.pid, "pid"),
        uts: of(&host.uts_mode, &None, "uts"),
        cgroup: of(&host.cgroupns_mode, &None, "cgroup"),
    }
}

/// What `--security-opt` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Security {
    pub seccomp: SeccompProfile,
    pub no_new_privileges: bool,
    pub apparmor: Option<String>,
    /// Nothing of `/proc` and `/sys` is masked or read-only.
    pub paths_unconfined: bool,
    pub writable_cgroups: bool,
}

impl Security {
    /// Reads the options, `key=value` or the older `key:value`.
    ///
    /// # Errors
    /// `Invalid` or `Unimplemented` naming the option.
    pub fn parse(options: &[String]) -> Result<Self> {
        let mut security = Self::default();
        for option in options {
            let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
            match (key, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.seccomp = SeccompProfile::Unconfined,
                ("seccomp", "builtin") => security.seccomp = SeccompProfile::Default,
                ("seccomp", profile) => {
                    muster_runtime::spec::parse_profile(profile)
                        .map_err(|e| muster_calls::Error::invalid(format!("opening seccomp profile failed: {e}")))?;
                    security.seccomp = SeccompProfile::Json(profile.to_owned());
                }
                ("apparmor", profile) => security.apparmor = Some(profile.to_owned()),
                ("label", "disable") => {} // No SELinux labels are given anyway.
                ("systempaths", "unconfined") => security.paths_unconfined = true,
                ("writable-cgroups", "" | "true") => security.writable_cgroups = true,
                ("writable-cgroups", "false") => security.writable_cgroups = false,
                ("label" | "credentialspec" | "systempaths" | "writable-cgroups", _) => {
                    return Err(muster_calls::Error::unimplemented(format!("--security-opt {option}")));
                }
                _ => return Err(muster_calls::Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
            }
        }
        Ok(security)
    }
}

fn device(d: &engine::DeviceMapping) -> DeviceMapping {
    let container = if d.path_in_container.is_empty() { &d.path_on_host } else { &d.path_in_container };
    let permissions = if d.cgroup_permissions.is_empty() { "rwm" } else { &d.cgroup_permissions };
    DeviceMapping {
        host: PathBuf::from(&d.path_on_host),
        container: PathBuf::from(container),
        permissions: permissions.to_owned(),
    }
}

fn rlimit(limit: &Ulimit) -> Rlimit {
    // Docker's -1 is "unlimited".
    let of = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    Rlimit { name: limit.name.clone(), soft: of(limit.soft), hard: of(limit.hard) }
}

/// Docker's limits, where 0 means "none", as the runtime room takes them.
pub(super) fn resources(r: &engine::Resources) -> Resources {
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n != 0);
    let set = |n: i64| Some(n).filter(|n| *n != 0);
    let text = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
    let rates = |list: &[engine::ThrottleDevice]| {
        list.iter().map(|d| BlkioRate { path: d.path.clone(), rate: d.rate }).collect()
    };
    Resources {
        memory: set(r.memory),
        memory_swap: set(r.memory_swap),
        memory_reservation: set(r.memory_reservation),
        memory_swappiness: r.memory_swappiness.and_then(|n| u64::try_from(n).ok()),
        oom_kill_disable: r.oom_kill_disable.filter(|on| *on),
        cpu_shares: positive(r.cpu_shares),
        cpu_quota: set(r.cpu_quota),
        cpu_period: positive(r.cpu_period),
        nano_cpus: set(r.nano_cpus),
        cpu_rt_runtime: set(r.cpu_realtime_runtime),
        cpu_rt_period: positive(r.cpu_realtime_period),
        cpuset_cpus: text(&r.cpuset_cpus),
        cpuset_mems: text(&r.cpuset_mems),
        pids_limit: r.pids_limit.filter(|n| *n != 0),
        blkio_weight: Some(r.blkio_weight).filter(|n| *n != 0),
        blkio_weight_device: r
            .blkio_weight_device
            .iter()
            .map(|d| BlkioWeight { path: d.path.clone(), weight: d.weight })
            .collect(),
        blkio_read_bps: rates(&r.blkio_device_read_bps),
        blkio_write_bps: rates(&r.blkio_device_write_bps),
        blkio_read_iops: rates(&r.blkio_device_read_iops),
        blkio_write_iops: rates(&r.blkio_device_write_iops),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options_are_read_in_both_spellings_and_strange_ones_refused_by_name() {
        let of = |options: &[&str]| Security::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        assert!(of(&["no-new-privileges"]).expect("valid").no_new_privileges);
        assert!(!of(&["no-new-privileges:true", "no-new-privileges=false"]).expect("valid").no_new_privileges);
        assert_eq!(of(&["seccomp:unconfined"]).expect("valid").seccomp, SeccompProfile::Unconfined);
        assert!(of(&["seccomp={}x"]).is_err());
        assert!(of(&["label=user:x"]).expect_err("refused").message.contains("label=user:x"));
        assert!(of(&["bogus=1"]).expect_err("refused").message.contains("bogus"));
    }

    #[test]
    fn zeros_are_no_limits() {
        let none =
            resources(&engine::Resources { memory_swappiness: Some(-1), pids_limit: Some(0), ..Default::default() });
        assert_eq!(none, Resources::default());
        assert_eq!(resources(&engine::Resources { memory_swap: -1, ..Default::default() }).memory_swap, Some(-1));
    }
}
