//! One HTTP request to a plugin, on a connection of its own: calls are rare, and a plugin may be restarted between two.

use super::Address;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::io;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// Most bytes of an answer: a list of tens of thousands of volumes.
const MAX_ANSWER: usize = 16 << 20;
/// What Docker sends; plugins look for it.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// A plugin's answer.
pub(super) struct Answer {
    pub ok: bool,
    pub status: u16,
    pub body: Bytes,
}

/// A request without an answer; in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody listens there: nothing was asked.
    Connect(String),
    /// The protocol, an answer that is too long, an end in the middle.
    Exchange(String),
}

/// Sends a method and reads the whole answer.
///
/// # Errors
/// [`Failure`].
pub(super) async fn post(address: &Address, method: &str, body: Vec<u8>) -> Result<Answer, Failure> {
    let exchanged = match address {
        Address::Unix(path) => {
            let connected = UnixStream::connect(path).await;
            let stream = connected.map_err(|e| Failure::Connect(format!("connect {}: {e}", path.display())))?;
            exchange(stream, "plugin", method, body).await
        }
        Address::Tcp(addr) => {
            let connected = TcpStream::connect(addr).await;
            let stream = connected.map_err(|e| Failure::Connect(format!("connect {addr}: {e}")))?;
            exchange(stream, addr, method, body).await
        }
    };
    exchanged.map_err(Failure::Exchange)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    method: &str,
    body: Vec<u8>,
) -> Result<Answer, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let request = Request::post(format!("/{method}"))
        .header(header::HOST, host)
        .header(header::ACCEPT, MEDIA_TYPE)
        .header(header::CONTENT_TYPE, MEDIA_TYPE)
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?;
        Ok::<_, io::Error>(Answer { ok: status.is_success(), status: status.as_u16(), body: body.to_bytes() })
    };
    // The connection lives exactly as long as its one exchange.
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer.map_err(|e| e.to_string()),
        ended = &mut connection => match ended {
            // What was read before the end is still to be had.
            Ok(()) => answer.await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        },
    }
}
