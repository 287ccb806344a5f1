//! A server with one method per guard, and clients of every kind.

use muster_model::{ClusterId, NodeId, Timestamp};
use muster_mtls::{Ca, CallerKind, CertRole, Credentials, KeyRequest, NodeIdentity, Tls, incoming};
use std::{
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::Grpc,
    codegen::{BoxFuture, http},
    metadata::MetadataMap,
    server::NamedService,
    transport::{Channel, Server},
};
use tonic_prost::ProstCodec;

pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub fn cluster() -> ClusterId {
    ClusterId::from_u128(0xc1)
}

pub fn node(n: u128) -> NodeId {
    NodeId::from_u128(n)
}

pub fn now() -> Timestamp {
    muster_mtls::now()
}

pub fn ca() -> Ca {
    Ca::create(cluster(), now()).expect("a new authority")
}

pub fn issue(ca: &Ca, id: u128, role: CertRole) -> Credentials {
    issue_at(ca, id, role, DAY, now())
}

pub fn issue_at(ca: &Ca, id: u128, role: CertRole, lifetime: Duration, at: Timestamp) -> Credentials {
    let request = KeyRequest::new().expect("a new key");
    let identity = NodeIdentity { node_id: node(id), cluster_id: ca.cluster_id(), role };
    let leaf = ca.sign_csr(request.csr(), identity, lifetime, at).expect("signed");
    request.complete(leaf.to_vec(), vec![ca.certificate().clone()]).expect("key and leaf fit")
}

pub fn tls(credentials: Credentials) -> Tls {
    Tls::new(credentials).expect("valid credentials")
}

/// A server that ends with the test.
pub struct TestServer {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl TestServer {
    pub async fn start(tls: &Tls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let accepted = incoming(listener, tls.clone());
        let task = tokio::spawn(async move {
            let served = Server::builder().add_service(Probe).serve_with_incoming(accepted).await;
            served.expect("serves");
        });
        Self { addr, task }
    }

    pub fn at(&self) -> String {
        self.addr.to_string()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `/probe/<guard>` answers in the metadata `who` on whose behalf it was called.
#[derive(Clone)]
pub struct Probe;

impl NamedService for Probe {
    const NAME: &'static str = "probe";
}

struct Guard(String);

impl tonic::server::UnaryService<()> for Guard {
    type Response = ();
    type Future = BoxFuture<Response<()>, Status>;

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let answer = guarded(&self.0, &request);
        Box::pin(async move {
            let mut response = Response::new(());
            response.metadata_mut().insert("who", answer?.parse().expect("ASCII"));
            Ok(response)
        })
    }
}

fn guarded(method: &str, request: &Request<()>) -> Result<String, Status> {
    match method {
        "/probe/manager" => {
            muster_mtls::require(request, &[CertRole::Manager, CertRole::Operator]).map(|c| c.kind.to_string())
        }
        "/probe/any" => muster_mtls::caller(request).map(|c| c.kind.to_string()),
        "/probe/node7" => muster_mtls::require_node(request, node(7)).map(|()| "node 7".to_owned()),
        "/probe/raft" => muster_mtls::require_peer_manager(request).map(|id| id.to_string()),
        "/probe/renew" => muster_mtls::require_renewable(request).map(|leaf| leaf.serial),
        other => Err(Status::unimplemented(other)),
    }
}

impl tonic::codegen::Service<http::Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let guard = Guard(request.uri().path().to_owned());
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<(), ()>::default());
            Ok(grpc.unary(guard, request).await)
        })
    }
}

/// Calls one method; answers who the server took us for.
pub async fn call(channel: &Channel, method: &'static str) -> Result<String, Status> {
    call_as(channel, method, None).await
}

pub async fn call_as(channel: &Channel, method: &'static str, on_behalf: Option<CallerKind>) -> Result<String, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
    let mut request = Request::new(());
    if let Some(kind) = on_behalf {
        muster_mtls::Caller { kind, via: None }.attach(&mut request);
    }
    let path = http::uri::PathAndQuery::from_static(method);
    let response = grpc.unary(request, path, ProstCodec::<(), ()>::default()).await?;
    Ok(who(response.metadata()))
}

fn who(metadata: &MetadataMap) -> String {
    metadata.get("who").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}
