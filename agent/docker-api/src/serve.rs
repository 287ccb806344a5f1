//! Listening and carrying connections: hyper speaks HTTP/1.1, this file owns sockets, their tasks and the way out.
//!
//! A client that goes away in the middle of a request cancels it: hyper sees the end of the connection and drops the
//! handler's future or the answer's stream, and with it the engine's call.

use crate::{
    access::Access,
    api::Api,
    hijack::{self, Hijack, HijackSlot, LINGER},
    reply::Reply,
};
use http::Request;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long requests may go on after shutdown was asked for; streams (events, logs, attach) never end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// Pause after a failed accept, e.g. when file descriptors have run out: trying again at once would only burn a CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API on `listener` until `shutdown` resolves; then lets running requests end for two seconds, and cuts the rest.
pub async fn serve(listener: UnixListener, api: Arc<Api>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    let closing = CancellationToken::new();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(serve_connection(socket, Arc::clone(&api), Access::default(), closing.clone()));
                }
                Err(e) => {
                    tracing::warn!(error = %e, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    drop(listener);
    closing.cancel();
    let finish = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    // What is left when the time is up is aborted as the set is dropped.
    let _ = tokio::time::timeout(GRACE, finish).await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        tracing::error!(error = %e, "a connection's task died");
    }
}

/// Serves the API on one connection of any kind (TCP with TLS as well) until it ends. `closing` lets the request that is
/// being answered end and takes no other; `access` is what its client may ask.
pub async fn serve_connection<I>(socket: I, api: Arc<Api>, access: Access, closing: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if let Err(e) = carry(socket, api, access, closing).await {
        tracing::debug!(error = %e, "connection ended");
    }
}

async fn carry<I>(
    socket: I,
    api: Arc<Api>,
    access: Access,
    closing: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (slot, mut handed_over) = mpsc::channel::<Hijack>(1);
    let mut http = http1::Builder::new();
    http.title_case_headers(true);
    let mut connection = http.serve_connection(TokioIo::new(socket), Face { api, slot, access: Arc::new(access) });
    let mut told = false;
    let hijack = loop {
        tokio::select! {
            // Answers in front of the hijacked one must be out before the socket is taken: HTTP is polled first.
            biased;
            ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                ended?;
                break None;
            }
            Some(hijack) = handed_over.recv() => break Some(hijack),
            () = closing.cancelled(), if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let parts = connection.into_parts();
    let mut socket = parts.io.into_inner();
    match hijack {
        Some(hijack) => hijack.run(socket, parts.read_buf).await?,
        None => {
            ignore_gone(tokio::io::AsyncWriteExt::shutdown(&mut socket).await)?;
            // A client that is still sending would lose the answer to a reset: it is heard out for a while.
            let _ = tokio::time::timeout(LINGER, hijack::swallow(&mut socket)).await;
        }
    }
    Ok(())
}

/// A client that closed first is no error.
fn ignore_gone(shut: io::Result<()>) -> io::Result<()> {
    match shut {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The API as hyper calls it, for one connection.
struct Face {
    api: Arc<Api>,
    slot: HijackSlot,
    access: Arc<Access>,
}

impl hyper::service::Service<Request<Incoming>> for Face {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (api, slot, access) = (Arc::clone(&self.api), self.slot.clone(), Arc::clone(&self.access));
        Box::pin(async move { Ok(api.answer(request, slot, &access).await) })
    }
}
