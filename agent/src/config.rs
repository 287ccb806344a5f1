//! What `musterd` is told: file, then environment, then flags; the later wins. Unknown keys are refused, every path and
//! address that the daemon touches comes from here, and the whole is checked before the first socket opens.

use crate::listen::{self, Listen, TlsFiles, TlsGiven};
use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use clap::Parser;
use muster_model::net::Subnet;
use muster_telemetry::Export;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// One Muster host: runs containers, joins a cluster when told to, and may be one of its managers.
///
/// Every flag may also stand in the file (`data-dir = "..."`) or the environment (`MUSTER_DATA_DIR=...`).
#[derive(Clone, Debug, Default, Parser, Deserialize)]
#[command(name = "musterd", version, after_help = EXAMPLES)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Given {
    /// Configuration file, TOML. Read if it exists; named here, it must.
    #[arg(long, env = "MUSTER_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// What survives a reboot: images, containers, volumes, the cluster's state.
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What does not: sockets, namespaces.
    #[arg(long, env = "MUSTER_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Docker Engine API of this host, several comma separated, e.g. unix:///run/muster/docker.sock,tcp://0.0.0.0:2376.
    #[arg(long, env = "MUSTER_DOCKER_HOST", value_name = "unix://PATH|tcp://IP:PORT", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    docker_host: Option<Vec<String>>,
    /// Docker Engine API of the whole cluster, on this host.
    #[arg(long, env = "MUSTER_DOCKER_CLUSTER_HOST", value_name = "unix://PATH|tcp://IP:PORT", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    docker_cluster_host: Option<Vec<String>>,
    /// An operator's context, as `muster context export` writes it: on a worker's host the Docker API of the whole cluster is
    /// served as that operator. Managers' hosts need none.
    #[arg(long, env = "MUSTER_DOCKER_CLUSTER_CONTEXT", value_name = "FILE")]
    docker_cluster_context: Option<PathBuf>,
    /// This host's certificate for tcp:// endpoints, PEM. They are served to clients with a certificate only.
    #[arg(long, env = "MUSTER_DOCKER_TLS_CERT", value_name = "FILE")]
    docker_tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, env = "MUSTER_DOCKER_TLS_KEY", value_name = "FILE")]
    docker_tls_key: Option<PathBuf>,
    /// The authorities whose clients are let in at tcp:// endpoints, PEM.
    #[arg(long, env = "MUSTER_DOCKER_TLS_CA", value_name = "FILE")]
    docker_tls_ca: Option<PathBuf>,
    /// Who of them: names (common name or subjectAltName), each full or read-only. Default: all, full.
    #[arg(long, env = "MUSTER_DOCKER_TLS_ALLOW", value_name = "NAME[=full|=read-only]", value_delimiter = ',')]
    docker_tls_allow: Option<Vec<String>>,
    /// Group that may use the sockets. Default: docker if there is one, else root.
    #[arg(long, env = "MUSTER_SOCKET_GROUP", value_name = "NAME")]
    socket_group: Option<String>,
    /// Name of this host in the cluster. Default: the kernel's.
    #[arg(long, env = "MUSTER_HOSTNAME", value_name = "NAME")]
    hostname: Option<String>,
    /// Keeps several daemons on one kernel apart: 1 to 16 of a-z, 0-9 and '-'.
    #[arg(long, env = "MUSTER_INSTANCE", value_name = "NAME")]
    instance: Option<String>,
    /// Where the other nodes' calls arrive, once this host is a member. Default: 0.0.0.0:2377.
    #[arg(long, env = "MUSTER_LISTEN_ADDR", value_name = "IP:PORT")]
    listen_addr: Option<String>,
    /// Address that the other nodes reach this one at. Default: the one of the default route.
    #[arg(long, env = "MUSTER_ADVERTISE_ADDR", value_name = "IP[:PORT]")]
    advertise_addr: Option<String>,
    /// Parent of the containers' cgroups. Default: /muster/INSTANCE.
    #[arg(long, env = "MUSTER_CGROUP_PARENT", value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Where the data plane is pinned: a directory below a bpf mount. Default: /sys/fs/bpf/muster-INSTANCE.
    #[arg(long, env = "MUSTER_BPFFS_DIR", value_name = "DIR")]
    bpffs_dir: Option<PathBuf>,
    /// `ebpf`, or `none`: containers have their loopback only.
    #[arg(long, env = "MUSTER_NETWORK", value_name = "KIND")]
    network: Option<String>,
    /// Interfaces that lead to other hosts and clients, comma separated. Default: found by their routes.
    #[arg(long, env = "MUSTER_UPLINK", value_name = "NAMES", value_delimiter = ',')]
    uplink: Option<Vec<String>>,
    /// UDP port of the tunnel between hosts.
    #[arg(long, env = "MUSTER_VXLAN_PORT", value_name = "PORT")]
    vxlan_port: Option<u16>,
    /// Subnet of the default bridge network. Default: the first free one of the pools.
    #[arg(long, env = "MUSTER_BRIDGE_SUBNET", value_name = "SUBNET")]
    bridge_subnet: Option<Subnet>,
    /// OCI runtime binary: a path or a name in PATH.
    #[arg(long, env = "MUSTER_RUNTIME", value_name = "FILE")]
    runtime: Option<PathBuf>,
    /// The muster-shim binary. Default: beside musterd, else in PATH.
    #[arg(long, env = "MUSTER_SHIM", value_name = "FILE")]
    shim: Option<PathBuf>,
    /// Registries that may speak plain HTTP or show unknown certificates: host[:port] or a range. Loopback always may.
    #[arg(long, env = "MUSTER_INSECURE_REGISTRIES", value_name = "NAMES", value_delimiter = ',')]
    insecure_registries: Option<Vec<String>>,
    /// Tried before docker.io: host[:port] or URL, comma separated.
    #[arg(long, env = "MUSTER_REGISTRY_MIRRORS", value_name = "NAMES", value_delimiter = ',')]
    registry_mirrors: Option<Vec<String>>,
    /// Folder with a folder per registry, HOST[:PORT]: *.crt are authorities to trust for it, NAME.cert and NAME.key what
    /// this host shows of itself.
    #[arg(long, env = "MUSTER_REGISTRY_CERTS_DIR", value_name = "DIR")]
    registry_certs_dir: Option<PathBuf>,
    /// Proxy for registries that speak plain HTTP, e.g. http://proxy:3128.
    #[arg(long, env = "HTTP_PROXY", value_name = "URL")]
    http_proxy: Option<String>,
    /// Proxy for registries that speak TLS.
    #[arg(long, env = "HTTPS_PROXY", value_name = "URL")]
    https_proxy: Option<String>,
    /// Hosts, domains and ranges of addresses that are reached without a proxy, comma separated.
    #[arg(long, env = "NO_PROXY", value_name = "NAMES")]
    no_proxy: Option<String>,
    /// Name servers asked for what is no name of ours. Default: those of /etc/resolv.conf.
    #[arg(long, env = "MUSTER_DNS", value_name = "IPS", value_delimiter = ',')]
    dns: Option<Vec<Ipv4Addr>>,
    /// `key=value` shown by `info` and usable in placement constraints as engine.labels.KEY.
    #[arg(long, env = "MUSTER_LABELS", value_name = "LABELS", value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// Log driver of containers that name none. Default: json-file.
    #[arg(long, env = "MUSTER_LOG_DRIVER", value_name = "NAME")]
    log_driver: Option<String>,
    /// Its options, key=value, comma separated.
    #[arg(long, env = "MUSTER_LOG_OPTS", value_name = "OPTIONS", value_delimiter = ',')]
    log_opts: Option<Vec<String>>,
    /// Where plugins are looked for: folders with their sockets, .spec or .json files, comma separated.
    #[arg(long, env = "MUSTER_PLUGIN_DIRS", value_name = "DIRS", value_delimiter = ',')]
    plugin_dirs: Option<Vec<PathBuf>>,
    /// What goes to stderr, e.g. info or warn,muster_engine=debug.
    #[arg(long, env = "MUSTER_LOG", value_name = "DIRECTIVES")]
    log: Option<String>,
    /// Where traces, metrics and logs go: OTLP over gRPC, e.g. http://127.0.0.1:4317. Named here, it takes the place of what
    /// OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_{TRACES,METRICS,LOGS}_ENDPOINT say; the other OTEL_* variables hold
    /// in any case. Default: theirs; without any, nothing is exported.
    #[arg(long, env = "MUSTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

