//! A runtime in which some calls panic: what a bug of the engine looks like to the owner of a container.

use async_trait::async_trait;
use muster_runtime::{
    Adopted, AttachOptions, Attachment, CreateSpec, Created, ExecSpec, ExitStatus, ProcessRef, Resources, Result,
    Runtime, State, Stats, TtySize, cgroup,
};
use std::{path::Path, sync::Arc};

/// Panics at `pause`, and at `update` once it has killed the container and has seen its end.
pub struct Fragile(pub Arc<dyn Runtime>);

#[async_trait]
impl Runtime for Fragile {
    fn name(&self) -> (String, String) {
        self.0.name()
    }
    async fn create(&self, spec: &CreateSpec) -> Result<Created> {
        self.0.create(spec).await
    }
    async fn start(&self, id: &str) -> Result<()> {
        self.0.start(id).await
    }
    async fn exec_create(&self, id: &str, exec_id: &str, spec: &ExecSpec) -> Result<()> {
        self.0.exec_create(id, exec_id, spec).await
    }
    async fn exec_start(&self, id: &str, exec_id: &str) -> Result<u32> {
        self.0.exec_start(id, exec_id).await
    }
    async fn exec_delete(&self, id: &str, exec_id: &str) -> Result<()> {
        self.0.exec_delete(id, exec_id).await
    }
    async fn attach(&self, process: ProcessRef<'_>, options: AttachOptions) -> Result<Attachment> {
        self.0.attach(process, options).await
    }
    async fn close_stdin(&self, process: ProcessRef<'_>) -> Result<()> {
        self.0.close_stdin(process).await
    }
    async fn resize(&self, process: ProcessRef<'_>, size: TtySize) -> Result<()> {
        self.0.resize(process, size).await
    }
    async fn kill(&self, process: ProcessRef<'_>, signal: i32, all: bool) -> Result<()> {
        self.0.kill(process, signal, all).await
    }
    async fn wait(&self, process: ProcessRef<'_>) -> Result<ExitStatus> {
        self.0.wait(process).await
    }
    async fn pause(&self, _: &str) -> Result<()> {
        panic!("a bug, for this test")
    }
    async fn resume(&self, _: &str) -> Result<()> {
        panic!("never paused")
    }
    async fn delete(&self, id: &str, force: bool) -> Result<()> {
        self.0.delete(id, force).await
    }
    async fn state(&self, id: &str) -> Result<State> {
        self.0.state(id).await
    }
    async fn update(&self, id: &str, _: &Resources) -> Result<()> {
        self.0.kill(ProcessRef::Container(id), libc::SIGKILL, true).await?;
        self.0.wait(ProcessRef::Container(id)).await?;
        panic!("a bug, for this test, in a container that has ended")
    }
    async fn stats(&self, id: &str) -> Result<Stats> {
        self.0.stats(id).await
    }
    async fn processes(&self, id: &str) -> Result<Vec<u32>> {
        self.0.processes(id).await
    }
    async fn reopen_logs(&self, id: &str) -> Result<()> {
        self.0.reopen_logs(id).await
    }
    async fn adopt(&self, id: &str, state_dir: &Path) -> Result<Adopted> {
        self.0.adopt(id, state_dir).await
    }
    async fn sweep(&self, keep: &[String]) -> Result<Vec<String>> {
        self.0.sweep(keep).await
    }
    fn has_traces(&self, id: &str) -> bool {
        self.inner.has_traces(id)
    }
    fn cgroup(&self, id: &str) -> cgroup::Paths {
        self.0.cgroup(id)
    }
}
