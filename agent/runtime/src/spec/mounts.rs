//! The mounts of a container: Docker's defaults, the files of `/etc`, and what the user asked for, in an order in which none
//! hides another.

use std::path::{Component, Path};

use serde_json::{Value, json};

use super::error::Error;
use super::input::{Bind, MountRequest, NamespaceMode, Propagation, SpecInput, Tmpfs};

/// Docker's `/dev/shm`.
const DEFAULT_SHM_SIZE: u64 = 64 * 1024 * 1024;
/// Where the init of `--init` is bound.
pub(super) const INIT_PATH: &str = "/sbin/docker-init";

/// The `mounts` list and the propagation that the root must have for it.
pub(super) fn list(input: &SpecInput) -> Result<(Vec<Value>, Option<&'static str>), Error> {
    let mut user = Vec::new();
    for request in &input.mounts {
        user.push(match request {
            MountRequest::Bind(bind) => bind_mount(bind)?,
            MountRequest::Tmpfs(tmpfs) => tmpfs_mount(tmpfs)?,
        });
    }
    user.extend(etc_files(input, &user));
    if let Some(init) = &input.init {
        user.push(json!({"destination": INIT_PATH, "type": "bind", "source": init, "options": ["bind", "ro"]}));
    }
    // A parent before what is mounted inside of it; the order given is kept among equals.
    user.sort_by_key(|mount| Path::new(destination(mount)).components().count());
    let hidden = |default: &Value| user.iter().any(|mount| destination(mount) == destination(default));
    let mut all: Vec<Value> = defaults(input).into_iter().filter(|default| !hidden(default)).collect();
    all.extend(user);
    Ok((all, root_propagation(input)))
}

fn destination(mount: &Value) -> &str {
    mount["destination"].as_str().unwrap_or("")
}

fn defaults(input: &SpecInput) -> Vec<Value> {
    let access = if input.privileged { "rw" } else { "ro" };
    let cgroup = if input.writable_cgroups { "rw" } else { access };
    let mount = |to: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": source, "options": options});
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[cgroup, "nosuid", "noexec", "nodev"]),
        // Shows the queues of whichever IPC namespace the container is in.
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    if !input.no_shm {
        all.push(shm(input));
    }
    all
}

/// Shared memory goes with the IPC namespace: the host's, or the mount that the engine made for those who share one (a mount
/// inside of another container's mount namespace cannot be bound from here).
fn shm(input: &SpecInput) -> Value {
    let host = (input.namespaces.ipc == NamespaceMode::Host).then(|| "/dev/shm".into());
    if let Some(source) = input.shm_path.clone().or(host) {
        return json!({"destination": "/dev/shm", "type": "bind", "source": source,
            "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev"]});
    }
    let size = if input.shm_size == 0 { DEFAULT_SHM_SIZE } else { input.shm_size };
    json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", format!("size={size}")]})
}

fn etc_files(input: &SpecInput, user: &[Value]) -> Vec<Value> {
    let files = [
        ("/etc/resolv.conf", &input.etc.resolv_conf),
        ("/etc/hostname", &input.etc.hostname),
        ("/etc/hosts", &input.etc.hosts),
    ];
    let given = |to: &str| user.iter().any(|mount| destination(mount) == to);
    let bind = |(to, source): (&str, &Option<std::path::PathBuf>)| {
        let source = source.as_ref().filter(|_| !given(to))?;
        let options = if input.readonly_rootfs { vec!["rbind", "rprivate", "ro"] } else { vec!["rbind", "rprivate"] };
        Some(json!({"destination": to, "type": "bind", "source": source, "options": options}))
    };
    files.into_iter().filter_map(bind).collect()
}

fn bind_mount(bind: &Bind) -> Result<Value, Error> {
    if !bind.source.is_absolute() {
        return Err(Error::field("Mounts", format!("{} is not an absolute path", bind.source.display())));
    }
    let target = target(&bind.target)?;
    // Read-only of everything below too, as Docker does since 25 (runc takes "rro" since 1.1); a bind without what is
    // mounted below has nothing below.
    let (kind, access) = match (bind.non_recursive, bind.read_only) {
        (false, true) if bind.read_only_top => ("rbind", "ro"),
        (false, true) => ("rbind", "rro"),
        (false, false) => ("rbind", "rw"),
        (true, true) => ("bind", "ro"),
        (true, false) => ("bind", "rw"),
    };
    Ok(json!({"destination": target, "type": "bind", "source": bind.source,
        "options": [kind, access, propagation(bind.propagation)]}))
}

