//! Who is at the other end of a connection: found once, at the handshake, and carried in each request's extensions.

use crate::{Leaf, Revoked};
use muster_model::Timestamp;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::Connected;

/// The other end. `request.extensions().get::<Peer>()` has it in every handler.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `None`: over the host's own socket.
    pub remote: Option<SocketAddr>,
    pub kind: PeerKind,
}

/// What is known of it.
#[derive(Clone, Debug)]
pub enum PeerKind {
    /// Opened a unix socket of this host, whose mode and owner say who may: as good as an operator.
    Local,
    /// No certificate: may look at the root and ask for a certificate, nothing else.
    Anonymous,
    /// Holds a certificate of ours; `valid_until` grows when its holder shows a newer one.
    /// It may be on the list of those that were called back.
    Certified { leaf: Arc<Leaf>, valid_until: Arc<AtomicI64>, revoked: Revoked },
}

impl Peer {
    /// The certificate, whether or not it ran out.
    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.kind {
            PeerKind::Certified { leaf, .. } => Some(leaf),
            PeerKind::Local | PeerKind::Anonymous => None,
        }
    }

    /// Its certificate was called back.
    pub fn revoked(&self) -> bool {
        match &self.kind {
            PeerKind::Certified { leaf, revoked, .. } => revoked.has(&leaf.serial),
            PeerKind::Local | PeerKind::Anonymous => false,
        }
    }

    /// Its certificate, and every newer one that it has shown, has run out.
    pub fn expired(&self, now: Timestamp) -> bool {
        match &self.kind {
            PeerKind::Certified { valid_until, .. } => now.0 > valid_until.load(Ordering::Relaxed),
            PeerKind::Local | PeerKind::Anonymous => false,
        }
    }
}

/// A connection over a unix socket of this host, for the same services.
#[derive(Debug)]
pub struct LocalIo(pub UnixStream);

impl Connected for LocalIo {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { remote: None, kind: PeerKind::Local }
    }
}

impl AsyncRead for LocalIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
