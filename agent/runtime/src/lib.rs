//! Running containers: the [`Runtime`] trait, its implementation over an OCI runtime binary, and a fake for tests.
//!
//! What the room is for: turning a request ([`spec::SpecInput`]) into an OCI `config.json`, starting one shim per
//! container (`muster-shim`, see its crate head), talking to those shims, reading cgroups ([`cgroup`]) and log files
//! ([`logs`]). What it never does: keep records of containers (the engine does), unpack images, program networks.
//!
//! A container's life, as the engine drives it:
//!
//! 1. [`spec::build`] makes the OCI spec; [`Runtime::create`] starts the shim, which runs `runc create` and answers with
//!    the pid of the container's init (its namespaces exist now: the network can be wired).
//! 2. [`Runtime::attach`], any number of times, before or after [`Runtime::start`]; [`Runtime::wait`] once per container.
//! 3. [`Runtime::exec_create`], [`Runtime::attach`] to the exec, [`Runtime::exec_start`], [`Runtime::wait`].
//! 4. [`Runtime::delete`] removes what is left of it in the kernel and in the run folder; the exit record
//!    (`exit` in the container's durable folder) and the log files stay, the engine removes them.
//!
//! After a restart of the daemon the engine calls [`Runtime::adopt`] for each container that it has a record of, then
//! [`Runtime::sweep`] with those that it knows, which ends what a crash half-way left behind.
//!
//! Read first: [`Runtime`], [`CreateSpec`], [`ProcessRef`], then [`runc::RuncRuntime`].

pub mod attach;
pub mod cgroup;
mod container;
mod error;
pub mod fake;
pub mod logs;
mod resources;
pub mod runc;
pub mod spec;
pub mod stats;

pub use attach::{AttachOptions, Attachment, Input, Output, OutputStream};
pub use container::{
    Adopted, CreateSpec, Created, ExecSpec, ExitStatus, LogConfig, LogDriver, ProcessRef, State, Status, Stdio, TtySize,
};
pub use error::{Error, Result};
pub use fake::FakeRuntime;
pub use resources::{BlkioRate, BlkioWeight, Resources};
pub use runc::{RuncConfig, RuncRuntime};
pub use stats::Stats;

use std::path::Path;

use async_trait::async_trait;

