//! What a user asked for, in Docker's terms (Config and HostConfig of the Docker Engine API).

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Resources;

/// A container's configuration as the engine knows it, image defaults already merged in.
#[derive(Debug, Clone)]
pub struct SpecInput {
    /// The mounted root file system, absolute.
    pub rootfs: PathBuf,
    /// `--read-only`.
    pub readonly_rootfs: bool,
    /// Entrypoint and command; not empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`; `KEY` alone removes a default of that name. PATH, HOSTNAME, TERM and HOME are added where missing.
    pub env: Vec<String>,
    /// Working directory, absolute; empty for `/`. Created by the runtime if missing.
    pub cwd: String,
    /// Give it a terminal.
    pub tty: bool,
    /// `name|uid[:group|gid]`, resolved in the root file system; empty for root.
    pub user: String,
    /// Supplementary groups, names or numbers.
    pub group_add: Vec<String>,
    /// Host name; unused when the UTS namespace is not the container's own.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// `--privileged`.
    pub privileged: bool,
    /// Capabilities added, with or without `CAP_`; `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities dropped; `ALL`.
    pub cap_drop: Vec<String>,
    /// System call filter.
    pub seccomp: SeccompProfile,
    /// Never gain privileges by execve.
    pub no_new_privileges: bool,
    /// AppArmor profile, only where the host has AppArmor.
    pub apparmor_profile: Option<String>,
    /// Paths hidden from the container; `None` for Docker's.
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; `None` for Docker's.
    pub readonly_paths: Option<Vec<String>>,
    /// Which namespaces are its own.
    pub namespaces: Namespaces,
    /// Size of `/dev/shm` in bytes; 0 for 64 MiB.
    pub shm_size: u64,
    /// A tmpfs that the engine has mounted on the host, bound at `/dev/shm` in place of one of the container's own: for
    /// Docker's IPC modes `shareable` (its owner) and `container:ID` (those who join).
    pub shm_path: Option<PathBuf>,
    /// No `/dev/shm` at all: Docker's IPC mode `none`.
    pub no_shm: bool,
    /// The cgroup mount is writable (`--security-opt writable-cgroups`); privileged containers have it so anyway.
    pub writable_cgroups: bool,
    /// Files bound over those in `/etc`.
    pub etc: EtcFiles,
    /// Bind mounts, volumes (as binds) and tmpfs.
    pub mounts: Vec<MountRequest>,
    /// Host devices to make available.
    pub devices: Vec<DeviceMapping>,
    /// Rules as `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// Limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Path of the shim binary to bind at `/sbin/docker-init` and run as pid 1 (`--init`).
    pub init: Option<PathBuf>,
    /// cgroup limits.
    pub resources: Resources,
    /// Absolute cgroup path, `/<parent>/<id>`.
    pub cgroups_path: String,
    /// OCI annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Default for SpecInput {
    fn default() -> Self {
        SpecInput {
            rootfs: PathBuf::new(),
            readonly_rootfs: false,
            args: Vec::new(),
            env: Vec::new(),
            cwd: String::new(),
            tty: false,
            user: String::new(),
            group_add: Vec::new(),
            hostname: String::new(),
            domainname: None,
            privileged: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            seccomp: SeccompProfile::Default,
            no_new_privileges: false,
            apparmor_profile: None,
            masked_paths: None,
            readonly_paths: None,
            namespaces: Namespaces::default(),
            shm_size: 0,
            shm_path: None,
            no_shm: false,
            writable_cgroups: false,
            etc: EtcFiles::default(),
            mounts: Vec::new(),
            devices: Vec::new(),
            device_cgroup_rules: Vec::new(),
            rlimits: Vec::new(),
            sysctls: BTreeMap::new(),
            oom_score_adj: 0,
            init: None,
            resources: Resources::default(),
            cgroups_path: String::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// An exec's configuration.
#[derive(Debug, Clone, Default)]
pub struct ExecInput {
    /// Command; not empty.
    pub args: Vec<String>,
    /// Added to (and overriding) the container's environment.
    pub env: Vec<String>,
    /// Working directory; empty for the container's.
    pub cwd: String,
    /// `name|uid[:group|gid]`; empty for the container's user.
    pub user: String,
    /// Give it a terminal.
    pub tty: bool,
    /// All capabilities. The container's system call filter stays (the runtime applies it to execs alike), as in Docker.
    pub privileged: bool,
}

/// The system call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// Our own table, allowing what Docker's default allows.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The text of a profile in Docker's JSON form (`--security-opt seccomp=FILE`; the API carries the text).
    Json(String),
}

/// Which namespaces of a container are its own. The mount namespace always is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network: the engine gives the path of a prepared one, or `New` for one without any interface but loopback.
    pub net: NamespaceMode,
    /// System V IPC, POSIX queues and `/dev/shm`.
    pub ipc: NamespaceMode,
    /// Process ids.
    pub pid: NamespaceMode,
    /// Host name.
    pub uts: NamespaceMode,
    /// View of `/sys/fs/cgroup`: `New` is Docker's `private`.
    pub cgroup: NamespaceMode,
}

/// Whose namespace a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NamespaceMode {
    /// A new one.
    #[default]
    New,
    /// The host's.
    Host,
    /// The one at a path, as `/proc/PID/ns/ipc` of another container's init or a bind-mounted one.
    Path(PathBuf),
}

/// Host files bound over `/etc/hosts` and so on; `None` leaves the image's.
#[derive(Debug, Clone, Default)]
pub struct EtcFiles {
    /// `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
}

/// One mount that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountRequest {
    /// A host path.
    Bind(Bind),
    /// A tmpfs.
    Tmpfs(Tmpfs),
}

/// A host path in the container. The source must exist; the engine makes folders for those that may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bind {
    /// Path on the host, absolute.
    pub source: PathBuf,
    /// Path in the container, absolute.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// Read-only at the top only: what is mounted below the source stays as writable as it is.
    pub read_only_top: bool,
    /// Do not bind the mounts below the source.
    pub non_recursive: bool,
    /// How later mounts travel; Docker's default is rprivate.
    pub propagation: Propagation,
}

/// Mount propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    Private,
    /// Docker's default.
    #[default]
    RPrivate,
    Shared,
    RShared,
    Slave,
    RSlave,
}

/// A tmpfs in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tmpfs {
    /// Path in the container, absolute.
    pub target: String,
    /// Mount options as the user gave them, comma separated; `noexec,nosuid,nodev` are the defaults.
    pub options: String,
    /// Bytes; `None` for the kernel's default.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// A host device in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceMapping {
    /// Device node, or a folder of them, on the host.
    pub host: PathBuf,
    /// Path in the container.
    pub container: PathBuf,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// A resource limit of the process (getrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// Docker's name, as `nofile`.
    pub name: String,
    /// Soft limit; `u64::MAX` for unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` for unlimited.
    pub hard: u64,
}
