//! The trait [`muster_calls::Engine`] over gRPC, both directions.

use crate::{CALLER_KEY, MAX_MESSAGE_BYTES, from_status, stream::*, to_status, v1};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use muster_calls::*;
use muster_model::engine::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{Request, Response, Status, Streaming, transport::Channel};

/// Whose engine a call is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The node that takes the call.
    #[default]
    Here,
    /// The node of this id, hostname or id prefix.
    Node(String),
    /// All nodes as one engine.
    Cluster,
}

impl From<Target> for v1::Target {
    fn from(t: Target) -> Self {
        let of = match t {
            Target::Here => None,
            Target::Node(n) => Some(v1::target::Of::Node(n)),
            Target::Cluster => Some(v1::target::Of::Cluster(true)),
        };
        Self { of }
    }
}

impl From<Option<v1::Target>> for Target {
    fn from(t: Option<v1::Target>) -> Self {
        match t.and_then(|t| t.of) {
            Some(v1::target::Of::Node(n)) if !n.is_empty() => Self::Node(n),
            Some(v1::target::Of::Cluster(true)) => Self::Cluster,
            _ => Self::Here,
        }
    }
}

/// Finds the engine that a call is for and checks that its caller may ask.
#[async_trait]
pub trait Engines: Send + Sync + 'static {
    /// `extensions` hold what the connection proved of the caller, `metadata` what it claims.
    async fn engine(
        &self,
        target: Target,
        extensions: &tonic::Extensions,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<Arc<dyn Engine>>;
}

/// An engine behind a channel.
#[derive(Clone)]
pub struct RemoteEngine {
    client: v1::engine_client::EngineClient<Channel>,
    target: Target,
    caller: Option<String>,
}

impl RemoteEngine {
    pub fn new(channel: Channel, target: Target) -> Self {
        let client = v1::engine_client::EngineClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, target, caller: None }
    }

    /// Every call says that it is made for this caller.
    pub fn on_behalf_of(mut self, caller: Option<String>) -> Self {
        self.caller = caller;
        self
    }

    fn message<A: Serialize>(&self, name: &str, arguments: A) -> Result<v1::EngineRequest> {
        Ok(v1::EngineRequest {
            target: Some(self.target.clone().into()),
            name: name.to_owned(),
            arguments: encode(&arguments)?,
        })
    }

    fn wrap<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        muster_telemetry::inject(|k, v| insert(&mut request, k, v));
        if let Some(caller) = &self.caller {
            insert(&mut request, CALLER_KEY, caller);
        }
        request
    }

    fn request<A: Serialize>(&self, name: &str, arguments: A) -> Result<Request<v1::EngineRequest>> {
        Ok(self.wrap(self.message(name, arguments)?))
    }

    /// The request that opens an attached process, and where its input goes.
    fn attach_request<A: Serialize>(
        &self,
        name: &str,
        arguments: A,
    ) -> Result<(Request<Inbound>, tokio::sync::mpsc::Sender<Input>)> {
        let (input, rx) = tokio::sync::mpsc::channel(INPUT_DEPTH);
        let open = v1::AttachInput { of: Some(v1::attach_input::Of::Open(self.message(name, arguments)?)) };
        let inbound = Inbound { open: Some(open), rx };
        Ok((self.wrap(inbound), input))
    }
}

/// What a client sends into an attached process: the opening message, then whatever its user gives.
struct Inbound {
    open: Option<v1::AttachInput>,
    rx: tokio::sync::mpsc::Receiver<Input>,
}

impl futures_core::Stream for Inbound {
    type Item = v1::AttachInput;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.open.take() {
            Some(open) => Poll::Ready(Some(open)),
            None => self.rx.poll_recv(cx).map(|input| input.map(attach_input)),
        }
    }
}

async fn attached(
    replies: Result<Response<Streaming<v1::AttachOutput>>, Status>,
    input: tokio::sync::mpsc::Sender<Input>,
) -> Result<Attached> {
    let mut replies = replies.map_err(from_status)?.into_inner();
    let tty = match replies.message().await.map_err(from_status)?.and_then(|m| m.of) {
        Some(v1::attach_output::Of::Tty(tty)) => tty,
        _ => return Err(Error::internal("attach: the node did not say whether there is a terminal")),
    };
    let output = replies.map_err(from_status).try_filter_map(|m| async move {
        Ok(match m.of {
            Some(v1::attach_output::Of::Output(o)) => Some(output(o)),
            _ => None,
        })
    });
    Ok(Attached { tty, output: output.boxed(), input })
}

