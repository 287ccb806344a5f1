//! Requests to one repository of one registry host: authorisation, redirects, idle time-outs, error texts.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use super::connect::{Connector, Proxies};
use super::{Credentials, Shared};
use crate::{Error, Reference, Result};

/// Redirects followed for one request.
const MAX_REDIRECTS: u32 = 5;
/// Bytes read of an error's text.
const MAX_ERROR_TEXT: u64 = 16 << 10;

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// A pooled HTTP client.
pub(super) type Http = Client<HttpsConnector<Connector>, Body>;

/// Counts bytes that moved, so that a slow upload is told from a dead one.
#[derive(Clone, Default)]
pub(crate) struct Activity(Arc<AtomicU64>);

impl Activity {
    /// Something moved.
    pub(crate) fn moved(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Ends when nothing moved for `idle`.
    async fn stalled(&self, idle: Duration) {
        let mut seen = None;
        loop {
            let now = self.0.load(Ordering::Relaxed);
            if seen == Some(now) {
                return;
            }
            seen = Some(now);
            tokio::time::sleep(idle).await;
        }
    }
}

/// What a request to a registry is for. It is part of error texts and of the rights asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Pull,
    Push,
    /// Checking credentials; the rights of no repository.
    Login,
}

/// One repository of one registry host, or with an empty path the host itself.
pub(crate) struct Remote {
    shared: Arc<Shared>,
    client: Http,
    insecure: bool,
    pub(super) credentials: Option<Credentials>,
    /// `host[:port]` of the API.
    host: String,
    /// Repository path.
    path: String,
    /// What errors call it.
    repository: String,
    act: Act,
    /// The `Authorization` that was accepted last.
    authorization: Mutex<Option<String>>,
    /// The refresh token that a token server gave.
    identity: Mutex<Option<String>>,
    /// The scheme, where it is given or found out.
    scheme: Option<&'static str>,
}

/// A new client.
pub(super) fn http(tls: rustls::ClientConfig, proxies: Arc<Proxies>, connect_timeout: Duration) -> Http {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    let https = https.wrap_connector(Connector { tcp, proxies });
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(https)
}

/// No content.
pub(crate) fn empty_body() -> Body {
    full_body("")
}