const EXAMPLES: &str = "Examples:
  musterd                                            one host with the default folders
  musterd --data-dir D --run-dir R --docker-host unix://R/docker.sock
  muster init; muster join-token worker              make it a cluster, from another terminal";

/// Docker's.
const PLUGIN_DIRS: &[&str] = &["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"];

const DEFAULT_FILE: &str = "/etc/muster/musterd.toml";

/// Labels of the host; all clones of a configuration show the same.
#[derive(Clone, Debug, Default)]
pub struct Labels(Arc<ArcSwap<BTreeMap<String, String>>>);

impl Labels {
    pub fn get(&self) -> BTreeMap<String, String> {
        (**self.0.load()).clone()
    }

    pub fn set(&self, labels: BTreeMap<String, String>) {
        self.0.store(Arc::new(labels));
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        **self.0.load() == **other.0.load()
    }
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub docker_hosts: Vec<Listen>,
    pub docker_cluster_hosts: Vec<Listen>,
    pub docker_cluster_context: Option<PathBuf>,
    pub docker_tls: Option<TlsFiles>,
    pub api_socket: PathBuf,
    pub socket_group: Option<String>,
    pub hostname: String,
    pub instance: String,
    pub listen_addr: SocketAddr,
    pub advertise_addr: Option<String>,
    pub cgroup_parent: String,
    pub bpffs_dir: PathBuf,
    pub ebpf: bool,
    pub uplink: Vec<String>,
    pub vxlan_port: u16,
    pub bridge_subnet: Option<Subnet>,
    pub runtime: PathBuf,
    pub shim: PathBuf,
    pub insecure_registries: Vec<String>,
    pub registry_mirrors: Vec<String>,
    pub registry_certs_dir: PathBuf,
    pub proxy: muster_image::ProxyConfig,
    pub dns: Vec<Ipv4Addr>,
    pub labels: Labels,
    pub log_driver: String,
    pub log_opts: BTreeMap<String, String>,
    pub plugin_dirs: Vec<PathBuf>,
    pub log: String,
    pub export: Export,
}

