//! `musterd`: one Muster host.
//!
//! Order of starting: configuration, telemetry, data plane, images, runtime, engine (takes up what runs), membership, then
//! the sockets: whoever connects finds everything there. Order of stopping: sockets, membership, engine, data plane's
//! thread, telemetry. Containers go on.

mod cluster;
mod config;
mod dataplane;
mod directory;
mod dns;
mod docker_tls;
mod door;
mod host;
mod host_watch;
mod listen;
mod logs;
mod memory;
mod metrics;
mod operator;
mod reload;
mod sockets;
mod uplink;
mod whole;

use anyhow::Context as _;
use config::Config;
use dataplane::HostNetwork;
use docker_tls::Guard;
use host::{Host, Rights};
use listen::Listen;
use muster_docker_api::{Api, Settings};
use muster_engine::{EngineConfig, LocalEngine, Network, NoNetwork};
use muster_runtime::{RuncConfig, RuncRuntime};
use operator::Operator;
use reload::Reloader;
use std::{fs, net::IpAddr, path::Path, process::ExitCode, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Finished spans kept in memory: some minutes of a busy host, a few MiB.
const RECENT_SPANS: usize = 4096;

fn main() -> ExitCode {
    memory::tune();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // One line that says what failed and why: a backtrace says nothing to who wrote the configuration.
            eprintln!("musterd: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let config = Config::load()?;
    // Two workers carry thousands of idle streams; what computes runs on the blocking pool.
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("tokio runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("musterd must run as root: it makes namespaces, cgroups and mounts");
    }
    let telemetry = muster_telemetry::init(muster_telemetry::Settings {
        service: "musterd",
        host: config.hostname.clone(),
        export: config.export.clone(),
        log: config.log.clone(),
        recent_spans: RECENT_SPANS,
    })?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, "musterd starts");
    let guard = config.docker_tls.clone().map(Guard::new).transpose()?;
    let operator = config.docker_cluster_context.as_deref().map(Operator::load).transpose()?;
    for dir in [&config.data_dir, &config.run_dir] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let _lock = lock(&config.data_dir)?;
    fs::write(config.run_dir.join("musterd.pid"), format!("{}\n", std::process::id())).context("write musterd.pid")?;
    let places = cluster::Places::new(cluster::overlay_mtu());
    let images = open_images(&config)?;
    let (engine, network) = open_engine(&config, images.clone(), places.clone()).await?;
    let host = Host::new(config, engine, network, places, telemetry.recent.clone());
    host.operator.set(operator);
    host.resume().await.context("cluster membership")?;
    if let Some(network) = &host.network {
        network.release().await;
    }
    let stop = CancellationToken::new();
    let mut doors = open_doors(&host, guard.as_ref(), &stop)?;
    doors.push(tokio::spawn(metrics::observe(host.clone(), stop.clone())));
    let (reminded, stopped) = (host.clone(), stop.clone());
    doors.push(tokio::spawn(async move { reminded.operator.remind(stopped).await }));
    doors.push(tokio::spawn(memory::keep_small(host.moved.clone(), stop.clone())));
    tracing::info!("musterd serves");
    tell_systemd(sd_notify::NotifyState::Ready);
    let mut reloader = Reloader::new(host.clone(), guard, images);
    wait_for_signal(|| reloader.reload(&telemetry)).await?;
    tracing::info!("musterd stops; containers go on");
    tell_systemd(sd_notify::NotifyState::Stopping);
    stop.cancel();
    for door in doors {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(3), door).await;
    }
    if let Some(member) = host.member() {
        member.shutdown().await;
    }
    host.engine.shutdown().await;
    if let Some(network) = &host.network {
        network.close(false).await;
    }
    telemetry.shutdown();
    Ok(())
}

/// One daemon per data folder. Held until the process ends, however it ends.
fn lock(data_dir: &Path) -> anyhow::Result<nix::fcntl::Flock<fs::File>> {
    let path = data_dir.join("musterd.lock");
    let file = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| anyhow::anyhow!("data-dir {}: another musterd uses it ({e})", data_dir.display()))
}

async fn open_engine(
    config: &Config,
    images: muster_image::Store,
    places: cluster::Places,
) -> anyhow::Result<(Arc<LocalEngine>, Option<HostNetwork>)> {
    let runtime = RuncRuntime::new(RuncConfig {
        runtime: config.runtime.clone(),
        ..RuncConfig::new(&config.shim, config.run_dir.join("shims"), &config.cgroup_parent)
    })
    .await
    .context("runtime")?;
    let network = open_network(config)?;
    let plug: Arc<dyn Network> = match &network {
        Some(network) => Arc::new(network.clone()),
        None => Arc::new(NoNetwork),
    };
    let engine = LocalEngine::open(EngineConfig {
        name: config.hostname.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        bridge_subnet: config.bridge_subnet,
        labels: config.labels.get().iter().map(|(k, v)| format!("{k}={v}")).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        spanning: Arc::new(places),
        log_driver: config.log_driver.clone(),
        log_options: config.log_opts.clone(),
        otlp: Some(Arc::new(logs::Otlp)),
        otlp_endpoint: config.export.logs.clone(),
        plugin_dirs: config.plugin_dirs.clone(),
        ..EngineConfig::new(
            config.data_dir.join("engine"),
            config.run_dir.clone(),
            Arc::new(runtime),
            images,
            plug,
            config.shim.clone(),
        )
    })
    .await
    .context("engine")?;
    Ok((engine, network))
}

