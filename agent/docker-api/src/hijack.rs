//! Connections that leave HTTP: attach and exec.
//!
//! A handler gives the connection's task a way to an [`Attached`] process. That task takes the socket back from hyper, with
//! whatever the client has sent already, writes the head of the answer and then carries bytes both ways. Half-close matters:
//! the client shuts its side when its stdin ends, and output goes on until the process ends.

use crate::{
    framing::{self, Framing},
    websocket,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use muster_calls::{Attached, Error, Input, Output, StdStream, Stream};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

/// Where a handler puts what it hands over: at most one per connection, which ends with it.
pub(crate) type HijackSlot = mpsc::Sender<Hijack>;

/// How much is read from a client at once.
const READ_BYTES: usize = 32 << 10;
/// How many pieces of output that are there already go out in one write.
const BATCH: usize = 64;
/// How long a client may take to close its side after all output was sent. Closing earlier with unread input would reset the
/// connection and could cost the client the end of the output.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

pub(crate) struct Hijack {
    /// The answer's status line and headers.
    pub head: String,
    pub framing: Framing,
    /// Awaited behind the head. A process that is started there cannot write before the client has its head: clients that read
    /// the head through a buffer would lose what comes with it.
    pub process: muster_calls::Future<Result<Attached, Error>>,
    /// Whether the client's bytes go to the process; otherwise they are read and dropped.
    pub stdin: bool,
    /// What follows the head is a websocket's.
    pub websocket: bool,
}

impl Hijack {
    /// Carries bytes until the process ends, the client goes, or an error.
    ///
    /// `early` is what the client had sent behind its request.
    ///
    /// # Errors
    /// When the client cannot be read from or written to: it has gone, and the process is detached by dropping it.
    pub async fn run<I: AsyncRead + AsyncWrite + Send>(self, socket: I, early: Bytes) -> io::Result<()> {
        let mut socket = Box::pin(socket);
        socket.write_all(self.head.as_bytes()).await?;
        socket.flush().await?;
        if self.websocket {
            return websocket::carry(socket, early, self.process, self.stdin).await;
        }
        let (mut from_client, mut to_client) = tokio::io::split(socket);
        match self.process.await {
            Ok(attached) => {
                let input = self.stdin.then_some(attached.input);
                let feed = feed(&mut from_client, early, input);
                let drain = drain(&mut to_client, attached.output, self.framing);
                carry(feed, drain).await?;
            }
            Err(e) => {
                // The status has been sent: dockerd tells it on stdout.
                let mut buffer = BytesMut::new();
                framing::put(&mut buffer, self.framing, StdStream::Stdout, format!("{e}\r\n").as_bytes());
                to_client.write_all(&buffer).await?;
            }
        }
        to_client.shutdown().await?;
        let _ = tokio::time::timeout(LINGER, swallow(&mut from_client)).await;
        Ok(())
    }
}

/// Both ways, until the output has ended. Input may end before.
async fn carry(
    feed: impl Future<Output = io::Result<()>>,
    drain: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::pin!(feed, drain);
    tokio::select! {
        done = &mut drain => done,
        fed = &mut feed => {
            fed?;
            drain.await
        }
    }
}

/// Client to process, until the client shuts its side.
async fn feed(from: &mut (impl AsyncRead + Unpin), early: Bytes, input: Option<mpsc::Sender<Input>>) -> io::Result<()> {
    let Some(input) = input else { return swallow(from).await };
    if !early.is_empty() && input.send(Input::Data(early)).await.is_err() {
        return swallow(from).await;
    }
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        buffer.reserve(READ_BYTES);
        let event = match from.read_buf(&mut buffer).await? {
            0 => Input::Close,
            _ => Input::Data(buffer.split().freeze()),
        };
        let last = event == Input::Close;
        let sent = input.send(event).await;
        if last {
            return Ok(());
        }
        if sent.is_err() {
            // Nobody reads stdin any more; what comes is dropped, as by a closed pipe.
            return swallow(from).await;
        }
    }
}

/// Process to client, until the output ends.
async fn drain(to: &mut (impl AsyncWrite + Unpin), output: Stream<Output>, framing: Framing) -> io::Result<()> {
    let mut batches = output.ready_chunks(BATCH);
    let mut buffer = BytesMut::new();
    while let Some(batch) = batches.next().await {
        buffer.clear();
        let ended = batch.into_iter().any(|piece| put_piece(&mut buffer, framing, piece));
        to.write_all(&buffer).await?;
        to.flush().await?;
        if ended {
            break;
        }
    }
    Ok(())
}

/// Appends a piece; true when it was the error that ends the output.
fn put_piece(buffer: &mut BytesMut, framing: Framing, piece: Result<Output, Error>) -> bool {
    match piece {
        Ok(Output { stream, data }) => {
            framing::put(buffer, framing, stream, &data);
            false
        }
        Err(e) => {
            framing::put_error(buffer, framing, &format!("{e}\n"));
            true
        }
    }
}

/// Reads until the client shuts its side.
pub(crate) async fn swallow(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while from.read(&mut buffer).await? != 0 {}
    Ok(())
}
