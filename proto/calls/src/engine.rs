//! Docker Engine semantics: containers, images, volumes, networks of one host, or of all as if they were one.

use crate::{
    Attach, Attached, Commit, Error, EventsQuery, ExecStart, Filters, Future, Import, ListContainers, Listed,
    LogStream, Logs, PathStat, Pull, RemoveContainer, Result, StopContainer, Stream, Survey, SurveyQuery,
    WaitCondition,
};
use async_trait::async_trait;
use bytes::Bytes;
use muster_model::engine::{
    AuthConfig, ContainerCreateBody, ContainerCreated, ContainerInspect, ContainerSummary, ContainerUpdate,
    ContainerUpdated, DiskUsage, DistributionInspect, EventMessage, ExecConfig, ExecInspect, FilesystemChange,
    ImageDeleteItem, ImageHistoryItem, ImageInspect, ImageSummary, NetworkConnect, NetworkCreate, NetworkCreated,
    NetworkDisconnect, NetworkResource, ProgressLine, PruneReport, SearchResult, Stats, SystemInfo, TopResult,
    VersionInfo, Volume, VolumeCreate, VolumeList, WaitResult,
};

macro_rules! refuse {
    ($what:literal) => {
        Err(Error::unimplemented($what))
    };
}

/// The calls of an engine. Names of objects may be names, full ids or unambiguous id prefixes, as in Docker.
///
/// Every call may answer `Unavailable` when the engine is elsewhere and cannot be reached.
#[async_trait]
#[allow(unused_variables, reason = "defaults refuse without looking at their arguments")]
pub trait Engine: Send + Sync + 'static {
    // --- system ---
    async fn version(&self) -> Result<VersionInfo>;
    async fn info(&self) -> Result<SystemInfo>;
    /// Events from `since` on out of a bounded ring, then live ones until `until`.
    async fn events(&self, query: EventsQuery) -> Result<Stream<EventMessage>> {
        refuse!("events")
    }
    async fn disk_usage(&self) -> Result<DiskUsage> {
        refuse!("system df")
    }
    /// Checks credentials against their registry; answers an identity token or an empty text.
    async fn auth(&self, auth: AuthConfig) -> Result<String> {
        refuse!("login")
    }

    /// Which of these things this engine has, and what its containers hold: asked of every node before one is chosen.
    async fn survey(&self, query: SurveyQuery) -> Result<Survey> {
        refuse!("survey of a node")
    }

    // --- containers ---
    async fn container_create(
        &self,
        name: Option<String>,
        platform: String,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreated>;
    async fn container_list(&self, options: ListContainers) -> Result<Listed<ContainerSummary>>;
    async fn container_inspect(&self, id: &str, size: bool) -> Result<ContainerInspect>;
    /// `NotModified` when it runs already.
    async fn container_start(&self, id: &str) -> Result<()>;
    /// `NotModified` when it does not run.
    async fn container_stop(&self, id: &str, options: StopContainer) -> Result<()>;
    async fn container_restart(&self, id: &str, options: StopContainer) -> Result<()>;
    async fn container_kill(&self, id: &str, signal: Option<String>) -> Result<()>;
    async fn container_pause(&self, id: &str) -> Result<()> {
        refuse!("pause")
    }
    async fn container_unpause(&self, id: &str) -> Result<()> {
        refuse!("unpause")
    }
    async fn container_rename(&self, id: &str, name: String) -> Result<()> {
        refuse!("rename")
    }
    async fn container_update(&self, id: &str, update: ContainerUpdate) -> Result<ContainerUpdated> {
        refuse!("update")
    }
    async fn container_remove(&self, id: &str, options: RemoveContainer) -> Result<()>;
    /// Removes a link: `OWNER/ALIAS`, what one container calls another.
    async fn container_unlink(&self, name: &str) -> Result<()> {
        refuse!("removing a link between containers")
    }
    /// Registers the wait before it answers; the future resolves when the condition is met.
    async fn container_wait(&self, id: &str, condition: WaitCondition) -> Result<Future<Result<WaitResult>>>;
    async fn container_top(&self, id: &str, ps_args: String) -> Result<TopResult> {
        refuse!("top")
    }
    /// `stream`: one sample a second until dropped. Else one: with the one before it filled in unless `one_shot`.
    async fn container_stats(&self, id: &str, stream: bool, one_shot: bool) -> Result<Stream<Stats>> {
        refuse!("stats")
    }
    async fn container_logs(&self, id: &str, options: Logs) -> Result<LogStream>;
    async fn container_attach(&self, id: &str, options: Attach) -> Result<Attached>;
    async fn container_resize(&self, id: &str, height: u16, width: u16) -> Result<()>;
    async fn container_prune(&self, filters: Filters) -> Result<PruneReport> {
        refuse!("container prune")
    }

    async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String>;
    /// With `detach` the answer's output ends at once.
    async fn exec_start(&self, id: &str, options: ExecStart) -> Result<Attached>;
    async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()>;
    async fn exec_inspect(&self, id: &str) -> Result<ExecInspect>;

    // --- files of a container ---
    async fn archive_stat(&self, id: &str, path: String) -> Result<PathStat> {
        refuse!("cp")
    }
    /// A tar of `path`, its last element the top entry.
    async fn archive_get(&self, id: &str, path: String) -> Result<(PathStat, Stream<Bytes>)> {
        refuse!("cp")
    }
    /// Unpacks a tar into the directory `path`.
    async fn archive_put(
        &self,
        id: &str,
        path: String,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
        tar: Stream<Bytes>,
    ) -> Result<()> {
        refuse!("cp")
    }
    async fn container_changes(&self, id: &str) -> Result<Vec<FilesystemChange>> {
        refuse!("diff")
    }
    async fn container_export(&self, id: &str) -> Result<Stream<Bytes>> {
        refuse!("export")
    }
    /// Answers the new image's id.
    async fn commit(&self, commit: Commit, config: Option<muster_model::engine::ContainerConfig>) -> Result<String> {
        refuse!("commit")
    }

    // --- images ---
    /// Lists come with what images share counted, and with their manifests: a face shows what it is asked for.
    async fn image_list(&self, all: bool, digests: bool, filters: Filters) -> Result<Listed<ImageSummary>>;
    async fn image_inspect(&self, name: &str) -> Result<ImageInspect>;
    async fn image_history(&self, name: &str) -> Result<Vec<ImageHistoryItem>> {
        refuse!("history")
    }
    /// An error before the first line is the call's; one after it is the stream's last item.
    async fn image_pull(&self, pull: Pull) -> Result<Stream<ProgressLine>>;
    /// With no tag, neither in `tag` nor in `name`: all tags of the repository that are here.
    async fn image_push(
        &self,
        name: &str,
        tag: Option<String>,
        auth: Option<AuthConfig>,
    ) -> Result<Stream<ProgressLine>> {
        refuse!("push")
    }
    /// Takes a name off its image, which stays, whoever uses it: asked of other nodes when the name was given to another
    /// image.
    async fn image_untag(&self, name: &str) -> Result<()> {
        refuse!("untag")
    }
    async fn image_tag(&self, name: &str, repo: String, tag: String) -> Result<()> {
        refuse!("tag")
    }
    async fn image_remove(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<ImageDeleteItem>>;
    async fn image_save(&self, names: Vec<String>) -> Result<Stream<Bytes>> {
        refuse!("save")
    }
    /// `platform`: which one of a multi-platform image; empty for this host's.
    async fn image_load(&self, tar: Stream<Bytes>, quiet: bool, platform: String) -> Result<Stream<ProgressLine>>;
    /// `docker import`: a root file system becomes an image of one layer.
    async fn image_import(&self, tar: Stream<Bytes>, import: Import) -> Result<Stream<ProgressLine>> {
        refuse!("import")
    }
    async fn image_prune(&self, filters: Filters) -> Result<PruneReport> {
        refuse!("image prune")
    }
    /// What the registry has under that name, without fetching it.
    async fn distribution(&self, reference: String, auth: Option<AuthConfig>) -> Result<DistributionInspect> {
        refuse!("distribution inspect")
    }
    /// `term`: `[host/]words`. At most `limit` results.
    async fn image_search(
        &self,
        term: String,
        limit: u32,
        filters: Filters,
        auth: Option<AuthConfig>,
    ) -> Result<Vec<SearchResult>> {
        refuse!("searching the registry")
    }

    // --- volumes ---
    async fn volume_create(&self, volume: VolumeCreate) -> Result<Volume> {
        refuse!("volume create")
    }
    async fn volume_list(&self, filters: Filters) -> Result<VolumeList> {
        refuse!("volume ls")
    }
    async fn volume_inspect(&self, name: &str) -> Result<Volume> {
        refuse!("volume inspect")
    }
    async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        refuse!("volume rm")
    }
    async fn volume_prune(&self, filters: Filters) -> Result<PruneReport> {
        refuse!("volume prune")
    }

    // --- networks of this host ---
    async fn network_create(&self, network: NetworkCreate) -> Result<NetworkCreated> {
        refuse!("network create")
    }
    async fn network_list(&self, filters: Filters) -> Result<Listed<NetworkResource>>;
    async fn network_inspect(&self, name: &str) -> Result<NetworkResource>;
    async fn network_remove(&self, name: &str) -> Result<()> {
        refuse!("network rm")
    }
    async fn network_connect(&self, name: &str, connect: NetworkConnect) -> Result<()> {
        refuse!("network connect")
    }
    async fn network_disconnect(&self, name: &str, disconnect: NetworkDisconnect) -> Result<()> {
        refuse!("network disconnect")
    }
    async fn network_prune(&self, filters: Filters) -> Result<PruneReport> {
        refuse!("network prune")
    }
}