fn open_images(config: &Config) -> anyhow::Result<muster_image::Store> {
    let options = muster_image::Options { registries: config.registries(), ..Default::default() };
    muster_image::Store::open_with(&config.data_dir.join("images"), options).context("image store")
}

/// The kernel's lacks are said at start, with what each costs.
fn open_network(config: &Config) -> anyhow::Result<Option<HostNetwork>> {
    if !config.ebpf {
        return Ok(None);
    }
    let capabilities = muster_ebpf_net::probe();
    for (lack, cost) in capabilities.lacks() {
        tracing::warn!(%lack, %cost, "this kernel lacks something");
    }
    let vtep = match cluster::advertise_addr(config.advertise_addr.as_deref(), config.listen_addr) {
        Ok(addr) => match addr.ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(_) => std::net::Ipv4Addr::UNSPECIFIED,
        },
        Err(_) => std::net::Ipv4Addr::UNSPECIFIED,
    };
    let root = cgroup_v2_root()?;
    let cgroup = cgroup_v2(root, &config.cgroup_parent)?;
    let mut net = muster_ebpf_net::Config::new(&config.instance, &config.bpffs_dir, cgroup, vtep);
    // The host's own processes reach published ports, too. Programs at the root do nothing for namespaces they were not
    // told of, so that several daemons on one kernel keep out of each other's way.
    net.host_cgroup_dir = Some(root.to_owned());
    net.vxlan_port = config.vxlan_port;
    if !config.uplink.is_empty() {
        net.uplink = muster_ebpf_net::Uplink::Names(config.uplink.clone());
    }
    let upstream = config.dns.iter().copied().map(IpAddr::V4).collect();
    HostNetwork::start(net, uplink::mtu(), upstream).map(Some)
}

/// The root of the cgroup v2 hierarchy: the only one, or the controller-less tree beside v1 that systemd calls "unified".
fn cgroup_v2_root() -> anyhow::Result<&'static Path> {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let root = roots.into_iter().find(|r| Path::new(r).join("cgroup.controllers").exists());
    root.map(Path::new).context("no cgroup v2 hierarchy at /sys/fs/cgroup or /sys/fs/cgroup/unified: socket load balancing and DNS need one (or network = none)")
}

/// The cgroup v2 folder that all containers live below, made if it is not there.
fn cgroup_v2(root: &Path, parent: &str) -> anyhow::Result<std::path::PathBuf> {
    let dir = root.join(parent.trim_start_matches('/'));
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn open_doors(
    host: &Arc<Host>,
    guard: Option<&Arc<Guard>>,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
    let config = &host.config;
    let group = config.socket_group.as_deref();
    let settings = Settings {
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        continue_trace: muster_telemetry::continue_from,
    };
    let api = sockets::bind(&config.api_socket, group)?;
    let mut doors = vec![tokio::spawn(door::serve_local(api, host.clone(), stop.clone()))];
    let node_face = Api::new(host.engine.clone(), Some(host.cluster(Rights::local())), &settings);
    let rights = Rights::at_cluster_endpoint();
    let whole = Arc::new(whole::WholeEngine::new(host.clone(), rights));
    let whole_face = Api::new(whole, Some(host.cluster(rights)), &settings);
    let faces = [(&config.docker_hosts, Arc::new(node_face)), (&config.docker_cluster_hosts, Arc::new(whole_face))];
    for (listens, face) in faces {
        for listen in listens {
            doors.push(open_docker_door(listen, face.clone(), group, guard, stop.clone())?);
        }
    }
    Ok(doors)
}

fn open_docker_door(
    listen: &Listen,
    face: Arc<Api>,
    group: Option<&str>,
    guard: Option<&Arc<Guard>>,
    stop: CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    Ok(match listen {
        Listen::Unix(path) => {
            let listener = sockets::bind(path, group)?;
            tokio::spawn(muster_docker_api::serve(listener, face, stop.cancelled_owned()))
        }
        Listen::Tls(addr) => {
            let guard = guard.cloned().context("docker-tls-cert: a tcp:// endpoint without it was let through")?;
            tokio::spawn(guard.serve(docker_tls::bind(*addr)?, face, stop))
        }
    })
}

/// Where systemd has started the daemon, `systemctl start` waits for this.
fn tell_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "cannot tell systemd how the daemon fares");
    }
}

/// Until the daemon is to end; SIGHUP has it read its configuration again.
async fn wait_for_signal(mut reload: impl FnMut()) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hangup.recv() => reload(),
        }
    }
}
