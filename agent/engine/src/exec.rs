//! Processes started in running containers. What is known of each is also in the run folder (`exec/kept.rs`), so that the
//! next daemon knows them too.

mod kept;

pub(crate) use kept::FOLDER as KEPT_FOLDER;

use crate::{container::pump, detach::Detector, engine::Shared, error, names, record::Record};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use muster_calls::{Attached, Error, ExecStart, Output, Result, StdStream};
use muster_model::engine::{ExecConfig, ExecInspect, ProcessConfig};
use muster_runtime::{
    AttachOptions, ExecSpec, ProcessRef, Stdio, TtySize,
    spec::{ExecInput, exec_process},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long the exit code of a finished exec can be asked for (dockerd: five minutes).
const REMEMBERED: Duration = Duration::from_secs(300);

/// How long a new size waits for the process whose terminal is to have it (dockerd: ten seconds).
const START_AWAITED: Duration = Duration::from_secs(10);

/// How far an exec has got.
#[derive(Clone, Debug, PartialEq)]
enum Progress {
    Prepared,
    Running { pid: u32 },
    Finished { pid: u32, code: i32, at: Instant },
}

#[derive(Debug)]
struct Exec {
    id: String,
    container: String,
    config: ExecConfig,
    progress: Mutex<Progress>,
    /// Cancelled when `progress` says `Running` with a pid, or `Finished`.
    started: CancellationToken,
    /// Cancelled when `progress` says `Finished`.
    ended: CancellationToken,
}

impl Exec {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn finish(&self, code: i32) {
        let mut progress = self.progress();
        let pid = if let Progress::Running { pid } = *progress { pid } else { 0 };
        *progress = Progress::Finished { pid, code, at: Instant::now() };
        self.started.cancel();
        self.ended.cancel();
    }

    fn is_over(&self) -> bool {
        matches!(*self.progress(), Progress::Finished { at, .. } if at.elapsed() > REMEMBERED)
    }
}

/// The execs of an engine.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    by_id: Mutex<BTreeMap<String, Arc<Exec>>>,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Exec>>> {
        self.by_id.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        let by_id = self.lock();
        let mut fitting = by_id.range(id.to_owned()..).take_while(|(full, _)| full.starts_with(id) && !id.is_empty());
        match (fitting.next(), fitting.next()) {
            (Some((full, exec)), other) if full == id || other.is_none() => Ok(exec.clone()),
            _ => Err(Error::not_found(format!("No such exec instance: {id}"))),
        }
    }

    fn enter(&self, exec: Exec) {
        let mut by_id = self.lock();
        by_id.retain(|_, e| !e.is_over());
        by_id.insert(exec.id.clone(), Arc::new(exec));
    }

    /// Forgets the execs of a removed container.
    pub fn forget_container(&self, container: &str) {
        self.lock().retain(|_, e| e.container != container);
    }

    /// Ids of a container's execs that have not ended.
    pub fn of(&self, container: &str) -> Vec<String> {
        let live = |e: &Exec| e.container == container && !matches!(*e.progress(), Progress::Finished { .. });
        self.lock().values().filter(|e| live(e)).map(|e| e.id.clone()).collect()
    }
}

