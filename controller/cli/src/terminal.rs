//! This terminal, connected to a process elsewhere.

use crate::out;
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_calls::{Attached, Input, StdStream};
use nix::sys::termios::{self, SetArg, Termios};
use std::{
    io::{IsTerminal as _, Read as _},
    sync::{Mutex, PoisonError},
};

/// The terminal in raw mode; put back when dropped.
pub struct Raw(());

/// How the terminal was before it was made raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

impl Raw {
    /// `None` where standard input is no terminal.
    pub fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        Some(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back to what it was before it was made raw, if it was.
pub fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing more can be done for a terminal that is gone.
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Rows and columns of this terminal; `None` where standard output is none.
pub fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Carries bytes both ways until the output ends. `stdin`: read this process's, and close the other's at its end.
///
/// # Errors
/// When the connection breaks.
pub async fn carry(attached: Attached, stdin: bool) -> anyhow::Result<()> {
    let Attached { mut output, input, .. } = attached;
    if stdin {
        // A thread: reading a terminal cannot be cancelled.
        let (tx, mut rx) = tokio::sync::mpsc::channel::<Input>(4);
        std::thread::spawn(move || {
            let mut buffer = [0u8; 32 * 1024];
            let mut source = std::io::stdin().lock();
            loop {
                let item = match source.read(&mut buffer) {
                    Ok(n) if n > 0 => Input::Data(Bytes::copy_from_slice(&buffer[..n])),
                    _ => Input::Close,
                };
                let last = item == Input::Close;
                if tx.blocking_send(item).is_err() || last {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            while let Some(item) = rx.recv().await {
                if input.send(item).await.is_err() {
                    return;
                }
            }
            // Held: dropping the channel would be read as the end of the call.
            std::future::pending::<()>().await;
        });
        while let Some(piece) = output.next().await {
            write(piece?);
        }
        return Ok(());
    }
    while let Some(piece) = output.next().await {
        write(piece?);
    }
    drop(input);
    Ok(())
}

/// Writes a piece to the stream it came from.
pub fn write(piece: muster_calls::Output) {
    match piece.stream {
        StdStream::Stderr | StdStream::System => out::write_err(&piece.data),
        _ => out::write(&piece.data),
    }
}