pub(crate) fn insert<T>(request: &mut Request<T>, key: &'static str, value: &str) {
    // A value that is no ASCII cannot be a trace context or a node id; it is left out rather than sent mangled.
    if let Ok(value) = value.parse() {
        request.metadata_mut().insert(key, value);
    }
}

/// Serves the engines that `R` finds.
pub struct EngineService<R> {
    engines: Arc<R>,
}

impl<R: Engines> EngineService<R> {
    pub fn server(engines: Arc<R>) -> v1::engine_server::EngineServer<Self> {
        v1::engine_server::EngineServer::new(Self { engines })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn open<A: DeserializeOwned>(
        &self,
        request: Request<v1::EngineRequest>,
    ) -> Result<(Arc<dyn Engine>, String, A), Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.find(message, &extensions, &metadata).await
    }

    async fn find<A: DeserializeOwned>(
        &self,
        message: v1::EngineRequest,
        extensions: &tonic::Extensions,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<(Arc<dyn Engine>, String, A), Status> {
        let arguments = decode(&message.arguments, "arguments").map_err(to_status)?;
        let engine = self.engines.engine(message.target.into(), extensions, metadata).await.map_err(to_status)?;
        Ok((engine, message.name, arguments))
    }

    async fn open_upload<A: DeserializeOwned>(
        &self,
        request: Request<Streaming<v1::Upload>>,
    ) -> Result<(Arc<dyn Engine>, String, A, Stream<Bytes>), Status> {
        let (metadata, extensions, mut inbound) = request.into_parts();
        let Some(v1::upload::Of::Open(open)) = inbound.message().await?.and_then(|m| m.of) else {
            return Err(Status::invalid_argument("upload: the first message must open it"));
        };
        let (engine, name, arguments) = self.find(open, &extensions, &metadata).await?;
        Ok((engine, name, arguments, uploaded(inbound)))
    }

    async fn open_attach<A: DeserializeOwned>(
        &self,
        request: Request<Streaming<v1::AttachInput>>,
    ) -> Result<(Arc<dyn Engine>, String, A, Streaming<v1::AttachInput>), Status> {
        let (metadata, extensions, mut inbound) = request.into_parts();
        let Some(v1::attach_input::Of::Open(open)) = inbound.message().await?.and_then(|m| m.of) else {
            return Err(Status::invalid_argument("attach: the first message must open it"));
        };
        let (engine, name, arguments) = self.find(open, &extensions, &metadata).await?;
        Ok((engine, name, arguments, inbound))
    }
}

/// Ends the task that carries input when the output is dropped: a client that hung up reads and writes no more.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn serve_attached(attached: Attached, mut inbound: Streaming<v1::AttachInput>) -> Response<Reply<v1::AttachOutput>> {
    let Attached { tty, output, input } = attached;
    let carrier = AbortOnDrop(tokio::spawn(async move {
        while let Ok(Some(message)) = inbound.message().await {
            let item = match message.of {
                Some(v1::attach_input::Of::Data(d)) => Input::Data(d),
                Some(v1::attach_input::Of::Close(_)) => Input::Close,
                _ => continue,
            };
            if input.send(item).await.is_err() {
                break;
            }
        }
    }));
    let first = v1::AttachOutput { of: Some(v1::attach_output::Of::Tty(tty)) };
    let rest = output.map(move |r| {
        let _owned = &carrier;
        r.map(output_message).map_err(to_status)
    });
    Response::new(futures_util::stream::iter([Ok(first)]).chain(rest).boxed())
}

fn document<T: Serialize>(result: Result<T>) -> Result<Response<v1::Document>, Status> {
    let json = result.and_then(|v| encode(&v)).map_err(to_status)?;
    Ok(Response::new(v1::Document { json }))
}

