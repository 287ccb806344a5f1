//! The TLS of one member: what it shows and whom it believes, swapped as a whole while connections go on.

use crate::{
    Connections, Credentials, Error, Leaf, NodeIdentity, Revoked,
    dial::{self, DialError, Expect},
    outgoing::Outgoing,
    verify,
};
use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig, client::Resumption, server::NoServerSessionStorage, sign::SingleCertAndKey};
use std::{collections::BTreeSet, sync::Arc};
use tokio::{sync::watch, task::JoinSet};
use tonic::transport::Channel;

/// Handshakes of one [`Tls::show`] beside each other.
const SHOWN_AT_ONCE: usize = 32;

/// Shared by every server and client of the host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: ArcSwap<Current>,
    connections: Connections,
    revoked: Revoked,
    outgoing: Outgoing,
    installed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Current {
    credentials: Credentials,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// # Errors
    /// [`Error::Tls`] for keys and roots that rustls refuses.
    pub fn new(credentials: Credentials) -> Result<Self, Error> {
        let current = ArcSwap::from_pointee(Current::new(credentials)?);
        Ok(Self(Arc::new(Inner {
            current,
            connections: Connections::default(),
            revoked: Revoked::default(),
            outgoing: Outgoing::default(),
            installed: watch::Sender::new(1),
        })))
    }

    /// Replaces key, certificate and roots. Handshakes from now on use them; open connections go on, beyond the end of the
    /// old certificate where their servers have been shown the new one ([`Tls::show`]).
    ///
    /// # Errors
    /// [`Error::OtherCluster`]; [`Error::Tls`]. Nothing changed.
    pub fn install(&self, credentials: Credentials) -> Result<(), Error> {
        let (expected, found) = (self.identity().cluster_id, credentials.identity().cluster_id);
        if expected != found {
            return Err(Error::OtherCluster { expected, found });
        }
        self.0.current.store(Arc::new(Current::new(credentials)?));
        self.0.installed.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Changes with each [`Tls::install`]: the time to [`Tls::show`] it, and to dial anew where calls go out one by one.
    pub fn installed(&self) -> watch::Receiver<u64> {
        self.0.installed.subscribe()
    }

    pub fn credentials(&self) -> Credentials {
        self.0.current.load().credentials.clone()
    }

    pub fn identity(&self) -> NodeIdentity {
        self.0.current.load().credentials.identity()
    }

    pub fn leaf(&self) -> Leaf {
        self.0.current.load().credentials.leaf().clone()
    }

    /// The connections that this host's servers have accepted.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// From now on these certificates, by serial, and no others are refused; open connections that were made with one are
    /// closed.
    pub fn revoke(&self, serials: BTreeSet<String>) {
        if self.0.revoked.replace(serials) {
            let revoked = |serial: &String| self.0.revoked.has(serial);
            self.0.connections.close_where(|c| c.serial.as_ref().is_some_and(revoked));
        }
    }

    pub(crate) fn revoked(&self) -> &Revoked {
        &self.0.revoked
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.0.current.load().server.clone()
    }

    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        self.0.current.load().client.clone()
    }

    /// A channel to a member at `addr` (`host:port`), dialled now and again after each loss, each time with the
    /// credentials of that moment.
    ///
    /// A server that refuses our certificate is told apart from one that is away by [`DialError::Connect`]'s `refusal`;
    /// on a channel that dialled again later, by [`crate::refused_by_peer`].
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn channel(&self, addr: &str, expect: Expect) -> Result<Channel, DialError> {
        dial::connect(addr, self.connector(addr, expect)).await
    }

    /// As [`Tls::channel`], dialling at the first call.
    ///
    /// # Errors
    /// [`DialError::Address`].
    pub fn channel_lazy(&self, addr: &str, expect: Expect) -> Result<Channel, DialError> {
        dial::connect_lazy(addr, self.connector(addr, expect))
    }

    /// Shows the present certificate, by one short connection each, to all servers that this host has connections to, so
    /// that what was dialled with an older one lives as long as this one. Answers whom it could not be shown, and why.
    pub async fn show(&self) -> Vec<DialError> {
        let mut failed = Vec::new();
        for servers in self.0.outgoing.servers().chunks(SHOWN_AT_ONCE) {
            let mut dialling = JoinSet::new();
            for (addr, expect) in servers.iter().cloned() {
                let tls = self.clone();
                dialling.spawn(async move { tls.channel(&addr, expect).await.err() });
            }
            while let Some(dialled) = dialling.join_next().await {
                failed.extend(dialled.ok().flatten());
            }
        }
        failed
    }

    fn connector(&self, addr: &str, expect: Expect) -> impl Fn() -> dial::Target + Clone + Send + 'static {
        let (tls, addr) = (self.clone(), addr.to_owned());
        move || dial::Target {
            config: tls.client_config(),
            name: expect.server_name(tls.identity().cluster_id),
            entry: Some(tls.0.outgoing.entry(&addr, expect)),
        }
    }
}

impl Current {
    fn new(credentials: Credentials) -> Result<Self, Error> {
        Ok(Self {
            server: Arc::new(server_config(&credentials)?),
            client: Arc::new(client_config(&credentials)?),
            credentials,
        })
    }
}

fn server_config(credentials: &Credentials) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verify::Members::new(credentials.roots())?))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // No resumption: each connection proves the possession of a key that is trusted now.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client_config(credentials: &Credentials) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(verify::store(credentials.roots())?)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
