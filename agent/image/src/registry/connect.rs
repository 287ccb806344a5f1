//! Connections to registries, straight or by way of a proxy: absolute-form requests for plain HTTP (RFC 9112, 3.2.2), a
//! CONNECT tunnel for TLS (RFC 9110, 9.3.6).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::config::{ProxyConfig, is_loopback};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Which URLs go by which proxy.
#[derive(Debug)]
pub(super) struct Proxies(Matcher);

impl Default for Proxies {
    fn default() -> Self {
        Self::new(&ProxyConfig::default())
    }
}

impl Proxies {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        let builder = Matcher::builder().http(config.http.as_str()).https(config.https.as_str());
        Self(builder.no(config.no_proxy.as_str()).build())
    }

    fn of(&self, url: &Uri) -> Option<Intercept> {
        if url.host().is_some_and(is_loopback) { None } else { self.0.intercept(url) }
    }

    /// The `Proxy-Authorization` of a request in the clear; tunnels send their own.
    pub(super) fn authorization(&self, url: &Uri) -> Option<HeaderValue> {
        if url.scheme_str() == Some("https") { None } else { self.of(url)?.basic_auth().cloned() }
    }
}

/// Makes connections for hyper's client.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) tcp: HttpConnector,
    pub(super) proxies: std::sync::Arc<Proxies>,
}

/// A connection to a registry, or to a proxy that is to be told whole URLs.
pub(super) struct Stream {
    io: TokioIo<TcpStream>,
    by_proxy: bool,
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let Some(proxy) = self.proxies.of(&url) else {
            let connecting = tcp.call(url);
            return Box::pin(async move { Ok(Stream { io: connecting.await?, by_proxy: false }) });
        };
        if url.scheme_str() == Some("https") {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            let connecting = tunnel.call(url);
            return Box::pin(async move { Ok(Stream { io: connecting.await?, by_proxy: false }) });
        }
        let connecting = tcp.call(proxy.uri().clone());
        Box::pin(async move { Ok(Stream { io: connecting.await?, by_proxy: true }) })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.inner().connected().proxy(self.by_proxy)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
}
