//! Services.

use crate::{
    args::{Create, LogArgs, Service, Update, mount, pair, port},
    commands::{
        containers::{log_options, log_time},
        undisturbed,
    },
    complain,
    connect::Host,
    render::{self, Row, ago, cut},
    say,
};
use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use muster_calls::{Cluster as _, ServiceView, TaskQuery};
use muster_model::{
    NodeId, ServiceId, TaskId,
    cluster::{Task, TaskState},
    spec::{
        ContainerSpec, EndpointMode, EndpointSpec, Mode, NetworkAttachment, Quantity, Resources, RestartCondition,
        RestartPolicy, ServiceSpec, TaskSpec,
    },
};
use muster_proto::RemoteCluster;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Between two looks at a service whose tasks are waited for.
const POLL: Duration = Duration::from_millis(200);
/// Every replica has to run for so long before the wait is over.
const SETTLED: Duration = Duration::from_secs(1);

pub async fn run(host: &Host, command: Service) -> anyhow::Result<u8> {
    let cluster = host.cluster();
    match command {
        Service::Create(c) => create(&cluster, *c).await,
        Service::Ls { show } => {
            let services = cluster.service_list().await?;
            let columns = [
                ("ID", "ID"),
                ("Name", "NAME"),
                ("Mode", "MODE"),
                ("Replicas", "REPLICAS"),
                ("Image", "IMAGE"),
                ("Ports", "PORTS"),
            ];
            render::list(&show, &columns, services.iter().map(row).collect())?;
            Ok(0)
        }
        Service::Ps { show, filter, services } => ps(&cluster, show, &filter, &services).await,
        Service::Inspect { form, services } => {
            let mut all = Vec::new();
            for name in &services {
                let mut view = cluster.service_inspect(name).await?;
                view.service.spec.task.container.registry_auth = None;
                if let Some(previous) = &mut view.service.previous_spec {
                    Arc::make_mut(previous).task.container.registry_auth = None;
                }
                all.push(serde_json::to_value(view)?);
            }
            render::documents(form.format.as_deref(), all)?;
            Ok(0)
        }
        Service::Update(u) => update(&cluster, *u).await,
        Service::Scale { detach, services } => scale(&cluster, &services, detach).await,
        Service::Rollback { detach, service } => {
            // Back from what is there now: somebody else's rollback meanwhile is not to be undone.
            let from = cluster.service_inspect(&service).await?.service.spec;
            let made = undisturbed(async || {
                let now = cluster.service_inspect(&service).await?.service;
                if now.spec != from {
                    bail!("{service} was given another spec meanwhile: look at it, and roll it back again if that is right");
                }
                Ok(cluster.service_rollback(now.id, now.meta.version).await?)
            })
            .await?;
            say!("{service}");
            finish(&cluster, made.id, detach, false).await
        }
        Service::Rm { services } => {
            for name in &services {
                cluster.service_remove(name).await?;
                say!("{name}");
            }
            Ok(0)
        }
        Service::Logs { logs: args, service } => logs(&cluster, &args, &service).await,
    }
}