/// `self.field` where it is set, else `other.field`, for each field.
macro_rules! over {
    ($top:ident over $base:ident: $($field:ident)*) => {
        Given { $($field: $top.$field.or($base.$field)),* }
    };
}

/// The names of the fields in which two configurations differ. A field that is not in the list does not compile.
macro_rules! differing {
    ($a:ident $b:ident: $($field:ident $name:literal)*; without $($derived:ident)*) => {{
        let Config { $($field: _,)* $($derived: _,)* } = $a;
        [$(($a.$field != $b.$field).then_some($name)),*].into_iter().flatten().collect()
    }};
}

impl Config {
    /// The fields that are not the same in `other`, by the names they have in the file.
    pub fn differs(&self, other: &Self) -> Vec<&'static str> {
        differing!(self other: data_dir "data-dir" run_dir "run-dir" docker_hosts "docker-host"
            docker_cluster_hosts "docker-cluster-host" docker_cluster_context "docker-cluster-context" docker_tls "docker-tls" socket_group "socket-group"
            hostname "hostname" instance "instance" listen_addr "listen-addr" advertise_addr "advertise-addr"
            cgroup_parent "cgroup-parent" bpffs_dir "bpffs-dir" ebpf "network" uplink "uplink" vxlan_port "vxlan-port"
            bridge_subnet "bridge-subnet" runtime "runtime" shim "shim" insecure_registries "insecure-registries"
            registry_mirrors "registry-mirrors"
            registry_certs_dir "registry-certs-dir" proxy "http-proxy, https-proxy, no-proxy" dns "dns" labels "labels" log_driver "log-driver" log_opts "log-opts" plugin_dirs "plugin-dirs" log "log"
            export "otlp-endpoint"; without api_socket)
    }

    /// Reads flags, environment and file; prints help and ends where that is what was asked.
    ///
    /// # Errors
    /// Names the file, the field and what would be accepted.
    pub fn load() -> anyhow::Result<Self> {
        let top = Given::parse();
        let file = read_file(top.config.as_deref())?;
        Self::check(merge(top, file))
    }

    /// How the image store reaches registries.
    pub fn registries(&self) -> muster_image::RegistryConfig {
        let mut registries = muster_image::RegistryConfig {
            insecure: self.insecure_registries.clone(),
            certs_dir: Some(self.registry_certs_dir.clone()),
            proxy: self.proxy.clone(),
            ..Default::default()
        };
        if !self.registry_mirrors.is_empty() {
            registries.mirrors.insert("docker.io".to_owned(), self.registry_mirrors.clone());
        }
        registries
    }

    /// Takes over how registries are reached.
    pub fn take_registries(&mut self, new: &Self) {
        self.insecure_registries.clone_from(&new.insecure_registries);
        self.registry_mirrors.clone_from(&new.registry_mirrors);
        self.registry_certs_dir.clone_from(&new.registry_certs_dir);
        self.proxy.clone_from(&new.proxy);
    }

    fn check(g: Given) -> anyhow::Result<Self> {
        let instance = g.instance.unwrap_or_else(|| "main".to_owned());
        let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if instance.is_empty() || instance.len() > 16 || !instance.chars().all(ok) {
            bail!("instance: {instance:?}: expected 1 to 16 characters of a-z, 0-9 and '-'");
        }
        let run_dir = absolute("run-dir", g.run_dir.unwrap_or_else(|| "/run/muster".into()))?;
        let hostname = match g.hostname {
            Some(h) => h,
            None => nix::unistd::gethostname()
                .context("hostname: the kernel does not say one")?
                .to_string_lossy()
                .into_owned(),
        };
        muster_model::spec::check_name("hostname", &hostname, 63)?;
        let listen_addr = g.listen_addr.unwrap_or_else(|| "0.0.0.0:2377".to_owned());
        let network = g.network.unwrap_or_else(|| "ebpf".to_owned());
        if !["ebpf", "none"].contains(&network.as_str()) {
            bail!("network: {network:?}: expected ebpf or none");
        }
        let cgroup_parent = g.cgroup_parent.unwrap_or_else(|| format!("/muster/{instance}"));
        if !cgroup_parent.starts_with('/') || cgroup_parent.len() < 2 || cgroup_parent.contains("..") {
            bail!("cgroup-parent: {cgroup_parent:?}: expected an absolute path below the root of the hierarchies");
        }
        let docker_hosts = listen::listens("docker-host", g.docker_host, run_dir.join("docker.sock"))?;
        let whole = run_dir.join("docker-cluster.sock");
        let docker_cluster_hosts = listen::listens("docker-cluster-host", g.docker_cluster_host, whole)?;
        if let Some(twice) = docker_hosts.iter().find(|l| docker_cluster_hosts.contains(l)) {
            bail!("docker-cluster-host: {twice:?} is a docker-host already");
        }
        let file = |field: &str, path: Option<PathBuf>| path.map(|p| absolute(field, p)).transpose();
        let tls = TlsGiven {
            cert: file("docker-tls-cert", g.docker_tls_cert)?,
            key: file("docker-tls-key", g.docker_tls_key)?,
            ca: file("docker-tls-ca", g.docker_tls_ca)?,
            allow: g.docker_tls_allow.unwrap_or_default(),
        };
        let tcp = docker_hosts.iter().chain(&docker_cluster_hosts).any(|l| matches!(l, Listen::Tls(_)));
        Ok(Self {
            data_dir: absolute("data-dir", g.data_dir.unwrap_or_else(|| "/var/lib/muster".into()))?,
            docker_hosts,
            docker_cluster_hosts,
            docker_cluster_context: file("docker-cluster-context", g.docker_cluster_context)?,
            docker_tls: listen::tls(tls, tcp)?,
            api_socket: run_dir.join("muster.sock"),
            socket_group: g.socket_group,
            hostname,
            listen_addr: listen_addr
                .parse()
                .with_context(|| format!("listen-addr: {listen_addr:?}: expected IP:PORT"))?,
            advertise_addr: g.advertise_addr,
            cgroup_parent,
            bpffs_dir: absolute(
                "bpffs-dir",
                g.bpffs_dir.unwrap_or_else(|| format!("/sys/fs/bpf/muster-{instance}").into()),
            )?,
            ebpf: network == "ebpf",
            uplink: g.uplink.unwrap_or_default(),
            vxlan_port: g.vxlan_port.unwrap_or(4789),
            bridge_subnet: g.bridge_subnet,
            runtime: g.runtime.unwrap_or_else(|| "runc".into()),
            shim: shim(g.shim)?,
            insecure_registries: g.insecure_registries.unwrap_or_default(),
            registry_mirrors: g.registry_mirrors.unwrap_or_default(),
            registry_certs_dir: absolute(
                "registry-certs-dir",
                g.registry_certs_dir.unwrap_or_else(|| "/etc/muster/certs.d".into()),
            )?,
            proxy: muster_image::ProxyConfig {
                http: or_variable(g.http_proxy, "http_proxy"),
                https: or_variable(g.https_proxy, "https_proxy"),
                no_proxy: or_variable(g.no_proxy, "no_proxy"),
            },
            dns: g.dns.unwrap_or_default(),
            labels: labels(g.labels.unwrap_or_default())?,
            log_driver: g.log_driver.unwrap_or_else(|| "json-file".to_owned()),
            log_opts: pairs("log-opts", g.log_opts.unwrap_or_default())?,
            plugin_dirs: g.plugin_dirs.unwrap_or_else(|| PLUGIN_DIRS.iter().map(PathBuf::from).collect()),
            log: g.log.unwrap_or_else(|| "info".to_owned()),
            export: Export::from_environment(g.otlp_endpoint.as_deref())?,
            instance,
            run_dir,
        })
    }
}

