//! A runtime in which some calls panic: what a bug of the engine looks like to the owner of a container.

use async_trait::async_trait;
use muster_runtime::{
    Adopted, AttachOptions, Attachment, CreateSpec, Created, ExecSpec, ExitStatus, ProcessRef, Resources, Result,
    Runtime, State, Stats, TtySize, cgroup,
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};

/// Panics at `pause`, and at `update` once it has killed the container and has seen its end.
pub struct Fragile {
    pub inner: Arc<dyn Runtime>,
    /// The container that cannot be deleted; none: no such.
    pub stuck: Mutex<String>,
}

impl Fragile {
    pub fn new(inner: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self { inner, stuck: Mutex::default() })
    }
}

#[async_trait]
impl Runtime for Fragile {
    fn name(&self) -> (String, String) {
        self.inner.name()
    }
    async fn create(&self, spec: &CreateSpec) -> Result<Created> {
        self.inner.create(spec).await
    }
    async fn start(&self, id: &str) -> Result<()> {
        self.inner.start(id).await
    }
    async fn exec_create(&self, id: &str, exec_id: &str, spec: &ExecSpec) -> Result<()> {
        self.inner.exec_create(id, exec_id, spec).await
    }
    async fn exec_start(&self, id: &str, exec_id: &str) -> Result<u32> {
        self.inner.exec_start(id, exec_id).await
    }
    async fn exec_delete(&self, id: &str, exec_id: &str) -> Result<()> {
        self.inner.exec_delete(id, exec_id).await
    }
    async fn attach(&self, process: ProcessRef<'_>, options: AttachOptions) -> Result<Attachment> {
        self.inner.attach(process, options).await
    }
    async fn close_stdin(&self, process: ProcessRef<'_>) -> Result<()> {
        self.inner.close_stdin(process).await
    }
    async fn resize(&self, process: ProcessRef<'_>, size: TtySize) -> Result<()> {
        self.inner.resize(process, size).await
    }
    async fn kill(&self, process: ProcessRef<'_>, signal: i32, all: bool) -> Result<()> {
        self.inner.kill(process, signal, all).await
    }
    async fn wait(&self, process: ProcessRef<'_>) -> Result<ExitStatus> {
        self.inner.wait(process).await
    }
    async fn pause(&self, _: &str) -> Result<()> {
        panic!("a bug, for this test")
    }
    async fn resume(&self, _: &str) -> Result<()> {
        panic!("never paused")
    }
    async fn delete(&self, id: &str, force: bool) -> Result<()> {
        if *self.stuck.lock().expect("no panic holds it") == id {
            return Err(muster_runtime::Error::Shim { message: "stuck, for this test".to_owned() });
        }
        self.inner.delete(id, force).await
    }
    async fn state(&self, id: &str) -> Result<State> {
        self.inner.state(id).await
    }
    async fn update(&self, id: &str, _: &Resources) -> Result<()> {
        self.inner.kill(ProcessRef::Container(id), libc::SIGKILL, true).await?;
        self.inner.wait(ProcessRef::Container(id)).await?;
        panic!("a bug, for this test, in a container that has ended")
    }
    async fn stats(&self, id: &str) -> Result<Stats> {
        self.inner.stats(id).await
    }
    async fn processes(&self, id: &str) -> Result<Vec<u32>> {
        self.inner.processes(id).await
    }
    async fn reopen_logs(&self, id: &str) -> Result<()> {
        self.inner.reopen_logs(id).await
    }
    async fn adopt(&self, id: &str, state_dir: &Path) -> Result<Adopted> {
        self.inner.adopt(id, state_dir).await
    }
    async fn sweep(&self, keep: &[String]) -> Result<Vec<String>> {
        self.inner.sweep(keep).await
    }
    fn has_traces(&self, id: &str) -> bool {
        self.inner.has_traces(id)
    }
    fn cgroup(&self, id: &str) -> cgroup::Paths {
        self.inner.cgroup(id)
    }
}
