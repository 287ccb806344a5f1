//! Swarm's documents as the model's specs. A field that cannot be honoured is refused by its name.

use super::{
    docs::*,
    words::{duration, given, parse_word, unsigned},
};
use muster_calls::Error;
use muster_model::{
    engine::{self, HealthConfig as HealthDoc, Ulimit as UlimitDoc},
    spec::{
        ContainerSpec, DnsConfig, Driver, EndpointSpec, HealthConfig, Invalid, Mode, Mount, NetworkAttachment,
        NodeSpec, Placement, Platform, PublishedPort, Quantity, Resources, RestartPolicy, ServiceSpec, TaskSpec,
        Ulimit, UpdateConfig,
    },
};
use serde_json::Value;

/// Go's zero values say nothing: `null`, `false`, `0`, empty texts, and lists and objects of nothing else.
pub(crate) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(says_nothing),
    }
}

/// # Errors
/// `Unimplemented`, naming the first field that says something.
pub(crate) fn refuse_rest(within: &str, rest: &Rest) -> Result<(), Error> {
    match rest.iter().find(|(_, value)| !says_nothing(value)) {
        Some((field, _)) => Err(Error::unimplemented(format_args!("{within}{field}"))),
        None => Ok(()),
    }
}

/// # Errors
/// Names the first field that is wrong or cannot be honoured.
pub(crate) fn service_spec(doc: ServiceSpecDoc) -> Result<ServiceSpec, Error> {
    refuse_rest("", &doc.rest)?;
    let mut task = task_spec(doc.task_template)?;
    let networks_beside = !doc.networks.is_empty();
    if task.networks.is_empty() {
        task.networks = attachments("Networks", doc.networks)?;
    } else if !doc.networks.is_empty() {
        return Err(Invalid::new("Networks", "networks are given in TaskTemplate.Networks already").into());
    }
    let spec = ServiceSpec {
        name: doc.name,
        labels: doc.labels,
        mode: mode(doc.mode)?,
        task,
        endpoint: endpoint_spec(doc.endpoint_spec.unwrap_or_default())?,
        update: update_config("UpdateConfig.", doc.update_config)?,
        rollback: update_config("RollbackConfig.", doc.rollback_config)?,
        networks_beside,
    };
    spec.validate()?;
    Ok(spec)
}

fn mode(doc: ModeDoc) -> Result<Mode, Error> {
    refuse_mode(&doc.rest)?;
    match (doc.replicated, doc.global) {
        (Some(_), Some(_)) => Err(Invalid::new("Mode", "both Replicated and Global are given").into()),
        (None, Some(_)) => Ok(Mode::Global),
        (replicated, None) => Ok(Mode::Replicated { replicas: replicated.and_then(|r| r.replicas).unwrap_or(1) }),
    }
}

/// Modes are chosen by being there, even empty (`"GlobalJob": {}`).
fn refuse_mode(rest: &Rest) -> Result<(), Error> {
    match rest.iter().find(|(_, value)| !value.is_null()) {
        Some((mode, _)) => Err(Error::unimplemented(format_args!("Mode.{mode}"))),
        None => Ok(()),
    }
}

fn task_spec(doc: TaskSpecDoc) -> Result<TaskSpec, Error> {
    refuse_rest("TaskTemplate.", &doc.rest)?;
    if !matches!(doc.runtime.as_str(), "" | "container") {
        return Err(Error::unimplemented(format_args!("TaskTemplate.Runtime {:?}", doc.runtime)));
    }
    let within = "TaskTemplate.Resources.";
    refuse_rest(within, &doc.resources.rest)?;
    Ok(TaskSpec {
        container: container_spec(doc.container_spec)?,
        resources: Resources {
            limits: quantity("TaskTemplate.Resources.Limits.", doc.resources.limits)?,
            reservations: quantity("TaskTemplate.Resources.Reservations.", doc.resources.reservations)?,
        },
        restart: restart_policy(doc.restart_policy.unwrap_or_default())?,
        placement: placement(doc.placement)?,
        networks: attachments("TaskTemplate.Networks", doc.networks)?,
        force_update: doc.force_update,
        log_driver: doc
            .log_driver
            .filter(|d| *d != DriverDoc::default())
            .map(|d| Driver { name: d.name, options: d.options }),
    })
}

