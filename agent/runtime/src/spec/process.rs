//! Putting the parts together: the spec of a container, and the process of an exec.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

use super::error::{Error, oci};
use super::host::Host;
use super::input::{ExecInput, NamespaceMode, Rlimit, SeccompProfile, SpecInput};
use super::{Built, capabilities, devices, environment, mounts, namespaces, paths, resources, seccomp, user};

/// The version of the OCI runtime specification that these documents keep to; every runtime in use knows it.
const OCI_VERSION: &str = "1.0.2";

/// Resource limits: Docker's name, and the row in `/proc/PID/limits`.
pub(super) const RLIMITS: &[(&str, &str)] = &[
    ("cpu", "Max cpu time"),
    ("fsize", "Max file size"),
    ("data", "Max data size"),
    ("stack", "Max stack size"),
    ("core", "Max core file size"),
    ("rss", "Max resident set"),
    ("nproc", "Max processes"),
    ("nofile", "Max open files"),
    ("memlock", "Max locked memory"),
    ("as", "Max address space"),
    ("locks", "Max file locks"),
    ("sigpending", "Max pending signals"),
    ("msgqueue", "Max msgqueue size"),
    ("nice", "Max nice priority"),
    ("rtprio", "Max realtime priority"),
    ("rttime", "Max realtime timeout"),
];

pub(super) fn container(input: &SpecInput, host: &Host) -> Result<Built, Error> {
    check(input)?;
    let mut warnings = Vec::new();
    let (caps, said) = capabilities::resolve(&input.cap_add, &input.cap_drop, input.privileged, &host.capabilities)?;
    warnings.extend(said);
    let process = process(input, host, &caps, &mut warnings)?;
    let (mounts, propagation) = mounts::list(input)?;
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": input.rootfs, "readonly": input.readonly_rootfs},
        "mounts": mounts,
        "linux": linux(input, host, &caps, propagation, &mut warnings)?,
    });
    // Naming is an act on the UTS namespace: not on the host's, nor on another container's.
    if input.namespaces.uts == NamespaceMode::New {
        spec["hostname"] = json!(input.hostname);
        if let Some(domain) = input.domainname.as_ref().filter(|name| !name.is_empty()) {
            spec["domainname"] = json!(domain);
        }
    }
    if !input.annotations.is_empty() {
        spec["annotations"] = json!(input.annotations);
    }
    Ok(Built { spec: oci::<Spec>("spec", spec)?, warnings })
}

/// What [`super::vet`] answers.
pub(super) fn vet(input: &SpecInput, host: &Host) -> Result<Vec<String>, Error> {
    let (_, mut warnings) =
        capabilities::resolve(&input.cap_add, &input.cap_drop, input.privileged, &host.capabilities)?;
    rlimits(&input.rlimits, host, &mut warnings)?;
    oom_score(input.oom_score_adj, host, &mut warnings);
    devices::check_rules(&input.device_cgroup_rules)?;
    mounts::check_tmpfs(&input.mounts)?;
    resources::check_host(&input.resources, host)?;
    let (limits, said) = resources::supported(&input.resources, host);
    resources::linux_resources(&limits, &host.cgroups)?;
    warnings.extend(said);
    Ok(warnings)
}

fn check(input: &SpecInput) -> Result<(), Error> {
    if input.args.first().is_none_or(|command| command.is_empty()) {
        return Err(Error::field("Cmd", "no command specified"));
    }
    if !input.rootfs.is_absolute() {
        return Err(Error::field("rootfs", "must be an absolute path"));
    }
    if !input.cgroups_path.starts_with('/') {
        return Err(Error::field("CgroupParent", "must be an absolute path"));
    }
    if !(-1000..=1000).contains(&input.oom_score_adj) {
        return Err(Error::field("OomScoreAdj", "must be -1000 to 1000"));
    }
    let texts = input.args.iter().chain(&input.env).chain([&input.cwd, &input.hostname]);
    match texts.into_iter().any(|text| text.contains('\0')) {
        true => Err(Error::field("Cmd, Env, WorkingDir or Hostname", "holds a NUL byte")),
        false => Ok(()),
    }
}

