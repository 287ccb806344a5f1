//! The doors of the daemon: `muster.v1` over mutual TLS for other nodes and operators, over a unix socket for this host.
//! The same services stand behind both; who is at the door decides what may be asked.

use crate::host::{Host, Rights};
use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::StreamExt as _;
use muster_calls::{Cluster, Engine, Error, Result};
use muster_controller::Slot;
use muster_mtls::{
    CONNECTION_WINDOW, Caller, CallerKind, CertRole, LocalIo, STREAM_WINDOW, Tls, caller_of, incoming, require_of,
};
use muster_proto::{ClusterService, Clusters, EngineService, Engines, Target, from_status, v1};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataMap, service::Routes, transport::Server};

/// How often a silent connection is asked whether somebody is there, and how long an answer may take.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(5);

/// Listens for other nodes.
///
/// # Errors
/// When the port is taken or the address is not this host's.
pub async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    // A membership that ended a moment ago lets go of the port in a task of its own.
    for _ in 0..20 {
        match TcpListener::bind(addr).await {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => tokio::time::sleep(Duration::from_millis(50)).await,
            bound => return bound.with_context(|| format!("listen on {addr}")),
        }
    }
    TcpListener::bind(addr).await.with_context(|| format!("listen on {addr}"))
}

/// Serves other nodes and operators until `stop`.
pub async fn serve(listener: TcpListener, tls: Tls, host: Arc<Host>, slot: Slot, stop: CancellationToken) {
    let routes = services(muster_controller::routes(&slot), host);
    let served =
        server().add_routes(routes).serve_with_incoming_shutdown(incoming(listener, tls), stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the door for other nodes closed");
    }
}

/// Serves this host's users until `stop`.
pub async fn serve_local(listener: UnixListener, host: Arc<Host>, stop: CancellationToken) {
    let operators = v1::ca_server::CaServer::new(LocalCa(host.clone()));
    let routes = services(Routes::new(operators), host);
    let connections = UnixListenerStream::new(listener).map(|c| c.map(LocalIo));
    let served = server().add_routes(routes).serve_with_incoming_shutdown(connections, stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the host's own door closed");
    }
}

fn server() -> Server<tower::layer::util::Stack<TraceLayer, tower::layer::util::Identity>> {
    // A node that asked and died says nothing more: what was done for it alone ends.
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(TraceLayer)
}

fn services(routes: Routes, host: Arc<Host>) -> Routes {
    let doors = Arc::new(Doors(host.clone()));
    routes
        .add_service(EngineService::server(doors.clone()))
        .add_service(ClusterService::server(doors))
        .add_service(v1::traces_server::TracesServer::new(Traces(host)))
}

struct Doors(Arc<Host>);

impl Doors {
    /// Operators and managers may ask; a manager that was removed may not, whatever its certificate says. A worker cannot
    /// look into the cluster's state: it goes by the last assignments.
    fn authorize(&self, extensions: &tonic::Extensions, metadata: &MetadataMap) -> Result<Caller> {
        const ROLES: &[CertRole] = &[CertRole::Operator, CertRole::Manager];
        let Some(member) = self.0.member() else { return require_of(extensions, metadata, ROLES).map_err(from_status) };
        if let Some(controller) = member.controller() {
            return controller.authorize(extensions, metadata, ROLES);
        }
        let caller = require_of(extensions, metadata, ROLES).map_err(from_status)?;
        let manager = match caller.kind {
            CallerKind::Certified { role: CertRole::Manager, id } => Some(id),
            _ => None,
        };
        for id in manager.into_iter().chain(caller.via) {
            if !member.directory().knows(id) {
                return Err(Error::forbidden(format!("node {id} is no member of the cluster")));
            }
        }
        Ok(caller)
    }
}

#[async_trait]
impl Engines for Doors {
    async fn engine(
        &self,
        target: Target,
        extensions: &tonic::Extensions,
        metadata: &MetadataMap,
    ) -> Result<Arc<dyn Engine>> {
        let caller = self.authorize(extensions, metadata)?;
        self.0.engine(target, &caller)
    }
}

#[async_trait]
impl Clusters for Doors {
    async fn cluster(
        &self,
        method: &'static str,
        extensions: &tonic::Extensions,
        metadata: &MetadataMap,
    ) -> Result<Arc<dyn Cluster>> {
        let caller = match method {
            // What a node is, its own members may ask.
            "membership" => caller_of(extensions, metadata).map_err(from_status)?,
            _ => self.authorize(extensions, metadata)?,
        };
        let local = extensions.get::<muster_mtls::Peer>().is_some_and(|p| p.remote.is_none());
        if matches!(method, "init" | "join" | "leave") && !local && caller.via.is_none() {
            return Err(Error::forbidden(format!("{method} is taken at the host's own socket only")));
        }
        Ok(self.0.cluster(Rights::of(caller)))
    }
}

