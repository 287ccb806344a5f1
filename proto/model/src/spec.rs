//! What a user wants: specs, and the check that a spec is one the cluster can honour.
//!
//! Field names and meanings follow the Docker Engine API's `ServiceSpec`, `TaskSpec`, `NodeSpec` and network create
//! request (v1.50). What Muster does not do yet is not a field here, so it cannot be accepted and ignored.

mod auth;
mod constraint;
mod image;

pub use auth::{AuthForm, RegistryAuth};
pub use constraint::{Attribute, Constraint, Platform};

use image::check_image;

use crate::net::{Protocol, Subnet};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

pub type Labels = BTreeMap<String, String>;

/// A spec that cannot be honoured: which field, why, and what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: {why}")]
pub struct Invalid {
    /// The path of the field as the API spells it, e.g. `TaskTemplate.ContainerSpec.Image`.
    pub field: String,
    /// What is wrong with it and what would be accepted.
    pub why: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    pub name: String,
    #[serde(default)]
    pub labels: Labels,
    pub mode: Mode,
    pub task: TaskSpec,
    #[serde(default)]
    pub endpoint: EndpointSpec,
    #[serde(default)]
    pub update: UpdateConfig,
    #[serde(default)]
    pub rollback: UpdateConfig,
    /// The networks were given at their old place, beside the task: they are shown there.
    #[serde(default)]
    pub networks_beside: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// This many slots, spread over the nodes.
    Replicated { replicas: u64 },
    /// One task on every eligible node.
    Global,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub container: ContainerSpec,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub restart: RestartPolicy,
    #[serde(default)]
    pub placement: Placement,
    /// Networks the tasks join, in order: the first carries the default route.
    #[serde(default)]
    pub networks: Vec<NetworkAttachment>,
    /// A counter: raising it replaces every task though nothing else changed.
    #[serde(default)]
    pub force_update: u64,
    /// The logging driver and its options; `None`: the engine's default.
    #[serde(default)]
    pub log_driver: Option<Driver>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    pub name: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// What to run. `None` and empty lists mean "as the image says".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub image: String,
    /// Credentials for pulling `image`. Managers keep them sealed; agents write them nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_auth: Option<RegistryAuth>,
    #[serde(default)]
    pub labels: Labels,
    /// Replaces the image's entrypoint.
    #[serde(default)]
    pub command: Vec<String>,
    /// Replaces the image's command.
    #[serde(default)]
    pub args: Vec<String>,
    /// `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub dir: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub tty: bool,
    #[serde(default)]
    pub open_stdin: bool,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub init: Option<bool>,
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// How long a task may take to end after `stop_signal`; `None`: 10 s.
    #[serde(default)]
    pub stop_grace_period: Option<Duration>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default)]
    pub healthcheck: Option<HealthConfig>,
    /// Lines for /etc/hosts in Docker's service form: `IP name [alias...]`.
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub dns: DnsConfig,
    #[serde(default)]
    pub cap_add: Vec<String>,
    #[serde(default)]
    pub cap_drop: Vec<String>,
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    #[serde(default)]
    pub ulimits: Vec<Ulimit>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    #[serde(default)]
    pub nameservers: Vec<String>,
    #[serde(default)]
    pub search: Vec<String>,
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    #[default]
    Volume,
    Bind,
    Tmpfs,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: MountKind,
    /// Volume name (empty: anonymous) or host path; empty for tmpfs.
    #[serde(default)]
    pub source: String,
    /// Absolute path inside.
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    /// For tmpfs: bytes, 0 for the kernel's default.
    #[serde(default)]
    pub tmpfs_size_bytes: u64,
    /// For tmpfs: permission bits.
    #[serde(default)]
    pub tmpfs_mode: Option<u32>,
}

