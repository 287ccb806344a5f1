//! Connections to other members.

use crate::{
    CertRole, NodeIdentity,
    outgoing::{Entry, Noted},
};
use hyper_util::rt::TokioIo;
use muster_model::{ClusterId, NodeId};
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use std::{
    error::Error as StdError,
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// How many bytes of one stream the other side may send before its reader has taken any: what a stalled reader costs, at
/// each end of a connection.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all streams of a connection together: the most there is (RFC 9113, section 6.9.1). All calls between two
/// nodes share one connection, and those whose readers stall (a log in a pager, input for a process that reads none) would
/// hold back every other call once they have used this up.
pub const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// TCP, TLS and the server's first word together: a host that does not answer in this time is treated as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent peer is asked this often whether it lives, also between calls; it has as long again to answer: an agent has to
/// leave a leader that was cut off before the next leader counts the node as lost (5 s after it took office).
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Whom a client means to reach. The authority puts the names in; nobody can ask for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Exactly this node, whatever its role.
    Node(NodeId),
    /// Any manager.
    Manager,
    /// Any node of the cluster.
    Member,
}

impl Expect {
    fn dns(self, cluster: ClusterId) -> String {
        match self {
            Self::Node(id) => format!("{id}.{cluster}.muster"),
            Self::Manager => format!("manager.{cluster}.muster"),
            Self::Member => format!("member.{cluster}.muster"),
        }
    }

    /// The name that the server's certificate must carry.
    pub(crate) fn server_name(self, cluster: ClusterId) -> ServerName<'static> {
        ServerName::try_from(self.dns(cluster))
            .expect("ids are 25 letters and digits: a valid DNS name of three labels")
    }

    /// The names that a certificate for `identity` carries. Operators serve nothing and have none.
    pub(crate) fn names_of(identity: NodeIdentity) -> Vec<String> {
        let expects: &[Expect] = match identity.role {
            CertRole::Operator => &[],
            CertRole::Worker => &[Expect::Node(identity.node_id), Expect::Member],
            CertRole::Manager => &[Expect::Node(identity.node_id), Expect::Member, Expect::Manager],
        };
        expects.iter().map(|e| e.dns(identity.cluster_id)).collect()
    }
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("address {0:?}: expected HOST:PORT")]
    Address(String),
    #[error("cannot connect to {addr}: {why}")]
    Connect { addr: String, why: String, refusal: Option<Refusal> },
    /// The server's authority is not the one the join token names.
    #[error(
        "the server at {addr} belongs to another authority than the join token says (expected CA digest {expected})"
    )]
    OtherAuthority { addr: String, expected: String },
}

/// The other side did answer, and did not want us (or we not it): trying again changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not know the authority that signed our certificate, or finds it invalid.
    OurCertificate(AlertDescription),
    /// Its certificate is not one of the expected holder's.
    TheirCertificate,
}

pub(crate) struct Target {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    /// Where the connection is noted for as long as it is open.
    pub(crate) entry: Option<Entry>,
}

pub(crate) async fn connect<F>(addr: &str, target: F) -> Result<Channel, DialError>
where
    F: Fn() -> Target + Clone + Send + 'static,
{
    let connector = connector(addr.to_owned(), target);
    endpoint(addr)?.connect_with_connector(connector).await.map_err(|e| DialError::Connect {
        addr: addr.to_owned(),
        why: innermost(&e),
        refusal: refused_by_peer(&e),
    })
}

pub(crate) fn connect_lazy<F>(addr: &str, target: F) -> Result<Channel, DialError>
where
    F: Fn() -> Target + Clone + Send + 'static,
{
    Ok(endpoint(addr)?.connect_with_connector_lazy(connector(addr.to_owned(), target)))
}

fn endpoint(addr: &str) -> Result<Endpoint, DialError> {
    let wrong = || DialError::Address(addr.to_owned());
    let (host, port) = addr.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || port.parse::<u16>().map_or(true, |p| p == 0) {
        return Err(wrong());
    }
    // The scheme is only a label: the connector below speaks TLS, always.
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|_| wrong())?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

type Io = TokioIo<Greeted>;
type Connecting = Pin<Box<dyn Future<Output = io::Result<Io>> + Send>>;

fn connector<F>(
    addr: String,
    target: F,
) -> impl tower::Service<Uri, Response = Io, Error = io::Error, Future = Connecting> + Send
where
    F: Fn() -> Target + Clone + Send + 'static,
{
    tower::service_fn(move |_: Uri| -> Connecting {
        let (addr, target) = (addr.clone(), target());
        Box::pin(async move {
            let stream = timeout(CONNECT_TIMEOUT, Greeted::connect(&addr, target)).await;
            stream.unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {CONNECT_TIMEOUT:?}")))
            })
        })
    })
}

/// A connection whose server has said its first word.
///
/// In TLS 1.3 a client has finished its handshake before the server has looked at the client's certificate, so that a
/// refusal would hit some later call as "transport error". A server of HTTP/2 speaks first (RFC 9113, section 3.4): once
/// its SETTINGS are here we are let in, and a refusal is the connection's error.
struct Greeted {
    io: TlsStream<TcpStream>,
    first: [u8; 64],
    /// What of `first` was read ahead and is not taken yet.
    ahead: Range<usize>,
    _noted: Option<Noted>,
}

impl Greeted {
    async fn connect(addr: &str, Target { config, name, entry }: Target) -> io::Result<Io> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let mut io = TlsConnector::from(config).connect(name, tcp).await?;
        let mut first = [0; 64];
        let n = io.read(&mut first).await?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server right after the handshake"));
        }
        Ok(TokioIo::new(Self { io, first, ahead: 0..n, _noted: entry.map(Entry::note) }))
    }
}

impl AsyncRead for Greeted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        let from = self.ahead.start;
        buf.put_slice(&self.first[from..from + n]);
        self.ahead.start += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Looks through an error (a `tonic::Status`, a transport error) for a verdict about certificates, as against "not there".
pub fn refused_by_peer(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    let mut next = Some(error);
    while let Some(e) = next {
        let tls = e.downcast_ref::<rustls::Error>().or_else(|| {
            let io = e.downcast_ref::<io::Error>()?;
            io.get_ref()?.downcast_ref::<rustls::Error>()
        });
        match tls {
            Some(rustls::Error::AlertReceived(alert)) => return Some(Refusal::OurCertificate(*alert)),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                return Some(Refusal::TheirCertificate);
            }
            _ => next = e.source(),
        }
    }
    None
}

/// The last cause has the facts; what is around it says "transport error".
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
