//! Attach over a websocket (RFC 6455): output as binary messages, stdout and stderr alike; what the client sends is stdin.
//!
//! The client's end of the connection detaches it; unlike a plain connection, a websocket has no half-close.

use crate::{
    attach,
    call::Call,
    fault::{Fault, Outcome},
    framing::Framing,
    hijack::{Hijack, LINGER},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use muster_calls::{Attached, Error, Input};
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

/// Most bytes of a message from a client: a screen of pasted text is far below.
const MAX_MESSAGE: usize = 1 << 20;

/// `GET /containers/{name}/attach/ws`.
pub(crate) async fn attach(call: Call) -> Outcome {
    let key = call.header("sec-websocket-key").to_owned();
    let version = call.header("sec-websocket-version");
    if !call.header("upgrade").eq_ignore_ascii_case("websocket") || key.is_empty() {
        return Err(Fault::bad("expected a websocket: headers Upgrade: websocket and Sec-WebSocket-Key"));
    }
    if version != "13" {
        return Err(Fault::bad(format!("Sec-WebSocket-Version {version:?}: expected 13")));
    }
    let options = attach::options(&call);
    let stdin = options.stdin && options.stream;
    let attached = call.api.engine.container_attach(&call.name, options).await?;
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    let process = Box::pin(async { Ok(attached) });
    call.hand_over(Hijack { head, framing: Framing::Raw, process, stdin, websocket: true }).await
}

/// Carries messages until the process ends, the client goes, or an error.
///
/// # Errors
/// When the client cannot be written to.
pub(crate) async fn carry<I: AsyncRead + AsyncWrite + Send>(
    socket: I,
    early: Bytes,
    process: muster_calls::Future<Result<Attached, Error>>,
    stdin: bool,
) -> io::Result<()> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_partially_read(Box::pin(socket), early.into(), Role::Server, Some(config)).await;
    let (mut to, mut from) = socket.split();
    match process.await {
        Ok(Attached { input, mut output, .. }) => {
            let feed = async {
                while let Some(Ok(message)) = from.next().await {
                    let data: Bytes = match message {
                        Message::Binary(data) => data,
                        Message::Text(text) => text.into(),
                        // Pings and a close are answered below us, with the next look for a message.
                        _ => continue,
                    };
                    if stdin {
                        // Where nobody reads stdin any more it is dropped, as by a closed pipe.
                        let _ = input.send(Input::Data(data)).await;
                    }
                }
            };
            let drain = async {
                while let Some(Ok(piece)) = output.next().await {
                    to.send(Message::Binary(piece.data)).await?;
                }
                Ok(())
            };
            tokio::select! {
                done = drain => done.map_err(gone)?,
                () = feed => return Ok(()),
            }
        }
        Err(e) => to.send(Message::Binary(format!("{e}\r\n").into())).await.map_err(gone)?,
    }
    to.close().await.map_err(gone)?;
    // Until the client has closed as well: else what is on its way could be lost.
    let closed = async { while let Some(Ok(_)) = from.next().await {} };
    let _ = tokio::time::timeout(LINGER, closed).await;
    Ok(())
}

fn gone(e: tungstenite::Error) -> io::Error {
    match e {
        tungstenite::Error::Io(e) => e,
        other => io::Error::other(other),
    }
}
