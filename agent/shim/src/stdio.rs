//! The standard streams of the process: three pipes, or one pseudo terminal.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::Stdio;

use crate::args::Options;
use crate::sys;

/// Bytes for the process's input that are held while it does not take them; more stops the client that sends them.
pub const STDIN_BOUND: usize = 64 * 1024;

/// The shim's ends of the streams.
#[derive(Default)]
pub struct Streams {
    /// Output: 0 is standard output or the terminal, 1 standard error.
    pub outputs: [Option<File>; 2],
    stdin: Option<File>,
    queue: Vec<u8>,
    close_when_empty: bool,
    /// The terminal, for its size.
    terminal: Option<File>,
    size: Option<(u16, u16)>,
}

/// The process's ends, to be given to the runtime.
pub struct Far {
    pub stdin: Stdio,
    pub stdout: Stdio,
    pub stderr: Stdio,
}

impl Streams {
    /// Makes the pipes; with a terminal the runtime sends it later ([`Streams::take_terminal`]).
    pub fn make(options: &Options) -> io::Result<(Streams, Far)> {
        let mut streams = Streams { size: options.size, ..Streams::default() };
        if options.tty {
            return Ok((streams, Far { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null() }));
        }
        let stdin = if options.stdin {
            let (read, write) = sys::pipe(libc::O_CLOEXEC)?;
            streams.stdin = Some(nonblocking(write)?);
            read.into()
        } else {
            Stdio::null()
        };
        let (out_read, out_write) = sys::pipe(libc::O_CLOEXEC)?;
        let (err_read, err_write) = sys::pipe(libc::O_CLOEXEC)?;
        streams.outputs = [Some(nonblocking(out_read)?), Some(nonblocking(err_read)?)];
        Ok((streams, Far { stdin, stdout: out_write.into(), stderr: err_write.into() }))
    }

    /// Takes the pseudo terminal that the runtime has made.
    pub fn take_terminal(&mut self, terminal: OwnedFd, open_stdin: bool) -> io::Result<()> {
        let terminal = nonblocking(terminal)?;
        if let Some(size) = self.size {
            sys::set_size(terminal.as_fd(), size)?;
        }
        if open_stdin {
            self.stdin = Some(terminal.try_clone()?);
        }
        self.outputs[0] = Some(terminal.try_clone()?);
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Sets the size now, or once there is a terminal.
    pub fn resize(&mut self, size: (u16, u16)) -> io::Result<()> {
        self.size = Some(size);
        self.terminal.as_ref().map_or(Ok(()), |terminal| sys::set_size(terminal.as_fd(), size))
    }

    /// Reads one output; `Ok(0)` is its end, which for a terminal the kernel calls EIO.
    pub fn read(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &mut self.outputs[index] else { return Ok(0) };
        match file.read(buffer) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }

    /// Whether more input may be queued.
    pub fn takes_input(&self) -> bool {
        self.queue.len() < STDIN_BOUND
    }

    /// Queues input; without an open input it goes nowhere.
    pub fn input(&mut self, bytes: &[u8]) {
        if self.stdin.is_some() && !self.close_when_empty {
            self.queue.extend_from_slice(bytes);
            self.pump();
        }
    }

    /// Closes the input after what is queued. A terminal has no input to close.
    pub fn close_input(&mut self) {
        if self.terminal.is_none() {
            self.close_when_empty = true;
            self.pump();
        }
    }

    /// The input, when something waits to be written to it.
    pub fn wants_write(&self) -> Option<RawFd> {
        self.stdin.as_ref().filter(|_| !self.queue.is_empty()).map(|stdin| stdin.as_raw_fd())
    }

    /// Writes what the process takes.
    pub fn pump(&mut self) {
        while let (Some(stdin), false) = (&mut self.stdin, self.queue.is_empty()) {
            match stdin.write(&self.queue) {
                Ok(written) => drop(self.queue.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nobody will read it any more.
                Err(_) => {
                    self.stdin = None;
                    self.queue = Vec::new();
                }
            }
        }
        if self.queue.is_empty() {
            self.queue = Vec::new();
            if self.close_when_empty {
                self.stdin = None;
            }
        }
    }

    /// The process has ended: nothing takes input, and a terminal's master must not keep it open.
    pub fn end_input(&mut self) {
        (self.stdin, self.queue) = (None, Vec::new());
    }
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    sys::set_nonblocking(fd.as_fd())?;
    Ok(File::from(fd))
}