fn merge(top: Given, base: Given) -> Given {
    over!(top over base: config data_dir run_dir docker_host docker_cluster_host docker_cluster_context docker_tls_cert docker_tls_key
        docker_tls_ca docker_tls_allow socket_group hostname instance listen_addr
        advertise_addr cgroup_parent bpffs_dir network uplink vxlan_port bridge_subnet runtime shim insecure_registries
        registry_mirrors registry_certs_dir http_proxy https_proxy no_proxy dns labels log_driver log_opts plugin_dirs log
        otlp_endpoint)
}

fn read_file(named: Option<&Path>) -> anyhow::Result<Given> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("configuration file {}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(Given::default()),
        Err(e) => Err(e).with_context(|| format!("configuration file {}", path.display())),
    }
}

fn absolute(field: &str, path: PathBuf) -> anyhow::Result<PathBuf> {
    std::path::absolute(&path).with_context(|| format!("{field}: {path:?}"))
}

/// A text or a list of them.
fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(d)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

fn shim(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return absolute("shim", path);
    }
    let beside = std::env::current_exe().context("the path of this program")?.with_file_name("muster-shim");
    let in_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|d| d.join("muster-shim")).find(|f| f.is_file())
    };
    if beside.is_file() {
        return Ok(beside);
    }
    in_path().with_context(|| format!("shim: there is no {} and no muster-shim in PATH", beside.display()))
}

