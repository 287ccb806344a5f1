//! Attach and exec: calls that end in a hijacked connection.

use crate::{
    call::Call,
    containers,
    fault::{Fault, Outcome},
    framing::Framing,
    hijack::Hijack,
    logs, reply,
};
use http::StatusCode;
use muster_calls::{Attach, Attached, Error, ExecStart};
use muster_model::engine::{ExecConfig, ExecStartBody};
use serde_json::json;
use std::sync::Arc;

type Process = muster_calls::Future<Result<Attached, Error>>;

/// What a client asks for.
pub(crate) fn options(call: &Call) -> Attach {
    Attach {
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        logs: call.query.flag("logs"),
        stream: call.query.flag("stream"),
        detach_keys: call.query.text("detachKeys"),
    }
}

pub(crate) async fn attach(call: Call) -> Outcome {
    let options = options(&call);
    let stdin = options.stdin && options.stream;
    let attached = call.api.engine.container_attach(&call.name, options).await?;
    let tty = attached.tty;
    hand_over(call, tty, stdin, Box::pin(async { Ok(attached) })).await
}

async fn hand_over(call: Call, tty: bool, stdin: bool, process: Process) -> Outcome {
    let head = call.api.hijack_head(call.wants_upgrade(), logs::content_type(call.version, tty));
    call.hand_over(Hijack { head, framing: Framing::of(tty), process, stdin, websocket: false }).await
}

pub(crate) async fn exec_create(mut call: Call) -> Outcome {
    let config: ExecConfig = call.document().await?;
    if config.cmd.is_empty() {
        return Err(Fault::bad("No exec command specified"));
    }
    let id = call.api.engine.exec_create(&call.name, config).await?;
    Ok(reply::json(StatusCode::CREATED, &json!({ "Id": id })))
}

pub(crate) async fn exec_start(mut call: Call) -> Outcome {
    let body: ExecStartBody = call.document_or_none().await?.unwrap_or_default();
    let options = ExecStart {
        detach: body.detach,
        tty: body.tty,
        console_size: body.console_size.and_then(|[h, w]| Some((u16::try_from(h).ok()?, u16::try_from(w).ok()?))),
        detach_keys: None,
    };
    let engine = Arc::clone(&call.api.engine);
    if options.detach {
        engine.exec_start(&call.name, options).await?;
        return Ok(reply::empty(StatusCode::OK));
    }
    // What is no exec is a 404; what fails from here on is told in the stream, as the head goes out before the start.
    engine.exec_inspect(&call.name).await?;
    let (id, tty) = (call.name.clone(), options.tty);
    hand_over(call, tty, true, Box::pin(async move { engine.exec_start(&id, options).await })).await
}

pub(crate) async fn exec_resize(call: Call) -> Outcome {
    let (height, width) = containers::size_of(&call)?;
    call.api.engine.exec_resize(&call.name, height, width).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn exec_inspect(call: Call) -> Outcome {
    Ok(reply::ok(&call.api.engine.exec_inspect(&call.name).await?))
}
