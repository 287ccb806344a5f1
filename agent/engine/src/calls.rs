//! [`muster_calls::Engine`] for [`LocalEngine`]: each call handed to the room that does it.

use crate::{LocalEngine, container::Command, error, signal};
use async_trait::async_trait;
use bytes::Bytes;
use muster_calls::{
    Attach, Attached, Commit, Engine, Error, EventsQuery, ExecStart, Filters, Future, Import, ListContainers, Listed,
    LogStream, Logs, PathStat, Pull, RemoveContainer, Result, StopContainer, Stream, Survey, SurveyQuery,
    WaitCondition,
};
use muster_model::engine::{
    AuthConfig, ContainerConfig, ContainerCreateBody, ContainerCreated, ContainerInspect, ContainerSummary,
    ContainerUpdate, ContainerUpdated, DiskUsage, DistributionInspect, EventMessage, ExecConfig, ExecInspect,
    FilesystemChange, ImageDeleteItem, ImageHistoryItem, ImageInspect, ImageSummary, NetworkConnect, NetworkCreate,
    NetworkCreated, NetworkDisconnect, NetworkResource, ProgressLine, PruneReport, SearchResult, Stats, SystemInfo,
    TopResult, VersionInfo, Volume, VolumeCreate, VolumeList, WaitResult,
};
use muster_runtime::{ProcessRef, TtySize};

/// The signal of a stop or kill; `None`: the container's own.
fn signal_of(text: Option<&str>) -> Result<Option<i32>> {
    text.filter(|t| !t.is_empty()).map(signal::parse).transpose()
}

#[async_trait]
impl Engine for LocalEngine {
    async fn version(&self) -> Result<VersionInfo> {
        Ok(self.shared.version())
    }

    async fn info(&self) -> Result<SystemInfo> {
        Ok(self.shared.info(&self.shared.config.network.dropped().await))
    }

    async fn events(&self, query: EventsQuery) -> Result<Stream<EventMessage>> {
        self.shared.events.query(query)
    }

    async fn disk_usage(&self) -> Result<DiskUsage> {
        self.shared.disk_usage().await
    }

    async fn survey(&self, query: SurveyQuery) -> Result<Survey> {
        Ok(self.shared.survey(&query))
    }

