//! What happens to processes after their creation: signals, the end, deletion, finding them again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use muster_shim::record::Record;
use muster_shim::wire;
use tracing::{debug, info, warn};

use super::client::{self, Connection};
use super::{RuncRuntime, command, folder, launch};
use crate::cgroup;
use crate::error::{Error, Result};
use crate::{Adopted, ExitStatus, ProcessRef, Resources, Runtime, State, Status, spec};

const SIGKILL: i32 = 9;
/// How long a killed container may take to be seen ended by its shim. The kernel takes milliseconds; more means a process that
/// hangs in the kernel.
const KILL_GRACE: Duration = Duration::from_secs(10);
/// Between two attempts to remove cgroups.
const CGROUP_PAUSE: Duration = Duration::from_millis(2);

impl RuncRuntime {
    /// One request to a process's shim, answered by `OK`.
    pub(super) async fn request(&self, process: ProcessRef<'_>, kind: u8, payload: &[u8]) -> Result<u32> {
        self.folders.check(process)?;
        let reply =
            async { Connection::open(&self.folders.of(process), process.id(), kind, payload).await?.ok().await };
        match reply.await {
            Err(Error::ShimGone { id }) if !self.folders.of(process).exists() => Err(Error::NotFound { id }),
            Err(Error::ShimGone { id }) if self.recorded(process).is_some() => Err(Error::NotRunning { id }),
            other => other,
        }
    }

    /// Refuses an id that has no container here.
    pub(super) fn known(&self, id: &str) -> Result<()> {
        let process = ProcessRef::Container(id);
        self.folders.check(process)?;
        if self.folders.of(process).exists() { Ok(()) } else { Err(Error::NotFound { id: id.to_owned() }) }
    }

    pub(super) async fn runtime(&self, op: &'static str, args: &[&str]) -> Result<()> {
        command::run(&self.config.runtime, &self.folders.runtime_root(), op, args).await
    }

    pub(super) async fn run_exec(&self, id: &str, exec_id: &str) -> Result<u32> {
        let process = ProcessRef::Exec { container: id, exec: exec_id };
        let started = self.request(process, wire::START, &[]).await;
        if started.is_err() {
            let _ = self.remove_exec(id, exec_id).await;
        }
        started
    }

    pub(super) async fn remove_exec(&self, id: &str, exec_id: &str) -> Result<()> {
        let process = ProcessRef::Exec { container: id, exec: exec_id };
        self.folders.check(process)?;
        if !self.folders.of(process).exists() {
            return Ok(());
        }
        if let Err(Error::StillRunning { .. }) = self.request(process, wire::SHUTDOWN, &[]).await {
            self.signal(process, SIGKILL, false).await.or_else(not_running_is_fine)?;
            let ended = tokio::time::timeout(KILL_GRACE, self.wait_end(process)).await;
            ended.map_err(|_| Error::StillRunning { id: exec_id.to_owned() })??;
        }
        self.folders.remove(process)
    }

    pub(super) async fn signal(&self, process: ProcessRef<'_>, signal: i32, all: bool) -> Result<()> {
        self.folders.check(process)?;
        let paths = self.cgroup(process.container());
        if all && matches!(process, ProcessRef::Exec { .. }) {
            return Err(Error::Unsupported { field: "all", reason: "an exec has no cgroup of its own".into() });
        }
        if all {
            self.signal_all(process.id(), &paths, signal)?;
        } else {
            match self.request(process, wire::KILL, &signal.to_le_bytes()).await {
                Err(Error::ShimGone { .. }) if signal == SIGKILL => {
                    cgroup::kill_all(&paths).map_err(kill_failed(&paths))?
                }
                other => drop(other?),
            }
        }
        if signal == SIGKILL {
            cgroup::thaw(&paths).map_err(Error::io("thaw", &paths.path))?;
        }
        Ok(())
    }

