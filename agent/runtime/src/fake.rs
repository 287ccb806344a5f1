//! A runtime without processes, for tests of those who call [`Runtime`].
//!
//! Containers exist in memory and do what the test says: [`FakeRuntime::emit`] output, [`FakeRuntime::finish`] with a code,
//! fail to be created ([`FakeRuntime::fail_create`]). A container ends by itself when it is killed with SIGKILL or SIGTERM.
//! Output of containers with a `json-file` log is written there in the real form.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use muster_shim::record::Record;
use muster_shim::{clock, wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, watch};

use crate::attach::{AttachOptions, Attachment, Output};
use crate::error::{Error, Result};
use crate::{
    Adopted, CreateSpec, Created, ExecSpec, ExitStatus, LogConfig, LogDriver, ProcessRef, Resources, Runtime, State,
    Stats, Status, TtySize, cgroup,
};

/// Pieces of output that an attached test may lag behind; more is an error of the test.
const BACKLOG: usize = 1024;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

type Key = (String, Option<String>);

/// The runtime in memory. Clones share their containers.
#[derive(Debug, Clone, Default)]
pub struct FakeRuntime {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    processes: BTreeMap<Key, Process>,
    calls: Vec<String>,
    fail_create: Option<(bool, String)>,
    next_pid: u32,
}

#[derive(Debug)]
struct Process {
    status: Status,
    pid: u32,
    tty: bool,
    log: LogConfig,
    output: broadcast::Sender<(u8, Bytes)>,
    exit: watch::Sender<Option<ExitStatus>>,
    stdin: Arc<Mutex<Vec<u8>>>,
    resources: Resources,
}

impl FakeRuntime {
    /// An empty one.
    pub fn new() -> Self {
        FakeRuntime::default()
    }

    /// Every call so far, as `create ID`, `kill ID 15` and so on.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// The next create fails as if the command were not found (`true`) or the runtime broken (`false`).
    pub fn fail_create(&self, command_not_found: bool, message: &str) {
        self.lock().fail_create = Some((command_not_found, message.to_owned()));
    }

    /// The process writes to standard output (or, with `stderr`, to standard error).
    pub fn emit(&self, process: ProcessRef<'_>, stderr: bool, text: &str) {
        let inner = self.lock();
        let Some(found) = inner.processes.get(&key(process)) else { return };
        let kind = if stderr { wire::STDERR } else { wire::STDOUT };
        // Nobody attached: the log has it.
        let _ = found.output.send((kind, Bytes::copy_from_slice(text.as_bytes())));
        found.append_log(stderr, text);
    }

    /// The process ends with this code. Execs of a container end with it.
    pub fn finish(&self, process: ProcessRef<'_>, code: i32) {
        self.end(process, code, None);
    }

    /// What was written to the process's input so far.
    pub fn stdin_of(&self, process: ProcessRef<'_>) -> Vec<u8> {
        let stdin = self.lock().processes.get(&key(process)).map(|found| found.stdin.clone());
        stdin.map(|stdin| lock(&stdin).clone()).unwrap_or_default()
    }

