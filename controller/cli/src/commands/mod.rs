//! What each command does.

mod cluster;
mod containers;
mod node;
mod service;
mod system;
mod trace;

use crate::{
    args::{Args, Command, Context, Show},
    connect::{self, Host},
    context, out,
    render::{self, Row},
    say,
};
use anyhow::Context as _;
use clap::CommandFactory as _;
use muster_calls::{Cluster as _, Engine as _, Error, Kind};
use muster_model::cluster::ClusterSpec;
use std::io::Read as _;

/// How often a change is made again that somebody else's overtook.
const ATTEMPTS: usize = 10;

/// Does what reads an object and writes it changed; again where it was written meanwhile, as an update of a service that gets on
/// does.
///
/// # Errors
/// The last attempt's.
async fn undisturbed<T>(change: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 1..ATTEMPTS {
        match change().await {
            Err(e) if e.downcast_ref::<Error>().is_some_and(|e| e.kind == Kind::OutOfSequence) => {}
            outcome => return outcome,
        }
    }
    change().await
}

/// How long a list of contexts waits for the cluster.
const LIST_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Carries the command out and answers with the exit code.
///
/// # Errors
/// What is to be shown as an error; the exit code follows from its kind.
pub async fn run(args: Args) -> anyhow::Result<u8> {
    // Commands that ask nobody.
    match &args.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "muster", &mut script);
            out::write(&script);
            return Ok(0);
        }
        Command::Context(c) if !matches!(c, Context::Create { .. } | Context::Revoke { .. } | Context::Ls { .. }) => {
            return local_context(c).map(|()| 0);
        }
        _ => {}
    }
    if let Command::Context(Context::Ls { issued: false, quiet, format }) = &args.command {
        list_contexts(&Show { quiet: *quiet, format: format.clone(), no_trunc: true })?;
        if *quiet || format.is_some() {
            return Ok(0);
        }
        // Who can be asked is asked; a host that does not answer has nothing to say.
        if let Ok(host) = connect::connect(args.host.as_deref(), args.context.as_deref()).await
            && let Ok(Ok(cluster)) = tokio::time::timeout(LIST_PATIENCE, host.cluster().cluster()).await
            && !cluster.operators.is_empty()
        {
            say!("");
            cluster::operators(&Show::default(), &cluster)?;
        }
        return Ok(0);
    }
    let host = connect::connect(args.host.as_deref(), args.context.as_deref()).await?;
    match args.command {
        Command::Init {
            advertise_addr,
            listen_addr,
            default_addr_pool,
            default_addr_pool_mask_length,
            force_new_cluster,
            settings,
        } => {
            let init = muster_calls::InitCluster {
                advertise_addr,
                listen_addr,
                address_pool: default_addr_pool,
                subnet_prefix: default_addr_pool_mask_length,
                force_new_cluster,
                spec: settings.over(ClusterSpec::default()),
            };
            cluster::init(&host, init).await
        }
        Command::Join { token, advertise_addr, listen_addr, managers } => {
            let join = muster_calls::JoinCluster { token, managers, advertise_addr, listen_addr };
            let node = host.cluster().join(join).await?;
            say!("This node joined the cluster as {node}.");
            Ok(0)
        }
        Command::JoinToken { quiet, rotate, role } => cluster::join_token(&host, role, rotate, quiet).await,
        Command::Cluster(c) => cluster::settings(&host, c).await,
        Command::Leave { force } => {
            host.cluster().leave(force).await?;
            say!("Node left the cluster.");
            Ok(0)
        }
        Command::Node(c) => node::run(&host, c).await,
        Command::Service(c) => service::run(&host, c).await,
        Command::Network(c) => cluster::network(&host, c).await,
        Command::Ps { show, all, filter, node } => containers::ps(&host, show, all, &filter, node).await,
        Command::Logs { logs, container } => containers::logs(&host, &logs, &container).await,
        Command::Exec { interactive, tty, detach, user, workdir, env, privileged, container, command } => {
            let config = muster_model::engine::ExecConfig {
                attach_stdin: interactive,
                attach_stdout: !detach,
                attach_stderr: !detach,
                tty,
                user: user.unwrap_or_default(),
                working_dir: workdir.unwrap_or_default(),
                env,
                privileged,
                cmd: command,
                ..Default::default()
            };
            containers::exec(&host, &container, config, detach).await
        }
        Command::Attach { container } => containers::attach(&host, &container).await,
        Command::Start { containers } => {
            containers::each(&containers, |c| async move { host_start(c).await }, &host).await
        }
        Command::Stop { time, signal, containers } => containers::stop(&host, &containers, time, signal).await,
        Command::Restart { time, containers } => containers::restart(&host, &containers, time).await,
        Command::Kill { signal, containers } => containers::kill(&host, &containers, &signal).await,
        Command::Rm { force, volumes, containers } => containers::remove(&host, &containers, force, volumes).await,
        Command::Inspect { form, containers } => containers::inspect(&host, &form, &containers).await,
        Command::Images { show } => containers::images(&host, &show).await,
        Command::Pull { image, node, quiet } => containers::pull(&host, &image, node, quiet).await,
        Command::Trace { id, name, quiet, format } => {
            trace::run(&host, id, name, &Show { quiet, format, no_trunc: true }).await
        }
        Command::Context(Context::Create { addr, name }) => create_context(&host, addr, &name).await,
        Command::Context(Context::Ls { quiet, format, .. }) => {
            let show = Show { quiet, format, no_trunc: true };
            cluster::operators(&show, &host.cluster().cluster().await?)?;
            Ok(0)
        }
        Command::Context(Context::Revoke { name }) => {
            for certificate in host.cluster().operator_revoke(&name).await? {
                say!("{}", certificate.serial);
            }
            Ok(0)
        }
        Command::Context(_) | Command::Completion { .. } => Ok(0),
        Command::Info(form) => system::info(&host, &form).await,
        Command::Version(form) => system::version(&host, &form).await,
    }
}

