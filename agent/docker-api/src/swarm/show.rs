//! The model's objects as Swarm's documents.

use super::{
    docs::*,
    objects::*,
    words::{nanos, token_shown, word},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use muster_calls::{JoinTokens, NodeView, ServiceView};
use muster_model::{
    NetworkId, Timestamp,
    cluster::{
        AllocatedPort, Cluster, ClusterSpec, Meta, Network, Service, Task, TaskState, TaskStatus, UpdateStatus, Version,
    },
    engine::{self, HealthConfig as HealthDoc, Time, Ulimit as UlimitDoc},
    spec::{
        ContainerSpec, EndpointSpec, HealthConfig, Mode, Mount, MountKind, NetworkAttachment, NodeSpec, Placement,
        Quantity, RestartPolicy, ServiceSpec, TaskSpec, UpdateConfig,
    },
};
use serde_json::json;
use std::{collections::BTreeMap, net::Ipv4Addr};
use x509_parser::pem::parse_x509_pem;

/// The cluster's networks, to show addresses with their prefix length and attachments with their names.
pub(crate) type Networks = BTreeMap<NetworkId, Network>;

const fn version(v: Version) -> VersionDoc {
    VersionDoc { index: v.0 }
}

fn with_prefix(networks: &Networks, network: NetworkId, ip: Ipv4Addr) -> String {
    match networks.get(&network) {
        Some(network) => format!("{ip}/{}", network.subnet.prefix()),
        None => ip.to_string(),
    }
}

pub(crate) fn service_spec(spec: &ServiceSpec) -> ServiceSpecDoc {
    let mut task_template = TaskSpecDoc { runtime: "container".to_owned(), ..task_spec(&spec.task) };
    // They are shown where they were given.
    let networks = if spec.networks_beside { std::mem::take(&mut task_template.networks) } else { Vec::new() };
    ServiceSpecDoc {
        networks,
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        task_template,
        mode: match spec.mode {
            Mode::Replicated { replicas } => {
                ModeDoc { replicated: Some(ReplicatedDoc { replicas: Some(replicas) }), ..ModeDoc::default() }
            }
            Mode::Global => ModeDoc { global: Some(GlobalDoc {}), ..ModeDoc::default() },
        },
        update_config: Some(update_config(&spec.update)),
        rollback_config: Some(update_config(&spec.rollback)),
        endpoint_spec: Some(endpoint_spec(&spec.endpoint)),
        ..ServiceSpecDoc::default()
    }
}

fn task_spec(spec: &TaskSpec) -> TaskSpecDoc {
    TaskSpecDoc {
        container_spec: container_spec(&spec.container),
        resources: ResourcesDoc {
            limits: quantity(spec.resources.limits),
            reservations: quantity(spec.resources.reservations),
            ..ResourcesDoc::default()
        },
        restart_policy: Some(restart_policy(&spec.restart)),
        placement: placement(&spec.placement),
        networks: spec.networks.iter().map(attachment).collect(),
        log_driver: spec.log_driver.as_ref().map(|d| DriverDoc { name: d.name.clone(), options: d.options.clone() }),
        force_update: spec.force_update,
        ..TaskSpecDoc::default()
    }
}

fn container_spec(spec: &ContainerSpec) -> ContainerSpecDoc {
    let dns = DnsConfigDoc {
        nameservers: spec.dns.nameservers.clone(),
        search: spec.dns.search.clone(),
        options: spec.dns.options.clone(),
    };
    let ulimit = |u: &muster_model::spec::Ulimit| UlimitDoc { name: u.name.clone(), hard: u.hard, soft: u.soft };
    ContainerSpecDoc {
        image: spec.image.clone(),
        labels: spec.labels.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        hostname: spec.hostname.clone().unwrap_or_default(),
        env: spec.env.clone(),
        dir: spec.dir.clone().unwrap_or_default(),
        user: spec.user.clone().unwrap_or_default(),
        groups: spec.groups.clone(),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        mounts: spec.mounts.iter().map(mount).collect(),
        stop_signal: spec.stop_signal.clone().unwrap_or_default(),
        stop_grace_period: spec.stop_grace_period.map(nanos),
        healthcheck: spec.healthcheck.as_ref().map(health_config),
        hosts: spec.hosts.clone(),
        dns_config: Some(dns),
        isolation: "default".to_owned(),
        init: spec.init,
        sysctls: spec.sysctls.clone(),
        capability_add: spec.cap_add.clone(),
        capability_drop: spec.cap_drop.clone(),
        ulimits: spec.ulimits.iter().map(ulimit).collect(),
        ..ContainerSpecDoc::default()
    }
}

fn mount(m: &Mount) -> engine::Mount {
    let tmpfs = engine::TmpfsOptions {
        size_bytes: i64::try_from(m.tmpfs_size_bytes).unwrap_or(i64::MAX),
        mode: m.tmpfs_mode.unwrap_or(0),
        ..engine::TmpfsOptions::default()
    };
    engine::Mount {
        kind: word(m.kind),
        source: m.source.clone(),
        target: m.target.clone(),
        read_only: m.read_only,
        tmpfs_options: (m.kind == MountKind::Tmpfs).then_some(tmpfs),
        ..engine::Mount::default()
    }
}

fn health_config(h: &HealthConfig) -> HealthDoc {
    HealthDoc {
        test: h.test.clone(),
        interval: nanos(h.interval),
        timeout: nanos(h.timeout),
        start_period: nanos(h.start_period),
        start_interval: nanos(h.start_interval),
        retries: h.retries.into(),
    }
}

fn quantity(q: Quantity) -> QuantityDoc {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    QuantityDoc {
        nano_cpus: signed(q.nano_cpus),
        memory_bytes: signed(q.memory_bytes),
        pids: signed(q.pids),
        ..QuantityDoc::default()
    }
}

fn restart_policy(r: &RestartPolicy) -> RestartPolicyDoc {
    RestartPolicyDoc {
        condition: word(r.condition),
        delay: Some(nanos(r.delay)),
        max_attempts: Some(r.max_attempts),
        window: Some(nanos(r.window)),
    }
}

fn placement(p: &Placement) -> PlacementDoc {
    let preference = |attribute: &String| PreferenceDoc { spread: SpreadDoc { spread_descriptor: attribute.clone() } };
    PlacementDoc {
        constraints: p.constraints.clone(),
        preferences: p.spread_over.iter().map(preference).collect(),
        max_replicas: p.max_replicas_per_node,
        platforms: p
            .platforms
            .iter()
            .map(|p| PlatformDoc { architecture: p.architecture.clone(), os: p.os.clone() })
            .collect(),
        ..PlacementDoc::default()
    }
}

fn attachment(a: &NetworkAttachment) -> AttachmentDoc {
    AttachmentDoc { target: a.target.clone(), aliases: a.aliases.clone(), ..AttachmentDoc::default() }
}

fn update_config(u: &UpdateConfig) -> UpdateConfigDoc {
    UpdateConfigDoc {
        parallelism: u.parallelism,
        delay: nanos(u.delay),
        failure_action: word(u.failure_action),
        monitor: nanos(u.monitor),
        max_failure_ratio: f64::from(u.max_failure_ppm) / 1e6,
        order: word(u.order),
        ..UpdateConfigDoc::default()
    }
}

fn endpoint_spec(e: &EndpointSpec) -> EndpointSpecDoc {
    let port = |p: &muster_model::spec::PublishedPort| PortDoc {
        protocol: word(p.protocol),
        target_port: p.target,
        published_port: p.published,
        publish_mode: word(p.mode),
        ..PortDoc::default()
    };
    EndpointSpecDoc { mode: word(e.mode), ports: e.ports.iter().map(port).collect(), ..EndpointSpecDoc::default() }
}

fn allocated_port(p: &AllocatedPort) -> PortDoc {
    PortDoc {
        protocol: word(p.protocol),
        target_port: p.target,
        published_port: p.published,
        publish_mode: word(p.mode),
        ..PortDoc::default()
    }
}

/// Leaves out what nobody asked for: specs are stored with their defaults filled in, and dockerd shows those only to who
/// asks for them.
pub(crate) fn without_defaults(mut doc: ServiceDoc) -> ServiceDoc {
    let usual = update_config(&UpdateConfig::default());
    for spec in [Some(&mut doc.spec), doc.previous_spec.as_mut()].into_iter().flatten() {
        for config in [&mut spec.update_config, &mut spec.rollback_config] {
            config.take_if(|c| *c == usual);
        }
    }
    doc
}

/// `status`: the client asked how many tasks run.
pub(crate) fn service(view: &ServiceView, networks: &Networks, status: bool) -> ServiceDoc {
    let Service { id, meta, spec, previous_spec, endpoint, update_status, .. } = &view.service;
    let vip = |(network, ip): (&NetworkId, &Ipv4Addr)| VirtualIpDoc {
        network_id: network.to_string(),
        addr: with_prefix(networks, *network, *ip),
    };
    ServiceDoc {
        id: id.to_string(),
        version: version(meta.version),
        created_at: meta.created_at.into(),
        updated_at: meta.updated_at.into(),
        spec: service_spec(spec),
        previous_spec: previous_spec.as_deref().map(service_spec),
        endpoint: EndpointDoc {
            spec: endpoint_spec(&spec.endpoint),
            ports: endpoint.ports.iter().map(allocated_port).collect(),
            virtual_ips: endpoint.vips.iter().map(vip).collect(),
        },
        update_status: update_status.as_ref().map(self::update_status),
        service_status: status.then_some(ServiceStatusDoc {
            running_tasks: view.running_tasks,
            desired_tasks: view.desired_tasks,
            completed_tasks: view.completed_tasks,
        }),
    }
}

fn update_status(u: &UpdateStatus) -> UpdateStatusDoc {
    let given = |t: Timestamp| Some(Time(t)).filter(|t| !t.0.is_zero());
    UpdateStatusDoc {
        state: word(u.state),
        started_at: given(u.started_at),
        completed_at: given(u.completed_at),
        message: u.message.clone(),
    }
}

/// `labels`: those of the task's service.
pub(crate) fn task(task: &Task, labels: &engine::Strings, networks: &Networks) -> TaskDoc {
    let attachment = |a: &muster_model::cluster::TaskAddress| {
        let spec = networks.get(&a.network).map(|n| TaskNetworkSpecDoc {
            name: n.spec.name.clone(),
            labels: n.spec.labels.clone(),
            scope: "swarm".to_owned(),
        });
        TaskNetworkDoc {
            network: TaskNetworkRefDoc { id: a.network.to_string(), spec: spec.unwrap_or_default() },
            addresses: vec![with_prefix(networks, a.network, a.ip)],
        }
    };
    TaskDoc {
        id: task.id.to_string(),
        version: version(task.meta.version),
        created_at: task.meta.created_at.into(),
        updated_at: task.meta.updated_at.into(),
        labels: labels.clone(),
        spec: task_spec(&task.spec),
        service_id: task.service.to_string(),
        slot: task.slot,
        node_id: task.node.map(|n| n.to_string()).unwrap_or_default(),
        status: task_status(&task.status, &task.host_ports),
        desired_state: task.desired.as_str().to_owned(),
        networks_attachments: task.addresses.iter().map(attachment).collect(),
        volumes: None,
    }
}

/// Clients show a task's `Err` only: while it waits for a node, the reason why none suits stands there as SwarmKit writes it.
/// `ports`: those of its host that it was given; it has them while it runs.
fn task_status(s: &TaskStatus, ports: &[AllocatedPort]) -> TaskStatusDoc {
    let ports = if s.state == TaskState::Running && s.host_ports.is_empty() { ports } else { &s.host_ports };
    let waits = s.state == TaskState::Pending && s.error.is_empty();
    let container =
        ContainerStatusDoc { container_id: s.container_id.clone(), pid: s.pid, exit_code: s.exit_code.unwrap_or(0) };
    TaskStatusDoc {
        timestamp: s.at.into(),
        state: s.state.as_str().to_owned(),
        message: s.message.clone(),
        err: if waits { s.message.clone() } else { s.error.clone() },
        container_status: (container != ContainerStatusDoc::default()).then_some(container),
        port_status: PortStatusDoc { ports: ports.iter().map(allocated_port).collect() },
    }
}

fn node_spec(spec: &NodeSpec) -> NodeSpecDoc {
    NodeSpecDoc {
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        role: word(spec.role),
        availability: word(spec.availability),
        ..NodeSpecDoc::default()
    }
}

/// What the members' certificates hang on: one root, which issues all of them itself.
pub(crate) fn tls_info(root_pem: &str) -> TlsInfoDoc {
    let mut doc = TlsInfoDoc { trust_root: root_pem.to_owned(), ..TlsInfoDoc::default() };
    if let Ok((_, pem)) = parse_x509_pem(root_pem.as_bytes())
        && let Ok(root) = pem.parse_x509()
    {
        doc.cert_issuer_subject = BASE64.encode(root.subject().as_raw());
        doc.cert_issuer_public_key = BASE64.encode(root.public_key().raw);
    }
    doc
}

/// `tls`: the cluster's, by which each member has its certificate.
pub(crate) fn node(view: &NodeView, tls: &TlsInfoDoc) -> NodeDoc {
    let node = &view.node;
    let d = &node.description;
    let addr = d.api_addr.or(node.manager_addr).map(|a| a.ip().to_string()).unwrap_or_default();
    let reachability = if view.reachable { "reachable" } else { "unreachable" };
    NodeDoc {
        id: node.id.to_string(),
        version: version(node.meta.version),
        created_at: node.meta.created_at.into(),
        updated_at: node.meta.updated_at.into(),
        spec: node_spec(&node.spec),
        description: NodeDescriptionDoc {
            hostname: d.hostname.clone(),
            platform: PlatformDoc { architecture: d.arch.clone(), os: d.os.clone() },
            resources: quantity(Quantity { nano_cpus: d.nano_cpus, memory_bytes: d.memory_bytes, pids: 0 }),
            engine: EngineDoc { engine_version: d.engine_version.clone(), labels: d.engine_labels.clone() },
            tls_info: tls.clone(),
        },
        status: NodeStatusDoc { state: word(node.status.state), message: node.status.message.clone(), addr },
        manager_status: node.manager_addr.map(|addr| ManagerStatusDoc {
            leader: view.leader,
            reachability: reachability.to_owned(),
            addr: addr.to_string(),
        }),
    }
}

/// The parts of `SwarmSpec` that Muster has; its raft is not set by ticks.
pub(crate) fn cluster_spec(spec: &ClusterSpec) -> serde_json::Value {
    json!({
        "Name": "default",
        "Labels": {},
        "Orchestration": { "TaskHistoryRetentionLimit": spec.task_history_limit },
        "Raft": { "ElectionTick": 0, "HeartbeatTick": 0 },
        "Dispatcher": { "HeartbeatPeriod": nanos(spec.heartbeat_period) },
        "CAConfig": { "NodeCertExpiry": nanos(spec.certificate_lifetime) },
        "TaskDefaults": {},
        "EncryptionConfig": { "AutoLockManagers": false },
    })
}

/// `tokens`: only for `GET /swarm`.
pub(crate) fn cluster(cluster: &Cluster, tokens: Option<JoinTokens>) -> ClusterDoc {
    let Meta { version: v, created_at, updated_at } = cluster.meta;
    ClusterDoc {
        id: cluster.id.to_string(),
        version: version(v),
        created_at: created_at.into(),
        updated_at: updated_at.into(),
        spec: cluster_spec(&cluster.spec),
        tls_info: tls_info(&cluster.ca_cert_pem),
        root_rotation_in_progress: false,
        default_addr_pool: vec![cluster.address_pool.to_string()],
        subnet_size: cluster.subnet_prefix.into(),
        // RFC 7348's port is the data plane's.
        data_path_port: super::cluster::DATA_PATH_PORT,
        join_tokens: tokens.map(|t| JoinTokensDoc { worker: token_shown(&t.worker), manager: token_shown(&t.manager) }),
    }
}