fn container_spec(doc: ContainerSpecDoc) -> Result<ContainerSpec, Error> {
    let within = "TaskTemplate.ContainerSpec.";
    refuse_rest(within, &doc.rest)?;
    if !matches!(doc.isolation.as_str(), "" | "default") {
        return Err(Error::unimplemented(format_args!("{within}Isolation {:?}", doc.isolation)));
    }
    let dns = doc.dns_config.unwrap_or_default();
    let grace = doc.stop_grace_period.map(|n| duration("TaskTemplate.ContainerSpec.StopGracePeriod", n)).transpose()?;
    Ok(ContainerSpec {
        image: doc.image,
        registry_auth: None,
        labels: doc.labels,
        command: doc.command,
        args: doc.args,
        env: doc.env,
        dir: given(doc.dir),
        user: given(doc.user),
        groups: doc.groups,
        hostname: given(doc.hostname),
        tty: doc.tty,
        open_stdin: doc.open_stdin,
        read_only: doc.read_only,
        init: doc.init,
        stop_signal: given(doc.stop_signal),
        stop_grace_period: grace,
        mounts: doc.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        healthcheck: doc.healthcheck.map(health_config).transpose()?,
        hosts: doc.hosts,
        dns: DnsConfig { nameservers: dns.nameservers, search: dns.search, options: dns.options },
        cap_add: doc.capability_add,
        cap_drop: doc.capability_drop,
        sysctls: doc.sysctls,
        ulimits: doc.ulimits.into_iter().map(|UlimitDoc { name, hard, soft }| Ulimit { name, soft, hard }).collect(),
    })
}

fn mount(doc: engine::Mount) -> Result<Mount, Error> {
    let field = |name: &str| format!("TaskTemplate.ContainerSpec.Mounts.{name}");
    let kind = match doc.kind.as_str() {
        "image" | "npipe" | "cluster" => {
            return Err(Error::unimplemented(format_args!("{} {:?}", field("Type"), doc.kind)));
        }
        kind => parse_word(&field("Type"), kind)?,
    };
    if !matches!(doc.consistency.as_str(), "" | "default" | "consistent") {
        return Err(Error::unimplemented(format_args!("{} {:?}", field("Consistency"), doc.consistency)));
    }
    let bind = doc.bind_options.unwrap_or_default();
    // rprivate is how mounts are made anyway.
    if !matches!(bind.propagation.as_str(), "" | "rprivate") {
        return Err(Error::unimplemented(format_args!("{} {:?}", field("BindOptions.Propagation"), bind.propagation)));
    }
    let bind = engine::BindOptions { propagation: String::new(), ..bind };
    for (name, options) in [
        ("BindOptions", serde_json::to_value(bind)),
        ("VolumeOptions", serde_json::to_value(doc.volume_options)),
        ("ImageOptions", serde_json::to_value(doc.image_options)),
    ] {
        if let Ok(Value::Object(fields)) = options {
            refuse_rest(&field(&format!("{name}.")), &fields.into_iter().collect())?;
        }
    }
    let tmpfs = doc.tmpfs_options.unwrap_or_default();
    if !tmpfs.options.is_empty() {
        return Err(Error::unimplemented(field("TmpfsOptions.Options")));
    }
    Ok(Mount {
        kind,
        source: doc.source,
        target: doc.target,
        read_only: doc.read_only,
        tmpfs_size_bytes: unsigned(&field("TmpfsOptions.SizeBytes"), tmpfs.size_bytes)?,
        tmpfs_mode: Some(tmpfs.mode).filter(|m| *m != 0),
    })
}

fn health_config(doc: HealthDoc) -> Result<HealthConfig, Error> {
    let field = |name: &str| format!("TaskTemplate.ContainerSpec.Healthcheck.{name}");
    let time = |name: &str, nanos: i64| duration(&field(name), nanos);
    let retries = unsigned(&field("Retries"), doc.retries)?;
    Ok(HealthConfig {
        interval: time("Interval", doc.interval)?,
        timeout: time("Timeout", doc.timeout)?,
        start_period: time("StartPeriod", doc.start_period)?,
        start_interval: time("StartInterval", doc.start_interval)?,
        retries: u32::try_from(retries)
            .map_err(|_| Invalid::new(field("Retries"), format!("{retries} is too large")))?,
        test: doc.test,
    })
}

fn quantity(within: &str, doc: QuantityDoc) -> Result<Quantity, Error> {
    refuse_rest(within, &doc.rest)?;
    Ok(Quantity {
        nano_cpus: unsigned(&format!("{within}NanoCPUs"), doc.nano_cpus)?,
        memory_bytes: unsigned(&format!("{within}MemoryBytes"), doc.memory_bytes)?,
        // -1 is how clients say "no limit".
        pids: unsigned(&format!("{within}Pids"), doc.pids.max(0))?,
    })
}

