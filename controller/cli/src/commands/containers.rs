//! Containers and images, wherever they are.

use crate::{
    args::{Form, LogArgs, Show},
    complain,
    connect::Host,
    render::{self, Row, ago, cut},
    say,
    terminal::{self, Raw},
};
use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use muster_calls::{Attach, Engine as _, ExecStart, Kind, ListContainers, Logs, Pull, RemoveContainer, StopContainer};
use muster_model::{
    Timestamp,
    engine::{ContainerSummary, ExecConfig},
};
use muster_proto::Target;
use std::future::Future;

pub async fn ps(host: &Host, show: Show, all: bool, filters: &[String], node: Option<String>) -> anyhow::Result<u8> {
    let mut options = ListContainers { all, ..Default::default() };
    for filter in filters {
        let Some((key, value)) = filter.split_once('=') else { bail!("--filter {filter:?}: expected KEY=VALUE") };
        options.filters.0.entry(key.to_owned()).or_default().insert(value.to_owned());
    }
    let one = node.is_some();
    let engine = host.engine(node.map_or(Target::Cluster, Target::Node));
    let listed = engine.container_list(options).await?;
    let rows = listed.items.iter().map(|c| row(c, &show)).collect();
    let mut columns = vec![
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
    ];
    if !one {
        columns.push(("Node", "NODE"));
    }
    render::list(&show, &columns, rows)?;
    for away in &listed.unreached {
        complain!("Warning: node {} did not answer: {}", away.node, away.reason);
    }
    Ok(0)
}

fn row(c: &ContainerSummary, show: &Show) -> Row {
    let ports: Vec<_> = c
        .ports
        .iter()
        .map(|p| match p.public_port {
            0 => format!("{}/{}", p.private_port, p.kind),
            public => format!("{}:{public}->{}/{}", p.ip, p.private_port, p.kind),
        })
        .collect();
    let created = Timestamp::from_millis(c.created.saturating_mul(1000));
    let names: Vec<_> = c.names.iter().map(|n| n.trim_start_matches('/').to_owned()).collect();
    vec![
        ("ID", if show.no_trunc { c.id.clone() } else { c.id.chars().take(12).collect() }),
        ("Image", c.image.clone()),
        ("Command", format!("\"{}\"", cut(&c.command, 20, show.no_trunc))),
        ("CreatedAt", created.to_rfc3339()),
        ("RunningFor", format!("{} ago", ago(muster_mtls::now(), created))),
        ("State", c.state.clone()),
        ("Status", c.status.clone()),
        ("Ports", ports.join(", ")),
        ("Names", names.join(",")),
        ("Node", c.labels.get("muster.node.name").cloned().unwrap_or_default()),
    ]
    .into()
}

pub fn log_options(args: &LogArgs) -> anyhow::Result<Logs> {
    let time = |name: &str, text: &Option<String>| match text {
        None => Ok(Timestamp::ZERO),
        Some(t) => moment(t).with_context(|| {
            format!("--{name} {t:?}: expected RFC 3339, seconds since the epoch, or how long ago, e.g. 10m")
        }),
    };
    Ok(Logs {
        follow: args.follow,
        tail: args.tail,
        timestamps: args.timestamps,
        since: time("since", &args.since)?,
        until: time("until", &args.until)?,
        ..Default::default()
    })
}

fn moment(text: &str) -> Option<Timestamp> {
    if let Some(t) = Timestamp::parse_rfc3339(text) {
        return Some(t);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1_000_000_000).map(Timestamp);
    }
    let back = humantime::parse_duration(text).ok()?;
    Some(Timestamp(muster_mtls::now().0.saturating_sub(i64::try_from(back.as_nanos()).ok()?)))
}

/// What stands before a line: its time, where that was asked for.
pub fn log_time(args: &LogArgs, time: Timestamp) -> String {
    if args.timestamps { format!("{} ", time.to_rfc3339()) } else { String::new() }
}

