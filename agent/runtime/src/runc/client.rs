//! Talking to a shim: one connection per request, so that no request waits behind another's stream.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use muster_shim::record::Record;
use muster_shim::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::ExitStatus;
use crate::attach::{AttachOptions, Attachment, error_text, next_frame};
use crate::error::{Error, Result};

/// Name of the socket in a process's run folder.
pub(super) const SOCKET: &str = "s";
/// O_PATH of Linux, the same on all architectures that we build for.
const O_PATH: i32 = 0o10000000;

/// A connection on which the versions have been (or are being) agreed.
pub(super) struct Connection {
    id: String,
    stream: UnixStream,
    buffer: BytesMut,
    greeted: bool,
}

impl Connection {
    /// Connects to the shim whose run folder is `folder`, and sends a first request along with the greeting.
    ///
    /// # Errors
    /// [`Error::ShimGone`] when nobody listens there.
    pub async fn open(folder: &Path, id: &str, kind: u8, payload: &[u8]) -> Result<Connection> {
        let gone = || Error::ShimGone { id: id.to_owned() };
        let mut stream = match connect(folder).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
                ) =>
            {
                return Err(gone());
            }
            Err(error) => return Err(Error::io("connect to the shim in", folder)(error)),
        };
        let mut request = Vec::with_capacity(64);
        wire::put_hello(&mut request);
        wire::put(&mut request, kind, payload);
        // A shim that closes at once may have said why: the reply tells.
        let _ = stream.write_all(&request).await;
        Ok(Connection { id: id.to_owned(), stream, buffer: BytesMut::with_capacity(1024), greeted: false })
    }

    /// The next reply.
    ///
    /// # Errors
    /// The shim's `ERR` as a typed error; [`Error::ShimGone`] at the end of the stream.
    pub async fn reply(&mut self) -> Result<(u8, Bytes)> {
        loop {
            match next_frame(&mut self.buffer)? {
                Some((wire::HELLO, _)) if !self.greeted => self.greeted = true,
                Some((wire::ERR, payload)) => return Err(self.refusal(&payload)),
                Some(frame) => return Ok(frame),
                None => match self.stream.read_buf(&mut self.buffer).await {
                    Ok(n) if n > 0 => {}
                    _ => return Err(Error::ShimGone { id: self.id.clone() }),
                },
            }
        }
    }

    /// The value of an `OK` reply.
    pub async fn ok(&mut self) -> Result<u32> {
        match self.reply().await? {
            (wire::OK, payload) => Ok(wire::u32_at(&payload, 0).unwrap_or(0)),
            (kind, _) => Err(Error::Protocol(format!("frame of kind {kind:#x} in place of OK"))),
        }
    }

    fn refusal(&self, payload: &[u8]) -> Error {
        refusal(&self.id, payload)
    }
}

/// The typed error of an `ERR` payload.
pub(super) fn refusal(id: &str, payload: &[u8]) -> Error {
    let id = id.to_owned();
    match error_text(payload) {
        (Some(wire::ErrorCode::NotRunning), _) => Error::NotRunning { id },
        (Some(wire::ErrorCode::NoTty), _) => Error::NoTty { id },
        (Some(wire::ErrorCode::Runtime), text) => super::command::classify("create", &text),
        (Some(wire::ErrorCode::Busy), _) => Error::StillRunning { id },
        (_, message) => Error::Shim { message },
    }
}

/// Whether the shim whose run folder is `folder` still lives. A connection that it closes does not mean that it is dead (it
/// turns clients away when there are too many); that nobody listens does.
pub(super) async fn is_alive(folder: &Path, id: &str) -> bool {
    for _ in 0..16 {
        match Connection::open(folder, id, wire::STATUS, &[]).await {
            Err(Error::ShimGone { .. }) => return false,
            Err(_) => {}
            Ok(mut connection) => match connection.reply().await {
                // On its way out it closes its listener before this connection: the next round sees that.
                Err(Error::ShimGone { .. }) => {}
                _ => return true,
            },
        }
    }
    true
}

/// Connects, then becomes an attachment.
pub(super) async fn attach(folder: &Path, id: &str, options: AttachOptions) -> Result<Attachment> {
    let mut connection = Connection::open(folder, id, wire::ATTACH, &[options.flags()]).await?;
    connection.ok().await?;
    Ok(Attachment::new(connection.stream, connection.buffer))
}

/// A socket's path may have 107 bytes at most (unix(7)); through the folder's descriptor any folder will do.
async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let folder = File::options().read(true).custom_flags(O_PATH).open(folder)?;
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))).await
}

/// The exit status in an `EXIT` payload.
pub(crate) fn exit_from_wire(payload: &[u8]) -> Result<ExitStatus> {
    std::str::from_utf8(payload)
        .ok()
        .and_then(Record::decode)
        .map(exit_status)
        .ok_or_else(|| Error::Protocol("malformed exit record".into()))
}

/// An exit record in this crate's terms.
pub(super) fn exit_status(record: Record) -> ExitStatus {
    let since = Duration::from_nanos(record.at_ns.unsigned_abs());
    ExitStatus {
        code: record.code,
        signal: (record.signal != 0).then_some(record.signal),
        at: if record.at_ns < 0 { SystemTime::UNIX_EPOCH } else { SystemTime::UNIX_EPOCH + since },
        oom_killed: record.oom_killed,
        error: (!record.error.is_empty()).then_some(record.error),
    }
}