fn restart_policy(doc: RestartPolicyDoc) -> Result<RestartPolicy, Error> {
    let field = |name: &str| format!("TaskTemplate.RestartPolicy.{name}");
    let default = RestartPolicy::default();
    let time = |name: &str, nanos: Option<i64>, default| nanos.map_or(Ok(default), |n| duration(&field(name), n));
    Ok(RestartPolicy {
        condition: parse_word(&field("Condition"), &doc.condition)?,
        delay: time("Delay", doc.delay, default.delay)?,
        max_attempts: doc.max_attempts.unwrap_or(default.max_attempts),
        window: time("Window", doc.window, default.window)?,
    })
}

fn placement(doc: PlacementDoc) -> Result<Placement, Error> {
    refuse_rest("TaskTemplate.Placement.", &doc.rest)?;
    Ok(Placement {
        constraints: doc.constraints,
        spread_over: doc.preferences.into_iter().map(|p| p.spread.spread_descriptor).collect(),
        max_replicas_per_node: doc.max_replicas,
        platforms: doc.platforms.into_iter().map(|p| Platform { os: p.os, architecture: p.architecture }).collect(),
    })
}

fn attachments(field: &str, docs: Vec<AttachmentDoc>) -> Result<Vec<NetworkAttachment>, Error> {
    let one = |doc: AttachmentDoc| {
        refuse_rest(&format!("{field}."), &doc.rest)?;
        Ok(NetworkAttachment { target: doc.target, aliases: doc.aliases })
    };
    docs.into_iter().map(one).collect()
}

/// Not given: SwarmKit's defaults. Given: a zero `Parallelism` means "all at once".
fn update_config(within: &str, doc: Option<UpdateConfigDoc>) -> Result<UpdateConfig, Error> {
    let default = UpdateConfig::default();
    let Some(doc) = doc else { return Ok(default) };
    refuse_rest(within, &doc.rest)?;
    let field = |name: &str| format!("{within}{name}");
    if !(0.0..=1.0).contains(&doc.max_failure_ratio) {
        return Err(Invalid::new(field("MaxFailureRatio"), "expected 0 to 1").into());
    }
    let monitor = duration(&field("Monitor"), doc.monitor)?;
    Ok(UpdateConfig {
        parallelism: doc.parallelism,
        delay: duration(&field("Delay"), doc.delay)?,
        failure_action: parse_word(&field("FailureAction"), &doc.failure_action)?,
        monitor: if monitor.is_zero() { default.monitor } else { monitor },
        max_failure_ppm: (doc.max_failure_ratio * 1e6).round() as u32,
        order: parse_word(&field("Order"), &doc.order)?,
    })
}

fn endpoint_spec(doc: EndpointSpecDoc) -> Result<EndpointSpec, Error> {
    refuse_rest("EndpointSpec.", &doc.rest)?;
    let port = |p: PortDoc| {
        refuse_rest("EndpointSpec.Ports.", &p.rest)?;
        Ok::<_, Error>(PublishedPort {
            protocol: parse_word("EndpointSpec.Ports.Protocol", &p.protocol)?,
            target: p.target_port,
            published: p.published_port,
            mode: parse_word("EndpointSpec.Ports.PublishMode", &p.publish_mode)?,
        })
    };
    Ok(EndpointSpec {
        mode: parse_word("EndpointSpec.Mode", &doc.mode)?,
        ports: doc.ports.into_iter().map(port).collect::<Result<_, _>>()?,
    })
}

/// # Errors
/// Names the first field that is wrong or cannot be honoured.
pub(crate) fn node_spec(doc: NodeSpecDoc) -> Result<NodeSpec, Error> {
    refuse_rest("", &doc.rest)?;
    for (field, text) in [("Role", &doc.role), ("Availability", &doc.availability)] {
        if text.is_empty() {
            return Err(Invalid::new(field, "it must be given").into());
        }
    }
    const MOST: usize = 255;
    if doc.name.len() > MOST || doc.name.chars().any(char::is_control) {
        let why = format!("{:?}: expected up to {MOST} bytes without control characters", doc.name);
        return Err(Invalid::new("Name", why).into());
    }
    Ok(NodeSpec {
        labels: doc.labels,
        role: parse_word("Role", &doc.role)?,
        availability: parse_word("Availability", &doc.availability)?,
        name: doc.name,
    })
}