fn process(
    input: &SpecInput,
    host: &Host,
    caps: &BTreeSet<String>,
    warnings: &mut Vec<String>,
) -> Result<Value, Error> {
    let user = user::resolve(&input.rootfs, &input.user, &input.group_add)?;
    let mut args = input.args.clone();
    if input.init.is_some() {
        args.splice(0..0, [mounts::INIT_PATH.to_owned(), "--".to_owned()]);
    }
    let mut process = json!({
        "terminal": input.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids},
        "args": args,
        "env": environment::of_container(&input.env, &input.hostname, input.tty),
        "cwd": cwd(&input.cwd)?,
        "capabilities": capability_sets(caps, user.uid),
        "rlimits": rlimits(&input.rlimits, host, warnings)?,
        "noNewPrivileges": input.no_new_privileges,
        "oomScoreAdj": oom_score(input.oom_score_adj, host, warnings),
    });
    if let Some(profile) = input.apparmor_profile.as_ref().filter(|name| !input.privileged && *name != "unconfined") {
        if host.apparmor {
            process["apparmorProfile"] = json!(profile);
        } else {
            warnings.push("SecurityOpt apparmor: this host has no AppArmor; discarded".into());
        }
    }
    Ok(process)
}

/// Root holds its capabilities from the start; another user only within the bounds of what execve can give it. Nothing is
/// inheritable: a file with inheritable capabilities must not raise a process of the container (CVE-2022-24769).
fn capability_sets(caps: &BTreeSet<String>, uid: u32) -> Value {
    if uid == 0 {
        return json!({"bounding": caps, "effective": caps, "permitted": caps});
    }
    json!({"bounding": caps})
}

fn cwd(cwd: &str) -> Result<&str, Error> {
    match cwd {
        "" => Ok("/"),
        path if path.starts_with('/') => Ok(path),
        path => Err(Error::field("WorkingDir", format!("{path:?} must be an absolute path"))),
    }
}

fn rlimits(limits: &[Rlimit], host: &Host, warnings: &mut Vec<String>) -> Result<Vec<Value>, Error> {
    let mut list = Vec::new();
    for limit in limits {
        if !RLIMITS.iter().any(|(name, _)| *name == limit.name) {
            return Err(Error::field("Ulimits", format!("unknown limit {:?}", limit.name)));
        }
        if limit.soft > limit.hard {
            return Err(Error::field("Ulimits", format!("{}: soft limit above hard limit", limit.name)));
        }
        let (mut soft, mut hard) = (limit.soft, limit.hard);
        let most = host.hard_limits.get(&limit.name).copied().unwrap_or(u64::MAX);
        if !host.may_raise() && hard > most {
            warnings.push(format!("Ulimits: {} cannot be above {most} on this host; lowered", limit.name));
            (soft, hard) = (soft.min(most), most);
        }
        list.push(json!({"type": format!("RLIMIT_{}", limit.name.to_ascii_uppercase()), "soft": soft, "hard": hard}));
    }
    Ok(list)
}

fn oom_score(wanted: i32, host: &Host, warnings: &mut Vec<String>) -> i32 {
    if host.may_raise() || wanted >= host.oom_score_adj {
        return wanted;
    }
    // Zero is what nobody asked for.
    if wanted != 0 {
        warnings.push(format!("OomScoreAdj: cannot be below {} on this host; raised", host.oom_score_adj));
    }
    host.oom_score_adj
}