async fn host_start((host, name): (Host, String)) -> muster_calls::Result<()> {
    host.whole().container_start(&name).await
}

fn local_context(command: &Context) -> anyhow::Result<()> {
    match command {
        Context::Use { name } => context::choose(name)?,
        Context::Export { name } => out::write(context::export(name)?.as_bytes()),
        Context::Import { name } => {
            let mut text = String::new();
            std::io::stdin().take(1 << 20).read_to_string(&mut text).context("read standard input")?;
            context::import(name, &text)?;
        }
        Context::Rm { names } => names.iter().try_for_each(|n| context::remove(n))?,
        Context::Create { .. } | Context::Ls { .. } | Context::Revoke { .. } => {}
    }
    Ok(())
}

fn list_contexts(show: &Show) -> anyhow::Result<()> {
    let current = context::current()?.unwrap_or_else(|| context::DEFAULT.to_owned());
    let own = (context::DEFAULT.to_owned(), "this host's socket".to_owned());
    let row = |(name, addr): (String, String)| {
        let mark = if name == current { format!("{name} *") } else { name.clone() };
        Row {
            shown: vec![("Name", mark)],
            fields: vec![("Name", name.clone()), ("Current", (name == current).to_string()), ("Address", addr)],
        }
    };
    let rows = std::iter::once(own).chain(context::list()?).map(row).collect();
    render::list(show, &[("Name", "NAME"), ("Address", "ADDRESS")], rows)
}

async fn create_context(host: &Host, addr: Option<String>, name: &str) -> anyhow::Result<u8> {
    let addr = match addr {
        Some(addr) => addr,
        None => host
            .cluster()
            .membership()
            .await?
            .member
            .context("this host is in no cluster: there is nothing to make a context for")?
            .addr
            .to_string(),
    };
    context::create(host.channel.clone(), name, &addr).await?;
    say!("{name}");
    Ok(0)
}