    fn signal_all(&self, id: &str, paths: &cgroup::Paths, signal: i32) -> Result<()> {
        if signal == SIGKILL {
            return cgroup::kill_all(paths).map_err(kill_failed(paths));
        }
        let pids = cgroup::processes(paths).map_err(Error::io("read cgroup", &paths.path))?;
        if pids.is_empty() {
            return Err(Error::NotRunning { id: id.to_owned() });
        }
        cgroup::signal(&pids, signal).map_err(kill_failed(paths))
    }

    pub(super) async fn wait_end(&self, process: ProcessRef<'_>) -> Result<ExitStatus> {
        self.folders.check(process)?;
        let waited = async {
            let mut connection = Connection::open(&self.folders.of(process), process.id(), wire::WAIT, &[]).await?;
            match connection.reply().await? {
                (wire::EXIT, payload) => client::exit_from_wire(&payload),
                (kind, _) => Err(Error::Protocol(format!("frame of kind {kind:#x} in place of EXIT"))),
            }
        };
        match waited.await {
            Err(Error::ShimGone { .. }) => self.end_without_shim(process).await,
            other => other,
        }
    }

    /// The end of a process whose shim does not answer: as recorded, or else what is left of it is killed and that recorded.
    async fn end_without_shim(&self, process: ProcessRef<'_>) -> Result<ExitStatus> {
        let folder = self.folders.of(process);
        let alive = folder.exists() && client::is_alive(&folder, process.id()).await;
        // After the shim's death it can no more change.
        if let Some(record) = self.recorded(process) {
            return Ok(client::exit_status(record));
        }
        if !folder.exists() {
            return Err(Error::NotFound { id: process.id().to_owned() });
        }
        if alive {
            return Err(Error::Shim { message: "it closed the connection".into() });
        }
        // After a create that failed it has ended by itself and holds nothing: no news.
        let held = cgroup::processes(&self.cgroup(process.container())).is_ok_and(|pids| !pids.is_empty());
        if held {
            warn!(
                container.id = process.container(),
                process.id = process.id(),
                "the shim is gone: killing what it held"
            );
        } else {
            debug!(container.id = process.container(), process.id = process.id(), "the shim is gone, and all it held");
        }
        self.kill_orphan(process)?;
        let record = lost("the shim of this process died; the process was killed");
        let written = self.folders.exit_record(process).map_or(Ok(()), |path| write_record(&path, &record));
        if let Err(error) = written {
            // On a full disk it must still be possible to delete what fills it.
            warn!(container.id = process.container(), %error, "cannot record how a process ended");
        }
        Ok(client::exit_status(record))
    }

    /// A container without its shim is killed whole. Of an exec only its own process is: the container goes on.
    fn kill_orphan(&self, process: ProcessRef<'_>) -> Result<()> {
        let paths = self.cgroup(process.container());
        match process {
            ProcessRef::Container(_) => cgroup::kill_all(&paths).map_err(kill_failed(&paths)),
            ProcessRef::Exec { .. } => {
                let pid = fs::read_to_string(self.folders.of(process).join("pid")).ok();
                let pid = pid.and_then(|text| text.trim().parse::<u32>().ok());
                // Only while it is in the container's cgroup: a pid can be somebody else's by now.
                let pids = cgroup::processes(&paths).unwrap_or_default();
                let own: Vec<u32> = pid.into_iter().filter(|pid| pids.contains(pid)).collect();
                cgroup::signal(&own, SIGKILL).map_err(kill_failed(&paths))
            }
        }
    }

    fn recorded(&self, process: ProcessRef<'_>) -> Option<Record> {
        Record::decode(&fs::read_to_string(self.folders.exit_record(process)?).ok()?)
    }

