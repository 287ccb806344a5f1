//! Names for containers: a server at 127.0.0.11 of each one's network namespace.
//!
//! The kernel's cgroup hooks lead port 53 there to the port that a [`Resolver`]'s sockets got, so that a container may
//! bind port 53 itself. What a container may see is given by where the socket lives: its own networks' name tables. Names
//! that are none of ours are asked upstream. Works without managers: the tables are the last ones known.

mod handler;
mod sockets;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use hickory_server::Server;
use muster_model::view::Names;
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use handler::Tables;

/// A TCP client that says nothing for so long is dropped (RFC 7766, section 6.2.3 leaves the time to the server).
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Answers that may wait for a slow TCP client.
const TCP_BUFFER: usize = 16;

/// The name tables of this host, swapped as a whole.
pub type SharedNames = Arc<ArcSwap<Names>>;

/// The server of one container. Dropping it ends it.
pub struct Resolver {
    _server: Server<handler::Handler>,
    tables: Arc<ArcSwap<Tables>>,
    pub udp_port: u16,
    pub tcp_port: u16,
}

impl Resolver {
    /// Opens its sockets in the namespace at `netns`.
    ///
    /// # Errors
    /// When the namespace is gone, or no port is free in it.
    pub async fn open(netns: &Path, tables: Tables, names: SharedNames, upstream: Vec<IpAddr>) -> anyhow::Result<Self> {
        let path: PathBuf = netns.to_owned();
        let (udp, tcp) = tokio::task::spawn_blocking(move || sockets::open_in(&path))
            .await
            .context("the thread that opens DNS sockets")??;
        let (udp_port, tcp_port) = (udp.local_addr()?.port(), tcp.local_addr()?.port());
        let tables = Arc::new(ArcSwap::from_pointee(tables));
        let handler = handler::Handler { names, tables: tables.clone(), upstream: upstream_resolver(&upstream)? };
        let mut server = Server::new(handler);
        server.register_socket(tokio::net::UdpSocket::from_std(udp)?);
        server.register_listener(tokio::net::TcpListener::from_std(tcp)?, TCP_IDLE, TCP_BUFFER);
        Ok(Self { _server: server, tables, udp_port, tcp_port })
    }

    /// The container joined or left networks, or has other links.
    pub fn set_tables(&self, tables: Tables) {
        self.tables.store(Arc::new(tables));
    }
}

/// `servers`, or those of the host's resolv.conf. A server of the host that lives on its loopback is asked by us, who are
/// on the host too.
fn upstream_resolver(servers: &[IpAddr]) -> anyhow::Result<Option<TokioResolver>> {
    let builder = if servers.is_empty() {
        match TokioResolver::builder_tokio() {
            Ok(builder) => builder,
            // No resolv.conf, or none that can be read: names of ours work all the same.
            Err(error) => {
                tracing::debug!(%error, "no upstream name servers");
                return Ok(None);
            }
        }
    } else {
        let servers = servers.iter().map(|ip| NameServerConfig::udp_and_tcp(*ip)).collect();
        TokioResolver::builder_with_config(
            ResolverConfig::from_parts(None, vec![], servers),
            TokioRuntimeProvider::default(),
        )
    };
    Ok(Some(builder.build().context("the upstream resolver")?))
}