    /// The limits last set by update.
    pub fn resources_of(&self, id: &str) -> Option<Resources> {
        self.lock().processes.get(&(id.to_owned(), None)).map(|found| found.resources.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn note(&self, call: String) {
        self.lock().calls.push(call);
    }

    fn end(&self, process: ProcessRef<'_>, code: i32, signal: Option<i32>) {
        let mut inner = self.lock();
        let whole = matches!(process, ProcessRef::Container(_));
        let ended = key(process);
        for (key, found) in inner.processes.iter_mut() {
            if *key == ended || (whole && key.0 == ended.0) {
                found.end(code, signal);
            }
        }
    }

    fn with<T>(&self, process: ProcessRef<'_>, act: impl FnOnce(&mut Process) -> Result<T>) -> Result<T> {
        match self.lock().processes.get_mut(&key(process)) {
            Some(found) => act(found),
            None => Err(Error::NotFound { id: process.id().to_owned() }),
        }
    }

    fn insert(&self, process: ProcessRef<'_>, tty: bool, log: LogConfig) -> Result<u32> {
        let mut inner = self.lock();
        if inner.processes.contains_key(&key(process)) {
            return Err(Error::AlreadyExists { id: process.id().to_owned() });
        }
        inner.next_pid += 1;
        let pid = 1_000_000 + inner.next_pid;
        let process_state = Process {
            status: Status::Created,
            pid,
            tty,
            log,
            output: broadcast::channel(BACKLOG).0,
            exit: watch::channel(None).0,
            stdin: Arc::default(),
            resources: Resources::default(),
        };
        inner.processes.insert(key(process), process_state);
        Ok(pid)
    }
}

impl Process {
    fn append_log(&self, stderr: bool, text: &str) {
        if self.log.driver == LogDriver::None {
            return;
        }
        let stream = if stderr { "stderr" } else { "stdout" };
        let time = clock::format(now_ns());
        let time = String::from_utf8_lossy(&time).into_owned();
        let file = std::fs::File::options().create(true).append(true).open(&self.log.path);
        if let Ok(mut file) = file {
            for line in text.split_inclusive('\n') {
                let line = serde_json::json!({"log": line, "stream": stream, "time": time});
                let _ = writeln!(file, "{line}");
            }
        }
    }

    fn end(&mut self, code: i32, signal: Option<i32>) {
        if self.status != Status::Stopped {
            self.status = Status::Stopped;
            let exit = ExitStatus { code, signal, at: SystemTime::now(), oom_killed: false, error: None };
            self.exit.send_replace(Some(exit));
        }
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> (String, String) {
        ("fake".into(), "0".into())
    }

    async fn create(&self, spec: &CreateSpec) -> Result<Created> {
        self.note(format!("create {}", spec.id));
        if let Some((not_found, message)) = self.lock().fail_create.take() {
            return Err(if not_found {
                Error::CommandNotFound { message }
            } else {
                Error::Runtime { op: "create", message }
            });
        }
        let pid = self.insert(ProcessRef::Container(&spec.id), spec.stdio.tty, spec.log.clone())?;
        Ok(Created { pid })
    }

    async fn start(&self, id: &str) -> Result<()> {
        self.note(format!("start {id}"));
        self.with(ProcessRef::Container(id), |found| {
            found.status = Status::Running;
            Ok(())
        })
    }

    async fn exec_create(&self, id: &str, exec_id: &str, spec: &ExecSpec) -> Result<()> {
        self.note(format!("exec_create {id} {exec_id}"));
        self.with(ProcessRef::Container(id), |_| Ok(()))?;
        self.insert(ProcessRef::Exec { container: id, exec: exec_id }, spec.stdio.tty, LogConfig::none()).map(|_| ())
    }

    async fn exec_start(&self, id: &str, exec_id: &str) -> Result<u32> {
        self.note(format!("exec_start {id} {exec_id}"));
        self.with(ProcessRef::Exec { container: id, exec: exec_id }, |found| {
            found.status = Status::Running;
            Ok(found.pid)
        })
    }

    async fn exec_delete(&self, id: &str, exec_id: &str) -> Result<()> {
        self.note(format!("exec_delete {id} {exec_id}"));
        self.finish(ProcessRef::Exec { container: id, exec: exec_id }, 137);
        self.lock().processes.remove(&(id.to_owned(), Some(exec_id.to_owned())));
        Ok(())
    }

    async fn attach(&self, process: ProcessRef<'_>, options: AttachOptions) -> Result<Attachment> {
        let (output, exit, stdin) =
            self.with(process, |found| Ok((found.output.subscribe(), found.exit.subscribe(), found.stdin.clone())))?;
        let (near, far) = UnixStream::pair().map_err(Error::io("make socket", ""))?;
        // Ends with the container or the attachment, whichever is first: it owns nothing else.
        tokio::spawn(serve(far, output, exit, stdin, options));
        Ok(Attachment::new(near, BytesMut::new()))
    }

    async fn close_stdin(&self, process: ProcessRef<'_>) -> Result<()> {
        self.with(process, |_| Ok(()))
    }

    async fn resize(&self, process: ProcessRef<'_>, size: TtySize) -> Result<()> {
        self.note(format!("resize {} {}x{}", process.id(), size.width, size.height));
        self.with(process, |found| if found.tty { Ok(()) } else { Err(Error::NoTty { id: process.id().to_owned() }) })
    }

    async fn kill(&self, process: ProcessRef<'_>, signal: i32, _all: bool) -> Result<()> {
        self.note(format!("kill {} {signal}", process.id()));
        self.with(process, |found| match found.status {
            Status::Stopped => Err(Error::NotRunning { id: process.id().to_owned() }),
            _ => Ok(()),
        })?;
        if signal == SIGTERM || signal == SIGKILL {
            self.end(process, 128 + signal, Some(signal));
        }
        Ok(())
    }

    async fn wait(&self, process: ProcessRef<'_>) -> Result<ExitStatus> {
        let mut exit = self.with(process, |found| Ok(found.exit.subscribe()))?;
        let ended = exit.wait_for(Option::is_some).await.map(|exit| exit.clone());
        ended.ok().flatten().ok_or_else(|| Error::NotFound { id: process.id().to_owned() })
    }

    async fn pause(&self, id: &str) -> Result<()> {
        self.note(format!("pause {id}"));
        self.with(ProcessRef::Container(id), |found| {
            found.status = Status::Paused;
            Ok(())
        })
    }

    async fn resume(&self, id: &str) -> Result<()> {
        self.note(format!("resume {id}"));
        self.with(ProcessRef::Container(id), |found| {
            found.status = Status::Running;
            Ok(())
        })
    }

    async fn delete(&self, id: &str, force: bool) -> Result<()> {
        self.note(format!("delete {id}"));
        let mut inner = self.lock();
        let running = inner.processes.get(&(id.to_owned(), None)).map(|found| found.status != Status::Stopped);
        if running == Some(true) && !force {
            return Err(Error::StillRunning { id: id.to_owned() });
        }
        for (_, found) in inner.processes.iter_mut().filter(|(key, _)| key.0 == id) {
            found.end(137, Some(SIGKILL));
        }
        inner.processes.retain(|key, _| key.0 != id);
        Ok(())
    }

    async fn state(&self, id: &str) -> Result<State> {
        self.with(ProcessRef::Container(id), |found| {
            let exit = found.exit.borrow().clone();
            Ok(State { status: found.status, pid: if exit.is_some() { 0 } else { found.pid }, exit })
        })
    }

    async fn update(&self, id: &str, resources: &Resources) -> Result<()> {
        self.note(format!("update {id}"));
        self.with(ProcessRef::Container(id), |found| {
            found.resources = resources.clone();
            Ok(())
        })
    }

    async fn stats(&self, id: &str) -> Result<Stats> {
        self.with(ProcessRef::Container(id), |_| Ok(Stats::default()))
    }

    async fn processes(&self, id: &str) -> Result<Vec<u32>> {
        self.with(ProcessRef::Container(id), |found| Ok(vec![found.pid]))
    }

    async fn reopen_logs(&self, id: &str) -> Result<()> {
        self.with(ProcessRef::Container(id), |_| Ok(()))
    }

    async fn adopt(&self, id: &str, _state_dir: &Path) -> Result<Adopted> {
        self.note(format!("adopt {id}"));
        match self.state(id).await {
            Ok(State { exit: Some(exit), .. }) => Ok(Adopted::Exited(exit)),
            Ok(state) => Ok(Adopted::Alive { status: state.status, pid: state.pid }),
            Err(Error::NotFound { .. }) => Ok(Adopted::Unknown),
            Err(error) => Err(error),
        }
    }

    fn has_traces(&self, id: &str) -> bool {
        self.lock().processes.contains_key(&(id.to_owned(), None))
    }

    async fn sweep(&self, keep: &[String]) -> Result<Vec<String>> {
        let mut inner = self.lock();
        let mut gone: Vec<String> =
            inner.processes.keys().map(|key| key.0.clone()).filter(|id| !keep.contains(id)).collect();
        gone.dedup();
        inner.processes.retain(|key, _| keep.contains(&key.0));
        Ok(gone)
    }

    fn cgroup(&self, id: &str) -> cgroup::Paths {
        cgroup::Layout::default().paths(&format!("/fake/{id}"))
    }
}

/// Speaks the shim's side of an attachment.
async fn serve(
    stream: UnixStream,
    mut output: broadcast::Receiver<(u8, Bytes)>,
    mut exit: watch::Receiver<Option<ExitStatus>>,
    stdin: Arc<Mutex<Vec<u8>>>,
    options: AttachOptions,
) {
    let (mut read, mut write) = stream.into_split();
    let mut taken = BytesMut::new();
    let mut reading = options.stdin;
    loop {
        let mut frame = Vec::new();
        tokio::select! {
            biased;
            piece = output.recv() => {
                let Ok((kind, bytes)) = piece else { return };
                let wanted = if kind == wire::STDOUT { options.stdout } else { options.stderr };
                if wanted {
                    wire::put(&mut frame, kind, &bytes);
                }
            }
            record = async { exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone()) } => {
                let record = record.map(record_of).unwrap_or_default();
                wire::put(&mut frame, wire::EXIT, record.encode().as_bytes());
                let _ = write.write_all(&frame).await;
                return;
            }
            got = read.read_buf(&mut taken), if reading => {
                reading = matches!(got, Ok(n) if n > 0);
                while let Ok(Some((_, bytes))) = crate::attach::next_frame(&mut taken) {
                    lock(&stdin).extend_from_slice(&bytes);
                }
            }
        }
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}

fn record_of(exit: ExitStatus) -> Record {
    Record {
        code: exit.code,
        signal: exit.signal.unwrap_or(0),
        at_ns: now_ns(),
        oom_killed: false,
        error: String::new(),
    }
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

fn key(process: ProcessRef<'_>) -> Key {
    match process {
        ProcessRef::Container(id) => (id.to_owned(), None),
        ProcessRef::Exec { container, exec } => (container.to_owned(), Some(exec.to_owned())),
    }
}

/// A poisoned lock means that a test has failed already; its data is still good to read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output {
    /// The bytes of a piece of output; empty for an exit.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Output::Stdout(bytes) | Output::Stderr(bytes) => bytes,
            Output::Exit(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stdio;

    #[tokio::test]
    async fn the_fake_speaks_and_ends_as_a_container_does() {
        let fake = FakeRuntime::new();
        let spec = CreateSpec {
            id: "a".into(),
            bundle: "/nowhere".into(),
            state_dir: "/nowhere".into(),
            spec: oci_spec::runtime::Spec::default(),
            stdio: Stdio::default(),
            log: LogConfig::none(),
        };
        let process = ProcessRef::Container("a");
        fake.create(&spec).await.expect("created");
        let mut attached = fake.attach(process, AttachOptions::all()).await.expect("attached");
        fake.start("a").await.expect("started");
        fake.emit(process, true, "oh\n");
        assert_eq!(attached.output.next().await.expect("output"), Some(Output::Stderr("oh\n".into())));
        fake.finish(process, 3);
        assert!(matches!(attached.output.next().await, Ok(Some(Output::Exit(exit))) if exit.code == 3));
        assert_eq!(fake.wait(process).await.expect("ended").code, 3);
        assert_eq!(fake.state("a").await.expect("known").status, Status::Stopped);
        fake.delete("a", false).await.expect("deleted");
        assert!(matches!(fake.state("a").await, Err(Error::NotFound { .. })));
        assert_eq!(fake.calls(), ["create a", "start a", "delete a"]);
    }
}
