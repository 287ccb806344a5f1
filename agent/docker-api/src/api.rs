//! From a request to an answer: version, route, handler, common headers.

use crate::{
    access::Access,
    call::Call,
    fault::{Fault, Outcome},
    hijack::HijackSlot,
    query::Query,
    reply::{self, Reply},
    route::{self, Route},
    routes,
    version::{self, ApiVersion},
};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use muster_calls::{Cluster, Engine};
use std::{fmt, sync::Arc};
use tracing::{Instrument, Span, field::Empty};

/// What the face shows of itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The version in the `Server` header.
    pub server_version: String,
    /// Makes a span part of the trace that the text of a `traceparent` header names. Such text is a stranger's.
    pub continue_trace: fn(&Span, &str),
}

/// The API over one engine and, where there is one, a control plane. Shared by all connections.
pub struct Api {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) cluster: Option<Arc<dyn Cluster>>,
    routes: Vec<Route>,
    server: HeaderValue,
    continue_trace: fn(&Span, &str),
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("server", &self.server)
            .field("cluster", &self.cluster.is_some())
            .finish_non_exhaustive()
    }
}

impl Api {
    /// `cluster`: `None` where this endpoint serves no swarm calls; they then answer as a host outside of any swarm.
    pub fn new(engine: Arc<dyn Engine>, cluster: Option<Arc<dyn Cluster>>, settings: &Settings) -> Self {
        let server = HeaderValue::from_str(&format!("Docker/{} (linux)", settings.server_version));
        Self {
            engine,
            cluster,
            routes: routes::all(),
            server: server.unwrap_or(HeaderValue::from_static("Docker (linux)")),
            continue_trace: settings.continue_trace,
        }
    }

    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        hijack: HijackSlot,
        access: &Access,
    ) -> Reply {
        let span = self.span(&request, access);
        let outcome = Arc::clone(&self).dispatch(request, hijack, access).instrument(span.clone()).await;
        let mut reply = outcome.unwrap_or_else(|fault| {
            span.in_scope(|| report(&fault));
            fault.into_reply()
        });
        span.record("http.response.status_code", reply.status().as_u16());
        if reply.status().is_server_error() {
            span.record("error.type", reply.status().as_str());
            span.record("otel.status_code", "ERROR");
        }
        self.add_headers(&mut reply);
        reply
    }

    /// The request's span, by the semantic conventions for HTTP servers.
    fn span(&self, request: &Request<Incoming>, access: &Access) -> Span {
        let method = request.method();
        let route = self.pattern(request);
        let span = tracing::info_span!(
            "docker.request",
            otel.name = route.map_or_else(|| method.to_string(), |route| format!("{method} {route}")),
            otel.kind = "server",
            http.request.method = %method,
            http.route = route,
            url.path = request.uri().path(),
            http.response.status_code = Empty,
            error.type = Empty,
            otel.status_code = Empty,
            enduser.id = (!access.who.is_empty()).then_some(access.who.as_str()),
        );
        if let Some(parent) = request.headers().get("traceparent").and_then(|v| v.to_str().ok()) {
            (self.continue_trace)(&span, parent);
        }
        span
    }

    fn pattern(&self, request: &Request<Incoming>) -> Option<&'static str> {
        let path = route::percent_decode(request.uri().path())?;
        let (_, path) = version::split_prefix(&path);
        route::find(&self.routes, request.method(), path).map(|(route, _)| route.pattern)
    }

    async fn dispatch(self: Arc<Self>, request: Request<Incoming>, hijack: HijackSlot, access: &Access) -> Outcome {
        if request.method() == Method::OPTIONS {
            return Ok(reply::empty(StatusCode::OK));
        }
        let no_page = || Fault::not_found("page not found");
        let path = route::percent_decode(request.uri().path()).ok_or_else(|| Fault::bad("the path is not UTF-8"))?;
        let (asked, path) = version::split_prefix(&path);
        let (route, name) = route::find(&self.routes, request.method(), path).ok_or_else(no_page)?;
        access.check(request.method(), route.pattern)?;
        let version = version::negotiate(asked)?;
        let handler = route.handler;
        tracing::debug!(http.route = route.pattern, api.version = %version, "request");
        let (parts, body) = request.into_parts();
        let call = Call {
            name: name.to_owned(),
            query: Query::parse(parts.uri.query().unwrap_or("")),
            headers: parts.headers,
            api: self,
            version,
            body,
            hijack,
        };
        handler(call).await
    }

    fn add_headers(&self, reply: &mut Reply) {
        let headers = reply.headers_mut();
        let version = HeaderValue::from_str(&ApiVersion::MAX.to_string()).expect("digits and a dot are a header value");
        headers.insert("api-version", version);
        headers.insert("docker-experimental", HeaderValue::from_static("false"));
        headers.insert("ostype", HeaderValue::from_static("linux"));
        headers.insert("server", self.server.clone());
    }

    /// The head of an answer that leaves HTTP, as dockerd writes it.
    pub(crate) fn hijack_head(&self, upgrade: bool, content_type: &str) -> String {
        if upgrade {
            format!(
                "HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            )
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n")
        }
    }
}

/// What went wrong by our fault is worth a line; what the client asked wrongly is not.
fn report(fault: &Fault) {
    if fault.status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::warn!(error = %fault.message, "request failed");
    } else {
        tracing::debug!(status = fault.status.as_u16(), reason = %fault.message, "request refused");
    }
}
