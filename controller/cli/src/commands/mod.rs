//! What each command does.

mod cluster;
mod containers;
mod node;
mod service;
mod trace;

use crate::{
    args::{Args, Command, Context},
    connect::{self, Host},
    context,
};
use anyhow::Context as _;
use clap::CommandFactory as _;
use muster_calls::{Cluster as _, Engine as _};
use muster_proto::Target;
use std::io::Read as _;

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
            clap_complete::generate(*shell, &mut Args::command(), "muster", &mut std::io::stdout());
            return Ok(0);
        }
        Command::Context(c) if !matches!(c, Context::Create { .. } | Context::Revoke { .. } | Context::Ls { .. }) => {
            return local_context(c).map(|()| 0);
        }
        _ => {}
    }
    if let Command::Context(Context::Ls { issued: false }) = &args.command {
        list_contexts()?;
        // Who can be asked is asked; a host that does not answer has nothing to say.
        if let Ok(host) = connect::connect(args.host.as_deref(), args.context.as_deref()).await
            && let Ok(Ok(cluster)) = tokio::time::timeout(LIST_PATIENCE, host.cluster().cluster()).await
            && !cluster.operators.is_empty()
        {
            println!();
            cluster::operators(&cluster);
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
        } => {
            let init = muster_calls::InitCluster {
                advertise_addr,
                listen_addr,
                address_pool: default_addr_pool,
                subnet_prefix: default_addr_pool_mask_length,
                force_new_cluster,
            };
            cluster::init(&host, init).await
        }
        Command::Join { token, advertise_addr, listen_addr, managers } => {
            let join = muster_calls::JoinCluster { token, managers, advertise_addr, listen_addr };
            let node = host.cluster().join(join).await?;
            println!("This node joined the cluster as {node}.");
            Ok(0)
        }
        Command::JoinToken { quiet, rotate, role } => cluster::join_token(&host, role, rotate, quiet).await,
        Command::Leave { force } => {
            host.cluster().leave(force).await?;
            println!("Node left the cluster.");
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
        Command::Inspect { containers } => containers::inspect(&host, &containers).await,
        Command::Images { show } => containers::images(&host, &show).await,
        Command::Pull { image, node, quiet } => containers::pull(&host, &image, node, quiet).await,
        Command::Trace { id, name, quiet } => trace::run(&host, id, name, quiet).await,
        Command::Context(Context::Create { addr, name }) => create_context(&host, addr, &name).await,
        Command::Context(Context::Ls { .. }) => {
            cluster::operators(&host.cluster().cluster().await?);
            Ok(0)
        }
        Command::Context(Context::Revoke { name }) => {
            for certificate in host.cluster().operator_revoke(&name).await? {
                println!("{}", certificate.serial);
            }
            Ok(0)
        }
        Command::Context(_) | Command::Completion { .. } => Ok(0),
        Command::Info => info(&host).await,
        Command::Version => {
            let version = host.engine(Target::Here).version().await?;
            println!(
                "Client: muster {}\nHost:   musterd {} (Docker API {})",
                env!("CARGO_PKG_VERSION"),
                version.version,
                version.api_version
            );
            Ok(0)
        }
    }
}

async fn host_start((host, name): (Host, String)) -> muster_calls::Result<()> {
    host.whole().container_start(&name).await
}

fn local_context(command: &Context) -> anyhow::Result<()> {
    match command {
        Context::Use { name } => context::choose(name)?,
        Context::Export { name } => print!("{}", context::export(name)?),
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

fn list_contexts() -> anyhow::Result<()> {
    let current = context::current()?.unwrap_or_else(|| context::DEFAULT.to_owned());
    println!("{:<22}ADDRESS", "NAME");
    let mark = |name: &str| if name == current { format!("{name} *") } else { name.to_owned() };
    println!("{:<22}this host's socket", mark(context::DEFAULT));
    for (name, addr) in context::list()? {
        println!("{:<22}{addr}", mark(&name));
    }
    Ok(())
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
    println!("{name}");
    Ok(0)
}

async fn info(host: &Host) -> anyhow::Result<u8> {
    let info = host.engine(Target::Here).info().await?;
    println!(
        "Host: {}\n  Kernel: {}\n  CPUs: {}\n  Memory: {} MiB\n  Containers: {} ({} running)\n  Images: {}",
        info.name,
        info.kernel_version,
        info.ncpu,
        info.mem_total >> 20,
        info.containers,
        info.containers_running,
        info.images
    );
    match host.cluster().membership().await?.member {
        None => println!("Cluster: none (muster init founds one, muster join makes this host a member)"),
        Some(m) => {
            println!("Cluster: {}\n  Node: {}\n  Role: {}\n  Address: {}", m.cluster, m.node, m.role.as_str(), m.addr);
            let managers: Vec<_> = m.managers.iter().map(|(_, a)| a.to_string()).collect();
            println!("  Managers: {}", managers.join(", "));
            if !m.error.is_empty() {
                println!("  Error: {}", m.error);
            }
        }
    }
    Ok(0)
}