/// Docker API `HealthConfig`. Zero durations and retries mean "inherit the image's".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", text]`; empty: inherit.
    pub test: Vec<String>,
    #[serde(default)]
    pub interval: Duration,
    #[serde(default)]
    pub timeout: Duration,
    #[serde(default)]
    pub start_period: Duration,
    #[serde(default)]
    pub start_interval: Duration,
    #[serde(default)]
    pub retries: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantity {
    /// Billionths of a CPU; 0: no limit, nothing reserved.
    #[serde(default)]
    pub nano_cpus: u64,
    /// Bytes; 0: no limit, nothing reserved.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Processes; limits only. 0: no limit.
    #[serde(default)]
    pub pids: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    #[serde(default)]
    pub limits: Quantity,
    #[serde(default)]
    pub reservations: Quantity,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    None,
    OnFailure,
    #[default]
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    /// Wait between attempts.
    pub delay: Duration,
    /// Attempts within `window`, 0: no bound.
    pub max_attempts: u64,
    /// Over what time attempts are counted, 0: for ever.
    pub window: Duration,
}

impl Default for RestartPolicy {
    /// SwarmKit's: any, 5 s, no bound.
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: 0,
            window: Duration::ZERO,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// `node.id|hostname|role|ip|platform.os|platform.arch|labels.K|engine.labels.K` `==` or `!=` value.
    #[serde(default)]
    pub constraints: Vec<String>,
    /// Spread over the values of these node attributes, the first first.
    #[serde(default)]
    pub spread_over: Vec<String>,
    /// 0: no bound.
    #[serde(default)]
    pub max_replicas_per_node: u64,
    /// What the image is there for; empty: anything. Clients fill it in from the registry's index.
    #[serde(default)]
    pub platforms: Vec<Platform>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Name or id as the user gave it; the API resolves it to an id before it is stored.
    pub target: String,
    #[serde(default)]
    pub aliases: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// A virtual address per network.
    #[default]
    Vip,
    /// The name resolves to every task's address.
    Dnsrr,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// Every node answers the port and leads to some task.
    #[default]
    Ingress,
    /// Only the nodes that run a task answer, each with its own.
    Host,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    #[serde(default)]
    pub protocol: Protocol,
    pub target: u16,
    /// 0: the allocator picks one from 30000 to 32767 (ingress) or the host from its ephemeral range (host mode).
    #[serde(default)]
    pub published: u16,
    #[serde(default)]
    pub mode: PublishMode,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    #[serde(default)]
    pub mode: EndpointMode,
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    #[default]
    StopFirst,
    StartFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// Slots at once; 0: all.
    pub parallelism: u64,
    pub delay: Duration,
    pub failure_action: FailureAction,
    /// How long a new task is watched before it counts as good.
    pub monitor: Duration,
    /// Tolerated share of failures, in millionths.
    pub max_failure_ppm: u32,
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    /// SwarmKit's: one at a time, no delay, pause on failure, 5 s of monitoring, stop first.
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: Duration::from_secs(5),
            max_failure_ppm: 0,
            order: UpdateOrder::StopFirst,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Worker,
    Manager,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Takes new tasks.
    #[default]
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Its tasks move elsewhere.
    Drain,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    #[serde(default)]
    pub labels: Labels,
    pub role: Role,
    pub availability: Availability,
    /// What an operator calls it, besides its host name; may be empty.
    #[serde(default)]
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub name: String,
    #[serde(default)]
    pub labels: Labels,
    /// `None`: the allocator picks one from the cluster's pool.
    #[serde(default)]
    pub subnet: Option<Subnet>,
    /// `None`: the first host address of the subnet.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    #[serde(default)]
    pub internal: bool,
    /// Plain containers may join, not only tasks of services.
    #[serde(default)]
    pub attachable: bool,
}

impl ServiceSpec {
    /// Checks every rule that needs nothing but the spec itself.
    ///
    /// # Errors
    /// The first field that cannot be honoured.
    pub fn validate(&self) -> Result<(), Invalid> {
        check_name("Name", &self.name, 63)?;
        self.task.validate()?;
        self.endpoint.validate()?;
        for (within, config) in [("UpdateConfig", &self.update), ("RollbackConfig", &self.rollback)] {
            check_time(&format!("{within}.Delay"), config.delay)?;
            check_time(&format!("{within}.Monitor"), config.monitor)?;
        }
        if let Mode::Replicated { replicas } = self.mode
            && replicas > 100_000
        {
            return Err(Invalid::new("Mode.Replicated.Replicas", format!("{replicas} is more than 100000")));
        }
        Ok(())
    }
}