fn spec(c: &Create) -> anyhow::Result<ServiceSpec> {
    let mode = match (c.mode.as_str(), c.replicas) {
        ("global", Some(_)) => bail!("--replicas: a global service has a task on every node"),
        ("global", None) => Mode::Global,
        (_, n) => Mode::Replicated { replicas: n.unwrap_or(1) },
    };
    let name = c.name.clone().unwrap_or_else(|| {
        let last = c.image.rsplit('/').next().unwrap_or(&c.image);
        let base = last.split([':', '@']).next().unwrap_or(last);
        format!("{base}-{:04x}", std::process::id() & 0xffff)
    });
    let container = ContainerSpec {
        image: c.image.clone(),
        args: c.args.clone(),
        env: c.env.clone(),
        labels: c.container_label.iter().map(|l| pair(l)).collect(),
        hostname: c.hostname.clone(),
        user: c.user.clone(),
        dir: c.workdir.clone(),
        mounts: c.mount.iter().map(|m| mount(m)).collect::<anyhow::Result<_>>()?,
        stop_grace_period: c.stop_grace_period,
        read_only: c.read_only,
        ..Default::default()
    };
    let mut restart = RestartPolicy::default();
    match c.restart_condition.as_deref() {
        Some("none") => restart.condition = RestartCondition::None,
        Some("on-failure") => restart.condition = RestartCondition::OnFailure,
        _ => {}
    }
    restart.delay = c.restart_delay.unwrap_or(restart.delay);
    restart.max_attempts = c.restart_max_attempts.unwrap_or(0);
    let task = TaskSpec {
        container,
        resources: Resources {
            limits: Quantity {
                nano_cpus: c.limit_cpu.unwrap_or(0),
                memory_bytes: c.limit_memory.unwrap_or(0),
                pids: 0,
            },
            reservations: Quantity {
                nano_cpus: c.reserve_cpu.unwrap_or(0),
                memory_bytes: c.reserve_memory.unwrap_or(0),
                pids: 0,
            },
        },
        restart,
        placement: muster_model::spec::Placement { constraints: c.constraint.clone(), ..Default::default() },
        networks: c.network.iter().map(|n| NetworkAttachment { target: n.clone(), aliases: Vec::new() }).collect(),
        ..Default::default()
    };
    let endpoint = EndpointSpec {
        mode: if c.endpoint_mode == "dnsrr" { EndpointMode::Dnsrr } else { EndpointMode::Vip },
        ports: c.publish.iter().map(|p| port(p)).collect::<anyhow::Result<_>>()?,
    };
    let spec = ServiceSpec {
        name,
        labels: c.label.iter().map(|l| pair(l)).collect(),
        mode,
        task,
        endpoint,
        update: Default::default(),
        rollback: Default::default(),
        networks_beside: false,
    };
    spec.validate()?;
    Ok(spec)
}

async fn create(cluster: &RemoteCluster, c: Create) -> anyhow::Result<u8> {
    let made = cluster.service_create(spec(&c)?).await?;
    say!("{}", made.id);
    made.warnings.iter().for_each(|w| complain!("Warning: {w}"));
    finish(cluster, made.id, c.detach, c.quiet).await
}

async fn update(cluster: &RemoteCluster, u: Update) -> anyhow::Result<u8> {
    let made = change(cluster, &u.service, |spec| apply(&u, spec)).await?;
    finish(cluster, made, u.detach, false).await
}

/// Several services are changed one after the other, and then waited for.
async fn scale(cluster: &RemoteCluster, services: &[(String, u64)], detach: bool) -> anyhow::Result<u8> {
    let mut made = Vec::new();
    for (name, n) in services {
        made.push(change(cluster, name, |spec| replicas(spec, *n)).await?);
    }
    for id in made {
        finish(cluster, id, detach, false).await?;
    }
    Ok(0)
}

/// Writes a service's spec altered, and says its name.
async fn change(
    cluster: &RemoteCluster,
    name: &str,
    alter: impl Fn(&mut ServiceSpec) -> anyhow::Result<()>,
) -> anyhow::Result<ServiceId> {
    let made = undisturbed(async || {
        let service = cluster.service_inspect(name).await?.service;
        let mut spec = service.spec;
        alter(&mut spec)?;
        spec.validate()?;
        Ok(cluster.service_update(service.id, service.meta.version, spec).await?)
    })
    .await?;
    say!("{name}");
    made.warnings.iter().for_each(|w| complain!("Warning: {w}"));
    Ok(made.id)
}

fn replicas(spec: &mut ServiceSpec, n: u64) -> anyhow::Result<()> {
    match spec.mode {
        Mode::Replicated { .. } => spec.mode = Mode::Replicated { replicas: n },
        Mode::Global => bail!("{} is a global service: it has a task on every node", spec.name),
    }
    Ok(())
}