    async fn container_create(
        &self,
        name: Option<String>,
        platform: String,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreated> {
        self.shared.check_platform(&body.config.image, &platform)?;
        let shared = self.shared.clone();
        self.shared.finish(async move { shared.create(name, body, None).await }).await
    }

    async fn container_list(&self, options: ListContainers) -> Result<Listed<ContainerSummary>> {
        Ok(self.shared.list(options).await?.into())
    }

    async fn container_inspect(&self, id: &str, size: bool) -> Result<ContainerInspect> {
        let handle = self.shared.find(id)?;
        self.shared.inspect(&handle, size).await
    }

    async fn container_start(&self, id: &str) -> Result<()> {
        let container = self.shared.find(id)?;
        self.shared.config.runtime.expect_start();
        container.ask(|reply| Command::Start { span: tracing::Span::current(), reply }).await
    }

    async fn container_stop(&self, id: &str, options: StopContainer) -> Result<()> {
        let signal = signal_of(options.signal.as_deref())?;
        self.shared.find(id)?.ask(|reply| Command::Stop { signal, timeout_s: options.timeout_s, reply }).await
    }

    async fn container_restart(&self, id: &str, options: StopContainer) -> Result<()> {
        let signal = signal_of(options.signal.as_deref())?;
        self.shared.find(id)?.ask(|reply| Command::Restart { signal, timeout_s: options.timeout_s, reply }).await
    }

    async fn container_kill(&self, id: &str, signal: Option<String>) -> Result<()> {
        let signal = signal_of(signal.as_deref())?.unwrap_or(libc::SIGKILL);
        self.shared.kill(id, signal).await
    }

    async fn container_pause(&self, id: &str) -> Result<()> {
        self.shared.find(id)?.ask(Command::Pause).await
    }

    async fn container_unpause(&self, id: &str) -> Result<()> {
        self.shared.find(id)?.ask(Command::Unpause).await
    }

    async fn container_rename(&self, id: &str, name: String) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("New name cannot be empty"));
        }
        self.shared.find(id)?.ask(|reply| Command::Rename { name, reply }).await
    }

    async fn container_update(&self, id: &str, update: ContainerUpdate) -> Result<ContainerUpdated> {
        self.shared
            .find(id)?
            .ask(|reply| Command::Update { update: Box::new(update), reply })
            .await
            .map(|warnings| ContainerUpdated { warnings })
    }

    async fn container_remove(&self, id: &str, options: RemoveContainer) -> Result<()> {
        self.shared.find(id)?.ask(|reply| Command::Remove { options, reply }).await
    }

    async fn container_wait(&self, id: &str, condition: WaitCondition) -> Result<Future<Result<WaitResult>>> {
        self.shared.wait(id, condition)
    }

    async fn container_top(&self, id: &str, ps_args: String) -> Result<TopResult> {
        self.shared.top(id, &ps_args).await
    }

    async fn container_stats(&self, id: &str, stream: bool, one_shot: bool) -> Result<Stream<Stats>> {
        self.shared.stats(id, stream, one_shot)
    }

    async fn container_logs(&self, id: &str, options: Logs) -> Result<LogStream> {
        self.shared.logs(id, options).await
    }

    async fn container_attach(&self, id: &str, options: Attach) -> Result<Attached> {
        self.shared.attach(id, options).await
    }

    async fn container_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        let record = self.shared.find(id)?.record();
        if !record.state.is_running() {
            return Err(Error::conflict(format!("container {} is not running", record.id)));
        }
        match self.shared.config.runtime.resize(ProcessRef::Container(&record.id), TtySize { width, height }).await {
            // Clients resize whatever they are attached to.
            Err(muster_runtime::Error::NoTty { .. }) => Ok(()),
            other => other.map_err(error::runtime),
        }
    }

    async fn container_prune(&self, filters: Filters) -> Result<PruneReport> {
        self.shared.prune_containers(&filters).await
    }

    async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String> {
        self.shared.exec_create(container, config)
    }

    async fn exec_start(&self, id: &str, options: ExecStart) -> Result<Attached> {
        let (shared, id) = (self.shared.clone(), id.to_owned());
        self.shared.finish(async move { shared.exec_start(&id, options).await }).await
    }

    async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        self.shared.exec_resize(id, height, width).await
    }

    async fn exec_inspect(&self, id: &str) -> Result<ExecInspect> {
        self.shared.exec_inspect(id)
    }

    async fn container_unlink(&self, name: &str) -> Result<()> {
        let missing = || Error::not_found(format!("No such container: {name}"));
        let (owner, alias) = name.trim_start_matches('/').rsplit_once('/').ok_or_else(missing)?;
        let handle = self.shared.find(owner).map_err(|_| missing())?;
        let alias = alias.to_owned();
        handle.ask(|reply| Command::Unlink { alias, reply }).await
    }

    async fn archive_stat(&self, id: &str, path: String) -> Result<PathStat> {
        self.shared.archive_stat(id, path).await
    }

    async fn archive_get(&self, id: &str, path: String) -> Result<(PathStat, Stream<Bytes>)> {
        self.shared.archive_get(id, path).await
    }

    async fn archive_put(
        &self,
        id: &str,
        path: String,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
        tar: Stream<Bytes>,
    ) -> Result<()> {
        self.shared.archive_put(id, path, no_overwrite_dir_non_dir, copy_uid_gid, tar).await
    }

    async fn container_changes(&self, id: &str) -> Result<Vec<FilesystemChange>> {
        self.shared.container_changes(id).await
    }

    async fn container_export(&self, id: &str) -> Result<Stream<Bytes>> {
        self.shared.container_export(id).await
    }

    async fn commit(&self, commit: Commit, config: Option<ContainerConfig>) -> Result<String> {
        let shared = self.shared.clone();
        self.shared.finish(async move { shared.commit(commit, config).await }).await
    }

    async fn image_list(&self, all: bool, _digests: bool, filters: Filters) -> Result<Listed<ImageSummary>> {
        Ok(self.shared.image_list(all, &filters)?.into())
    }

    async fn image_inspect(&self, name: &str) -> Result<ImageInspect> {
        self.shared.image_inspect(name)
    }

    async fn image_history(&self, name: &str) -> Result<Vec<ImageHistoryItem>> {
        self.shared.image_history(name)
    }

    async fn image_pull(&self, pull: Pull) -> Result<Stream<ProgressLine>> {
        self.shared.image_pull(pull).await
    }

    async fn image_push(
        &self,
        name: &str,
        tag: Option<String>,
        auth: Option<AuthConfig>,
    ) -> Result<Stream<ProgressLine>> {
        self.shared.image_push(name, tag, auth).await
    }

    async fn image_tag(&self, name: &str, repo: String, tag: String) -> Result<()> {
        self.shared.image_tag(name, &repo, &tag).await
    }

    async fn image_untag(&self, name: &str) -> Result<()> {
        self.shared.image_untag(name).await
    }

    async fn image_remove(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<ImageDeleteItem>> {
        self.shared.image_remove(name, force, no_prune).await
    }

    async fn image_save(&self, names: Vec<String>) -> Result<Stream<Bytes>> {
        self.shared.image_save(names).await
    }

    async fn image_load(&self, tar: Stream<Bytes>, quiet: bool, platform: String) -> Result<Stream<ProgressLine>> {
        self.shared.image_load(tar, quiet, &platform).await
    }

    async fn image_import(&self, tar: Stream<Bytes>, import: Import) -> Result<Stream<ProgressLine>> {
        self.shared.image_import(tar, import).await
    }

    async fn distribution(&self, reference: String, auth: Option<AuthConfig>) -> Result<DistributionInspect> {
        self.shared.distribution(&reference, auth).await
    }

    async fn image_search(
        &self,
        term: String,
        limit: u32,
        filters: Filters,
        auth: Option<AuthConfig>,
    ) -> Result<Vec<SearchResult>> {
        self.shared.image_search(&term, limit, &filters, auth).await
    }

    async fn auth(&self, auth: AuthConfig) -> Result<String> {
        self.shared.login(auth).await
    }

    async fn image_prune(&self, filters: Filters) -> Result<PruneReport> {
        self.shared.image_prune(&filters).await
    }

    async fn volume_create(&self, volume: VolumeCreate) -> Result<Volume> {
        let shared = self.shared.clone();
        self.shared.finish(async move { shared.volumes.create(volume, &shared.events).await }).await
    }

    async fn volume_list(&self, filters: Filters) -> Result<VolumeList> {
        self.shared.volumes.list(&filters).await
    }

    async fn volume_inspect(&self, name: &str) -> Result<Volume> {
        self.shared.volumes.inspect(name).await
    }

    async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let (shared, owned) = (self.shared.clone(), name.to_owned());
        let driver = shared.volumes.driver_of(name);
        self.shared.finish(async move { shared.volumes.remove(&owned, force).await }).await?;
        self.shared.events.publish("volume", "destroy", name, [("driver".to_owned(), driver)].into());
        Ok(())
    }

    async fn volume_prune(&self, filters: Filters) -> Result<PruneReport> {
        let shared = self.shared.clone();
        let report = self.shared.finish(async move { shared.volumes.prune(&filters).await }).await?;
        let attributes = [("reclaimed".to_owned(), report.space_reclaimed.to_string())].into();
        self.shared.events.publish("volume", "prune", "", attributes);
        Ok(report)
    }

    async fn network_create(&self, network: NetworkCreate) -> Result<NetworkCreated> {
        let shared = self.shared.clone();
        self.shared.finish(async move { shared.network_create(network).await }).await
    }

    async fn network_list(&self, filters: Filters) -> Result<Listed<NetworkResource>> {
        Ok(self.shared.network_list(&filters)?.into())
    }

    async fn network_inspect(&self, name: &str) -> Result<NetworkResource> {
        self.shared.network_inspect(name)
    }

    async fn network_remove(&self, name: &str) -> Result<()> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.shared.finish(async move { shared.network_remove(&name).await }).await
    }

    async fn network_connect(&self, name: &str, connect: NetworkConnect) -> Result<()> {
        self.shared.network_connect(name, connect).await
    }

    async fn network_disconnect(&self, name: &str, disconnect: NetworkDisconnect) -> Result<()> {
        self.shared.network_disconnect(name, disconnect).await
    }

    async fn network_prune(&self, filters: Filters) -> Result<PruneReport> {
        let shared = self.shared.clone();
        self.shared.finish(async move { shared.network_prune(&filters).await }).await
    }
}