impl TaskSpec {
    fn validate(&self) -> Result<(), Invalid> {
        let c = "TaskTemplate.ContainerSpec";
        if self.container.image.trim().is_empty() {
            return Err(Invalid::new(format!("{c}.Image"), "an image name is needed"));
        }
        check_image(&format!("{c}.Image"), &self.container.image)?;
        for e in &self.container.env {
            if e.is_empty() || e.starts_with('=') || e.contains('\0') {
                return Err(Invalid::new(format!("{c}.Env"), format!("{e:?}: expected NAME=value")));
            }
        }
        for m in &self.container.mounts {
            m.validate(c)?;
        }
        check_time(&format!("{c}.StopGracePeriod"), self.container.stop_grace_period.unwrap_or_default())?;
        if let Some(h) = &self.container.healthcheck {
            for (name, time) in [
                ("Interval", h.interval),
                ("Timeout", h.timeout),
                ("StartPeriod", h.start_period),
                ("StartInterval", h.start_interval),
            ] {
                check_time(&format!("{c}.Healthcheck.{name}"), time)?;
            }
        }
        check_time("TaskTemplate.RestartPolicy.Delay", self.restart.delay)?;
        check_time("TaskTemplate.RestartPolicy.Window", self.restart.window)?;
        for text in &self.placement.constraints {
            Constraint::parse(text)?;
        }
        let (limit, reserve) = (self.resources.limits, self.resources.reservations);
        if limit.memory_bytes != 0 && reserve.memory_bytes > limit.memory_bytes {
            return Err(Invalid::new(
                "TaskTemplate.Resources.Reservations.MemoryBytes",
                "more is reserved than the limit allows",
            ));
        }
        if limit.nano_cpus != 0 && reserve.nano_cpus > limit.nano_cpus {
            return Err(Invalid::new(
                "TaskTemplate.Resources.Reservations.NanoCPUs",
                "more is reserved than the limit allows",
            ));
        }
        if limit.memory_bytes != 0 && limit.memory_bytes < 6 << 20 {
            return Err(Invalid::new("TaskTemplate.Resources.Limits.MemoryBytes", "the minimum memory limit is 6 MiB"));
        }
        Ok(())
    }
}

impl Mount {
    fn validate(&self, within: &str) -> Result<(), Invalid> {
        let field = format!("{within}.Mounts");
        if !self.target.starts_with('/') {
            return Err(Invalid::new(field, format!("target {:?} is not an absolute path", self.target)));
        }
        match self.kind {
            MountKind::Bind if !self.source.starts_with('/') => {
                Err(Invalid::new(field, format!("bind source {:?} is not an absolute path", self.source)))
            }
            MountKind::Tmpfs if !self.source.is_empty() => Err(Invalid::new(field, "a tmpfs mount has no source")),
            _ => Ok(()),
        }
    }
}

impl EndpointSpec {
    fn validate(&self) -> Result<(), Invalid> {
        let mut seen = std::collections::BTreeSet::new();
        for p in &self.ports {
            if p.target == 0 {
                return Err(Invalid::new("EndpointSpec.Ports.TargetPort", "expected 1 to 65535"));
            }
            if p.published != 0 && !seen.insert((p.protocol, p.published)) {
                let why = format!("port {}/{} is published twice", p.published, p.protocol);
                return Err(Invalid::new("EndpointSpec.Ports.PublishedPort", why));
            }
            if self.mode == EndpointMode::Dnsrr && p.mode == PublishMode::Ingress {
                let why = "ingress ports need a virtual address: use mode vip, or publish in host mode";
                return Err(Invalid::new("EndpointSpec.Mode", why));
            }
        }
        Ok(())
    }
}

