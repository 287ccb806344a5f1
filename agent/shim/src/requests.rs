//! What clients ask for, and the answers.

use std::process::ExitCode;

use muster_shim::wire::{self, ErrorCode, Phase};

use crate::args::Mode;
use crate::monitor::Monitor;
use crate::sys;

impl Monitor {
    /// Reads from a client and does what its whole frames ask for.
    pub(crate) fn serve(&mut self, index: usize) {
        if !self.clients[index].input_ended {
            self.clients[index].receive();
        }
        while !self.clients[index].dead && !self.clients[index].closing {
            if self.clients[index].next_is_stdin() && !self.streams.takes_input() {
                // Its turn comes when the process has taken some.
                return;
            }
            let Some((kind, payload)) = self.clients[index].frame() else { break };
            self.request(index, kind, &payload);
            if self.clients[index].hung_up && !self.clients[index].input_ended {
                self.clients[index].receive();
            }
        }
        self.after_input(index);
    }

    /// A client that sends no more: its share of the process's input ends, and so does it, unless it still listens.
    fn after_input(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !client.input_ended && !client.dead {
            return;
        }
        let once = wire::ATTACH_STDIN | wire::ATTACH_STDIN_ONCE;
        let listens = client.attached.is_some() || client.waiting || client.starting;
        let ends_input = client.attached.is_some_and(|flags| flags & once == once);
        if client.hung_up || !listens {
            client.closing = true;
            // Nobody is there to take what waits.
            client.dead |= client.hung_up;
        }
        if ends_input {
            self.streams.close_input();
        }
    }

    fn request(&mut self, index: usize, kind: u8, payload: &[u8]) {
        let greeted = self.clients[index].greeted;
        match kind {
            wire::HELLO => self.greet(index, payload),
            _ if !greeted => self.close_with(index, ErrorCode::BadRequest, "no greeting"),
            wire::STATUS => {
                let mut state = vec![self.phase as u8];
                let pid = if self.phase == Phase::Ended { 0 } else { self.init.unwrap_or(0) };
                state.extend_from_slice(&(pid as u32).to_le_bytes());
                self.clients[index].send(wire::STATE, &state);
            }
            wire::START => self.start(index),
            wire::KILL => self.kill(index, payload),
            wire::RESIZE => self.resize(index, payload),
            wire::CLOSE_STDIN => {
                self.streams.close_input();
                self.accept_request(index);
            }
            wire::REOPEN_LOG => match self.log.as_mut().map_or(Ok(()), |log| log.reopen()) {
                Ok(()) => self.accept_request(index),
                Err(error) => self.clients[index].refuse(ErrorCode::System, &format!("reopen the log: {error}")),
            },
            wire::WAIT => match &self.told {
                Some(text) => self.clients[index].send(wire::EXIT, text.as_bytes()),
                None => self.clients[index].waiting = true,
            },
            wire::ATTACH => self.attach(index, payload),
            wire::STDIN => {
                if self.clients[index].attached.is_some_and(|flags| flags & wire::ATTACH_STDIN != 0) {
                    self.streams.input(payload);
                } else {
                    self.close_with(index, ErrorCode::BadRequest, "input without being attached to it");
                }
            }
            wire::SHUTDOWN => self.shut_down(index),
            other => self.close_with(index, ErrorCode::BadRequest, &format!("unknown request {other:#x}")),
        }
    }

    fn accept_request(&mut self, index: usize) {
        self.clients[index].send(wire::OK, &0_u32.to_le_bytes());
    }

    fn close_with(&mut self, index: usize, code: ErrorCode, text: &str) {
        self.clients[index].refuse(code, text);
        self.clients[index].closing = true;
    }

    fn greet(&mut self, index: usize, payload: &[u8]) {
        match wire::choose_version(payload) {
            Some(version) => {
                self.clients[index].greeted = true;
                let mut answer = wire::MAGIC.to_vec();
                answer.extend_from_slice(&version.to_le_bytes());
                self.clients[index].send(wire::HELLO, &answer);
            }
            None => {
                let text = format!("this shim speaks versions {} to {}", wire::OLDEST, wire::NEWEST);
                self.close_with(index, ErrorCode::Version, &text);
            }
        }
    }

    fn start(&mut self, index: usize) {
        let refused = match (self.options.mode, self.phase) {
            (_, Phase::Ended) => Some((ErrorCode::NotRunning, "the process has ended")),
            (_, Phase::Running) => Some((ErrorCode::AlreadyStarted, "it has been started before")),
            _ if self.is_busy() => Some((ErrorCode::AlreadyStarted, "it is being started or created")),
            _ => None,
        };
        if let Some((code, text)) = refused {
            return self.clients[index].refuse(code, text);
        }
        let begun = if self.options.mode == Mode::Exec { self.launch() } else { self.release() };
        match begun {
            Ok(()) => self.clients[index].starting = true,
            Err(error) => {
                self.clients[index].refuse(ErrorCode::System, &format!("run the runtime: {error}"));
                if self.options.mode == Mode::Exec {
                    self.quit = Some(ExitCode::FAILURE);
                }
            }
        }
    }

    fn kill(&mut self, index: usize, payload: &[u8]) {
        let Some(signal) = wire::u32_at(payload, 0).map(|signal| signal as i32).filter(|signal| *signal > 0) else {
            return self.close_with(index, ErrorCode::BadRequest, "no signal");
        };
        let killed = match (self.phase, self.init) {
            (Phase::Ended, _) => Err((ErrorCode::NotRunning, "the process has ended".to_owned())),
            (_, Some(pid)) => {
                sys::kill(pid, signal).map_err(|error| (ErrorCode::System, format!("signal {signal}: {error}")))
            }
            (_, None) if self.is_busy() => {
                self.doomed = Some(signal);
                Ok(())
            }
            (_, None) => Err((ErrorCode::NotRunning, "the process has not been started".to_owned())),
        };
        match killed {
            Ok(()) => self.accept_request(index),
            Err((code, text)) => self.clients[index].refuse(code, &text),
        }
    }

    fn resize(&mut self, index: usize, payload: &[u8]) {
        let Some(size) = wire::u16_at(payload, 0).zip(wire::u16_at(payload, 2)) else {
            return self.close_with(index, ErrorCode::BadRequest, "no size");
        };
        if !self.options.tty {
            return self.clients[index].refuse(ErrorCode::NoTty, "the process has no terminal");
        }
        match self.streams.resize(size) {
            Ok(()) => self.accept_request(index),
            Err(error) => self.clients[index].refuse(ErrorCode::System, &format!("resize: {error}")),
        }
    }

    fn attach(&mut self, index: usize, payload: &[u8]) {
        let flags = payload.first().copied().unwrap_or(0);
        self.clients[index].attached = Some(flags);
        self.accept_request(index);
        if let Some(text) = &self.told {
            self.clients[index].send(wire::EXIT, text.as_bytes());
            self.clients[index].closing = true;
        }
    }

    fn shut_down(&mut self, index: usize) {
        let unused = self.options.mode == Mode::Exec && self.phase == Phase::Preparing && !self.is_busy();
        if unused || self.told.is_some() {
            self.accept_request(index);
            self.quit = Some(ExitCode::SUCCESS);
        } else {
            self.clients[index].refuse(ErrorCode::Busy, "the process has not ended");
        }
    }
}
