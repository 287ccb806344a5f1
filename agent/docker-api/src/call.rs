//! One request, taken apart for its handler.

use crate::{
    api::Api,
    fault::{Fault, Outcome},
    hijack::{Hijack, HijackSlot, LINGER},
    query::Query,
    version::ApiVersion,
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;
use muster_calls::Error;
use muster_model::{engine::AuthConfig, spec::RegistryAuth};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The largest JSON document that is read; the biggest real ones (services with configs) stay far below.
const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// How much of a refused body is still read, as by Go's HTTP server.
const MAX_DRAINED_BYTES: usize = 256 << 10;

pub(crate) struct Call {
    pub api: Arc<Api>,
    pub version: ApiVersion,
    /// What `{name}` in the route stands for.
    pub name: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Incoming,
    pub hijack: HijackSlot,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    fn has_body(&self) -> bool {
        self.body.size_hint().exact() != Some(0)
    }

    /// The client asked to leave HTTP: `Upgrade: tcp`.
    pub fn wants_upgrade(&self) -> bool {
        !self.header("upgrade").is_empty()
    }

    /// Refuses a body where dockerd refuses one. Seven bytes are the shortest JSON object that says something.
    ///
    /// # Errors
    /// 400 with dockerd's text.
    pub fn refuse_body_at_start(&self) -> Result<(), Fault> {
        match self.body.size_hint().exact() {
            Some(n) if n <= 7 => Ok(()),
            _ => Err(Fault::bad(
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
            )),
        }
    }

    /// The document in the body.
    ///
    /// # Errors
    /// 400 with dockerd's texts: wrong content type, no body, no JSON.
    pub async fn document<T: DeserializeOwned>(&mut self) -> Result<T, Fault> {
        match self.document_or_none().await? {
            Some(document) => Ok(document),
            None => Err(Fault::bad("invalid JSON: got EOF while reading request body")),
        }
    }

    /// The document in the body, if there is a body.
    ///
    /// # Errors
    /// 400 with dockerd's texts.
    pub async fn document_or_none<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Fault> {
        self.check_content_type()?;
        let body = Limited::new(&mut self.body, MAX_DOCUMENT_BYTES).collect().await;
        let bytes =
            body.map_err(|e| Fault::new(StatusCode::BAD_REQUEST, format!("reading the request body: {e}")))?.to_bytes();
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        parse_document(&bytes).map(Some)
    }

    fn check_content_type(&self) -> Result<(), Fault> {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        if content_type.is_empty() && !self.has_body() {
            return Ok(());
        }
        let media = content_type.split(';').next().unwrap_or("").trim();
        if media.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(Fault::bad(format!("unsupported Content-Type header ({content_type}): must be 'application/json'")))
    }

    /// The body as it comes, for tars.
    pub fn into_bytes(self) -> muster_calls::Stream<Bytes> {
        self.into_bytes_and_rest().0
    }

    /// The same, and what its reader leaves of it.
    pub fn into_bytes_and_rest(self) -> (muster_calls::Stream<Bytes>, Rest) {
        let frames = Arc::new(Mutex::new(BodyStream::new(self.body)));
        let rest = Rest(Arc::clone(&frames));
        let bytes = stream::unfold(frames, |frames| async move {
            let frame = frames.lock().await.next().await?;
            Some((frame, frames))
        });
        let bytes = bytes.filter_map(|frame| async move {
            match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(e) => Some(Err(Error::invalid(format!("reading the request body: {e}")))),
            }
        });
        (bytes.boxed(), rest)
    }

    /// `X-Registry-Auth`: credentials, `None` when there are none or they cannot be read (a pull may go on without).
    pub fn registry_auth(&self) -> Option<AuthConfig> {
        decode_registry_auth(self.header("x-registry-auth")).ok().filter(|auth| *auth != AuthConfig::default())
    }

    /// The header as it was sent, for services that keep it.
    ///
    /// # Errors
    /// 400 for what is no base64.
    pub fn raw_registry_auth(&self) -> Result<Option<RegistryAuth>, Fault> {
        let header = Some(self.header("x-registry-auth")).filter(|h| !h.is_empty());
        Ok(header.map(RegistryAuth::given).transpose().map_err(muster_calls::Error::from)?)
    }

    /// Credentials for a push, which dockerd refuses without the header. What it cannot read there is no credentials to it:
    /// SDKs send a word of their own to push without any.
    ///
    /// # Errors
    /// 400 with dockerd's text.
    pub fn push_auth(&self) -> Result<Option<AuthConfig>, Fault> {
        if self.header("x-registry-auth").is_empty() {
            return Err(Fault::bad("bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: EOF"));
        }
        Ok(self.registry_auth())
    }

    /// Hands the connection over; the answer is written by who takes it.
    pub async fn hand_over(self, hijack: Hijack) -> Outcome {
        let taken = self.hijack.send(hijack).await;
        taken.map_err(|_| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the connection cannot be taken over"))?;
        // The connection's task drops this future when it takes the connection.
        std::future::pending().await
    }
}

/// What is left of a body that was not read to its end.
pub(crate) struct Rest(Arc<Mutex<BodyStream<Incoming>>>);

impl Rest {
    /// Reads on for a while: a client that is refused while it still sends would take the closed connection for the answer.
    pub async fn drain(self) {
        let read = async {
            let (mut frames, mut bytes) = (self.0.lock().await, 0);
            while let Some(Ok(frame)) = frames.next().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > MAX_DRAINED_BYTES {
                    break;
                }
            }
        };
        // When the time is up the client has its answer all the same.
        let _ = tokio::time::timeout(LINGER, read).await;
    }
}

fn parse_document<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|e| {
        let why = if e.is_eof() { "unexpected EOF".to_owned() } else { e.to_string() };
        Fault::bad(format!("invalid JSON: {why}"))
    })
}

/// Reads an `X-Registry-Auth` header, which services keep as it was sent: base64 of either alphabet, with or without padding,
/// holding an [`AuthConfig`].
///
/// # Errors
/// The reason alone, without the text, which is a secret.
pub fn decode_registry_auth(header: &str) -> Result<AuthConfig, String> {
    if header.is_empty() {
        return Err("EOF".to_owned());
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = header.replace('+', "-").replace('/', "_");
    let json = GeneralPurpose::new(&alphabet::URL_SAFE, config)
        .decode(text)
        .map_err(|_| "must be a valid base64url-encoded string")?;
    serde_json::from_slice(&json).map_err(|e| format!("must be JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    #[test]
    fn credentials_are_read_in_either_alphabet_and_without_padding() {
        let json = r#"{"username":"ü?>~","password":"b"}"#;
        for header in [STANDARD.encode(json), URL_SAFE_NO_PAD.encode(json)] {
            assert_eq!(decode_registry_auth(&header).expect("reads").username, "ü?>~");
        }
        assert_eq!(decode_registry_auth("e30="), Ok(AuthConfig::default()));
    }

    #[test]
    fn broken_credentials_are_refused() {
        assert_eq!(decode_registry_auth("").expect_err("refused"), "EOF");
        assert!(decode_registry_auth("!!").is_err());
        assert!(decode_registry_auth(&STANDARD.encode("[1")).is_err());
    }

    #[test]
    fn json_errors_have_dockerds_texts() {
        let message = |text: &str| parse_document::<serde_json::Value>(text.as_bytes()).expect_err("refused").message;
        assert_eq!(message("{\"a\":"), "invalid JSON: unexpected EOF");
        assert!(message("{} x").starts_with("invalid JSON: trailing characters"));
    }
}