/// Operators' certificates, asked for at the host's own socket.
struct LocalCa(Arc<Host>);

#[async_trait]
impl v1::ca_server::Ca for LocalCa {
    async fn root(&self, _: Request<v1::RootRequest>) -> Result<Response<v1::RootReply>, Status> {
        Err(Status::unimplemented("the root is shown at the cluster's port"))
    }

    async fn issue(&self, _: Request<v1::IssueRequest>) -> Result<Response<v1::IssueReply>, Status> {
        Err(Status::unimplemented("nodes get their certificates at the cluster's port"))
    }

    async fn issue_operator(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueReply>, Status> {
        let member = self.0.member().ok_or_else(|| Status::failed_precondition("this host is in no cluster"))?;
        member.may_ask_others().map_err(muster_proto::to_status)?;
        let addr = member
            .controller()
            .ok_or_else(|| Status::unavailable("this node's control plane does not run"))?
            .config()
            .addr;
        let channel = member.tls().channel(&addr.to_string(), muster_mtls::Expect::Manager).await;
        let channel = channel.map_err(|e| Status::unavailable(e.to_string()))?;
        v1::ca_client::CaClient::new(channel).issue_operator(Request::new(request.into_inner())).await
    }
}

struct Traces(Arc<Host>);

#[async_trait]
impl v1::traces_server::Traces for Traces {
    async fn get(&self, request: Request<v1::TraceRequest>) -> Result<Response<v1::TraceReply>, Status> {
        let doors = Doors(self.0.clone());
        doors.authorize(request.extensions(), request.metadata()).map_err(muster_proto::to_status)?;
        let asked = request.into_inner();
        let node = self.0.config.hostname.clone();
        let found = match asked.trace_id.as_str() {
            "" => self.0.recent.roots(RECENT_ROOTS),
            id => self.0.recent.trace(id),
        };
        let mut spans: Vec<v1::Span> = found.into_iter().map(|s| span(s, &node)).collect();
        if asked.cluster
            && let Some(member) = self.0.member()
            && member.may_ask_others().is_ok()
        {
            let ask = |channel| {
                let request = v1::TraceRequest { trace_id: asked.trace_id.clone(), cluster: false };
                async move {
                    let mut client = v1::traces_client::TracesClient::new(channel);
                    tokio::time::timeout(std::time::Duration::from_secs(2), client.get(request)).await
                }
            };
            let asked = member.directory().channels().into_iter().map(|(_, _, channel)| ask(channel));
            // A node that does not answer has spans that are missing: the tree shows it by its missing children.
            let answers = futures_util::future::join_all(asked).await;
            spans.extend(answers.into_iter().flatten().flatten().flat_map(|r| r.into_inner().spans));
        }
        spans.sort_by_key(|s| s.start);
        Ok(Response::new(v1::TraceReply { spans }))
    }
}

/// What a list of recent traces shows at most.
const RECENT_ROOTS: usize = 50;

fn span(s: muster_telemetry::recent::SpanRecord, node: &str) -> v1::Span {
    v1::Span {
        trace_id: s.trace_id,
        span_id: s.span_id,
        parent_span_id: s.parent_span_id,
        name: s.name,
        start: s.start,
        end: s.end,
        attributes: s.attributes.into_iter().collect(),
        error: s.error,
        node: node.to_owned(),
    }
}

/// One span per call, a child of the caller's.
#[derive(Clone, Copy)]
struct TraceLayer;

impl<S> tower::Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced(inner)
    }
}

#[derive(Clone)]
struct Traced<S>(S);

impl<S, B> tower::Service<http::Request<B>> for Traced<S>
where
    S: tower::Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = tracing::instrument::Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        use tracing::Instrument as _;
        let path = request.uri().path();
        // Streams that live as long as a membership would be spans that never end.
        let quiet = path.starts_with("/muster.v1.Raft/")
            || path.starts_with("/muster.v1.Dispatch/")
            || path.starts_with("/muster.v1.Traces/");
        let span = if quiet {
            tracing::Span::none()
        } else {
            tracing::info_span!("api.call", otel.name = path.trim_start_matches('/'), otel.kind = "server")
        };
        if let Some(parent) = request.headers().get("traceparent").and_then(|v| v.to_str().ok()) {
            muster_telemetry::continue_from(&span, parent);
        }
        self.0.call(request).instrument(span)
    }
}
