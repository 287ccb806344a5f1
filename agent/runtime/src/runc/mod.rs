//! [`RuncRuntime`]: containers through an OCI runtime binary and one shim each.
//!
//! Folders under [`RuncConfig::run_dir`] (tmpfs; gone after a reboot, as the containers are):
//!
//! ```text
//! rt/                 the runtime's own state (`runc --root`)
//! c/ID/s              socket of the container's shim (protocol: muster_shim::wire)
//! c/ID/state          path of the container's durable folder
//! c/ID/cgroup         its cgroupsPath
//! c/ID/pid  rt.log  shim.log
//! c/ID/x/EXEC/        the same of an exec, and its exit record
//! ```
//!
//! The only processes of ours are the shims. Create, exec, update and pause run the runtime binary once; start, kill, resize,
//! wait, state, stats, processes and (of runc) delete run none.

mod client;
mod command;
mod folder;
mod launch;
mod lifecycle;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::attach::{AttachOptions, Attachment};
use crate::cgroup;
use crate::error::{Error, Result};
use crate::{
    Adopted, CreateSpec, Created, ExecSpec, ExitStatus, ProcessRef, Resources, Runtime, State, Stats, TtySize,
};

pub(crate) use client::exit_from_wire;
use folder::Folders;

/// Where things are. Every path may be long: sockets are reached through their folder's descriptor.
#[derive(Debug, Clone)]
pub struct RuncConfig {
    /// The OCI runtime binary: a path, or a name looked up in PATH.
    pub runtime: PathBuf,
    /// The `muster-shim` binary.
    pub shim: PathBuf,
    /// Folder of ours for sockets and runtime state, on tmpfs; made if missing, with mode 0700.
    pub run_dir: PathBuf,
    /// Parent of containers' cgroups in every hierarchy, absolute, as `/muster/host1`. Shims live in `PARENT/shim`.
    pub cgroup_parent: String,
    /// After how many milliseconds without progress an attached client that does not read is cut off.
    pub stall_ms: u32,
}

impl RuncConfig {
    /// The defaults: `runc`, ten seconds of stall.
    pub fn new(shim: impl Into<PathBuf>, run_dir: impl Into<PathBuf>, cgroup_parent: impl Into<String>) -> Self {
        RuncConfig {
            runtime: PathBuf::from("runc"),
            shim: shim.into(),
            run_dir: run_dir.into(),
            cgroup_parent: cgroup_parent.into(),
            stall_ms: 10_000,
        }
    }
}

/// Containers through an OCI runtime binary.
#[derive(Debug)]
pub struct RuncRuntime {
    config: RuncConfig,
    folders: Folders,
    layout: cgroup::Layout,
    /// `cgroup.procs` files that a new shim writes itself into.
    shim_cgroups: Vec<PathBuf>,
    migration: cgroup::Migration,
    version: String,
    /// The binary is runc itself: what it leaves of a container is known.
    is_runc: bool,
}

impl RuncRuntime {
    /// Checks the runtime binary and the shim, makes the run folder and the shims' cgroup.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the runtime binary cannot be run; [`Error::Io`] for the rest; [`Error::Unsupported`] when
    /// `cgroup_parent` is not an absolute path of plain components.
    pub async fn new(mut config: RuncConfig) -> Result<Self> {
        launch::check_parent(&config.cgroup_parent)?;
        config.runtime = command::locate(&config.runtime)?;
        config.shim = config.shim.canonicalize().map_err(Error::io("find the shim", &config.shim))?;
        let folders = Folders::make(&config.run_dir)?;
        let layout = cgroup::Layout::detect().map_err(Error::io("read", "/proc/self/mountinfo"))?;
        let shim_cgroups = launch::make_shim_cgroups(&layout, &config.cgroup_parent)?;
        let (program, version) = command::version(&config.runtime).await?;
        let migration = cgroup::Migration::new(&layout);
        Ok(RuncRuntime { config, folders, layout, shim_cgroups, migration, version, is_runc: program == "runc" })
    }

    /// The machine's cgroup layout.
    pub fn layout(&self) -> &cgroup::Layout {
        &self.layout
    }

    /// Removes the cgroups that [`RuncRuntime::new`] made, once all containers are deleted and all shims have ended: for those
    /// who take a host down for good. Directories that are in use stay.
    pub fn remove_cgroups(&self) {
        for path in ["/shim", ""].map(|leaf| format!("{}{leaf}", self.config.cgroup_parent)) {
            launch::remove_cgroup(&self.layout.paths(&path));
        }
    }
}

