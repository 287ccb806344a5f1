//! A live connection to the standard streams of a process, through its shim.

use bytes::{Buf, Bytes, BytesMut};
use muster_shim::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::ExitStatus;
use crate::error::{Error, Result};
use crate::runc::exit_from_wire;

/// Which streams to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachOptions {
    /// Take what is written to [`Input`].
    pub stdin: bool,
    /// Deliver standard output (all output of a terminal).
    pub stdout: bool,
    /// Deliver standard error.
    pub stderr: bool,
    /// Close the process's input when this attachment's [`Input`] is closed or dropped (Docker's `StdinOnce`, and any exec).
    pub stdin_once: bool,
}

impl AttachOptions {
    /// Both outputs, no input.
    pub fn output() -> Self {
        AttachOptions { stdin: false, stdout: true, stderr: true, stdin_once: false }
    }

    /// Both outputs and the input, which closes with the attachment.
    pub fn all() -> Self {
        AttachOptions { stdin: true, stdout: true, stderr: true, stdin_once: true }
    }

    pub(crate) fn flags(&self) -> u8 {
        [
            (self.stdout, wire::ATTACH_STDOUT),
            (self.stderr, wire::ATTACH_STDERR),
            (self.stdin, wire::ATTACH_STDIN),
            (self.stdin_once && self.stdin, wire::ATTACH_STDIN_ONCE),
        ]
        .iter()
        .filter(|(on, _)| *on)
        .fold(0, |flags, (_, bit)| flags | bit)
    }
}

/// Both directions. Drop both halves to detach; the process goes on.
///
/// Back-pressure is end to end: while nobody calls [`OutputStream::next`], the shim's buffer for this attachment (256 KiB)
/// fills, then the process waits; after ten seconds without progress the shim cuts the attachment off
/// ([`OutputStream::next`] then ends without an [`Output::Exit`]) and the process goes on.
#[derive(Debug)]
pub struct Attachment {
    /// What the process writes.
    pub output: OutputStream,
    /// What it reads.
    pub input: Input,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From standard output or the terminal.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
    /// The process has ended and all output was delivered; nothing follows.
    Exit(ExitStatus),
}

/// The output of an attached process.
#[derive(Debug)]
pub struct OutputStream {
    read: OwnedReadHalf,
    buffer: BytesMut,
}

/// The input of an attached process.
#[derive(Debug)]
pub struct Input {
    write: OwnedWriteHalf,
}

impl Attachment {
    /// Makes an attachment of a connection whose `ATTACH` has been answered; `buffer` holds what was read beyond.
    pub(crate) fn new(stream: UnixStream, buffer: BytesMut) -> Self {
        let (read, write) = stream.into_split();
        Attachment { output: OutputStream { read, buffer }, input: Input { write } }
    }
}

impl OutputStream {
    /// The next piece; `None` when the connection ended (after [`Output::Exit`], or because the shim cut it off or died).
    /// May be cancelled without losing bytes.
    ///
    /// # Errors
    /// [`Error::Protocol`] on a frame of a kind that has no place here.
    pub async fn next(&mut self) -> Result<Option<Output>> {
        loop {
            if let Some((kind, payload)) = next_frame(&mut self.buffer)? {
                return Ok(Some(match kind {
                    wire::STDOUT => Output::Stdout(payload),
                    wire::STDERR => Output::Stderr(payload),
                    wire::EXIT => Output::Exit(exit_from_wire(&payload)?),
                    wire::ERR => return Err(Error::Shim { message: error_text(&payload).1 }),
                    other => return Err(Error::Protocol(format!("frame of kind {other:#x} in an output stream"))),
                }));
            }
            if self.buffer.capacity() - self.buffer.len() < 4096 {
                self.buffer.reserve(wire::MAX_PAYLOAD);
            }
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(Error::io("read from the shim", "")(error)),
            }
        }
    }
}

impl Input {
    /// Gives bytes to the process. Waits while it does not take them.
    ///
    /// # Errors
    /// When the shim has closed the connection: the process has ended.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(bytes.len().min(wire::MAX_PAYLOAD));
            let mut frame = Vec::with_capacity(wire::HEADER + chunk.len());
            wire::put(&mut frame, wire::STDIN, chunk);
            self.write.write_all(&frame).await.map_err(Error::io("write to the shim", ""))?;
            bytes = rest;
        }
        Ok(())
    }

    /// Ends the input of this attachment. With [`AttachOptions::stdin_once`] the process's input is closed too, after
    /// everything written before; output goes on. Dropping has the same effect.
    pub async fn close(mut self) -> Result<()> {
        match self.write.shutdown().await {
            Err(error) if error.kind() != std::io::ErrorKind::NotConnected => {
                Err(Error::io("close the shim's input", "")(error))
            }
            _ => Ok(()),
        }
    }
}

/// Takes the first whole frame out of `buffer`.
pub(crate) fn next_frame(buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>> {
    let frame = wire::parse(buffer).map_err(|_| Error::Protocol("frame too long".into()))?;
    Ok(frame.map(|(kind, payload)| {
        let mut frame = buffer.split_to(payload.end).freeze();
        frame.advance(payload.start);
        (kind, frame)
    }))
}

/// Code and text of an `ERR` payload.
pub(crate) fn error_text(payload: &[u8]) -> (Option<wire::ErrorCode>, String) {
    let code = wire::u32_at(payload, 0).and_then(wire::ErrorCode::from_wire);
    (code, String::from_utf8_lossy(payload.get(4..).unwrap_or_default()).into_owned())
}