/// What runs containers. Object safe: the engine holds an `Arc<dyn Runtime>`.
///
/// Ids are the engine's (letters, digits, `_`, `.`, `-`, at most 128 bytes); anything else is
/// [`Error::BadId`]. Every method may be called from any task, concurrently for different containers; calls for the same
/// container are ordered by the caller. Dropping a returned future half-way leaves nothing that [`Runtime::delete`] with
/// `force` or [`Runtime::sweep`] does not clean up.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version as shown by `docker info`, for instance `("runc", "1.1.5")`.
    fn name(&self) -> (String, String);

    /// A container or an exec will be started soon: whatever can be made ready for any of them is, in the background. Costs
    /// next to nothing, promises nothing, and need not be followed by a start.
    fn expect_start(&self) {}

    /// Creates the container up to the point where its init waits for [`Runtime::start`]: namespaces, mounts and cgroup
    /// exist, the user's command does not run yet. Writes `config.json` into `spec.bundle`.
    ///
    /// # Errors
    /// [`Error::CommandNotFound`] and [`Error::CommandNotExecutable`] (exit codes 127 and 126 of Docker),
    /// [`Error::Runtime`] with the runtime's own words, [`Error::AlreadyExists`]. After an error nothing is left behind.
    async fn create(&self, spec: &CreateSpec) -> Result<Created>;

    /// Lets the user's command of a created container run.
    async fn start(&self, id: &str) -> Result<()>;

    /// Prepares an exec; nothing runs in the container yet, so that a client can attach first and lose no output.
    /// `exec_id` must be new for this container.
    async fn exec_create(&self, id: &str, exec_id: &str, spec: &ExecSpec) -> Result<()>;

    /// Runs a prepared exec and answers with the pid (in the host's pid namespace) of its process.
    ///
    /// # Errors
    /// As [`Runtime::create`] for the command. After an error the exec is gone.
    async fn exec_start(&self, id: &str, exec_id: &str) -> Result<u32>;

    /// Forgets an exec: ends one that was prepared and never started, kills one that runs, removes its run folder. To be
    /// called for every exec once its exit code has been taken; [`Runtime::delete`] does it for those that are left.
    async fn exec_delete(&self, id: &str, exec_id: &str) -> Result<()>;

    /// Connects to the output and, if asked for, the input of a container's init or of an exec.
    async fn attach(&self, process: ProcessRef<'_>, options: AttachOptions) -> Result<Attachment>;

    /// Closes the standard input of the process once what was written before has been taken. No effect with a tty.
    async fn close_stdin(&self, process: ProcessRef<'_>) -> Result<()>;

    /// Sets the size of the process's terminal.
    ///
    /// # Errors
    /// [`Error::NoTty`] when it has none.
    async fn resize(&self, process: ProcessRef<'_>, size: TtySize) -> Result<()>;

    /// Sends a signal (number of this machine's kernel) to the process. With `all`, to every process of the container
    /// (only for [`ProcessRef::Container`]). SIGKILL also ends a paused container.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when it has ended.
    async fn kill(&self, process: ProcessRef<'_>, signal: i32, all: bool) -> Result<()>;

    /// Waits until the process has ended, its output is in the log file and its exit is recorded on disk. Answers at once
    /// for one that has ended before. May be called any number of times and be cancelled.
    ///
    /// When the shim itself has died, the container is killed and the answer is code 137 with an
    /// [`ExitStatus::error`] that says so.
    async fn wait(&self, process: ProcessRef<'_>) -> Result<ExitStatus>;

    /// Freezes every process of the container.
    async fn pause(&self, id: &str) -> Result<()>;

    /// Thaws a paused container.
    async fn resume(&self, id: &str) -> Result<()>;

    /// Removes the container from the kernel and from the run folder: cgroup, runtime state, sockets, shim. Its exit record
    /// and log files stay. With `force` a running container is killed first; without, it is
    /// [`Error::StillRunning`]. Deleting what is not there is no error.
    async fn delete(&self, id: &str, force: bool) -> Result<()>;

    /// What the container is doing now.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the runtime has nothing of that id (deleted, never created, or the machine was rebooted).
    async fn state(&self, id: &str) -> Result<State>;

    /// Changes the limits of a created or running container; fields that are `None` stay as they are.
    async fn update(&self, id: &str, resources: &Resources) -> Result<()>;

    /// One reading of the container's cgroup counters.
    async fn stats(&self, id: &str) -> Result<Stats>;

    /// Pids (in the host's pid namespace) of all processes in the container's cgroup, in no particular order.
    async fn processes(&self, id: &str) -> Result<Vec<u32>>;

    /// Makes the shim open its log file anew by name, after something else moved or removed it.
    async fn reopen_logs(&self, id: &str) -> Result<()>;

    /// Finds a container again after a restart of the daemon. `state_dir` is the durable folder given to
    /// [`Runtime::create`]. What has lost its shim is killed and reported as [`Adopted::Exited`] with an error text.
    async fn adopt(&self, id: &str, state_dir: &Path) -> Result<Adopted>;

    /// Whether there is anything of the container in the run folder: where not, [`Runtime::adopt`] can only tell how it ended,
    /// which the owner of a container that was seen to end knows. Costs next to nothing.
    fn has_traces(&self, id: &str) -> bool;

    /// Deletes by force every container, exec and leftover in the run folder whose id is not in `keep`; answers with the
    /// ids that were removed.
    async fn sweep(&self, keep: &[String]) -> Result<Vec<String>>;

    /// Where the container's cgroup is, for those who attach eBPF programs to it or to its parent.
    fn cgroup(&self, id: &str) -> cgroup::Paths;
}