fn linux(
    input: &SpecInput,
    host: &Host,
    caps: &BTreeSet<String>,
    propagation: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Value, Error> {
    let (limits, said) = resources::supported(&input.resources, host);
    warnings.extend(said);
    let (nodes, rules) = devices::lists(input, host)?;
    let limits = resources::linux_resources(&limits, &host.cgroups)?;
    let mut resources = serde_json::to_value(limits).map_err(|error| Error::field("Resources", error.to_string()))?;
    resources["devices"] = Value::Array(rules);
    let mut linux = json!({
        "resources": resources,
        "cgroupsPath": input.cgroups_path,
        "namespaces": namespaces::list(&input.namespaces)?,
        "sysctl": sysctls(input),
        "devices": nodes,
    });
    if let Some(propagation) = propagation {
        linux["rootfsPropagation"] = json!(propagation);
    }
    // A privileged container has none of these, unless they were asked for by name.
    let filtered = !input.privileged || matches!(input.seccomp, SeccompProfile::Json(_));
    if let Some(filter) = filtered.then(|| seccomp::filter(&input.seccomp, caps, host)).transpose()?.flatten() {
        linux["seccomp"] =
            serde_json::to_value(filter).map_err(|error| Error::field("SecurityOpt", error.to_string()))?;
    }
    let list = |given: &Option<Vec<String>>, default: &[&str]| match given {
        Some(paths) => paths.clone(),
        None if input.privileged => Vec::new(),
        None => default.iter().map(|path| (*path).to_owned()).collect(),
    };
    let mut masked = list(&input.masked_paths, paths::MASKED);
    if input.masked_paths.is_none() && !input.privileged {
        masked.extend(host.thermal.iter().cloned());
    }
    linux["maskedPaths"] = json!(masked);
    linux["readonlyPaths"] = json!(list(&input.readonly_paths, paths::READONLY));
    Ok(linux)
}

/// In a network namespace of its own any user may bind low ports and send pings, as in Docker since 20.10.
fn sysctls(input: &SpecInput) -> Value {
    let mut sysctls = json!({});
    if input.namespaces.net != NamespaceMode::Host {
        sysctls["net.ipv4.ip_unprivileged_port_start"] = json!("0");
        sysctls["net.ipv4.ping_group_range"] = json!("0 2147483647");
    }
    // Older runtimes do not know the spec's domainname: Docker has always set it this way.
    if let Some(name) = input.domainname.as_ref().filter(|_| input.namespaces.uts != NamespaceMode::Host) {
        sysctls["kernel.domainname"] = json!(name);
    }
    for (name, value) in &input.sysctls {
        sysctls[name] = json!(value);
    }
    sysctls
}

/// The process of an exec in a container that was built as `container`, with its root file system at `rootfs` (as the daemon
/// sees it: for a running container `/proc/PID/root` shows its mounts as well).
///
/// # Errors
/// As [`super::build`].
pub fn exec_process(container: &Spec, rootfs: &Path, exec: &ExecInput, host: &Host) -> Result<Process, Error> {
    if exec.args.first().is_none_or(|command| command.is_empty()) {
        return Err(Error::NoCommand);
    }
    let base = container.process().as_ref().ok_or_else(|| Error::field("container", "its spec has no process"))?;
    let mut process = serde_json::to_value(base).map_err(|error| Error::field("container", error.to_string()))?;
    let env = base.env().clone().unwrap_or_default();
    process["terminal"] = json!(exec.tty);
    process["args"] = json!(exec.args);
    process["env"] = json!(environment::of_exec(&env, &exec.env, exec.tty));
    if !exec.cwd.is_empty() {
        process["cwd"] = json!(cwd(&exec.cwd)?);
    }
    let mut uid = base.user().uid();
    if !exec.user.is_empty() {
        let user = user::resolve(rootfs, &exec.user, &[])?;
        uid = user.uid;
        process["user"] = json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids});
    }
    let caps: BTreeSet<String> =
        if exec.privileged { capabilities::resolve(&[], &[], true, &host.capabilities)?.0 } else { bounding(&process) };
    process["capabilities"] = capability_sets(&caps, uid);
    oci("exec", process)
}

fn bounding(process: &Value) -> BTreeSet<String> {
    let names = process["capabilities"]["bounding"].as_array();
    names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}