impl Shared {
    /// Notes what is to be run; nothing runs yet.
    pub(crate) fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String> {
        let record = self.running_record(container)?;
        self.config.runtime.expect_start();
        if config.cmd.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        Detector::new(Some(config.detach_keys.as_str()).filter(|k| !k.is_empty()))?;
        let id = names::new_id();
        self.exec_event(&record, &id, &format!("exec_create: {}", words(&config.cmd)), &[]);
        let exec = Exec {
            id: id.clone(),
            container: record.id.clone(),
            config,
            progress: Mutex::new(Progress::Prepared),
            started: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        kept::write(&self.execs_folder(&record.id), &exec);
        self.execs.enter(exec);
        Ok(id)
    }

    /// The record of a container that runs and is not paused.
    fn running_record(&self, name: &str) -> Result<Arc<Record>> {
        let record = self.find(name)?.record();
        let id = &record.id;
        if !record.state.is_running() {
            return Err(Error::conflict(format!("container {id} is not running")));
        }
        if record.state.paused {
            return Err(Error::conflict(format!("container {id} is paused, unpause the container before exec")));
        }
        Ok(record)
    }

    pub(crate) fn exec_event(&self, record: &Record, exec: &str, action: &str, extra: &[(&str, &str)]) {
        let attributes: Vec<_> = [("execID", exec)].into_iter().chain(extra.iter().copied()).collect();
        self.container_event(record, action, &attributes);
    }

    /// Runs a prepared exec.
    pub(crate) async fn exec_start(self: &Arc<Self>, id: &str, options: ExecStart) -> Result<Attached> {
        let exec = self.execs.find(id)?;
        let record = self.running_record(&exec.container)?;
        self.config.runtime.expect_start();
        let keys =
            options.detach_keys.clone().or_else(|| Some(exec.config.detach_keys.clone()).filter(|k| !k.is_empty()));
        let keys = Detector::new(keys.as_deref())?;
        self.claim(&exec)?;
        let config = &exec.config;
        let prepared = self
            .exec_prepare(
                &record,
                &exec.id,
                input(config),
                size(&options, config),
                config.attach_stdin && !options.detach,
            )
            .await;
        if let Err(e) = prepared {
            // As in Docker such an exec is over: clients ask for its exit code.
            self.exec_over(&exec, if e.message.contains("executable file not found") { 127 } else { 126 });
            return Err(e);
        }
        let process = ProcessRef::Exec { container: &record.id, exec: &exec.id };
        let attached = match options.detach {
            true => Ok(None),
            false => self.config.runtime.attach(process, attach_options(config)).await.map(Some),
        };
        let attachment = match attached {
            Ok(attachment) => attachment,
            Err(e) => {
                let _ = self.config.runtime.exec_delete(&record.id, &exec.id).await; // It goes with its container at the latest.
                self.exec_over(&exec, 126);
                return Err(error::runtime(e));
            }
        };
        self.exec_event(&record, &exec.id, &format!("exec_start: {}", words(&config.cmd)), &[]);
        match self.config.runtime.exec_start(&record.id, &exec.id).await {
            Ok(pid) => {
                *exec.progress() = Progress::Running { pid };
                exec.started.cancel();
                kept::write(&self.execs_folder(&record.id), &exec);
            }
            Err(e) => return self.exec_failed(&exec, e, options.detach),
        }
        self.watch_exec(exec.clone(), record);
        let Some(attachment) = attachment else {
            return Ok(Attached { tty: config.tty, output: stream::empty().boxed(), input: mpsc::channel(1).0 });
        };
        let (slot, coming) = oneshot::channel();
        let _ = slot.send(attachment); // The receiver is on the next line.
        let live = pump(self, coming, config.attach_stdin, config.tty, keys);
        let end = self.until_recorded(exec.ended.clone(), live.detached);
        let output = live.output.chain(stream::once(end).filter_map(|()| std::future::ready(None))).boxed();
        Ok(Attached { tty: config.tty, output, input: live.input })
    }

    /// A client asks for the exit code as soon as the output ends, so the output must not end before the code is known.
    /// One that has detached does not wait.
    fn until_recorded(
        &self,
        ended: CancellationToken,
        detached: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let stop = self.stop.clone();
        async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = detached.cancelled() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Two clients cannot start one exec.
    fn claim(&self, exec: &Exec) -> Result<()> {
        let mut progress = exec.progress();
        match *progress {
            Progress::Prepared => {
                *progress = Progress::Running { pid: 0 };
                Ok(())
            }
            Progress::Running { .. } => Err(Error::conflict(format!("exec command {} is already running", exec.id))),
            Progress::Finished { .. } => Err(Error::conflict(format!("exec command {} has already run", exec.id))),
        }
    }

    /// Notes that an exec ended without having run.
    fn exec_over(&self, exec: &Exec, code: i32) {
        exec.finish(code);
        kept::write(&self.execs_folder(&exec.container), exec);
    }

    /// dockerd has answered the client already when the command turns out not to be there: the words come as output, the
    /// code by inspect.
    fn exec_failed(&self, exec: &Exec, e: muster_runtime::Error, detach: bool) -> Result<Attached> {
        self.exec_over(exec, e.exec_exit_code());
        let text = format!("OCI runtime exec failed: {}: unknown", e.said());
        if detach {
            return Err(Error::invalid(text));
        }
        let words = Output { stream: StdStream::Stdout, data: Bytes::from(format!("{text}\r\n")) };
        Ok(Attached { tty: exec.config.tty, output: stream::iter([Ok(words)]).boxed(), input: mpsc::channel(1).0 })
    }

    fn watch_exec(self: &Arc<Self>, exec: Arc<Exec>, record: Arc<Record>) {
        let shared = self.clone();
        self.spawn("exec", async move {
            let process = ProcessRef::Exec { container: &record.id, exec: &exec.id };
            let status = tokio::select! {
                () = shared.stop.cancelled() => return,
                status = shared.config.runtime.wait(process) => status,
            };
            // With its container an exec may vanish before it is asked for.
            let code = status.map_or(128 + libc::SIGKILL, |s| s.code);
            exec.finish(code);
            kept::write(&shared.execs_folder(&record.id), &exec);
            shared.exec_event(&record, &exec.id, "exec_die", &[("exitCode", &code.to_string())]);
            if let Err(e) = shared.config.runtime.exec_delete(&record.id, &exec.id).await {
                tracing::debug!(container.id = %record.id, error = %e, "an exec went with its container");
            }
        });
    }

    /// Prepares a process in a running container at the runtime.
    pub(crate) async fn exec_prepare(
        &self,
        record: &Record,
        exec_id: &str,
        input: ExecInput,
        size: Option<TtySize>,
        open_stdin: bool,
    ) -> Result<()> {
        let stdio = Stdio { tty: input.tty, open_stdin, size };
        let (config, host) = (self.folder(&record.id).join("config.json"), self.spec_host.clone());
        // The root as the container's init sees it: with its mounts.
        let root = PathBuf::from(format!("/proc/{}/root", record.state.pid));
        let process = error::blocking(move || {
            let spec = muster_runtime_spec(&config)?;
            exec_process(&spec, &root, &input, &host).map_err(|e| error::runtime(e.into()))
        })
        .await?;
        self.config.runtime.exec_create(&record.id, exec_id, &ExecSpec { process, stdio }).await.map_err(error::runtime)
    }

    /// Gives an exec's terminal a size. Clients ask for it as soon as a start is answered, which is before the process runs.
    pub(crate) async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        let exec = self.execs.find(id)?;
        if tokio::time::timeout(START_AWAITED, exec.started.cancelled()).await.is_err() {
            return Err(Error::conflict("timeout waiting for exec session ready"));
        }
        if !matches!(*exec.progress(), Progress::Running { pid } if pid != 0) {
            return Err(Error::conflict(format!("exec process {id} is not running")));
        }
        let process = ProcessRef::Exec { container: &exec.container, exec: &exec.id };
        self.config.runtime.resize(process, TtySize { width, height }).await.map_err(error::runtime)
    }

    pub(crate) fn exec_inspect(&self, id: &str) -> Result<ExecInspect> {
        let exec = self.execs.find(id)?;
        let (running, exit_code, pid) = match *exec.progress() {
            Progress::Prepared => (false, None, 0),
            Progress::Running { pid } => (true, None, pid),
            Progress::Finished { pid, code, .. } => (false, Some(code.into()), pid),
        };
        let config = &exec.config;
        Ok(ExecInspect {
            id: exec.id.clone(),
            running,
            exit_code,
            process_config: ProcessConfig {
                tty: config.tty,
                entrypoint: config.cmd.first().cloned().unwrap_or_default(),
                arguments: config.cmd.iter().skip(1).cloned().collect(),
                privileged: config.privileged,
                user: config.user.clone(),
            },
            open_stdin: config.attach_stdin,
            open_stderr: config.attach_stderr,
            open_stdout: config.attach_stdout,
            can_remove: false,
            container_id: exec.container.clone(),
            detach_keys: config.detach_keys.clone(),
            pid: pid.into(),
        })
    }
}

fn muster_runtime_spec(path: &std::path::Path) -> Result<oci_spec::runtime::Spec> {
    oci_spec::runtime::Spec::load(path).map_err(|e| Error::internal(format!("{}: {e}", path.display())))
}

/// The command in an event, with Docker's space behind a program without arguments.
pub(crate) fn words(command: &[String]) -> String {
    let (program, arguments) = command.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    format!("{program} {}", arguments.join(" "))
}

fn input(config: &ExecConfig) -> ExecInput {
    ExecInput {
        args: config.cmd.clone(),
        env: config.env.clone(),
        cwd: config.working_dir.clone(),
        user: config.user.clone(),
        tty: config.tty,
        privileged: config.privileged,
    }
}

fn attach_options(config: &ExecConfig) -> AttachOptions {
    AttachOptions {
        stdin: config.attach_stdin,
        stdout: config.attach_stdout || config.tty,
        stderr: config.attach_stderr,
        stdin_once: true,
    }
}

fn size(options: &ExecStart, config: &ExecConfig) -> Option<TtySize> {
    let of_config = config.console_size.and_then(|[h, w]| Some((u16::try_from(h).ok()?, u16::try_from(w).ok()?)));
    options
        .console_size
        .or(of_config)
        .filter(|(h, w)| *h > 0 && *w > 0)
        .map(|(height, width)| TtySize { width, height })
}
