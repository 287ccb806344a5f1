//! The trait [`muster_calls::Cluster`] over gRPC, both directions.

use crate::{CALLER_KEY, MAX_MESSAGE_BYTES, engine::insert, from_status, stream::*, to_status, v1};
use async_trait::async_trait;
use futures_util::StreamExt;
use muster_calls::*;
use muster_model::{
    NetworkId, NodeId, ServiceId,
    cluster::{ClusterSpec, Network, OperatorCertificate, Task, Version},
    spec::{NetworkSpec, NodeSpec, ServiceSpec},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

/// A cluster behind a channel.
#[derive(Clone)]
pub struct RemoteCluster {
    client: v1::cluster_client::ClusterClient<Channel>,
    caller: Option<String>,
}

impl RemoteCluster {
    pub fn new(channel: Channel) -> Self {
        let client = v1::cluster_client::ClusterClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, caller: None }
    }

    /// Every call says that it is made for this caller.
    pub fn on_behalf_of(mut self, caller: Option<String>) -> Self {
        self.caller = caller;
        self
    }

    fn request<A: Serialize>(&self, name: &str, arguments: A) -> Result<Request<v1::ClusterRequest>> {
        let mut request = Request::new(v1::ClusterRequest { name: name.to_owned(), arguments: encode(&arguments)? });
        muster_telemetry::inject(|k, v| insert(&mut request, k, v));
        if let Some(caller) = &self.caller {
            insert(&mut request, CALLER_KEY, caller);
        }
        Ok(request)
    }
}

/// Decides whether a caller may make a call and hands out the cluster to make it on.
#[async_trait]
pub trait Clusters: Send + Sync + 'static {
    /// `method` is the RPC's snake-case name. `extensions` hold what the connection proved of the caller.
    async fn cluster(
        &self,
        method: &'static str,
        extensions: &tonic::Extensions,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<Arc<dyn Cluster>>;
}

/// Serves the cluster that `R` hands out.
pub struct ClusterService<R> {
    clusters: Arc<R>,
}