    pub(super) async fn remove_container(&self, id: &str, force: bool) -> Result<()> {
        let process = ProcessRef::Container(id);
        self.folders.check(process)?;
        let runtime_state = self.folders.runtime_root().join(id);
        if !self.folders.of(process).exists() && !runtime_state.exists() {
            return Ok(());
        }
        self.end_before_delete(process, force).await?;
        for exec in self.folders.execs(id) {
            self.remove_exec(id, &exec).await?;
        }
        let paths = self.cgroup(id);
        if runtime_state.exists() {
            self.delete_at_runtime(id, &paths, &runtime_state).await?;
        }
        launch::remove_cgroup(&paths);
        self.folders.remove(process)
    }

    /// Removes what the runtime keeps of a container whose init has ended. Of runc that is its cgroups and one folder, for our
    /// specs have no hooks: done here, it takes no process of 6 ms.
    async fn delete_at_runtime(&self, id: &str, paths: &cgroup::Paths, state: &Path) -> Result<()> {
        if !self.is_runc {
            return self.runtime("delete", &["delete", "--force", id]).await;
        }
        // In a PID namespace of its own all has ended with the init.
        if cgroup::processes(paths).is_ok_and(|pids| !pids.is_empty()) {
            cgroup::kill_all(paths).map_err(kill_failed(paths))?;
        }
        self.empty_cgroups(id, paths).await?;
        fs::remove_dir_all(state).map_err(Error::io("remove", state))
    }

    /// The last process to end holds its cgroups for a moment more.
    async fn empty_cgroups(&self, id: &str, paths: &cgroup::Paths) -> Result<()> {
        let deadline = tokio::time::Instant::now() + KILL_GRACE;
        loop {
            launch::remove_cgroup(paths);
            if paths.all().iter().all(|dir| !dir.exists()) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::StillRunning { id: id.to_owned() });
            }
            tokio::time::sleep(CGROUP_PAUSE).await;
        }
    }

    /// Asks the shim to end, which it does when nothing runs under it; kills what runs, if that is allowed.
    async fn end_before_delete(&self, process: ProcessRef<'_>, force: bool) -> Result<()> {
        match self.request(process, wire::SHUTDOWN, &[]).await {
            Err(Error::StillRunning { id }) if !force => return Err(Error::StillRunning { id }),
            Err(Error::StillRunning { .. }) => {}
            Err(Error::ShimGone { .. }) => {
                self.end_without_shim(process).await?;
                return Ok(());
            }
            _ => return Ok(()),
        }
        let id = process.id();
        let paths = self.cgroup(id);
        // The init by name as well: before the runtime has filled the cgroup, that is empty.
        self.signal(process, SIGKILL, false).await.or_else(not_running_is_fine)?;
        cgroup::kill_all(&paths).map_err(kill_failed(&paths))?;
        let ended = tokio::time::timeout(KILL_GRACE, self.wait_end(process)).await;
        ended.map_err(|_| Error::StillRunning { id: id.to_owned() })??;
        Ok(())
    }

    pub(super) async fn read_state(&self, id: &str) -> Result<State> {
        let process = ProcessRef::Container(id);
        self.folders.check(process)?;
        let asked = async {
            let mut connection = Connection::open(&self.folders.of(process), id, wire::STATUS, &[]).await?;
            match connection.reply().await? {
                (wire::STATE, payload) => state_payload(&payload),
                (kind, _) => Err(Error::Protocol(format!("frame of kind {kind:#x} in place of STATE"))),
            }
        };
        let (phase, pid) = match asked.await {
            // wait_end below tells whether it has ended, or was never there.
            Err(Error::ShimGone { .. }) => (wire::Phase::Ended, 0),
            other => other?,
        };
        let status = match phase {
            wire::Phase::Preparing | wire::Phase::Created => Status::Created,
            wire::Phase::Running if cgroup::freezer_frozen(&self.cgroup(id)) => Status::Paused,
            wire::Phase::Running => Status::Running,
            wire::Phase::Ended => {
                let exit = self.wait_end(process).await?;
                return Ok(State { status: Status::Stopped, pid: 0, exit: Some(exit) });
            }
        };
        Ok(State { status, pid, exit: None })
    }

    pub(super) async fn change_limits(&self, id: &str, resources: &Resources) -> Result<()> {
        self.known(id)?;
        let limits = spec::linux_resources(resources, &self.layout)?;
        let text = serde_json::to_vec(&limits).map_err(|error| Error::Protocol(error.to_string()))?;
        let (runtime, root) = (&self.config.runtime, self.folders.runtime_root());
        command::run_with_input(runtime, &root, "update", &["update", "--resources", "-", id], &text).await
    }

    pub(super) async fn find_again(&self, id: &str, state_dir: &Path) -> Result<Adopted> {
        let process = ProcessRef::Container(id);
        self.folders.check(process)?;
        if !self.folders.of(process).exists() {
            let record = fs::read_to_string(state_dir.join(folder::EXIT)).ok();
            let record = record.and_then(|text| Record::decode(&text)).map(client::exit_status);
            return Ok(record.map_or(Adopted::Unknown, Adopted::Exited));
        }
        let mut connection = match Connection::open(&self.folders.of(process), id, wire::STATUS, &[]).await {
            Err(Error::ShimGone { .. }) => return self.end_without_shim(process).await.map(Adopted::Exited),
            other => other?,
        };
        let (kind, payload) = match connection.reply().await {
            Err(Error::ShimGone { .. }) => return self.end_without_shim(process).await.map(Adopted::Exited),
            other => other?,
        };
        if kind != wire::STATE {
            return Err(Error::Protocol(format!("frame of kind {kind:#x} in place of STATE")));
        }
        if state_payload(&payload)?.0 == wire::Phase::Preparing {
            // The daemon died within create: nobody was told that this container exists.
            self.remove_container(id, true).await?;
            return Ok(Adopted::Unknown);
        }
        let state = self.read_state(id).await?;
        info!(container.id = id, container.status = ?state.status, "adopted");
        Ok(match state.exit {
            Some(exit) => Adopted::Exited(exit),
            None => Adopted::Alive { status: state.status, pid: state.pid },
        })
    }

    pub(super) async fn sweep_all(&self, keep: &[String]) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for id in self.folders.containers() {
            if keep.contains(&id) {
                continue;
            }
            match self.remove_container(&id, true).await {
                Ok(()) => removed.push(id),
                Err(error) => warn!(container.id = %id, error = %error, "a leftover container cannot be removed"),
            }
        }
        Ok(removed)
    }
}