pub async fn logs(host: &Host, args: &LogArgs, container: &str) -> anyhow::Result<u8> {
    let mut log = host.whole().container_logs(container, log_options(args)?).await?;
    while let Some(line) = log.lines.next().await {
        let line = line?;
        let mut data = log_time(args, line.time).into_bytes();
        data.extend_from_slice(&line.data);
        terminal::write(muster_calls::Output { stream: line.stream, data: data.into() });
    }
    Ok(0)
}

pub async fn exec(host: &Host, container: &str, config: ExecConfig, detach: bool) -> anyhow::Result<u8> {
    let engine = host.whole();
    let (tty, stdin) = (config.tty, config.attach_stdin);
    let id = match engine.exec_create(container, config).await {
        Ok(id) => id,
        Err(e) => return Err(e.into()),
    };
    let start = ExecStart { detach, tty, console_size: terminal::size().filter(|_| tty), detach_keys: None };
    let raw = if tty && stdin { Raw::enter() } else { None };
    let attached = match engine.exec_start(&id, start).await {
        Ok(attached) => attached,
        Err(e) => {
            drop(raw);
            complain!("Error: {e}");
            // As `docker exec`: a command that is not there is 127, one that cannot run 126.
            return Ok(if e.message.contains("not found") || e.message.contains("no such file") { 127 } else { 126 });
        }
    };
    if detach {
        return Ok(0);
    }
    let resizer = tty.then(|| tokio::spawn(follow_size(host.clone(), Resize::Exec(id.clone()))));
    terminal::carry(attached, stdin).await?;
    if let Some(resizer) = resizer {
        resizer.abort();
    }
    drop(raw);
    let code = engine.exec_inspect(&id).await?.exit_code.unwrap_or(0);
    Ok(u8::try_from(code & 0xff).unwrap_or(255))
}

pub async fn attach(host: &Host, container: &str) -> anyhow::Result<u8> {
    let engine = host.whole();
    let inspect = engine.container_inspect(container, false).await?;
    if !inspect.state.running {
        bail!("You cannot attach to a stopped container, start it first");
    }
    let (tty, stdin) = (inspect.config.tty, inspect.config.open_stdin);
    let ended = engine.container_wait(container, muster_calls::WaitCondition::NotRunning).await?;
    let options = Attach { stdin, stdout: true, stderr: true, stream: true, ..Default::default() };
    let attached = engine.container_attach(container, options).await?;
    let raw = if tty && stdin { Raw::enter() } else { None };
    let resizer = tty.then(|| tokio::spawn(follow_size(host.clone(), Resize::Container(container.to_owned()))));
    terminal::carry(attached, stdin).await?;
    if let Some(resizer) = resizer {
        resizer.abort();
    }
    drop(raw);
    // The output ends at the detach keys, too: then the container runs on.
    let code = tokio::time::timeout(std::time::Duration::from_millis(500), ended).await;
    Ok(code.ok().and_then(Result::ok).map_or(0, |r| u8::try_from(r.status_code & 0xff).unwrap_or(255)))
}

enum Resize {
    Exec(String),
    Container(String),
}

/// Tells the far terminal how large this one is, now and when it changes.
async fn follow_size(host: Host, what: Resize) {
    let Ok(mut changed) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change()) else { return };
    let engine = host.whole();
    loop {
        if let Some((rows, columns)) = terminal::size() {
            // Before the process runs there is nothing to resize: the next change tries again.
            let _ = match &what {
                Resize::Exec(id) => engine.exec_resize(id, rows, columns).await,
                Resize::Container(id) => engine.container_resize(id, rows, columns).await,
            };
        }
        if changed.recv().await.is_none() {
            return;
        }
    }
}