impl<R: Clusters> ClusterService<R> {
    pub fn server(clusters: Arc<R>) -> v1::cluster_server::ClusterServer<Self> {
        v1::cluster_server::ClusterServer::new(Self { clusters })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn open<A: DeserializeOwned>(
        &self,
        method: &'static str,
        request: Request<v1::ClusterRequest>,
    ) -> Result<(Arc<dyn Cluster>, String, A), Status> {
        let (metadata, extensions, message) = request.into_parts();
        let cluster = self.clusters.cluster(method, &extensions, &metadata).await.map_err(to_status)?;
        let arguments = decode(&message.arguments, "arguments").map_err(to_status)?;
        Ok((cluster, message.name, arguments))
    }
}

fn document<T: Serialize>(result: Result<T>) -> Result<Response<v1::Document>, Status> {
    let json = result.and_then(|v| encode(&v)).map_err(to_status)?;
    Ok(Response::new(v1::Document { json }))
}

fn task_logs(s: Streaming<v1::TaskLogLine>) -> Stream<TaskLog> {
    s.map(|r| {
        let l = r.map_err(from_status)?;
        let bad = |e: muster_model::IdParseError| Error::internal(e.to_string());
        Ok(TaskLog {
            service: l.service.parse().map_err(bad)?,
            task: l.task.parse().map_err(bad)?,
            node: l.node.parse().map_err(bad)?,
            chunk: log_chunk(l.line.unwrap_or_default()),
        })
    })
    .boxed()
}

fn task_log_stream(s: Stream<TaskLog>) -> Reply<v1::TaskLogLine> {
    s.map(|r| {
        r.map(|l| v1::TaskLogLine {
            service: l.service.to_string(),
            task: l.task.to_string(),
            node: l.node.to_string(),
            line: Some(log_line(l.chunk)),
        })
        .map_err(to_status)
    })
    .boxed()
}

/// See `engine_calls`: both directions of each call from one row. The second name is the RPC's.
macro_rules! cluster_calls {
    (
        named { $($m:ident $rpc:ident ( $($a:ident : $t:ty),* ) -> $r:ty;)* }
        plain { $($pm:ident $prpc:ident ( $($pa:ident : $pt:ty),* ) -> $pr:ty;)* }
        logs { $($lm:ident $lt:ident;)* }
    ) => {
        #[async_trait]
        impl Cluster for RemoteCluster {
            $(async fn $m(&self, name: &str, $($a: $t),*) -> Result<$r> {
                let request = self.request(name, json!({ $(stringify!($a): $a),* }))?;
                let answer = self.client.clone().$rpc(request).await.map_err(from_status)?;
                decode(&answer.into_inner().json, stringify!($m))
            })*
            $(async fn $pm(&self, $($pa: $pt),*) -> Result<$pr> {
                let request = self.request("", json!({ $(stringify!($pa): $pa),* }))?;
                let answer = self.client.clone().$prpc(request).await.map_err(from_status)?;
                decode(&answer.into_inner().json, stringify!($pm))
            })*
            $(async fn $lm(&self, name: &str, options: Logs) -> Result<Stream<TaskLog>> {
                let request = self.request(name, json!({ "options": options }))?;
                Ok(task_logs(self.client.clone().$lm(request).await.map_err(from_status)?.into_inner()))
            })*
        }

        #[async_trait]
        impl<R: Clusters> v1::cluster_server::Cluster for ClusterService<R> {
            $(async fn $rpc(&self, request: Request<v1::ClusterRequest>) -> Result<Response<v1::Document>, Status> {
                #[derive(Deserialize)]
                struct Arguments { $($a: $t),* }
                let (cluster, name, _a): (_, _, Arguments) = self.open(stringify!($rpc), request).await?;
                document(cluster.$m(&name, $(_a.$a),*).await)
            })*
            $(async fn $prpc(&self, request: Request<v1::ClusterRequest>) -> Result<Response<v1::Document>, Status> {
                #[derive(Deserialize)]
                struct Arguments { $($pa: $pt),* }
                let (cluster, _, _a): (_, _, Arguments) = self.open(stringify!($prpc), request).await?;
                document(cluster.$pm($(_a.$pa),*).await)
            })*
            $(type $lt = Reply<v1::TaskLogLine>;
            async fn $lm(&self, request: Request<v1::ClusterRequest>) -> Result<Response<Self::$lt>, Status> {
                #[derive(Deserialize)]
                struct Arguments { options: Logs }
                let (cluster, name, a): (_, _, Arguments) = self.open(stringify!($lm), request).await?;
                Ok(Response::new(task_log_stream(cluster.$lm(&name, a.options).await.map_err(to_status)?)))
            })*
        }
    };
}

cluster_calls! {
    named {
        operator_revoke operator_revoke() -> Vec<OperatorCertificate>;
        node_inspect node_inspect() -> NodeView;
        node_remove node_remove(force: bool) -> ();
        service_inspect service_inspect() -> ServiceView;
        service_remove service_remove() -> ();
        task_inspect task_inspect() -> Task;
        network_inspect network_inspect() -> Network;
        network_remove network_remove() -> ();
    }
    plain {
        membership membership() -> Membership;
        init init(init: InitCluster) -> NodeId;
        join join(join: JoinCluster) -> NodeId;
        leave leave(force: bool) -> ();
        cluster inspect() -> muster_model::cluster::Cluster;
        cluster_update update(version: Version, spec: ClusterSpec) -> ();
        join_tokens join_tokens() -> JoinTokens;
        rotate_join_tokens rotate_join_tokens(worker: bool, manager: bool) -> JoinTokens;
        node_list node_list() -> Vec<NodeView>;
        node_update node_update(id: NodeId, version: Version, spec: NodeSpec) -> ();
        service_create service_create(spec: ServiceSpec) -> Made<ServiceId>;
        service_list service_list() -> Vec<ServiceView>;
        service_update service_update(id: ServiceId, version: Version, spec: ServiceSpec) -> Made<ServiceId>;
        service_rollback service_rollback(id: ServiceId, version: Version) -> Made<ServiceId>;
        task_list task_list(query: TaskQuery) -> Vec<Task>;
        place place(ask: Ask) -> Placed;
        settle settle(claim: u64, container: Option<String>) -> ();
        network_create network_create(spec: NetworkSpec) -> Made<NetworkId>;
        network_list network_list() -> Vec<Network>;
    }
    logs {
        service_logs ServiceLogsStream;
        task_logs TaskLogsStream;
    }
}
