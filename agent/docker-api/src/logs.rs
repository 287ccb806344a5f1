//! Log streams, of containers and of services.

use crate::{
    call::Call,
    fault::{Fault, Outcome},
    framing::{self, Framing, LinePrefix},
    reply,
    version::ApiVersion,
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use muster_calls::{Error, LogChunk, Logs};

/// How many lines that are there already go out in one chunk: one write for a burst, none is held back.
const BATCH: usize = 128;

pub(crate) async fn container(call: Call) -> Outcome {
    let options = options_of(&call)?;
    let prefix = prefix_of(&options);
    let log = call.api.engine.container_logs(&call.name, options).await?;
    Ok(answer(call.version, log.tty, prefix, log.lines))
}

/// # Errors
/// 400 when neither stream is asked for, or a time cannot be read.
pub(crate) fn options_of(call: &Call) -> Result<Logs, Fault> {
    let query = &call.query;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Fault::bad("Bad parameters: you must choose at least one stream"));
    }
    Ok(Logs {
        stdout,
        stderr,
        follow: query.flag("follow"),
        since: query.time("since")?,
        until: query.time("until")?,
        // dockerd takes anything that is no number, and negative ones, for "all".
        tail: query.get("tail").parse().ok(),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    })
}

pub(crate) fn prefix_of(options: &Logs) -> LinePrefix {
    LinePrefix { timestamps: options.timestamps, details: options.details }
}

/// The content type of output; before 1.42 there was one name for both forms.
pub(crate) fn content_type(version: ApiVersion, tty: bool) -> &'static str {
    if tty || version < ApiVersion(1, 42) {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    }
}

/// Lines as a chunked answer. An error behind the head becomes a message in the stream, where the framing has one.
pub(crate) fn answer(
    version: ApiVersion,
    tty: bool,
    prefix: LinePrefix,
    lines: impl Stream<Item = Result<LogChunk, Error>> + Send + 'static,
) -> reply::Reply {
    let framing = Framing::of(tty);
    let bytes = lines.ready_chunks(BATCH).map(move |batch| Ok(encode(framing, prefix, batch)));
    reply::stream(content_type(version, tty), bytes)
}

fn encode(framing: Framing, prefix: LinePrefix, batch: Vec<Result<LogChunk, Error>>) -> Bytes {
    let mut out = BytesMut::new();
    for line in batch {
        match line {
            Ok(line) => framing::put_line(&mut out, framing, prefix, &line),
            Err(e) => framing::put_error(&mut out, framing, &format!("Error grabbing logs: {e}\n")),
        }
    }
    out.freeze()
}
