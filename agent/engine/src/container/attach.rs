//! Live connections of clients to processes: output out, input in, detach keys in between.

use super::{Command, logs};
use crate::{
    detach::{Detector, Verdict},
    engine::Shared,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use muster_calls::{Attach, Attached, Error, Input, Output, Result, StdStream, Stream};
use muster_runtime::{AttachOptions, Attachment};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Pieces of input that may wait for the process: a full channel is back-pressure on the client.
const INPUT: usize = 16;

impl Shared {
    /// Attaches a client to a container, now or as soon as it is started.
    pub(crate) async fn attach(self: &Arc<Self>, id: &str, options: Attach) -> Result<Attached> {
        let handle = self.find(id)?;
        let record = handle.record();
        if record.state.paused {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before attach",
                record.id
            )));
        }
        if record.state.phase == crate::record::Phase::Restarting {
            return Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                record.id
            )));
        }
        let keys = Detector::new(options.detach_keys.as_deref())?;
        let tty = record.config.tty;
        let wanted = AttachOptions {
            stdin: options.stdin && record.config.open_stdin,
            // A terminal has one stream.
            stdout: options.stdout || (tty && options.stderr),
            stderr: options.stderr,
            stdin_once: record.config.stdin_once,
        };
        let past = match options.logs {
            true => logs::past(self, &record, options.stdout, options.stderr).await?,
            false => stream::empty().boxed(),
        };
        if !options.stream {
            return Ok(Attached { tty, output: past, input: mpsc::channel(1).0 });
        }
        let (slot, coming) = oneshot::channel();
        handle.ask(|reply| Command::Attach { options: wanted, slot, reply }).await?;
        self.container_event(&record, "attach", &[]);
        let live = pump(self, coming, wanted.stdin, tty, keys);
        let output = past.chain(live.output).boxed();
        let (events, record) = (self.clone(), record.clone());
        let detached = live.detached.clone();
        let output = output.chain(stream::once(async move { detached.is_cancelled() }).filter_map(move |detached| {
            if detached {
                events.container_event(&record, "detach", &[]);
            }
            std::future::ready(None)
        }));
        Ok(Attached { tty, output: output.boxed(), input: live.input })
    }
}

/// A client's side of a connection.
pub(crate) struct Live {
    pub output: Stream<Output>,
    pub input: mpsc::Sender<Input>,
    /// Cancelled when the client typed the detach keys.
    pub detached: CancellationToken,
}

/// Connects a client with an attachment that is there or will come. The task that carries the input ends with the connection.
pub(crate) fn pump(
    shared: &Shared,
    coming: oneshot::Receiver<Attachment>,
    stdin: bool,
    tty: bool,
    keys: Detector,
) -> Live {
    let (input, from_client) = mpsc::channel(INPUT);
    let detached = CancellationToken::new();
    // Dropped with the output stream: the input's task must not outlive the client.
    let gone = CancellationToken::new();
    let guard = gone.clone().drop_guard();
    let (process_input, input_slot) = oneshot::channel();
    if stdin {
        let (stop, detached) = (shared.stop.clone(), detached.clone());
        shared.spawn("attached input", async move {
            let carry = carry(from_client, input_slot, keys, tty, detached);
            tokio::select! {
                () = carry => {}
                () = gone.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
    }
    let start = Outgoing {
        coming: Some(coming),
        process_input: Some(process_input),
        attachment: None,
        detached: detached.clone(),
        _gone: guard,
    };
    let output = stream::unfold(start, |mut state| async move { state.next().await.map(|item| (item, state)) }).boxed();
    Live { output, input, detached }
}

/// Where an output stream is: waiting for its attachment, then reading from it.
struct Outgoing {
    coming: Option<oneshot::Receiver<Attachment>>,
    process_input: Option<oneshot::Sender<muster_runtime::Input>>,
    attachment: Option<muster_runtime::attach::OutputStream>,
    detached: CancellationToken,
    _gone: tokio_util::sync::DropGuard,
}

impl Outgoing {
    async fn next(&mut self) -> Option<Result<Output>> {
        let detached = self.detached.clone();
        tokio::select! {
            () = detached.cancelled() => None,
            next = self.read() => next,
        }
    }

    async fn read(&mut self) -> Option<Result<Output>> {
        if let Some(coming) = self.coming.take() {
            // Nobody will send it when the container is removed or its start failed: the connection ends.
            let attachment = coming.await.ok()?;
            if let Some(slot) = self.process_input.take() {
                let _ = slot.send(attachment.input); // No stdin was asked for: the input is dropped.
            }
            self.attachment = Some(attachment.output);
        }
        match self.attachment.as_mut()?.next().await {
            Ok(Some(muster_runtime::Output::Stdout(data))) => Some(Ok(Output { stream: StdStream::Stdout, data })),
            Ok(Some(muster_runtime::Output::Stderr(data))) => Some(Ok(Output { stream: StdStream::Stderr, data })),
            Ok(Some(muster_runtime::Output::Exit(_)) | None) => None,
            Err(e) => Some(Err(Error::internal(e.to_string()))),
        }
    }
}

/// Carries a client's input to the process until either ends.
async fn carry(
    mut from_client: mpsc::Receiver<Input>,
    process: oneshot::Receiver<muster_runtime::Input>,
    mut keys: Detector,
    tty: bool,
    detached: CancellationToken,
) {
    let Ok(mut process) = process.await else { return };
    while let Some(input) = from_client.recv().await {
        let Input::Data(data) = input else { break };
        // Without a terminal the bytes are data, whatever they look like.
        let (bytes, detach) = match tty.then(|| keys.feed(&data)) {
            None => (data, false),
            Some(Verdict::Pass(bytes)) => (Bytes::from(bytes), false),
            Some(Verdict::Detach(bytes)) => (Bytes::from(bytes), true),
        };
        if !bytes.is_empty() && process.write(&bytes).await.is_err() {
            return; // The process has ended; the output says so.
        }
        if detach {
            detached.cancel();
            return;
        }
    }
    let held = keys.finish();
    if !held.is_empty() && process.write(&held).await.is_err() {
        return;
    }
    let _ = process.close().await; // A connection that is gone is closed.
}