#[async_trait]
impl Runtime for RuncRuntime {
    fn expect_start(&self) {
        self.migration.expect();
    }

    fn name(&self) -> (String, String) {
        let name = self.config.runtime.file_name().map(|name| name.to_string_lossy().into_owned());
        (name.unwrap_or_default(), self.version.clone())
    }

    async fn create(&self, spec: &CreateSpec) -> Result<Created> {
        self.create_container(spec).await
    }

    async fn start(&self, id: &str) -> Result<()> {
        self.folders.check(ProcessRef::Container(id))?;
        self.request(ProcessRef::Container(id), muster_shim::wire::START, &[]).await.map(|_| ())
    }

    async fn exec_create(&self, id: &str, exec_id: &str, spec: &ExecSpec) -> Result<()> {
        self.prepare_exec(id, exec_id, spec).await
    }

    async fn exec_start(&self, id: &str, exec_id: &str) -> Result<u32> {
        self.run_exec(id, exec_id).await
    }

    async fn exec_delete(&self, id: &str, exec_id: &str) -> Result<()> {
        self.remove_exec(id, exec_id).await
    }

    async fn attach(&self, process: ProcessRef<'_>, options: AttachOptions) -> Result<Attachment> {
        self.folders.check(process)?;
        client::attach(&self.folders.of(process), process.id(), options).await
    }

    async fn close_stdin(&self, process: ProcessRef<'_>) -> Result<()> {
        self.request(process, muster_shim::wire::CLOSE_STDIN, &[]).await.map(|_| ())
    }

    async fn resize(&self, process: ProcessRef<'_>, size: TtySize) -> Result<()> {
        let payload = [size.width.to_le_bytes(), size.height.to_le_bytes()].concat();
        self.request(process, muster_shim::wire::RESIZE, &payload).await.map(|_| ())
    }

    async fn kill(&self, process: ProcessRef<'_>, signal: i32, all: bool) -> Result<()> {
        self.signal(process, signal, all).await
    }

    async fn wait(&self, process: ProcessRef<'_>) -> Result<ExitStatus> {
        self.wait_end(process).await
    }

    async fn pause(&self, id: &str) -> Result<()> {
        self.known(id)?;
        self.runtime("pause", &["pause", id]).await
    }

    async fn resume(&self, id: &str) -> Result<()> {
        self.known(id)?;
        self.runtime("resume", &["resume", id]).await
    }

    async fn delete(&self, id: &str, force: bool) -> Result<()> {
        self.remove_container(id, force).await
    }

    async fn state(&self, id: &str) -> Result<State> {
        self.read_state(id).await
    }

    async fn update(&self, id: &str, resources: &Resources) -> Result<()> {
        self.change_limits(id, resources).await
    }

    async fn stats(&self, id: &str) -> Result<Stats> {
        self.folders.check(ProcessRef::Container(id))?;
        let paths = self.cgroup(id);
        let read = cgroup::read_stats(&paths);
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::NotRunning { id: id.to_owned() },
            _ => Error::io("read cgroup", paths.path)(error),
        })
    }

    async fn processes(&self, id: &str) -> Result<Vec<u32>> {
        self.folders.check(ProcessRef::Container(id))?;
        let paths = self.cgroup(id);
        cgroup::processes(&paths).map_err(Error::io("read cgroup", paths.path))
    }

    async fn reopen_logs(&self, id: &str) -> Result<()> {
        self.request(ProcessRef::Container(id), muster_shim::wire::REOPEN_LOG, &[]).await.map(|_| ())
    }

    async fn adopt(&self, id: &str, state_dir: &Path) -> Result<Adopted> {
        self.find_again(id, state_dir).await
    }

    fn has_traces(&self, id: &str) -> bool {
        // An id that is no plain file name is adopt's to refuse.
        let process = ProcessRef::Container(id);
        self.folders.check(process).is_err() || self.folders.of(process).exists()
    }

    async fn sweep(&self, keep: &[String]) -> Result<Vec<String>> {
        self.sweep_all(keep).await
    }

    fn cgroup(&self, id: &str) -> cgroup::Paths {
        let path = self.folders.read_note(id, folder::CGROUP);
        self.layout.paths(&path.unwrap_or_else(|| format!("{}/{id}", self.config.cgroup_parent)))
    }
}
