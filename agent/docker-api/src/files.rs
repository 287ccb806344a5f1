//! `docker cp`: tars in and out of a container, and what a path is.

use crate::{
    call::Call,
    fault::{Fault, Outcome},
    reply::{self, Reply},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode};
use muster_calls::PathStat;
use muster_model::engine::Time;
use serde_json::json;

fn path_of(call: &Call) -> Result<String, Fault> {
    call.query.text("path").ok_or_else(|| Fault::bad("bad parameter: 'path' cannot be empty"))
}

fn add_stat(reply: &mut Reply, stat: &PathStat) {
    let document = json!({
        "name": stat.name, "size": stat.size, "mode": stat.mode, "mtime": Time(stat.mtime), "linkTarget": stat.link_target,
    });
    let text = STANDARD.encode(document.to_string());
    let value = HeaderValue::from_str(&text).expect("base64 is a header value");
    reply.headers_mut().insert("x-docker-container-path-stat", value);
}

pub(crate) async fn stat(call: Call) -> Outcome {
    let stat = call.api.engine.archive_stat(&call.name, path_of(&call)?).await?;
    let mut reply = reply::empty(StatusCode::OK);
    add_stat(&mut reply, &stat);
    Ok(reply)
}

pub(crate) async fn get(call: Call) -> Outcome {
    let (stat, tar) = call.api.engine.archive_get(&call.name, path_of(&call)?).await?;
    let mut reply = reply::stream(reply::TAR, tar);
    add_stat(&mut reply, &stat);
    Ok(reply)
}

pub(crate) async fn put(call: Call) -> Outcome {
    let path = path_of(&call)?;
    let keep_kind = call.query.flag("noOverwriteDirNonDir");
    let copy_owner = call.query.flag("copyUIDGID");
    let (engine, name) = (std::sync::Arc::clone(&call.api.engine), call.name.clone());
    let (tar, rest) = call.into_bytes_and_rest();
    if let Err(e) = engine.archive_put(&name, path, keep_kind, copy_owner, tar).await {
        rest.drain().await;
        return Err(e.into());
    }
    Ok(reply::empty(StatusCode::OK))
}