/// Proxies are also named by variables in lower case.
fn or_variable(given: Option<String>, name: &str) -> String {
    given.or_else(|| std::env::var(name).ok()).unwrap_or_default()
}

fn labels(given: Vec<String>) -> anyhow::Result<Labels> {
    Ok(Labels(Arc::new(ArcSwap::from_pointee(pairs("labels", given)?))))
}

/// `key=value` each.
fn pairs(field: &str, given: Vec<String>) -> anyhow::Result<BTreeMap<String, String>> {
    given
        .into_iter()
        .map(|l| match l.split_once('=') {
            Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), v.to_owned())),
            _ => bail!("{field}: {l:?}: expected key=value"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Given {
        Given { shim: Some("/bin/true".into()), hostname: Some("h1".into()), ..Given::default() }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_refused_by_its_name() {
        let e = toml::from_str::<Given>("data-dri = \"/x\"").expect_err("refused");
        assert!(e.to_string().contains("data-dri"), "{e}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let file: Given = toml::from_str("data-dir = \"/file\"\nrun-dir = \"/file\"").expect("valid");
        let config = Config::check(merge(Given { data_dir: Some("/flag".into()), ..given() }, file)).expect("valid");
        assert_eq!((config.data_dir, config.run_dir), ("/flag".into(), "/file".into()));
    }

    #[test]
    fn endpoints_in_the_file_are_one_or_several() {
        let one: Given = toml::from_str("docker-host = \"unix:///a\"").expect("valid");
        let two: Given = toml::from_str("docker-host = [\"unix:///a\", \"unix:///b\"]").expect("valid");
        let hosts = |file| Config::check(merge(given(), file)).expect("valid").docker_hosts.len();
        assert_eq!((hosts(one), hosts(two)), (1, 2));
    }

    #[test]
    fn what_differs_is_named_as_in_the_file() {
        let with = |g: Given| Config::check(g).expect("valid");
        let other =
            Given { labels: Some(vec!["a=b".into()]), log: Some("debug".into()), vxlan_port: Some(1), ..given() };
        assert_eq!(with(given()).differs(&with(other)), ["vxlan-port", "labels", "log"]);
        let other = Given {
            log_driver: Some("local".into()),
            log_opts: Some(vec!["max-size=1m".into()]),
            plugin_dirs: Some(vec!["/p".into()]),
            ..given()
        };
        assert_eq!(with(given()).differs(&with(other)), ["log-driver", "log-opts", "plugin-dirs"]);
        assert!(with(given()).differs(&with(given())).is_empty());
    }

    #[test]
    fn bad_values_are_refused_by_field() {
        let cases = [
            (Given { instance: Some("Ü".into()), ..given() }, "instance"),
            (Given { docker_host: Some(vec!["tcp://0.0.0.0:2375".into()]), ..given() }, "docker-host"),
            (Given { listen_addr: Some("here".into()), ..given() }, "listen-addr"),
            (Given { network: Some("bridge".into()), ..given() }, "network"),
            (Given { hostname: Some("-".into()), ..given() }, "hostname"),
            (Given { labels: Some(vec!["x".into()]), ..given() }, "labels"),
            (Given { cgroup_parent: Some("x".into()), ..given() }, "cgroup-parent"),
        ];
        for (given, field) in cases {
            let e = Config::check(given).expect_err(field);
            assert!(e.to_string().contains(field), "{field}: {e}");
        }
    }
}