fn propagation(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "private",
        Propagation::RPrivate => "rprivate",
        Propagation::Shared => "shared",
        Propagation::RShared => "rshared",
        Propagation::Slave => "slave",
        Propagation::RSlave => "rslave",
    }
}

/// A mount can only share with the host what the container's root shares.
fn root_propagation(input: &SpecInput) -> Option<&'static str> {
    let has = |wanted: &[Propagation]| {
        input.mounts.iter().any(|mount| matches!(mount, MountRequest::Bind(bind) if wanted.contains(&bind.propagation)))
    };
    if has(&[Propagation::Shared, Propagation::RShared]) {
        return Some("rshared");
    }
    has(&[Propagation::Slave, Propagation::RSlave]).then_some("rslave")
}

/// Checks the options of the tmpfs among `mounts`.
pub(super) fn check_tmpfs(mounts: &[MountRequest]) -> Result<(), Error> {
    mounts.iter().try_for_each(|mount| match mount {
        MountRequest::Tmpfs(tmpfs) => tmpfs_mount(tmpfs).map(drop),
        MountRequest::Bind(_) => Ok(()),
    })
}

/// Options of tmpfs that a user may give (tmpfs(5)); the kernel checks their values.
const TMPFS_KEYS: &[&str] = &["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];
const TMPFS_FLAGS: &[&str] = &[
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "dirsync",
    "remount",
    "mand",
    "nomand",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "defaults",
];

fn tmpfs_mount(tmpfs: &Tmpfs) -> Result<Value, Error> {
    let mut options = vec!["noexec".to_owned(), "nosuid".into(), "nodev".into()];
    options.extend(tmpfs.size.map(|size| format!("size={size}")));
    options.extend(tmpfs.mode.map(|mode| format!("mode={mode:o}")));
    for option in tmpfs.options.split(',').filter(|option| !option.is_empty() && *option != "defaults") {
        let key = option.split('=').next().unwrap_or(option);
        let known = TMPFS_FLAGS.contains(&option) || (option.contains('=') && TMPFS_KEYS.contains(&key));
        if !known {
            return Err(Error::TmpfsOption { option: option.to_owned() });
        }
        let opposite = option.strip_prefix("no").map_or(format!("no{option}"), str::to_owned);
        options.retain(|set| *set != opposite && set.split('=').next() != Some(key));
        options.push(option.to_owned());
    }
    Ok(json!({"destination": target(&tmpfs.target)?, "type": "tmpfs", "source": "tmpfs", "options": options}))
}

/// A mount point in the container, cleaned: absolute, without `.` and `..`, not the root itself.
fn target(path: &str) -> Result<String, Error> {
    let invalid = |reason: &str| Err(Error::field("Mounts", format!("mount path {path:?}: {reason}")));
    if !path.starts_with('/') {
        return invalid("must be absolute");
    }
    let mut clean: Vec<&str> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.extend(name.to_str()),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    if clean.is_empty() {
        return invalid("cannot be the root");
    }
    Ok(format!("/{}", clean.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_the_users_mount_replaces_a_default() {
        let tmpfs = |target: &str| MountRequest::Tmpfs(Tmpfs { target: target.into(), ..Tmpfs::default() });
        let input =
            SpecInput { mounts: vec![tmpfs("/a/b/c"), tmpfs("/dev/shm"), tmpfs("/a/./x/../")], ..SpecInput::default() };
        let (mounts, _) = list(&input).expect("valid");
        let places: Vec<&str> = mounts.iter().map(destination).collect();
        assert_eq!(places.iter().filter(|place| **place == "/dev/shm").count(), 1);
        let at = |path: &str| places.iter().position(|place| *place == path).expect("mounted");
        assert!(at("/dev") < at("/dev/shm") && at("/a") < at("/a/b/c"));
    }

    #[test]
    fn tmpfs_options_override_their_opposites_and_strange_ones_are_refused() {
        let with = |options: &str| Tmpfs { target: "/t".into(), options: options.into(), ..Tmpfs::default() };
        let mount = tmpfs_mount(&with("exec,size=1m,mode=700")).expect("valid");
        assert_eq!(mount["options"], json!(["nosuid", "nodev", "exec", "size=1m", "mode=700"]));
        assert!(tmpfs_mount(&with("lowerdir=/")).is_err());
        assert!(target("relative").is_err() && target("/..").is_err());
    }
}
