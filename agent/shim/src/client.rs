//! One connection of a client: what has come from it and what waits to be sent to it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use muster_shim::wire;

/// Bytes that wait for a client before the process is made to wait for it.
pub const OUT_BOUND: usize = 256 * 1024;

/// A connection.
pub struct Client {
    pub stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// Since when nothing could be sent, while something waits.
    stalled_since: Option<Instant>,
    /// It has greeted with a version that we speak.
    pub greeted: bool,
    /// `ATTACH_*`; `None` before.
    pub attached: Option<u8>,
    /// It waits for the exit.
    pub waiting: bool,
    /// It waits for the answer to `START`.
    pub starting: bool,
    /// It sends no more.
    pub input_ended: bool,
    /// It has closed both directions; what it sent before is still to be taken.
    pub hung_up: bool,
    /// Send what waits, then close.
    pub closing: bool,
    /// Close now.
    pub dead: bool,
}

impl Client {
    pub fn new(stream: UnixStream) -> std::io::Result<Client> {
        stream.set_nonblocking(true)?;
        Ok(Client {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            stalled_since: None,
            greeted: false,
            attached: None,
            waiting: false,
            starting: false,
            input_ended: false,
            hung_up: false,
            closing: false,
            dead: false,
        })
    }

    /// Reads what has come, up to about a frame beyond what is unread.
    pub fn receive(&mut self) {
        let mut chunk = [0; 16 * 1024];
        while self.input.len() <= wire::HEADER + wire::MAX_PAYLOAD {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.input_ended = true;
                    return;
                }
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.dead = true;
                    return;
                }
            }
        }
    }

    /// The next whole frame; a malformed one ends the connection.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        match wire::parse(&self.input) {
            Ok(Some((kind, payload))) => {
                let bytes = self.input[payload.clone()].to_vec();
                self.input.drain(..payload.end);
                if self.input.is_empty() {
                    self.input = Vec::new();
                }
                Some((kind, bytes))
            }
            Ok(None) => None,
            Err(wire::Malformed) => {
                self.dead = true;
                None
            }
        }
    }

    /// Whether a whole frame waits that could not be taken before.
    pub fn next_is_stdin(&self) -> bool {
        self.input.first() == Some(&wire::STDIN)
    }

    /// Queues a frame and sends what can be sent.
    pub fn send(&mut self, kind: u8, payload: &[u8]) {
        wire::put(&mut self.output, kind, payload);
        self.flush();
    }

    /// Queues an error.
    pub fn refuse(&mut self, code: wire::ErrorCode, text: &str) {
        wire::put_error(&mut self.output, code, text);
        self.flush();
    }

    /// Sends what can be sent.
    pub fn flush(&mut self) {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(written) => {
                    self.sent += written;
                    self.stalled_since = None;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.stalled_since.get_or_insert_with(Instant::now);
                    self.compact();
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.dead = true;
                    return;
                }
            }
        }
        (self.sent, self.stalled_since) = (0, None);
        self.output.clear();
        if self.output.capacity() > OUT_BOUND {
            self.output = Vec::new();
        }
    }

    fn compact(&mut self) {
        if self.sent > OUT_BOUND / 2 {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Bytes that wait to be sent.
    pub fn pending(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Since when it has taken nothing although something waits.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }
}
