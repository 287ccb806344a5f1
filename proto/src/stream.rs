//! Streams between the wire and the call traits.

use crate::{from_status, to_status, v1};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::Fuse, stream};
use muster_calls::{Error, Input, LogChunk, Output, Result, StdStream, Stream};
use muster_model::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::HashMap, future::Future};
use tokio::sync::oneshot;
use tonic::{Status, Streaming};

/// A stream that a server answers with.
pub(crate) type Reply<T> = futures_core::stream::BoxStream<'static, Result<T, Status>>;

/// How many pieces of input may wait for a slow process before its client is made to wait.
pub(crate) const INPUT_DEPTH: usize = 16;

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| Error::internal(format!("cannot encode an answer: {e}")))
}

pub(crate) fn decode<T: DeserializeOwned>(json: &[u8], what: &str) -> Result<T> {
    // Calls that answer nothing send nothing.
    let json = if json.is_empty() { b"null" } else { json };
    serde_json::from_slice(json).map_err(|e| Error::invalid(format!("{what}: {e}")))
}

pub(crate) fn std_stream(n: u32) -> StdStream {
    match n {
        0 => StdStream::Stdin,
        2 => StdStream::Stderr,
        3 => StdStream::System,
        _ => StdStream::Stdout,
    }
}

pub(crate) fn log_line(c: LogChunk) -> v1::LogLine {
    let attributes: HashMap<_, _> = c.attrs.into_iter().collect();
    v1::LogLine { stream: c.stream as u32, time: c.time.0, data: c.data, attributes }
}

pub(crate) fn log_chunk(l: v1::LogLine) -> LogChunk {
    let mut attrs: Vec<_> = l.attributes.into_iter().collect();
    attrs.sort();
    LogChunk { stream: std_stream(l.stream), time: Timestamp(l.time), data: l.data, attrs }
}

/// Documents from a server's stream.
pub(crate) fn documents<T: DeserializeOwned + Send + 'static>(s: Streaming<v1::Document>) -> Stream<T> {
    s.map(|r| r.map_err(from_status).and_then(|d| decode(&d.json, "answer"))).boxed()
}

/// Documents into a client's stream.
pub(crate) fn document_stream<T: Serialize + Send + 'static>(s: Stream<T>) -> Reply<v1::Document> {
    s.map(|r| r.and_then(|v| encode(&v)).map(|json| v1::Document { json }).map_err(to_status)).boxed()
}

pub(crate) fn pieces(s: Streaming<v1::Bytes>) -> Stream<Bytes> {
    s.map(|r| r.map(|b| b.data).map_err(from_status)).boxed()
}

pub(crate) fn piece_stream(s: Stream<Bytes>) -> Reply<v1::Bytes> {
    s.map(|r| r.map(|data| v1::Bytes { data }).map_err(to_status)).boxed()
}

/// The data of an upload whose opening message was taken off. A message of another kind ends it with an error.
pub(crate) fn uploaded(s: Streaming<v1::Upload>) -> Stream<Bytes> {
    s.map_err(from_status)
        .and_then(|m| async move {
            match m.of {
                Some(v1::upload::Of::Data(data)) => Ok(data),
                _ => Err(Error::invalid("upload: expected data after the opening message")),
            }
        })
        .boxed()
}

/// An upload as a client sends it. An error of the source cannot travel in this direction, and an early end would look like
/// the whole: the stream stays open, and [`Broken`] ends the call, which the server sees as cancelled.
pub(crate) fn upload(
    open: v1::EngineRequest,
    data: Stream<Bytes>,
) -> (impl futures_core::Stream<Item = v1::Upload> + Send + 'static, Broken) {
    let first = v1::Upload { of: Some(v1::upload::Of::Open(open)) };
    let (tell, broken) = oneshot::channel();
    let rest = stream::unfold((data, tell), |(mut data, tell)| async move {
        match data.next().await? {
            Ok(d) => Some((v1::Upload { of: Some(v1::upload::Of::Data(d)) }, (data, tell))),
            Err(e) => {
                // Who made the call may have gone: then it is cancelled already.
                let _ = tell.send(e);
                std::future::pending().await
            }
        }
    });
    // Fused: who sends it may look once more after the end.
    (stream::iter([first]).chain(rest).fuse(), Broken(broken.fuse()))
}

