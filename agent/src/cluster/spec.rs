//! From a task to the container that fills it.

use muster_engine::EndpointSpec;
use muster_model::{
    assignment::{Assignment, AssignmentSet, NetworkAssignment},
    cluster::Task,
    engine::{ContainerCreateBody, HealthConfig, LogConfig, Mount, PortBinding, RestartPolicy, TmpfsOptions, Ulimit},
    net::Scope,
    spec::{ContainerSpec, MountKind},
};
use std::collections::BTreeMap;

/// Labels that tie a container to its task; stock clients filter by them.
pub const TASK_ID: &str = "com.docker.swarm.task.id";

/// The container's name: as SwarmKit makes it.
pub fn container_name(task: &Task) -> String {
    let slot = match (task.slot, task.node) {
        (0, Some(node)) => node.to_string(),
        (slot, _) => slot.to_string(),
    };
    format!("{}.{slot}.{}", task.service_name, task.id)
}

/// The container of a task, as the engine's own clients would ask for it. Placeholders such as `{{.Task.Slot}}` in its
/// hostname, environment and mount sources are filled in.
pub fn body(task: &Task, hostname: &str) -> ContainerCreateBody {
    let mut spec = task.spec.container.clone();
    let fill = |text: &mut String| *text = filled(text, task, hostname);
    spec.hostname.iter_mut().for_each(fill);
    spec.env.iter_mut().for_each(fill);
    spec.mounts.iter_mut().for_each(|m| fill(&mut m.source));
    let spec = &spec;
    let mut body = ContainerCreateBody::default();
    body.config.image = spec.image.clone();
    body.config.hostname = spec.hostname.clone().unwrap_or_default();
    body.config.user = spec.user.clone().unwrap_or_default();
    body.config.working_dir = spec.dir.clone().unwrap_or_default();
    body.config.env = spec.env.clone();
    body.config.tty = spec.tty;
    body.config.open_stdin = spec.open_stdin;
    body.config.stop_signal = spec.stop_signal.clone().unwrap_or_default();
    body.config.stop_timeout = spec.stop_grace_period.map(|d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    body.config.healthcheck = spec.healthcheck.as_ref().map(health);
    if !spec.command.is_empty() {
        body.config.entrypoint = Some(spec.command.clone().into());
    }
    body.config.cmd = spec.args.clone().into();
    body.config.labels = labels(task, spec);
    host_config(task, spec, &mut body);
    body
}

/// Docker's service templates (`docker service create`, "Create services using templates"). What is none of them stays.
fn filled(text: &str, task: &Task, hostname: &str) -> String {
    if !text.contains("{{") {
        return text.to_owned();
    }
    let node = task.node.map(|n| n.to_string()).unwrap_or_default();
    let values = [
        ("Service.ID", task.service.to_string()),
        ("Service.Name", task.service_name.clone()),
        ("Node.ID", node),
        ("Node.Hostname", hostname.to_owned()),
        ("Task.ID", task.id.to_string()),
        ("Task.Name", container_name(task)),
        ("Task.Slot", task.slot.to_string()),
    ];
    values.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{.{name}}}}}"), value).replace(&format!("{{{{ .{name} }}}}"), value)
    })
}

fn labels(task: &Task, spec: &ContainerSpec) -> BTreeMap<String, String> {
    let mut labels = spec.labels.clone();
    let node = task.node.map(|n| n.to_string()).unwrap_or_default();
    labels.extend([
        ("com.docker.swarm.node.id".to_owned(), node),
        ("com.docker.swarm.service.id".to_owned(), task.service.to_string()),
        ("com.docker.swarm.service.name".to_owned(), task.service_name.clone()),
        ("com.docker.swarm.task".to_owned(), String::new()),
        (TASK_ID.to_owned(), task.id.to_string()),
        ("com.docker.swarm.task.name".to_owned(), container_name(task)),
    ]);
    labels
}