fn not_running_is_fine(error: Error) -> Result<()> {
    match error {
        Error::NotRunning { .. } | Error::NotFound { .. } => Ok(()),
        other => Err(other),
    }
}

fn kill_failed(paths: &cgroup::Paths) -> impl FnOnce(std::io::Error) -> Error + use<> {
    Error::io("kill in cgroup", paths.path.clone())
}

fn state_payload(payload: &[u8]) -> Result<(wire::Phase, u32)> {
    let phase = payload.first().copied().and_then(wire::Phase::from_wire);
    phase.zip(wire::u32_at(payload, 1)).ok_or_else(|| Error::Protocol("malformed STATE".into()))
}

fn lost(error: &str) -> Record {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    Record { code: 137, signal: SIGKILL, at_ns, oom_killed: false, error: error.to_owned() }
}

/// Writes an exit record so that it is whole or not there, whatever happens.
fn write_record(path: &Path, record: &Record) -> Result<()> {
    let failed = || Error::io("write", path);
    let part = path.with_extension("tmp");
    let mut file = File::create(&part).map_err(failed())?;
    file.write_all(record.encode().as_bytes()).and_then(|()| file.sync_all()).map_err(failed())?;
    fs::rename(&part, path).map_err(failed())?;
    match path.parent().map(File::open) {
        Some(Ok(folder)) => folder.sync_all().map_err(failed()),
        Some(Err(error)) if error.kind() != ErrorKind::NotFound => Err(failed()(error)),
        _ => Ok(()),
    }
}
