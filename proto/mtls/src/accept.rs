//! The accept loop: handshakes beside each other, bounded in time and number, each with the configuration of its moment.

use crate::{Leaf, Peer, PeerKind, Tls, connections::Registered, credentials::now};
use futures_core::Stream;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tracing::debug;

/// Longer than any honest handshake, also on a busy host; a client that says nothing holds one of the places so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once: 256 of 40 KiB each. More clients wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;
/// Accepted connections that the server has not taken yet.
const READY: usize = 64;
/// How often connections are checked against the end of their certificates.
const SWEEP: Duration = Duration::from_secs(10);

/// A stream of connections whose peers are known. Dropping it closes the listener and stops the loop; connections that
/// were handed out go on.
pub struct Incoming {
    ready: mpsc::Receiver<io::Result<PeerIo>>,
    accepting: JoinHandle<()>,
}

/// Accepts on `listener` with the credentials of `tls` until the answer is dropped. Handshakes that fail are logged at
/// DEBUG and dropped: strangers knock on open ports.
pub fn incoming(listener: TcpListener, tls: Tls) -> Incoming {
    let (tx, ready) = mpsc::channel(READY);
    Incoming { ready, accepting: tokio::spawn(accept_loop(listener, tls, tx)) }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Stream for Incoming {
    type Item = io::Result<PeerIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx)
    }
}

async fn accept_loop(listener: TcpListener, tls: Tls, ready: mpsc::Sender<io::Result<PeerIo>>) {
    let mut handshakes = JoinSet::new();
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                tls.connections().close_expired(now());
            }
            Some(_) = handshakes.join_next() => {}
            accepted = listener.accept(), if handshakes.len() < MAX_HANDSHAKES => match accepted {
                Ok((tcp, remote)) => {
                    handshakes.spawn(handshake(tcp, remote, tls.clone(), ready.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: accepting again at once would only spin.
                    debug!(%error, "accept failed");
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

async fn handshake(tcp: TcpStream, remote: SocketAddr, tls: Tls, ready: mpsc::Sender<io::Result<PeerIo>>) {
    let outcome = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls.server_config()).accept(tcp)).await;
    let io = match outcome {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return debug!(%remote, %error, "tls handshake failed"),
        Err(_) => return debug!(%remote, "tls handshake took too long"),
    };
    let leaf = match peer_leaf(&io, &tls) {
        Ok(leaf) => leaf,
        Err(error) => return debug!(%remote, %error, "client certificate refused"),
    };
    if let Err(error) = io.get_ref().0.set_nodelay(true) {
        return debug!(%remote, %error, "connection lost");
    }
    // The receiver is gone only when the server has stopped.
    let _ = ready.send(Ok(PeerIo::new(io, remote, leaf, &tls))).await;
}

fn peer_leaf(io: &TlsStream<TcpStream>, tls: &Tls) -> Result<Option<Leaf>, crate::Error> {
    let Some(der) = io.get_ref().1.peer_certificates().and_then(<[_]>::first) else { return Ok(None) };
    let leaf = Leaf::from_certificate(der)?;
    let (expected, found) = (tls.identity().cluster_id, leaf.identity.cluster_id);
    if expected != found {
        return Err(crate::Error::OtherCluster { expected, found });
    }
    Ok(Some(leaf))
}

/// An accepted connection. Reads fail once it was closed through [`crate::Connections`].
pub struct PeerIo {
    io: TlsStream<TcpStream>,
    peer: Peer,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _registered: Registered,
}

impl PeerIo {
    fn new(io: TlsStream<TcpStream>, remote: SocketAddr, leaf: Option<Leaf>, tls: &Tls) -> Self {
        let registered = tls.connections().register(Some(remote), leaf.as_ref(), now());
        let kind = match (leaf, registered.valid_until.clone()) {
            (Some(leaf), Some(valid_until)) => {
                PeerKind::Certified { leaf: Arc::new(leaf), valid_until, revoked: tls.revoked().clone() }
            }
            _ => PeerKind::Anonymous,
        };
        let closed = Box::pin(registered.close.clone().cancelled_owned());
        Self { io, peer: Peer { remote: Some(remote), kind }, closed, _registered: registered }
    }

    fn check_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "closed: the peer's certificate or membership has ended",
            )),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for PeerIo {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_open(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerIo {
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