/// Content from memory.
pub(crate) fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An error with all that caused it, on one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Remote {
    /// Reads the host's own certificates.
    ///
    /// # Errors
    /// [`Error::Config`] for a broken file among them.
    pub(super) fn new(
        shared: &Arc<Shared>,
        host: &str,
        reference: Option<&Reference>,
        act: Act,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        Ok(Self {
            shared: shared.clone(),
            client: shared.client(host)?,
            insecure: shared.config.is_insecure(host),
            credentials,
            host: host.to_owned(),
            path: reference.map_or_else(String::new, |reference| reference.path().to_owned()),
            repository: reference.map_or_else(|| host.to_owned(), Reference::familiar_repository),
            act,
            authorization: Mutex::default(),
            identity: Mutex::default(),
            scheme: None,
        })
    }

    /// The same, spoken to in the clear.
    pub(super) fn plain(self) -> Self {
        Self { scheme: Some("http"), insecure: true, ..self }
    }

    /// `host[:port]`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Largest manifest to accept, in bytes.
    pub(crate) fn max_manifest_bytes(&self) -> u64 {
        self.shared.config.max_manifest_bytes
    }

    /// Pause before asking again.
    pub(crate) fn retry_pause(&self) -> Duration {
        self.shared.config.retry_pause
    }

    pub(super) fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// The rights asked for where the registry names none.
    pub(super) fn default_scope(&self) -> Option<String> {
        let actions = match self.act {
            Act::Push => "pull,push",
            Act::Pull => "pull",
            Act::Login => return None,
        };
        (!self.path.is_empty()).then(|| format!("repository:{}:{actions}", self.path))
    }

    /// Whether a token server is asked for a refresh token too.
    pub(super) fn wants_identity(&self) -> bool {
        self.act == Act::Login
    }

    pub(super) fn remember_identity(&self, token: String) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    /// The refresh token that a token server gave for the credentials; empty for none.
    pub(super) fn identity(&self) -> String {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    pub(super) fn denied(&self, reason: String) -> Error {
        let repository = self.repository.clone();
        match self.act {
            Act::Pull => Error::Unauthorized { act: "pull", repository, reason },
            Act::Push => Error::Unauthorized { act: "push", repository, reason },
            Act::Login => {
                let reason = format!("Get \"{}/v2/\": {reason}", self.host);
                Error::LoginFailed { registry: self.host.clone(), reason }
            }
        }
    }

    /// The URL of `tail` (`manifests/latest`) in this repository.
    pub(crate) async fn url(&self, tail: &str) -> Result<Url> {
        self.api(&format!("v2/{}/{tail}", self.path)).await
    }

    /// The URL of a path of the host.
    pub(super) async fn api(&self, path: &str) -> Result<Url> {
        let scheme = match self.scheme {
            Some(scheme) => scheme,
            None => self.shared.scheme(&self.client, &self.host).await?,
        };
        let text = format!("{scheme}://{}/{path}", self.host);
        Url::parse(&text).map_err(|error| self.unreachable(format!("{text}: {error}")))
    }

    /// A URL the registry named, relative to `base`.
    pub(crate) fn join(&self, base: &Url, location: &str) -> Result<Url> {
        base.join(location).map_err(|error| self.unreachable(format!("location {location:?}: {error}")))
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { registry: self.host.clone(), reason }
    }

    /// The error of a transfer in which nothing moved.
    pub(crate) fn stalled(&self) -> Error {
        Error::Stalled { registry: self.host.clone(), idle: self.shared.config.idle_timeout }
    }

    /// Sends this with every request to the registry's own host from here on.
    pub(crate) fn authorize_with(&self, authorization: String) {
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
    }

    /// Sends a request without content, authorising it and following redirects.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: Url,
        headers: &[(&str, String)],
    ) -> Result<Response<Incoming>> {
        self.send_body(method, url, headers, &|| Ok(empty_body()), None).await
    }

    /// Sends a request whose body can be made again. A 401 is answered once; other states are the caller's to judge.
    pub(crate) async fn send_body(
        &self,
        method: Method,
        mut url: Url,
        headers: &[(&str, String)],
        body: &(dyn Fn() -> Result<Body> + Sync),
        activity: Option<&Activity>,
    ) -> Result<Response<Incoming>> {
        let (mut answered, mut redirects) = (false, 0);
        loop {
            let at_home = self.is_at_home(&url);
            let mut request = Request::builder().method(&method).uri(url.as_str());
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(authorization) = known.filter(|_| at_home) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let request = request.body(body()?).map_err(|error| self.unreachable(error.to_string()))?;
            let response = self.send_raw(request, activity).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && at_home && !answered {
                answered = true;
                if let Some(authorization) = self.authorize(response.headers()).await? {
                    *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
                    continue;
                }
            }
            let Some(location) = redirect_of(&method, &response) else {
                return Ok(response);
            };
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(self.unreachable("too many redirects".into()));
            }
            let next = self.join(&url, &location)?;
            if !(next.scheme() == "https" || next.scheme() == url.scheme() && next.scheme() == "http") {
                return Err(self.unreachable(format!("refusing the redirect to {}", next.scheme())));
            }
            url = next;
        }
    }

    /// Whether a URL is of this registry itself: only then it may see the authorisation.
    fn is_at_home(&self, url: &Url) -> bool {
        let Ok(own) = http::uri::Authority::try_from(self.host.as_str()) else { return false };
        let default_port = if url.scheme() == "https" { 443 } else { 80 };
        let same_host = url.host_str().is_some_and(|host| host.eq_ignore_ascii_case(own.host()));
        same_host && url.port_or_known_default() == Some(own.port_u16().unwrap_or(default_port))
    }

    /// Sends a request as it is; an error when nothing moves for the idle time-out.
    pub(super) async fn send_raw(
        &self,
        mut request: Request<Body>,
        activity: Option<&Activity>,
    ) -> Result<Response<Incoming>> {
        const AGENT: http::HeaderValue = http::HeaderValue::from_static(concat!("muster/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, AGENT);
        if let Some(authorization) = self.shared.proxies.authorization(request.uri()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        let quiet = Activity::default();
        let activity = activity.unwrap_or(&quiet);
        tokio::select! {
            response = self.client.request(request) => response.map_err(|error| self.unreachable(causes(&error))),
            () = activity.stalled(self.shared.config.idle_timeout) => Err(self.stalled()),
        }
    }

    /// Waits for `future`, but no longer than the idle time-out.
    pub(crate) async fn in_time<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(self.shared.config.idle_timeout, future).await.map_err(|_| self.stalled())
    }

    /// The next piece of a response's content; `None` at its end.
    pub(crate) async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>> {
        loop {
            match self.in_time(body.frame()).await? {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.unreachable(causes(&error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Turns a response that is no success into an error. 404 is the caller's: only it knows what was asked for.
    pub(crate) async fn failure(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let message = response_text(self, response).await;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return self.denied(message);
        }
        Error::Registry { registry: self.host.clone(), status: status.as_u16(), message }
    }
}

fn redirect_of(method: &Method, response: &Response<Incoming>) -> Option<String> {
    let safe = matches!(*method, Method::GET | Method::HEAD);
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    (safe && response.status().is_redirection()).then(|| location.to_owned())
}

/// Reads content into memory.
///
/// # Errors
/// [`Error::TooLarge`] beyond `limit` bytes.
pub(crate) async fn read_limited(
    remote: &Remote,
    response: Response<Incoming>,
    limit: u64,
    what: &str,
) -> Result<Bytes> {
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = remote.chunk(&mut body).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge { what: what.into(), limit });
        }
    }
    Ok(bytes.freeze())
}

/// What a registry says of an error (OCI distribution-spec, "Error codes"), or the reason phrase.
pub(crate) async fn response_text(remote: &Remote, response: Response<Incoming>) -> String {
    let status = response.status();
    let body = read_limited(remote, response, MAX_ERROR_TEXT, "error text").await.unwrap_or_default();
    error_text(&body).unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_lowercase())
}

/// The text of a registry's or token server's error document, if it is one.
pub(super) fn error_text(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
        /// What some token servers say instead.
        #[serde(default)]
        details: String,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let all: Errors = serde_json::from_slice(body).ok()?;
    let words = |code: &str| code.to_lowercase().replace('_', " ");
    match all.errors.into_iter().next() {
        Some(One { code, message }) if message.is_empty() => Some(words(&code)),
        Some(One { code, message }) => Some(format!("{}: {message}", words(&code))),
        None => Some(all.details).filter(|details| !details.is_empty()).map(|text| format!("unauthorized: {text}")),
    }
}
