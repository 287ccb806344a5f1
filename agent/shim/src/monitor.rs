//! The loop: everything that the shim holds, what it waits for, and what it does when that happens.
//!
//! A process goes `Preparing -> Created -> Running -> Ended` (an exec leaves `Created` out). It has *ended* when its exit is
//! seen; its end is *told* when its output has been drained, its log written and its exit recorded on disk.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use muster_shim::record::Record;
use muster_shim::wire::{self, ErrorCode, Phase};

use crate::args::{Mode, Options};
use crate::client::{Client, OUT_BOUND};
use crate::lines::Lines;
use crate::log::{Log, Rotation};
use crate::stdio::{Far, Streams};
use crate::sys::{self, Ended};

/// How long output is waited for after the end, when others hold the streams open (a background process of an exec).
const DRAIN: Duration = Duration::from_secs(2);
/// The same when they never stop writing.
const DRAIN_AT_MOST: Duration = Duration::from_secs(10);
/// Clients at once; more are turned away.
const MAX_CLIENTS: usize = 256;
/// Bytes read from the process at once.
const CHUNK: usize = 64 * 1024;

/// What the runtime binary is doing for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// `create` or `exec`.
    Launch,
    /// `start`, of a runtime without the fifo.
    Start,
}

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Children,
    Listener,
    Console,
    Fifo,
    Output(usize),
    Input,
    Client(usize),
}

/// All state of the shim.
pub struct Monitor {
    pub(crate) options: Options,
    folder: File,
    listener: UnixListener,
    children: File,
    console: Option<UnixListener>,
    pub(crate) streams: Streams,
    far: Option<Far>,
    lines: [Lines; 2],
    pub(crate) log: Option<Log>,
    pub(crate) clients: Vec<Client>,
    pub(crate) phase: Phase,
    /// The pipe to whoever started a container's shim.
    status: Option<File>,
    runtime: Option<(i32, Act)>,
    /// Children that ended before the runtime said which one is ours.
    early: Vec<Ended>,
    pub(crate) init: Option<i32>,
    fifo: Option<(PathBuf, File)>,
    /// A kill that came while the runtime was still at work.
    pub(crate) doomed: Option<i32>,
    ended: Option<(Instant, Record)>,
    /// The record's text, once it is on disk.
    pub(crate) told: Option<String>,
    pub(crate) quit: Option<ExitCode>,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Makes sockets, streams and log; for a container, sets the runtime to work.
    pub fn new(options: Options) -> Result<Monitor, String> {
        let failed = |what: &str, error: io::Error| format!("{what}: {error}");
        let children = sys::watch_children().map_err(|error| failed("signals", error))?;
        let folder = File::options().read(true).custom_flags(libc::O_PATH).open(&options.dir);
        let folder = folder.map_err(|error| failed("open run folder", error))?;
        let listener = listen(&folder, "s").map_err(|error| failed("listen", error))?;
        let console = if options.tty { Some(listen(&folder, "con")) } else { None };
        let console = console.transpose().map_err(|error| failed("listen for the terminal", error))?;
        let rotation = Rotation {
            max_size: options.log_max_size,
            max_file: options.log_max_file.max(1),
            compress: options.log_compress,
        };
        let log = options.log_path.as_deref().map(|path| Log::open(path, rotation));
        let log = log.transpose().map_err(|error| failed("open the log", error))?;
        let (streams, far) = Streams::make(&options).map_err(|error| failed("make the streams", error))?;
        let mut monitor = Monitor {
            folder,
            listener,
            children: File::from(children),
            console,
            streams,
            far: Some(far),
            lines: Default::default(),
            log,
            clients: Vec::new(),
            phase: Phase::Preparing,
            status: None,
            runtime: None,
            early: Vec::new(),
            init: None,
            fifo: None,
            doomed: None,
            ended: None,
            told: None,
            quit: None,
            buffer: Vec::new(),
            options,
        };
        if monitor.options.mode == Mode::Container {
            monitor.launch().map_err(|error| failed("run the runtime", error))?;
        }
        Ok(monitor)
    }

    /// Where the one frame about a container's creation goes.
    pub fn report_to(&mut self, status: File) {
        self.status = Some(status);
    }

    /// Sets the runtime to work on the container or exec.
    pub(crate) fn launch(&mut self) -> io::Result<()> {
        let far = self.far.take().ok_or_else(|| io::Error::other("launched twice"))?;
        // By way of this process's own descriptor: the path stays short however long the folder's is.
        let console =
            self.console.is_some().then(|| format!("/proc/{}/fd/{}/con", std::process::id(), self.folder.as_raw_fd()));
        let pid = self.options.launch(far, console.as_deref())?;
        self.runtime = Some((pid as i32, Act::Launch));
        self.leave_daemon();
        Ok(())
    }

