//! The Docker API over TCP: TLS with client certificates, always. Who is let in is decided by the certificate's names.
//!
//! Certificates, authorities and the list of those let in can be replaced while it runs: connections whose client would not
//! get in any more, or not as far, are cut.

use crate::listen::TlsFiles;
use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use muster_docker_api::{Access, Api, Role};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// Longer than any honest handshake, also on a busy host.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once, some 40 KiB each; more clients wait until it is their turn.
const MAX_HANDSHAKES: usize = 64;
/// How long a client may say nothing at all: TLS clients speak first and at once.
const SILENCE: Duration = Duration::from_secs(2);
/// Clients before their handshake, a file descriptor and some KiB each; more wait in the kernel's queue.
const MAX_BEFORE: usize = 512;
/// Waiting in the kernel's queue.
const BACKLOG: u32 = 256;
/// Pause after a failed accept, e.g. when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests may go on after shutdown was asked for.
const GRACE: Duration = Duration::from_secs(2);
/// The first byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What is current.
struct State {
    server: Arc<ServerConfig>,
    /// The authorities, to see whether they have changed.
    roots: Vec<CertificateDer<'static>>,
    files: TlsFiles,
}

/// Who guards the TCP endpoints.
pub struct Guard {
    state: ArcSwap<State>,
    changed: watch::Sender<()>,
}

/// A client whose certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Client {
    /// Common name first, then what subjectAltName says.
    names: Vec<String>,
}

impl Guard {
    /// # Errors
    /// Names the file that cannot be read or used.
    pub fn new(files: TlsFiles) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self { state: ArcSwap::from_pointee(State::read(files)?), changed: watch::channel(()).0 }))
    }

    /// Reads the files anew; connections that they do not allow any more are cut.
    ///
    /// # Errors
    /// As [`Guard::new`]; what was in force stays.
    pub fn reload(&self, files: TlsFiles) -> anyhow::Result<()> {
        self.state.store(Arc::new(State::read(files)?));
        self.changed.send_replace(());
        Ok(())
    }

    /// Serves the API on `listener` until `stop`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let (before, handshakes) = (Arc::new(Semaphore::new(MAX_BEFORE)), Arc::new(Semaphore::new(MAX_HANDSHAKES)));
        loop {
            // A place first: a client that is not accepted costs nothing.
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = before.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((tcp, remote)) => {
                        let (guard, api, stop) = (self.clone(), api.clone(), stop.clone());
                        let handshakes = handshakes.clone();
                        connections.spawn(async move {
                            let Some(first) = first_byte(&tcp, remote).await else { return };
                            let turn = handshakes.acquire_owned().await.expect("the semaphore is never closed");
                            drop(place);
                            // Before the handshake: what changes while it goes on is heard of.
                            let changed = guard.changed.subscribe();
                            let state = guard.state.load_full();
                            let greeted = greet(tcp, remote, first, state.server.clone()).await;
                            drop(turn);
                            if let Some((socket, client)) = greeted {
                                guard.carry(socket, client, api, stop, state, changed).await;
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    }

    /// One client's requests, as long as it may ask as it might by the state that its certificate was verified with.
    async fn carry(
        &self,
        socket: TlsStream<TcpStream>,
        client: Client,
        api: Arc<Api>,
        stop: CancellationToken,
        state: Arc<State>,
        mut changed: watch::Receiver<()>,
    ) {
        let current = self.state.load_full();
        if current.roots != state.roots {
            tracing::debug!(client.names = ?client.names, "the authorities were replaced during a handshake");
            return;
        }
        let access = current.access(&client);
        let served = muster_docker_api::serve_connection(socket, api, access.clone(), stop);
        tokio::pin!(served);
        loop {
            tokio::select! {
                () = &mut served => return,
                // The guard outlives its connections: it holds the sender.
                _ = changed.changed() => {
                    let now = self.state.load();
                    if now.access(&client).role != access.role || now.roots != state.roots {
                        tracing::info!(client.name = %access.who, "a connection is cut: what its client may do has changed");
                        return;
                    }
                }
            }
        }
    }
}

/// What a client begins with; nothing of one that keeps silent or goes.
async fn first_byte(tcp: &TcpStream, remote: SocketAddr) -> Option<u8> {
    let mut first = [0];
    match tokio::time::timeout(SILENCE, tcp.peek(&mut first)).await {
        Ok(Ok(1..)) => Some(first[0]),
        Ok(_) => None,
        Err(_) => {
            tracing::debug!(client.address = %remote, "a client said nothing");
            None
        }
    }
}

/// The handshake. Failures are logged at DEBUG: strangers knock on open ports.
async fn greet(
    tcp: TcpStream,
    remote: SocketAddr,
    first: u8,
    server: Arc<ServerConfig>,
) -> Option<(TlsStream<TcpStream>, Client)> {
    let handshake = async {
        if first.is_ascii_uppercase() {
            return tell_plain(tcp).await;
        }
        if first != TLS_HANDSHAKE {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "no TLS client"));
        }
        tcp.set_nodelay(true)?;
        TlsAcceptor::from(server).accept(tcp).await
    };
    let socket = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            tracing::debug!(client.address = %remote, %error, "tls handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!(client.address = %remote, "tls handshake took too long");
            return None;
        }
    };
    let leaf = socket.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match leaf.context("no certificate").and_then(|leaf| names_of(leaf)) {
        Ok(names) => Some((socket, Client { names })),
        Err(error) => {
            tracing::debug!(client.address = %remote, %error, "a client's certificate cannot be read");
            None
        }
    }
}

