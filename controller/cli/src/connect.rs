//! Getting at a host: its own socket, or a context's cluster over mutual TLS.

use crate::context;
use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use muster_mtls::{Expect, Tls};
use muster_proto::{RemoteCluster, RemoteEngine, Target};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

const DEFAULT_SOCKET: &str = "/run/muster/muster.sock";

/// The host cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to musterd at {at}: {why}. Is it running?")]
pub struct Unreachable {
    pub at: String,
    pub why: String,
}

/// A host that answers, and what can be asked of it.
#[derive(Clone)]
pub struct Host {
    pub channel: Channel,
}

impl Host {
    pub fn cluster(&self) -> RemoteCluster {
        RemoteCluster::new(self.channel.clone())
    }

    pub fn engine(&self, target: Target) -> RemoteEngine {
        RemoteEngine::new(self.channel.clone(), target)
    }

    /// All hosts as one.
    pub fn whole(&self) -> RemoteEngine {
        self.engine(Target::Cluster)
    }
}

/// `host` wins over `context`; without either, the default context or this host's socket.
///
/// # Errors
/// [`Unreachable`]; a context that is not there.
pub async fn connect(host: Option<&str>, context: Option<&str>) -> anyhow::Result<Host> {
    if let Some(host) = host {
        return Ok(Host { channel: local(&socket(host)?).await? });
    }
    let name = match context {
        Some(name) => Some(name.to_owned()),
        None => context::current()?,
    };
    match name.as_deref() {
        None | Some(context::DEFAULT) => Ok(Host { channel: local(Path::new(DEFAULT_SOCKET)).await? }),
        Some(name) => {
            let c = context::load(name)?;
            let tls = Tls::new(c.credentials)?;
            let channel = tls.channel(&c.addr, Expect::Member).await;
            let channel = channel.map_err(|e| Unreachable { at: c.addr.clone(), why: e.to_string() })?;
            Ok(Host { channel })
        }
    }
}

fn socket(host: &str) -> anyhow::Result<PathBuf> {
    let path = host.strip_prefix("unix://").filter(|p| p.starts_with('/'));
    path.map(PathBuf::from).with_context(|| {
        format!("--host {host:?}: expected unix:// and an absolute path (use a context for other machines)")
    })
}

async fn local(path: &Path) -> anyhow::Result<Channel> {
    let path = path.to_owned();
    let at = format!("unix://{}", path.display());
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is not used: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.map_err(|e| {
        let mut why: &dyn std::error::Error = &e;
        while let Some(source) = why.source() {
            why = source;
        }
        Unreachable { at, why: why.to_string() }.into()
    })
}