/// Writes both directions of the plain calls from one table: the trait's method, the RPC and the arguments' names are the
/// same thing three times. Calls with streams are written by hand below and spliced in.
macro_rules! engine_calls {
    (
        named { $($m:ident ( $($a:ident : $t:ty),* ) -> $r:ty;)* }
        plain { $($pm:ident ( $($pa:ident : $pt:ty),* ) -> $pr:ty;)* }
        client { $($client:tt)* }
        server { $($server:tt)* }
    ) => {
        #[async_trait]
        impl Engine for RemoteEngine {
            $(async fn $m(&self, name: &str, $($a: $t),*) -> Result<$r> {
                let request = self.request(name, json!({ $(stringify!($a): $a),* }))?;
                let answer = self.client.clone().$m(request).await.map_err(from_status)?;
                decode(&answer.into_inner().json, stringify!($m))
            })*
            $(async fn $pm(&self, $($pa: $pt),*) -> Result<$pr> {
                let request = self.request("", json!({ $(stringify!($pa): $pa),* }))?;
                let answer = self.client.clone().$pm(request).await.map_err(from_status)?;
                decode(&answer.into_inner().json, stringify!($pm))
            })*
            $($client)*
        }

        #[async_trait]
        impl<R: Engines> v1::engine_server::Engine for EngineService<R> {
            $(async fn $m(&self, request: Request<v1::EngineRequest>) -> Result<Response<v1::Document>, Status> {
                #[derive(Deserialize)]
                struct Arguments { $($a: $t),* }
                let (engine, name, _a): (_, _, Arguments) = self.open(request).await?;
                document(engine.$m(&name, $(_a.$a),*).await)
            })*
            $(async fn $pm(&self, request: Request<v1::EngineRequest>) -> Result<Response<v1::Document>, Status> {
                #[derive(Deserialize)]
                struct Arguments { $($pa: $pt),* }
                let (engine, _, _a): (_, _, Arguments) = self.open(request).await?;
                document(engine.$pm($(_a.$pa),*).await)
            })*
            $($server)*
        }
    };
}