/// Says to an HTTP client what is amiss, as Go's server does; the error ends the connection.
async fn tell_plain(mut tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    const ANSWER: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
        Client sent an HTTP request to an HTTPS server.\n";
    tcp.write_all(ANSWER).await?;
    tcp.shutdown().await?;
    // What the client still sends is read: closing before would reset the connection and could cost it the answer.
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if tokio::io::AsyncReadExt::read(&mut tcp, &mut rest).await? == 0 {
            break;
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "an HTTP client without TLS"))
}

impl State {
    fn read(files: TlsFiles) -> anyhow::Result<Self> {
        let chain = certificates("docker-tls-cert", &files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|e| anyhow::anyhow!("docker-tls-key: {}: {e}", files.key.display()))?;
        let roots = certificates("docker-tls-ca", &files.ca)?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).with_context(|| format!("docker-tls-ca: {}", files.ca.display()))?;
        }
        let provider = muster_mtls::provider();
        // Without the verifier's leave there is no connection: a client that shows no certificate gets none.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider.clone())
            .build()
            .with_context(|| format!("docker-tls-ca: {}", files.ca.display()))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS 1.2 and 1.3")?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .with_context(|| format!("docker-tls-cert {} and docker-tls-key", files.cert.display()))?;
        Ok(Self { server: Arc::new(server), roots, files })
    }

    /// The widest role that one of the client's names gives.
    fn access(&self, client: &Client) -> Access {
        let who = client.names.first().cloned().unwrap_or_else(|| "a client without a name".to_owned());
        let allow = &self.files.allow;
        if allow.is_empty() {
            return Access { role: Role::Full, who };
        }
        let roles: Vec<Role> = allow.iter().filter(|a| client.names.contains(&a.name)).map(|a| a.role).collect();
        let role = [Role::Full, Role::ReadOnly].into_iter().find(|r| roles.contains(r)).unwrap_or(Role::Nothing);
        Access { role, who }
    }
}

fn certificates(field: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| anyhow::anyhow!("{field}: {shown}: {e}"))?;
    if all.is_empty() {
        bail!("{field}: {shown}: there is no certificate in it");
    }
    Ok(all)
}

/// Common names, then what subjectAltName says.
fn names_of(leaf: &CertificateDer<'_>) -> anyhow::Result<Vec<String>> {
    let (_, cert) = X509Certificate::from_der(leaf).context("certificate")?;
    let mut names: Vec<String> =
        cert.subject().iter_common_name().filter_map(|cn| cn.as_str().ok()).map(str::to_owned).collect();
    let alternatives = cert.extensions().iter().filter_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(san) => Some(&san.general_names),
        _ => None,
    });
    names.extend(alternatives.flatten().filter_map(|name| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => Some((*text).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    }));
    Ok(names)
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from)).ok().map(|ip| ip.to_string())
}

/// Binds a TCP endpoint; clients that vanish are noticed by keep-alive.
///
/// # Errors
/// When the port is taken or the address is not this host's.
pub fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = || -> std::io::Result<TcpListener> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_keepalive(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bound().with_context(|| format!("docker-host: listen on {addr}"))
}