/// One call for each name; prints the names that went well, errors for the others, and answers 1 if there are any.
pub async fn each<F>(names: &[String], act: impl Fn((Host, String)) -> F, host: &Host) -> anyhow::Result<u8>
where
    F: Future<Output = muster_calls::Result<()>>,
{
    let mut code = 0;
    for name in names {
        match act((host.clone(), name.clone())).await {
            Ok(()) => say!("{name}"),
            Err(e) if e.kind == Kind::NotModified => say!("{name}"),
            Err(e) => {
                complain!("Error: {e}");
                code = 1;
            }
        }
    }
    Ok(code)
}

pub async fn stop(host: &Host, names: &[String], time: Option<i64>, signal: Option<String>) -> anyhow::Result<u8> {
    let options = StopContainer { signal, timeout_s: time };
    each(
        names,
        |(host, name)| {
            let options = options.clone();
            async move { host.whole().container_stop(&name, options).await }
        },
        host,
    )
    .await
}

pub async fn restart(host: &Host, names: &[String], time: Option<i64>) -> anyhow::Result<u8> {
    let options = StopContainer { signal: None, timeout_s: time };
    each(
        names,
        |(host, name)| {
            let options = options.clone();
            async move { host.whole().container_restart(&name, options).await }
        },
        host,
    )
    .await
}

pub async fn kill(host: &Host, names: &[String], signal: &str) -> anyhow::Result<u8> {
    let act = |(host, name): (Host, String)| {
        let signal = signal.to_owned();
        async move { host.whole().container_kill(&name, Some(signal)).await }
    };
    each(names, act, host).await
}

pub async fn remove(host: &Host, names: &[String], force: bool, volumes: bool) -> anyhow::Result<u8> {
    let act = |(host, name): (Host, String)| async move {
        host.whole().container_remove(&name, RemoveContainer { force, volumes }).await
    };
    each(names, act, host).await
}

pub async fn inspect(host: &Host, form: &Form, names: &[String]) -> anyhow::Result<u8> {
    let mut all = Vec::new();
    for name in names {
        all.push(serde_json::to_value(host.whole().container_inspect(name, false).await?)?);
    }
    render::documents(form.format.as_deref(), all)?;
    Ok(0)
}

pub async fn images(host: &Host, show: &Show) -> anyhow::Result<u8> {
    let listed = host.whole().image_list(false, false, Default::default()).await?;
    let mut rows: Vec<Row> = Vec::new();
    for image in &listed.items {
        let id = image.id.trim_start_matches("sha256:");
        let id = if show.no_trunc { id.to_owned() } else { id.chars().take(12).collect() };
        for tag in
            image.repo_tags.iter().map(String::as_str).chain(image.repo_tags.is_empty().then_some("<none>:<none>"))
        {
            let (repo, tag) = tag.rsplit_once(':').unwrap_or((tag, "<none>"));
            let row = vec![
                ("ID", id.clone()),
                ("Repository", repo.to_owned()),
                ("Tag", tag.to_owned()),
                ("Size", format!("{:.1} MB", image.size as f64 / 1e6)),
            ];
            rows.push(row.into());
        }
    }
    render::list(show, &[("Repository", "REPOSITORY"), ("Tag", "TAG"), ("ID", "IMAGE ID"), ("Size", "SIZE")], rows)?;
    for away in &listed.unreached {
        complain!("Warning: node {} did not answer: {}", away.node, away.reason);
    }
    Ok(0)
}

pub async fn pull(host: &Host, image: &str, node: Option<String>, quiet: bool) -> anyhow::Result<u8> {
    let pull = Pull { reference: image.to_owned(), ..Default::default() };
    let engine = host.engine(node.map_or(Target::Cluster, Target::Node));
    let mut lines = engine.image_pull(pull).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        if !line.error.is_empty() {
            bail!("{}", line.error);
        }
        // Progress of single layers is for terminals that can rewrite lines; the states are enough here.
        if !quiet && line.progress_detail.as_ref().is_none_or(|p| p.total == 0) {
            say!("{}{}", if line.id.is_empty() { String::new() } else { format!("{}: ", line.id) }, line.status);
        }
    }
    Ok(0)
}
