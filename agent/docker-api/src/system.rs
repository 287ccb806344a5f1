//! `/_ping`, `/version`, `/info`, `/events`, `/system/df`, `/auth`.

use crate::{call::Call, fault::Outcome, reply, swarm};
use futures_util::TryStreamExt as _;
use http::{HeaderValue, StatusCode, header};
use muster_calls::EventsQuery;
use muster_model::engine::{AuthConfig, EventMessage};
use serde_json::json;

pub(crate) async fn ping(call: Call) -> Outcome {
    let swarm = swarm::ping_state(&call.api).await;
    let mut reply = reply::text("OK");
    let headers = reply.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    // 1: clients build by POST /build; 2 would make them look for BuildKit behind /grpc.
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static(swarm));
    Ok(reply)
}

pub(crate) async fn version(call: Call) -> Outcome {
    Ok(reply::ok(&call.api.engine.version().await?))
}

/// What the engine says, with the swarm part filled in from the control plane.
pub(crate) async fn info(call: Call) -> Outcome {
    let mut info = call.api.engine.info().await?;
    info.swarm = swarm::info(&call.api).await;
    Ok(reply::ok(&info))
}

pub(crate) async fn events(call: Call) -> Outcome {
    let query = EventsQuery {
        since: call.query.time("since")?,
        until: call.query.time("until")?,
        filters: muster_model::engine::Filters::parse(call.query.get("filters"))?,
    };
    let told = call.api.engine.events(query).await?;
    Ok(reply::lines(told.map_ok(|event| EventMessage { entry: String::new(), ..event })))
}

/// `type` may name kinds of objects; the others are then left out.
pub(crate) async fn disk_usage(call: Call) -> Outcome {
    let kinds = call.query.all("type");
    let known = ["container", "image", "volume", "build-cache"];
    if let Some(unknown) = kinds.iter().find(|k| !known.contains(&k.as_str())) {
        return Err(crate::fault::Fault::bad(format!("unknown object type: {unknown}")));
    }
    let mut usage = call.api.engine.disk_usage().await?;
    usage.containers.iter_mut().for_each(|c| c.created_nanos = 0);
    let wanted = |kind: &str| kinds.is_empty() || kinds.iter().any(|k| k == kind);
    let mut document = json!({});
    if wanted("image") {
        document["LayersSize"] = json!(usage.layers_size);
        document["Images"] = json!(usage.images);
    }
    for (kind, key, value) in [
        ("container", "Containers", json!(usage.containers)),
        ("volume", "Volumes", json!(usage.volumes)),
        ("build-cache", "BuildCache", json!(usage.build_cache)),
    ] {
        if wanted(kind) {
            document[key] = value;
        }
    }
    Ok(reply::warned(reply::ok(&document), usage.warnings))
}

pub(crate) async fn auth(mut call: Call) -> Outcome {
    let auth: AuthConfig = call.document().await?;
    let token = call.api.engine.auth(auth).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "Status": "Login Succeeded", "IdentityToken": token })))
}