/// The changes of `muster service update`.
fn apply(u: &Update, spec: &mut ServiceSpec) -> anyhow::Result<()> {
    if let Some(image) = &u.image {
        spec.task.container.image.clone_from(image);
    }
    if let Some(n) = u.replicas {
        replicas(spec, n)?;
    }
    let name_of = |e: &str| e.split('=').next().unwrap_or(e).to_owned();
    let env = &mut spec.task.container.env;
    env.retain(|e| !u.env_rm.contains(&name_of(e)) && !u.env_add.iter().any(|a| name_of(a) == name_of(e)));
    env.extend(u.env_add.iter().cloned());
    spec.labels.retain(|k, _| !u.label_rm.contains(k));
    spec.labels.extend(u.label_add.iter().map(|l| pair(l)));
    spec.task.placement.constraints.retain(|c| !u.constraint_rm.contains(c));
    spec.task.placement.constraints.extend(u.constraint_add.iter().cloned());
    spec.update.parallelism = u.update_parallelism.unwrap_or(spec.update.parallelism);
    spec.update.delay = u.update_delay.unwrap_or(spec.update.delay);
    spec.task.force_update += u64::from(u.force);
    Ok(())
}

/// Waits until as many tasks of the newest spec run as are wanted, with a line for each task that moves.
async fn finish(cluster: &RemoteCluster, id: ServiceId, detach: bool, quiet: bool) -> anyhow::Result<u8> {
    if detach {
        return Ok(0);
    }
    let names = node_names(cluster).await?;
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let mut good_since = None;
    loop {
        let view = cluster.service_inspect(&id.to_string()).await?;
        let tasks = cluster.task_list(TaskQuery { services: vec![id], ..Default::default() }).await?;
        let current: Vec<&Task> = tasks
            .iter()
            .filter(|t| t.spec_version == view.service.spec_version && t.desired <= TaskState::Running)
            .collect();
        for task in &current {
            progress(task, &names, &mut shown, quiet);
        }
        let running = current.iter().filter(|t| t.status.state == TaskState::Running).count() as u64;
        let wanted = view.desired_tasks;
        if let Some(status) = &view.service.update_status
            && matches!(
                status.state,
                muster_model::cluster::UpdateState::Paused | muster_model::cluster::UpdateState::RollbackPaused
            )
        {
            bail!("the update is paused: {}", status.message);
        }
        if running == wanted && current.len() as u64 == wanted {
            let since = *good_since.get_or_insert_with(tokio::time::Instant::now);
            if since.elapsed() >= SETTLED {
                if !quiet {
                    say!("{wanted} of {wanted} tasks run");
                }
                return Ok(0);
            }
        } else {
            good_since = None;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn progress(task: &Task, names: &BTreeMap<NodeId, String>, shown: &mut BTreeMap<String, String>, quiet: bool) {
    let name = slot_name(task, names);
    let node = task.node.and_then(|n| names.get(&n).cloned()).unwrap_or_else(|| "no node yet".to_owned());
    let what = match task.status.state {
        TaskState::Pending => format!("pending: {}", task.status.message),
        TaskState::Failed | TaskState::Rejected => format!("{}: {}", task.status.state.as_str(), task.status.error),
        TaskState::Preparing => task.status.message.clone(),
        state => state.as_str().to_owned(),
    };
    let line = format!("{name} on {node}: {what}");
    if !quiet && shown.get(&name) != Some(&line) {
        say!("{line}");
        shown.insert(name, line);
    }
}

fn slot_name(task: &Task, names: &BTreeMap<NodeId, String>) -> String {
    match (task.slot, task.node) {
        (0, Some(n)) => format!("{}.{}", task.service_name, names.get(&n).cloned().unwrap_or_else(|| n.short())),
        (slot, _) => format!("{}.{slot}", task.service_name),
    }
}

async fn node_names(cluster: &RemoteCluster) -> anyhow::Result<BTreeMap<NodeId, String>> {
    Ok(cluster.node_list().await?.into_iter().map(|n| (n.node.id, n.node.description.hostname)).collect())
}

fn row(view: &ServiceView) -> Row {
    let s = &view.service;
    let mode = match s.spec.mode {
        Mode::Replicated { .. } => "replicated",
        Mode::Global => "global",
    };
    let ports: Vec<_> =
        s.endpoint.ports.iter().map(|p| format!("*:{}->{}/{}", p.published, p.target, p.protocol)).collect();
    let fields = vec![
        ("ID", s.id.to_string()),
        ("Name", s.spec.name.clone()),
        ("Mode", mode.to_owned()),
        ("Replicas", format!("{}/{}", view.running_tasks, view.desired_tasks)),
        ("Image", s.spec.task.container.image.clone()),
        ("Ports", ports.join(", ")),
    ];
    Row { fields, shown: vec![("ID", s.id.short())] }
}

async fn ps(
    cluster: &RemoteCluster,
    show: crate::args::Show,
    filters: &[String],
    services: &[String],
) -> anyhow::Result<u8> {
    let mut ids = Vec::new();
    for name in services {
        ids.push(cluster.service_inspect(name).await?.service.id);
    }
    let names = node_names(cluster).await?;
    let mut tasks = cluster.task_list(TaskQuery { services: ids, ..Default::default() }).await?;
    for filter in filters {
        let Some((key, value)) = filter.split_once('=') else { bail!("--filter {filter:?}: expected KEY=VALUE") };
        match (key, value) {
            ("desired-state", "running") => tasks.retain(|t| t.desired <= TaskState::Running),
            ("desired-state", "shutdown") => tasks.retain(|t| t.desired > TaskState::Running),
            ("desired-state", "accepted") => tasks.retain(|t| t.desired == TaskState::Accepted),
            ("node", node) => tasks
                .retain(|t| t.node.is_some_and(|n| names.get(&n).is_some_and(|h| h == node) || n.to_string() == node)),
            _ => bail!("--filter {filter:?}: expected desired-state=running, shutdown or accepted, or node=NAME"),
        }
    }
    let now = muster_mtls::now();
    let rows = tasks.iter().map(|t| task_row(t, &names, now, show.no_trunc)).collect();
    let columns = [
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Image", "IMAGE"),
        ("Node", "NODE"),
        ("DesiredState", "DESIRED STATE"),
        ("CurrentState", "CURRENT STATE"),
        ("Error", "ERROR"),
    ];
    render::list(&show, &columns, rows)?;
    Ok(0)
}

fn task_row(t: &Task, names: &BTreeMap<NodeId, String>, now: muster_model::Timestamp, whole: bool) -> Row {
    let capital = |s: TaskState| {
        let text = s.as_str();
        text[..1].to_uppercase() + &text[1..]
    };
    let error = match (t.status.error.is_empty(), t.status.state) {
        // Why a task waits is what its reader wants to know.
        (true, TaskState::Pending) => t.status.message.clone(),
        _ => t.status.error.clone(),
    };
    let fields = vec![
        ("ID", t.id.to_string()),
        ("Name", slot_name(t, names)),
        ("Image", t.spec.container.image.clone()),
        ("Node", t.node.and_then(|n| names.get(&n).cloned()).unwrap_or_default()),
        ("DesiredState", capital(t.desired)),
        ("CurrentState", format!("{} {} ago", capital(t.status.state), ago(now, t.status.at).to_lowercase())),
        ("Error", cut(&error, 60, whole)),
    ];
    Row { fields, shown: vec![("ID", t.id.short())] }
}

async fn logs(cluster: &RemoteCluster, args: &LogArgs, service: &str) -> anyhow::Result<u8> {
    let mut labels = labels(cluster).await?;
    let mut lines = cluster.service_logs(service, log_options(args)?).await?;
    while let Some(line) = lines.next().await {
        let line = line.context("incomplete log stream")?;
        if !labels.contains_key(&line.task) {
            labels.extend(self::labels(cluster).await?);
        }
        // A task that was removed meanwhile has no name any more.
        let label = labels.entry(line.task).or_insert_with(|| format!("{}@{}", line.task.short(), line.node.short()));
        let mut data = format!("{}{label}    | ", log_time(args, line.chunk.time)).into_bytes();
        data.extend_from_slice(&line.chunk.data);
        crate::terminal::write(muster_calls::Output { stream: line.chunk.stream, data: data.into() });
    }
    Ok(0)
}

/// What tasks are called in logs: `web.1@host2`.
async fn labels(cluster: &RemoteCluster) -> anyhow::Result<BTreeMap<TaskId, String>> {
    let names = node_names(cluster).await?;
    let tasks = cluster.task_list(TaskQuery::default()).await?;
    let label = |t: &Task| {
        let node = t.node.map(|n| names.get(&n).cloned().unwrap_or_else(|| n.short())).unwrap_or_default();
        format!("{}@{node}", slot_name(t, &names))
    };
    Ok(tasks.iter().map(|t| (t.id, label(t))).collect())
}