impl NetworkSpec {
    /// # Errors
    /// The first field that cannot be honoured.
    pub fn validate(&self) -> Result<(), Invalid> {
        check_name("Name", &self.name, 63)?;
        if ["host", "none", "bridge", "ingress", "default"].contains(&self.name.as_str()) {
            return Err(Invalid::new("Name", format!("{:?} is the name of a predefined network", self.name)));
        }
        if let Some(subnet) = self.subnet {
            if !(8..=29).contains(&subnet.prefix()) {
                return Err(Invalid::new("IPAM.Config.Subnet", format!("{subnet}: expected a prefix of 8 to 29")));
            }
            if subnet.addr().is_loopback() || subnet.addr().is_multicast() || subnet.addr().is_unspecified() {
                return Err(Invalid::new("IPAM.Config.Subnet", format!("{subnet} holds no host addresses")));
            }
        }
        match (self.gateway, self.subnet) {
            (Some(_), None) => Err(Invalid::new("IPAM.Config.Gateway", "a gateway needs a subnet")),
            (Some(g), Some(s)) if !s.contains(g) || g == s.addr() || g == s.broadcast() => {
                Err(Invalid::new("IPAM.Config.Gateway", format!("{g} is no host address of {s}")))
            }
            _ => Ok(()),
        }
    }
}

/// A time that the Docker API can tell: nanoseconds in 63 bits, 292 years.
fn check_time(field: &str, time: Duration) -> Result<(), Invalid> {
    match i64::try_from(time.as_nanos()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Invalid::new(field, format!("{} s is more than 292 years", time.as_secs()))),
    }
}

/// Names of services, networks and nodes: letters, digits, `_`, `.` and `-`, starting and ending with a letter or digit.
///
/// # Errors
/// Names `field`, what it holds and what is accepted.
pub fn check_name(field: &str, name: &str, max: usize) -> Result<(), Invalid> {
    let ok = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let b = name.as_bytes();
    if b.len() <= max && edge(b.first()) && edge(b.last()) && b.iter().all(|c| ok(*c)) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(Invalid::new(
        field,
        format!("{shown:?}: expected 1 to {max} letters, digits, '_', '.' or '-', with a letter or digit at both ends"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> ServiceSpec {
        ServiceSpec {
            name: "web".into(),
            labels: Labels::new(),
            mode: Mode::Replicated { replicas: 2 },
            task: TaskSpec {
                container: ContainerSpec { image: "busybox".into(), ..Default::default() },
                ..Default::default()
            },
            endpoint: EndpointSpec::default(),
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
            networks_beside: false,
        }
    }

    #[test]
    fn a_plain_service_is_valid() {
        assert_eq!(web().validate(), Ok(()));
    }

    #[test]
    fn a_bad_field_is_named() {
        let mut s = web();
        s.name = "-web".into();
        assert_eq!(s.validate().expect_err("bad name").field, "Name");
        let mut s = web();
        s.task.container.image = " ".into();
        assert_eq!(s.validate().expect_err("no image").field, "TaskTemplate.ContainerSpec.Image");
        let mut s = web();
        s.endpoint.ports = vec![PublishedPort { target: 80, published: 8080, ..Default::default() }; 2];
        assert_eq!(s.validate().expect_err("twice").field, "EndpointSpec.Ports.PublishedPort");
        let mut s = web();
        s.task.container.stop_grace_period = Some(Duration::from_secs(u64::MAX));
        assert_eq!(s.validate().expect_err("for ever").field, "TaskTemplate.ContainerSpec.StopGracePeriod");
        let mut s = web();
        s.update.delay = Duration::MAX;
        assert_eq!(s.validate().expect_err("for ever").field, "UpdateConfig.Delay");
    }

    #[test]
    fn a_gateway_must_lie_in_its_subnet() {
        let mut n = NetworkSpec { name: "shop".into(), subnet: "10.9.0.0/24".parse().ok(), ..Default::default() };
        n.gateway = Some(Ipv4Addr::new(10, 9, 1, 1));
        assert_eq!(n.validate().expect_err("outside").field, "IPAM.Config.Gateway");
    }
}