fn host_config(task: &Task, spec: &ContainerSpec, body: &mut ContainerCreateBody) {
    let host = &mut body.host_config;
    // A task is one attempt: the cluster restarts, never the engine.
    host.restart_policy = RestartPolicy { name: "no".to_owned(), ..Default::default() };
    host.readonly_rootfs = spec.read_only;
    host.init = spec.init;
    host.group_add = spec.groups.clone();
    host.cap_add = spec.cap_add.clone();
    host.cap_drop = spec.cap_drop.clone();
    host.sysctls = spec.sysctls.clone();
    host.dns = spec.dns.nameservers.clone();
    host.dns_search = spec.dns.search.clone();
    host.dns_options = spec.dns.options.clone();
    host.extra_hosts = spec.hosts.iter().flat_map(|line| extra_hosts(line)).collect();
    let (limits, reservations) = (task.spec.resources.limits, task.spec.resources.reservations);
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    host.resources.nano_cpus = signed(limits.nano_cpus);
    host.resources.memory = signed(limits.memory_bytes);
    host.resources.memory_reservation = signed(reservations.memory_bytes);
    host.resources.pids_limit = (limits.pids > 0).then(|| signed(limits.pids));
    host.resources.ulimits =
        spec.ulimits.iter().map(|u| Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard }).collect();
    host.mounts = spec.mounts.iter().map(mount).collect();
    if let Some(driver) = &task.spec.log_driver {
        host.log_config = LogConfig { kind: driver.name.clone(), config: driver.options.clone() };
    }
    for port in &task.host_ports {
        let key = format!("{}/{}", port.target, port.protocol);
        body.config.exposed_ports.insert(key.clone());
        let host_port = if port.published == 0 { String::new() } else { port.published.to_string() };
        host.port_bindings
            .entry(key)
            .or_default()
            .get_or_insert_default()
            .push(PortBinding { host_ip: String::new(), host_port });
    }
}

/// `IP name [alias...]` as `name:IP`, once for each name.
fn extra_hosts(line: &str) -> Vec<String> {
    let mut words = line.split_whitespace();
    let Some(ip) = words.next() else { return Vec::new() };
    words.map(|name| format!("{name}:{ip}")).collect()
}

fn health(h: &muster_model::spec::HealthConfig) -> HealthConfig {
    let nanos = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    HealthConfig {
        test: h.test.clone(),
        interval: nanos(h.interval),
        timeout: nanos(h.timeout),
        start_period: nanos(h.start_period),
        start_interval: nanos(h.start_interval),
        retries: h.retries.into(),
    }
}

fn mount(m: &muster_model::spec::Mount) -> Mount {
    let kind = match m.kind {
        MountKind::Volume => "volume",
        MountKind::Bind => "bind",
        MountKind::Tmpfs => "tmpfs",
    };
    let tmpfs = (m.kind == MountKind::Tmpfs).then(|| TmpfsOptions {
        size_bytes: i64::try_from(m.tmpfs_size_bytes).unwrap_or(i64::MAX),
        mode: m.tmpfs_mode.unwrap_or(0),
        ..Default::default()
    });
    Mount {
        kind: kind.to_owned(),
        source: m.source.clone(),
        target: m.target.clone(),
        read_only: m.read_only,
        tmpfs_options: tmpfs,
        ..Default::default()
    }
}

/// The endpoints of a task: its addresses on the networks that its node was told of.
///
/// # Errors
/// A network that was not told of, by its id.
pub fn endpoints(task: &Task, set: &AssignmentSet, overlay_mtu: u16) -> Result<Vec<EndpointSpec>, String> {
    let network = |id| {
        set.items.values().find_map(|a| match a {
            Assignment::Network(n) if n.id == id => Some(n),
            _ => None,
        })
    };
    let attachments = &task.spec.networks;
    let one = |(i, a): (usize, &muster_model::cluster::TaskAddress)| {
        let n: &NetworkAssignment =
            network(a.network).ok_or_else(|| format!("network {} is not known on this node", a.network))?;
        let aliases = attachments.get(i).map(|x| x.aliases.clone()).unwrap_or_default();
        Ok(EndpointSpec {
            scope: Scope::vni(n.vni),
            network_name: n.name.clone(),
            network_id: n.id.to_string(),
            subnet: n.subnet,
            gateway: n.gateway,
            internal: n.internal,
            mtu: overlay_mtu.into(),
            ip: a.ip,
            mac: a.mac,
            aliases,
        })
    };
    task.addresses.iter().enumerate().map(one).collect()
}