engine_calls! {
    named {
        container_inspect(size: bool) -> ContainerInspect;
        container_start() -> ();
        container_stop(options: StopContainer) -> ();
        container_restart(options: StopContainer) -> ();
        container_kill(signal: Option<String>) -> ();
        container_pause() -> ();
        container_unpause() -> ();
        container_rename(to: String) -> ();
        container_update(update: ContainerUpdate) -> ContainerUpdated;
        container_remove(options: RemoveContainer) -> ();
        container_unlink() -> ();
        container_top(ps_args: String) -> TopResult;
        container_resize(height: u16, width: u16) -> ();
        exec_create(config: ExecConfig) -> String;
        exec_resize(height: u16, width: u16) -> ();
        exec_inspect() -> ExecInspect;
        archive_stat(path: String) -> PathStat;
        container_changes() -> Vec<FilesystemChange>;
        image_inspect() -> ImageInspect;
        image_history() -> Vec<ImageHistoryItem>;
        image_tag(repo: String, tag: String) -> ();
        image_untag() -> ();
        image_remove(force: bool, no_prune: bool) -> Vec<ImageDeleteItem>;
        volume_inspect() -> Volume;
        volume_remove(force: bool) -> ();
        network_inspect() -> NetworkResource;
        network_remove() -> ();
        network_connect(connect: NetworkConnect) -> ();
        network_disconnect(disconnect: NetworkDisconnect) -> ();
    }
    plain {
        version() -> VersionInfo;
        info() -> SystemInfo;
        disk_usage() -> DiskUsage;
        auth(auth: AuthConfig) -> String;
        survey(query: SurveyQuery) -> Survey;
        container_create(name: Option<String>, platform: String, body: ContainerCreateBody) -> ContainerCreated;
        container_list(options: ListContainers) -> Listed<ContainerSummary>;
        container_prune(filters: Filters) -> PruneReport;
        commit(commit: muster_calls::Commit, config: Option<ContainerConfig>) -> String;
        image_list(all: bool, digests: bool, filters: Filters) -> Listed<ImageSummary>;
        image_prune(filters: Filters) -> PruneReport;
        image_search(term: String, limit: u32, filters: Filters, auth: Option<AuthConfig>) -> Vec<SearchResult>;
        distribution(reference: String, auth: Option<AuthConfig>) -> DistributionInspect;
        volume_create(volume: VolumeCreate) -> Volume;
        volume_list(filters: Filters) -> VolumeList;
        volume_prune(filters: Filters) -> PruneReport;
        network_create(network: NetworkCreate) -> NetworkCreated;
        network_list(filters: Filters) -> Listed<NetworkResource>;
        network_prune(filters: Filters) -> PruneReport;
    }
    client {
        async fn events(&self, query: EventsQuery) -> Result<Stream<EventMessage>> {
            let request = self.request("", json!({ "query": query }))?;
            Ok(documents(self.client.clone().events(request).await.map_err(from_status)?.into_inner()))
        }

        async fn container_wait(&self, name: &str, condition: WaitCondition) -> Result<Future<Result<WaitResult>>> {
            let request = self.request(name, json!({ "condition": condition }))?;
            let mut replies = self.client.clone().container_wait(request).await.map_err(from_status)?.into_inner();
            // The first message says that the wait is registered.
            replies.message().await.map_err(from_status)?;
            Ok(Box::pin(async move {
                match replies.message().await.map_err(from_status)?.and_then(|m| m.of) {
                    Some(v1::wait_reply::Of::Result(json)) => decode(&json, "wait"),
                    _ => Err(Error::unavailable("wait: the node ended the call without a result")),
                }
            }))
        }

        async fn container_stats(&self, name: &str, stream: bool, one_shot: bool) -> Result<Stream<Stats>> {
            let request = self.request(name, json!({ "stream": stream, "one_shot": one_shot }))?;
            Ok(documents(self.client.clone().container_stats(request).await.map_err(from_status)?.into_inner()))
        }

        async fn container_logs(&self, name: &str, options: Logs) -> Result<LogStream> {
            let request = self.request(name, json!({ "options": options }))?;
            let mut replies = self.client.clone().container_logs(request).await.map_err(from_status)?.into_inner();
            let tty = match replies.message().await.map_err(from_status)?.and_then(|m| m.of) {
                Some(v1::log_reply::Of::Tty(tty)) => tty,
                _ => return Err(Error::internal("logs: the node did not say whether there is a terminal")),
            };
            let lines = replies.map_err(from_status).try_filter_map(|m| async move {
                Ok(match m.of {
                    Some(v1::log_reply::Of::Line(l)) => Some(log_chunk(l)),
                    _ => None,
                })
            });
            Ok(LogStream { tty, lines: lines.boxed() })
        }

        async fn container_attach(&self, name: &str, options: Attach) -> Result<Attached> {
            let (request, input) = self.attach_request(name, json!({ "options": options }))?;
            attached(self.client.clone().container_attach(request).await, input).await
        }

        async fn exec_start(&self, name: &str, options: ExecStart) -> Result<Attached> {
            let (request, input) = self.attach_request(name, json!({ "options": options }))?;
            attached(self.client.clone().exec_start(request).await, input).await
        }

        async fn archive_get(&self, name: &str, path: String) -> Result<(PathStat, Stream<Bytes>)> {
            let request = self.request(name, json!({ "path": path }))?;
            let mut replies = self.client.clone().archive_get(request).await.map_err(from_status)?.into_inner();
            let first = replies.message().await.map_err(from_status)?.unwrap_or_default();
            Ok((decode(&first.data, "path stat")?, pieces(replies)))
        }

        async fn archive_put(&self, name: &str, path: String, no_overwrite_dir_non_dir: bool, copy_uid_gid: bool, tar: Stream<Bytes>) -> Result<()> {
            let arguments = json!({ "path": path, "no_overwrite_dir_non_dir": no_overwrite_dir_non_dir, "copy_uid_gid": copy_uid_gid });
            let open = self.message(name, arguments)?;
            let (tar, mut broken) = upload(open, tar);
            let request = self.wrap(tar);
            broken.or(self.client.clone().archive_put(request)).await.map(drop)
        }

        async fn container_export(&self, name: &str) -> Result<Stream<Bytes>> {
            let request = self.request(name, json!({}))?;
            Ok(pieces(self.client.clone().container_export(request).await.map_err(from_status)?.into_inner()))
        }

        async fn image_pull(&self, pull: Pull) -> Result<Stream<ProgressLine>> {
            let request = self.request("", json!({ "pull": pull }))?;
            Ok(documents(self.client.clone().image_pull(request).await.map_err(from_status)?.into_inner()))
        }

        async fn image_push(&self, name: &str, tag: Option<String>, auth: Option<AuthConfig>) -> Result<Stream<ProgressLine>> {
            let request = self.request(name, json!({ "tag": tag, "auth": auth }))?;
            Ok(documents(self.client.clone().image_push(request).await.map_err(from_status)?.into_inner()))
        }

        async fn image_save(&self, names: Vec<String>) -> Result<Stream<Bytes>> {
            let request = self.request("", json!({ "names": names }))?;
            Ok(pieces(self.client.clone().image_save(request).await.map_err(from_status)?.into_inner()))
        }

        async fn image_load(&self, tar: Stream<Bytes>, quiet: bool, platform: String) -> Result<Stream<ProgressLine>> {
            let open = self.message("", json!({ "quiet": quiet, "platform": platform }))?;
            let (tar, mut broken) = upload(open, tar);
            let request = self.wrap(tar);
            let lines = broken.or(self.client.clone().image_load(request)).await?.into_inner();
            Ok(broken.ending(documents(lines)))
        }

        async fn image_import(&self, tar: Stream<Bytes>, import: Import) -> Result<Stream<ProgressLine>> {
            let open = self.message("", json!(import))?;
            let (tar, mut broken) = upload(open, tar);
            let request = self.wrap(tar);
            let lines = broken.or(self.client.clone().image_import(request)).await?.into_inner();
            Ok(broken.ending(documents(lines)))
        }
    }
    server {
        type EventsStream = Reply<v1::Document>;
        async fn events(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::EventsStream>, Status> {
            #[derive(Deserialize)]
            struct A { query: EventsQuery }
            let (engine, _, a): (_, _, A) = self.open(request).await?;
            Ok(Response::new(document_stream(engine.events(a.query).await.map_err(to_status)?)))
        }

        type ContainerWaitStream = Reply<v1::WaitReply>;
        async fn container_wait(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::ContainerWaitStream>, Status> {
            #[derive(Deserialize)]
            struct A { condition: WaitCondition }
            let (engine, name, a): (_, _, A) = self.open(request).await?;
            let result = engine.container_wait(&name, a.condition).await.map_err(to_status)?;
            let first = v1::WaitReply { of: Some(v1::wait_reply::Of::Registered(true)) };
            let last = futures_util::stream::once(result).map(|r| {
                let json = r.and_then(|w| encode(&w)).map_err(to_status)?;
                Ok(v1::WaitReply { of: Some(v1::wait_reply::Of::Result(json)) })
            });
            Ok(Response::new(futures_util::stream::iter([Ok(first)]).chain(last).boxed()))
        }

        type ContainerStatsStream = Reply<v1::Document>;
        async fn container_stats(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::ContainerStatsStream>, Status> {
            #[derive(Deserialize)]
            struct A { stream: bool, one_shot: bool }
            let (engine, name, a): (_, _, A) = self.open(request).await?;
            Ok(Response::new(document_stream(engine.container_stats(&name, a.stream, a.one_shot).await.map_err(to_status)?)))
        }

        type ContainerLogsStream = Reply<v1::LogReply>;
        async fn container_logs(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::ContainerLogsStream>, Status> {
            #[derive(Deserialize)]
            struct A { options: Logs }
            let (engine, name, a): (_, _, A) = self.open(request).await?;
            let logs = engine.container_logs(&name, a.options).await.map_err(to_status)?;
            let first = v1::LogReply { of: Some(v1::log_reply::Of::Tty(logs.tty)) };
            let rest = logs.lines.map(|r| {
                r.map(|c| v1::LogReply { of: Some(v1::log_reply::Of::Line(log_line(c))) }).map_err(to_status)
            });
            Ok(Response::new(futures_util::stream::iter([Ok(first)]).chain(rest).boxed()))
        }

        type ContainerAttachStream = Reply<v1::AttachOutput>;
        async fn container_attach(&self, request: Request<Streaming<v1::AttachInput>>) -> Result<Response<Self::ContainerAttachStream>, Status> {
            #[derive(Deserialize)]
            struct A { options: Attach }
            let (engine, name, a, inbound): (_, _, A, _) = self.open_attach(request).await?;
            Ok(serve_attached(engine.container_attach(&name, a.options).await.map_err(to_status)?, inbound))
        }

        type ExecStartStream = Reply<v1::AttachOutput>;
        async fn exec_start(&self, request: Request<Streaming<v1::AttachInput>>) -> Result<Response<Self::ExecStartStream>, Status> {
            #[derive(Deserialize)]
            struct A { options: ExecStart }
            let (engine, name, a, inbound): (_, _, A, _) = self.open_attach(request).await?;
            Ok(serve_attached(engine.exec_start(&name, a.options).await.map_err(to_status)?, inbound))
        }

        type ArchiveGetStream = Reply<v1::Bytes>;
        async fn archive_get(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::ArchiveGetStream>, Status> {
            #[derive(Deserialize)]
            struct A { path: String }
            let (engine, name, a): (_, _, A) = self.open(request).await?;
            let (stat, tar) = engine.archive_get(&name, a.path).await.map_err(to_status)?;
            let first = v1::Bytes { data: encode(&stat).map_err(to_status)? };
            Ok(Response::new(futures_util::stream::iter([Ok(first)]).chain(piece_stream(tar)).boxed()))
        }

        async fn archive_put(&self, request: Request<Streaming<v1::Upload>>) -> Result<Response<v1::Document>, Status> {
            #[derive(Deserialize)]
            struct A { path: String, no_overwrite_dir_non_dir: bool, copy_uid_gid: bool }
            let (engine, name, a, tar): (_, _, A, _) = self.open_upload(request).await?;
            document(engine.archive_put(&name, a.path, a.no_overwrite_dir_non_dir, a.copy_uid_gid, tar).await)
        }

        type ContainerExportStream = Reply<v1::Bytes>;
        async fn container_export(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::ContainerExportStream>, Status> {
            let (engine, name, _): (_, _, serde_json::Value) = self.open(request).await?;
            Ok(Response::new(piece_stream(engine.container_export(&name).await.map_err(to_status)?)))
        }

        type ImagePullStream = Reply<v1::Document>;
        async fn image_pull(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::ImagePullStream>, Status> {
            #[derive(Deserialize)]
            struct A { pull: Pull }
            let (engine, _, a): (_, _, A) = self.open(request).await?;
            Ok(Response::new(document_stream(engine.image_pull(a.pull).await.map_err(to_status)?)))
        }

        type ImagePushStream = Reply<v1::Document>;
        async fn image_push(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::ImagePushStream>, Status> {
            #[derive(Deserialize)]
            struct A { tag: Option<String>, auth: Option<AuthConfig> }
            let (engine, name, a): (_, _, A) = self.open(request).await?;
            Ok(Response::new(document_stream(engine.image_push(&name, a.tag, a.auth).await.map_err(to_status)?)))
        }

        type ImageSaveStream = Reply<v1::Bytes>;
        async fn image_save(&self, request: Request<v1::EngineRequest>) -> Result<Response<Self::ImageSaveStream>, Status> {
            #[derive(Deserialize)]
            struct A { names: Vec<String> }
            let (engine, _, a): (_, _, A) = self.open(request).await?;
            Ok(Response::new(piece_stream(engine.image_save(a.names).await.map_err(to_status)?)))
        }

        type ImageLoadStream = Reply<v1::Document>;
        async fn image_load(&self, request: Request<Streaming<v1::Upload>>) -> Result<Response<Self::ImageLoadStream>, Status> {
            #[derive(Deserialize)]
            struct A {
                quiet: bool,
                #[serde(default)]
                platform: String,
            }
            let (engine, _, a, tar): (_, _, A, _) = self.open_upload(request).await?;
            Ok(Response::new(document_stream(engine.image_load(tar, a.quiet, a.platform).await.map_err(to_status)?)))
        }

        type ImageImportStream = Reply<v1::Document>;
        async fn image_import(&self, request: Request<Streaming<v1::Upload>>) -> Result<Response<Self::ImageImportStream>, Status> {
            let (engine, _, import, tar): (_, _, Import, _) = self.open_upload(request).await?;
            Ok(Response::new(document_stream(engine.image_import(tar, import).await.map_err(to_status)?)))
        }
    }
}