/// Says that an upload's source failed.
pub(crate) struct Broken(Fuse<oneshot::Receiver<Error>>);

impl Broken {
    /// The call's answer, or the source's error as soon as there is one: the call is dropped then.
    pub(crate) async fn or<T>(&mut self, call: impl Future<Output = Result<T, Status>>) -> Result<T> {
        tokio::select! {
            answer = call => answer.map_err(from_status),
            Ok(e) = &mut self.0 => Err(e),
        }
    }

    /// An answer that comes while the upload goes on, ended by the source's error.
    pub(crate) fn ending<T: Send + 'static>(self, answer: Stream<T>) -> Stream<T> {
        stream::unfold((answer, Some(self.0)), |(mut answer, broken)| async move {
            let Some(mut broken) = broken else { return Some((answer.next().await?, (answer, None))) };
            tokio::select! {
                item = answer.next() => Some((item?, (answer, Some(broken)))),
                failed = &mut broken => match failed {
                    Ok(e) => Some((Err(e), (stream::empty().boxed(), None))),
                    // All was sent.
                    Err(_) => Some((answer.next().await?, (answer, None))),
                },
            }
        })
        .fuse()
        .boxed()
    }
}

pub(crate) fn attach_input(i: Input) -> v1::AttachInput {
    let of = match i {
        Input::Data(d) => v1::attach_input::Of::Data(d),
        Input::Close => v1::attach_input::Of::Close(true),
    };
    v1::AttachInput { of: Some(of) }
}

pub(crate) fn output(o: v1::Output) -> Output {
    Output { stream: std_stream(o.stream), data: o.data }
}

pub(crate) fn output_message(o: Output) -> v1::AttachOutput {
    let out = v1::Output { stream: o.stream as u32, data: o.data };
    v1::AttachOutput { of: Some(v1::attach_output::Of::Output(out)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken_after(pieces: &'static [&'static [u8]], error: Option<&'static str>) -> Stream<Bytes> {
        let pieces = stream::iter(pieces.iter().map(|p| Ok(Bytes::from_static(p))));
        pieces.chain(stream::iter(error.map(|e| Err(Error::invalid(e))))).boxed()
    }

    #[tokio::test]
    async fn an_upload_that_is_whole_ends_and_may_be_asked_again() {
        let (sent, mut broken) = upload(v1::EngineRequest::default(), broken_after(&[b"ab", b"cd"], None));
        let server = async move {
            let mut sent = std::pin::pin!(sent);
            let mut pieces = 0;
            while sent.next().await.is_some() {
                pieces += 1;
            }
            assert!(sent.next().await.is_none());
            // The answer comes when all was read, and the source gone.
            tokio::task::yield_now().await;
            Ok::<_, Status>(pieces)
        };
        assert_eq!(broken.or(server).await.expect("answered"), 3);
        let answer: Vec<_> = broken.ending(stream::iter([Ok(1), Ok(2)]).boxed()).collect().await;
        assert_eq!(answer.len(), 2);
    }

    #[tokio::test]
    async fn an_upload_whose_source_fails_never_ends_as_if_it_were_whole() {
        let (sent, mut broken) = upload(v1::EngineRequest::default(), broken_after(&[b"ab"], Some("cut off")));
        // The server's side: what it hears until the call is dropped.
        let server = async move {
            let heard: Vec<_> = sent.collect().await;
            Ok::<_, Status>(heard.len())
        };
        let e = broken.or(server).await.expect_err("cut off");
        assert_eq!(e.message, "cut off");
    }

    #[tokio::test]
    async fn an_answer_that_runs_beside_a_failing_upload_ends_with_its_error() {
        let (sent, broken) = upload(v1::EngineRequest::default(), broken_after(&[], Some("cut off")));
        let mut sent = sent.boxed();
        let answer = broken.ending(stream::pending::<Result<u8>>().boxed());
        let answer: Vec<_> = tokio::select! {
            answer = answer.collect::<Vec<_>>() => answer,
            () = async { while sent.next().await.is_some() {} } => panic!("the upload ended"),
        };
        assert!(matches!(&answer[..], [Err(e)] if e.message == "cut off"));
    }
}