    /// Moves this process into the cgroups of shims, where it outlives the daemon. That may wait for the kernel, some 10 ms, which
    /// the runtime has use for: it runs already, and puts what it makes into cgroups of their own.
    fn leave_daemon(&self) {
        for cgroup in &self.options.cgroups {
            // A hierarchy that refuses costs its part of the separation, not the container.
            if let Err(error) = fs::write(cgroup, "0") {
                eprintln!("muster-shim: {}: {error}", cgroup.display());
            }
        }
    }

    /// Lets a created container go on; the answer goes to the clients that wait for it.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        match self.options.exec_fifo() {
            Some(fifo) => self.fifo = Some(fifo),
            None => self.runtime = Some((self.options.launch_start()? as i32, Act::Start)),
        }
        Ok(())
    }

    /// Whether the runtime binary works for us now.
    pub(crate) fn is_busy(&self) -> bool {
        self.runtime.is_some() || self.fifo.is_some()
    }

    /// Runs until the process's end has been told to all who wait for it.
    pub fn run(&mut self) -> ExitCode {
        loop {
            let (mut fds, tokens) = self.interest();
            if let Err(error) = sys::poll(&mut fds, self.timeout()) {
                eprintln!("muster-shim: poll: {error}");
                return ExitCode::FAILURE;
            }
            let mut drained = true;
            for (fd, token) in fds.iter().zip(&tokens).filter(|(fd, _)| fd.revents != 0) {
                drained &= !matches!(token, Token::Output(_));
                self.handle(*token, fd.revents);
            }
            self.expire(drained);
            self.bury_clients();
            if let Some(code) = self.quit {
                return code;
            }
            if self.told.is_some() && self.clients.iter().all(|client| client.pending() == 0) {
                return ExitCode::SUCCESS;
            }
        }
    }

    fn interest(&self) -> (Vec<libc::pollfd>, Vec<Token>) {
        let (mut fds, mut tokens) = (Vec::with_capacity(8), Vec::with_capacity(8));
        let mut add = |fd: RawFd, events: libc::c_short, token: Token| {
            fds.push(libc::pollfd { fd, events, revents: 0 });
            tokens.push(token);
        };
        add(self.children.as_raw_fd(), libc::POLLIN, Token::Children);
        if let Some(console) = &self.console {
            add(console.as_raw_fd(), libc::POLLIN, Token::Console);
        }
        if let Some((_, fifo)) = &self.fifo {
            add(fifo.as_raw_fd(), libc::POLLIN, Token::Fifo);
        }
        if !self.is_held_up() {
            for (index, output) in self.streams.outputs.iter().enumerate() {
                if let Some(output) = output {
                    add(output.as_raw_fd(), libc::POLLIN, Token::Output(index));
                }
            }
        }
        if let Some(input) = self.streams.wants_write() {
            add(input, libc::POLLOUT, Token::Input);
        }
        for (index, client) in self.clients.iter().enumerate().filter(|(_, client)| !client.hung_up) {
            let held = client.next_is_stdin() && !self.streams.takes_input();
            let read = if client.input_ended || held { 0 } else { libc::POLLIN };
            let write = if client.pending() > 0 { libc::POLLOUT } else { 0 };
            add(client.stream.as_raw_fd(), read | write, Token::Client(index));
        }
        // Last: those who have left make room first.
        add(self.listener.as_raw_fd(), libc::POLLIN, Token::Listener);
        (fds, tokens)
    }

    /// A client has so much waiting for it that the process has to wait too.
    fn is_held_up(&self) -> bool {
        self.clients.iter().any(|client| client.pending() > OUT_BOUND)
    }

    fn stall(&self) -> Duration {
        Duration::from_millis(self.options.stall_ms.into())
    }

    /// When a client that takes nothing is cut off: only if the process, or the shim's own end, waits for it.
    fn cut_off(&self, client: &Client) -> Option<Instant> {
        let matters = client.pending() > OUT_BOUND || self.told.is_some();
        client.stalled_since().filter(|_| matters).map(|since| since + self.stall())
    }

    fn timeout(&self) -> Option<Duration> {
        let draining = self.ended.as_ref().filter(|_| self.told.is_none());
        let drain = draining.map(|(since, _)| {
            let deadline = *since + DRAIN;
            // Past it, only to look whether anything is left.
            if Instant::now() < deadline { deadline } else { Instant::now() + Duration::from_millis(10) }
        });
        let cuts = self.clients.iter().filter_map(|client| self.cut_off(client));
        cuts.chain(drain).min().map(sys::until)
    }

    fn handle(&mut self, token: Token, events: libc::c_short) {
        match token {
            Token::Children => self.children_ended(),
            Token::Listener => self.accept(),
            Token::Console => self.terminal_arrived(),
            Token::Fifo => self.fifo_answered(),
            Token::Output(index) => self.output(index),
            Token::Input => {
                self.streams.pump();
                self.serve_held();
            }
            Token::Client(index) => {
                if events & libc::POLLOUT != 0 {
                    self.clients[index].flush();
                }
                self.clients[index].hung_up |= events & (libc::POLLHUP | libc::POLLERR) != 0;
                if events & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0 {
                    self.serve(index);
                }
            }
        }
    }

    /// Clients whose input had to wait for room.
    fn serve_held(&mut self) {
        for index in 0..self.clients.len() {
            if self.streams.takes_input() && (self.clients[index].next_is_stdin() || self.clients[index].hung_up) {
                self.serve(index);
            }
        }
    }

    fn accept(&mut self) {
        self.bury_clients();
        loop {
            match self.listener.accept().and_then(|(stream, _)| Client::new(stream)) {
                Ok(client) if self.clients.len() < MAX_CLIENTS => self.clients.push(client),
                Ok(mut client) => client.refuse(ErrorCode::System, "too many clients"),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn terminal_arrived(&mut self) {
        let Some(Ok((stream, _))) = self.console.as_ref().map(UnixListener::accept) else { return };
        let open_stdin = self.options.stdin;
        let taken = sys::receive_fd(stream.as_fd())
            .and_then(|terminal: OwnedFd| self.streams.take_terminal(terminal, open_stdin));
        match taken {
            Ok(()) => self.console = None,
            Err(error) => eprintln!("muster-shim: terminal: {error}"),
        }
    }

    fn output(&mut self, index: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK, 0);
        match self.streams.read(index, &mut buffer) {
            Ok(0) => self.close_output(index),
            Ok(read) => self.deliver(index, &buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.close_output(index),
        }
        self.buffer = buffer;
    }

    /// A terminal whose other side nobody has open now may be opened again (by the init itself), until the end.
    fn close_output(&mut self, index: usize) {
        self.streams.outputs[index] = None;
    }

    fn deliver(&mut self, index: usize, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            let now = sys::now_ns();
            self.lines[index].push(bytes, |line| log.entry(index == 1, line, now));
            log.flush();
        }
        let (kind, flag) = [(wire::STDOUT, wire::ATTACH_STDOUT), (wire::STDERR, wire::ATTACH_STDERR)][index];
        for client in self.clients.iter_mut().filter(|client| client.attached.is_some_and(|flags| flags & flag != 0)) {
            client.send(kind, bytes);
        }
    }

    fn children_ended(&mut self) {
        let mut bytes = [0; 64];
        // Emptied before the reaping: a child that ends meanwhile wakes us again.
        while matches!(self.children.read(&mut bytes), Ok(read) if read > 0) {}
        while let Some(ended) = sys::reap() {
            match self.runtime {
                Some((pid, act)) if pid == ended.pid => {
                    self.runtime = None;
                    self.runtime_ended(act, ended.code);
                }
                _ if Some(ended.pid) == self.init => self.init_ended(ended),
                Some(_) if self.init.is_none() => self.early.push(ended),
                _ => {}
            }
        }
    }

    fn runtime_ended(&mut self, act: Act, code: i32) {
        let result = match (code, act) {
            (0, Act::Launch) => self.options.read_pid().ok_or_else(|| "the runtime wrote no pid".to_owned()),
            (0, Act::Start) => Ok(self.init.unwrap_or(0)),
            (code, _) => Err(self.options.reason(code)),
        };
        match (result, act) {
            (Ok(pid), Act::Launch) => self.launched(pid),
            (Ok(_), Act::Start) => self.started(),
            (Err(reason), Act::Launch) => {
                self.report(Err(&reason));
                self.answer_starters(Err((ErrorCode::Runtime, &reason)));
                self.quit = Some(ExitCode::FAILURE);
            }
            (Err(reason), Act::Start) => self.answer_starters(Err((ErrorCode::Runtime, &reason))),
        }
    }

    fn launched(&mut self, pid: i32) {
        if self.console.is_some() {
            self.terminal_arrived();
        }
        self.init = Some(pid);
        self.phase = if self.options.mode == Mode::Exec { Phase::Running } else { Phase::Created };
        if self.options.mode == Mode::Exec {
            self.answer_starters(Ok(pid as u32));
        }
        self.report(Ok(pid as u32));
        sys::lead_session();
        if let Some(signal) = self.doomed.take() {
            // Ended already: its end is among the early ones.
            let _ = sys::kill(pid, signal);
        }
        let early = std::mem::take(&mut self.early);
        if let Some(ended) = early.into_iter().find(|ended| ended.pid == pid) {
            self.init_ended(ended);
        }
    }

    fn report(&mut self, result: Result<u32, &str>) {
        let Some(mut status) = self.status.take() else { return };
        let mut frame = Vec::new();
        match result {
            Ok(pid) => wire::put(&mut frame, wire::OK, &pid.to_le_bytes()),
            Err(reason) => wire::put_error(&mut frame, ErrorCode::Runtime, reason),
        }
        // The daemon died meanwhile: it finds us by the socket.
        let _ = status.write_all(&frame);
    }

    fn fifo_answered(&mut self) {
        let Some((path, fifo)) = &mut self.fifo else { return };
        let mut byte = [0];
        match fifo.read(&mut byte) {
            Ok(1) => {
                // As the runtime's own start does; it tells created from running by the file.
                let _ = fs::remove_file(path);
                self.fifo = None;
                self.started();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // The init closed it without writing: it is ending.
            _ => self.fifo = None,
        }
    }

    fn started(&mut self) {
        if self.phase == Phase::Created {
            self.phase = Phase::Running;
        }
        let pid = self.init.unwrap_or(0) as u32;
        self.answer_starters(Ok(pid));
    }

    fn answer_starters(&mut self, result: Result<u32, (ErrorCode, &str)>) {
        for client in self.clients.iter_mut().filter(|client| client.starting) {
            client.starting = false;
            match result {
                Ok(pid) => client.send(wire::OK, &pid.to_le_bytes()),
                Err((code, text)) => client.refuse(code, text),
            }
        }
    }

    fn init_ended(&mut self, ended: Ended) {
        // It may have been let go and ended before the loop came round to the answer.
        self.fifo_answered();
        self.phase = Phase::Ended;
        self.fifo = None;
        self.streams.end_input();
        self.answer_starters(Err((ErrorCode::NotRunning, "the process has ended")));
        let record = Record {
            code: ended.code,
            signal: ended.signal,
            at_ns: sys::now_ns(),
            oom_killed: self.options.oom_file.as_deref().is_some_and(oom_killed),
            error: String::new(),
        };
        self.ended = Some((Instant::now(), record));
    }

    /// What time alone brings about: clients are cut off, the end is told.
    fn expire(&mut self, drained: bool) {
        let now = Instant::now();
        for index in 0..self.clients.len() {
            if self.cut_off(&self.clients[index]).is_some_and(|deadline| now >= deadline) {
                self.clients[index].dead = true;
            }
        }
        let Some((since, _)) = &self.ended else { return };
        let waited = now.duration_since(*since);
        let open = self.streams.outputs.iter().any(Option::is_some);
        let enough = waited >= DRAIN && drained && !self.is_held_up();
        if self.told.is_none() && (!open || enough || waited >= DRAIN_AT_MOST.max(self.stall() * 2)) {
            self.tell();
        }
    }

    /// Ends the log, records the exit, and says so to everybody who is attached or waits.
    fn tell(&mut self) {
        let Some((_, record)) = &self.ended else { return };
        self.streams.outputs = [None, None];
        if let Some(log) = &mut self.log {
            let now = sys::now_ns();
            for (index, lines) in self.lines.iter_mut().enumerate() {
                lines.finish(|line| log.entry(index == 1, line, now));
            }
            log.flush();
        }
        let text = record.encode();
        if let Err(error) = write_durably(&self.options.exit_file, text.as_bytes()) {
            // It is told all the same: whoever hears it can still record it.
            eprintln!("muster-shim: {}: {error}", self.options.exit_file.display());
        }
        for client in self.clients.iter_mut().filter(|client| client.waiting || client.attached.is_some()) {
            client.send(wire::EXIT, text.as_bytes());
            client.closing = true;
        }
        self.told = Some(text);
    }

    fn bury_clients(&mut self) {
        let once = wire::ATTACH_STDIN | wire::ATTACH_STDIN_ONCE;
        let mut close_input = false;
        self.clients.retain(|client| {
            let gone = client.dead || (client.closing && client.pending() == 0);
            close_input |= gone && client.attached.is_some_and(|flags| flags & once == once);
            !gone
        });
        if close_input {
            self.streams.close_input();
        }
    }
}

fn listen(folder: &File, name: &str) -> io::Result<UnixListener> {
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether the OOM killer has killed in the cgroup whose counter file this is; a cgroup that is gone has nothing to say.
fn oom_killed(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse::<u64>().ok()).is_some_and(|count| count > 0)
}

/// Temporary name, fsync, rename, fsync of the folder: after a power cut the file is whole or not there.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
