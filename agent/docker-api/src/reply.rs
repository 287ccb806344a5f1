//! Building answers: JSON, nothing, or a stream of bytes whose head goes out at once.

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, TryStreamExt};
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, WARNING},
};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use muster_calls::{Error, Listed, Unreached};
use muster_model::engine::ProgressLine;
use serde::Serialize;

/// An answer's body; an error in it cuts the connection, so that the client does not take a part for the whole.
pub(crate) type Body = UnsyncBoxBody<Bytes, Error>;
pub(crate) type Reply = Response<Body>;

pub(crate) const JSON: &str = "application/json";
pub(crate) const TAR: &str = "application/x-tar";

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    reply
}

/// A document, with a newline at its end as Go's encoder writes it.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Reply {
    let mut reply = Response::new(body(line_of(document)));
    *reply.status_mut() = status;
    set_type(&mut reply, JSON);
    reply
}

/// A document with status 200.
pub(crate) fn ok(document: &impl Serialize) -> Reply {
    json(StatusCode::OK, document)
}

/// A list that dockerd writes as `null` when nothing is in it.
pub(crate) fn or_null<T>(list: &[T]) -> Option<&[T]> {
    Some(list).filter(|list| !list.is_empty())
}

/// A list; nodes that did not answer are named in `Warning` headers (RFC 7234 section 5.5, code 199), as the list itself has
/// no place for them.
pub(crate) fn listed<T: Serialize>(list: &Listed<T>) -> Reply {
    let away = list.unreached.iter().map(|Unreached { node, reason }| format!("node {node} did not answer: {reason}"));
    warned(ok(&list.items), away)
}

/// An answer with `Warning` headers: what the user should know and the document has no place for.
pub(crate) fn warned(mut reply: Reply, warnings: impl IntoIterator<Item = String>) -> Reply {
    for warning in warnings {
        tracing::warn!(warning, "an answer is incomplete");
        let text: String = warning.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("199 muster \"{text}\"")) {
            reply.headers_mut().append(WARNING, value);
        }
    }
    reply
}

pub(crate) fn no_content() -> Reply {
    empty(StatusCode::NO_CONTENT)
}

/// A short text with status 200.
pub(crate) fn text(text: &'static str) -> Reply {
    let mut reply = Response::new(body(text));
    set_type(&mut reply, "text/plain; charset=utf-8");
    reply
}

/// Bytes as they come; the head is sent before the first of them.
pub(crate) fn stream(
    content_type: &'static str,
    bytes: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
) -> Reply {
    let mut reply = Response::new(StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync());
    set_type(&mut reply, content_type);
    reply
}

/// One document per line, each sent as it comes.
pub(crate) fn lines<T: Serialize + 'static>(documents: impl Stream<Item = Result<T, Error>> + Send + 'static) -> Reply {
    stream(JSON, documents.map_ok(|d| Bytes::from(line_of(&d))))
}

/// Progress lines; an error becomes the last line, because the status has been sent.
pub(crate) fn progress(lines: muster_calls::Stream<ProgressLine>) -> Reply {
    self::lines(lines.map(|line| Ok(line.unwrap_or_else(|e| ProgressLine::error(e.message)))))
}

fn set_type(reply: &mut Reply, content_type: &'static str) {
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
}

fn line_of(document: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(document).expect("documents have string keys only");
    bytes.push(b'\n');
    bytes
}
