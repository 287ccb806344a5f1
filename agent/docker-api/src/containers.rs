//! `/containers`: all but the calls that stream bytes (`logs.rs`, `attach.rs`, `files.rs`).

use crate::{
    call::Call,
    fault::{Fault, Outcome},
    reply,
    version::ApiVersion,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use muster_calls::{Kind, ListContainers, RemoveContainer, StopContainer, WaitCondition};
use muster_model::engine::{ContainerCreateBody, ContainerUpdate, Filters, PruneReport, WaitError, WaitResult};
use serde_json::json;

const LIST_FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "node",
    "publish",
    "since",
    "status",
    "volume",
];

pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.query.filters(LIST_FILTERS)?;
    check_values(&filters, "status", &["created", "running", "paused", "restarting", "removing", "exited", "dead"])?;
    check_values(&filters, "health", &["none", "starting", "healthy", "unhealthy"])?;
    let options = ListContainers {
        all: call.query.flag("all"),
        // dockerd takes a negative limit for none.
        limit: call.query.number::<i64>("limit")?.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        size: call.query.flag("size"),
        filters,
    };
    let mut list = call.api.engine.container_list(options).await?;
    list.items.iter_mut().for_each(|c| c.created_nanos = 0);
    Ok(reply::listed(&list))
}

fn check_values(filters: &Filters, key: &str, known: &[&str]) -> Result<(), Fault> {
    match filters.values(key).find(|v| !known.contains(v)) {
        Some(value) => Err(Fault::bad(format!("invalid filter '{key}={value}'"))),
        None => Ok(()),
    }
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    let body: ContainerCreateBody = call.document().await?;
    let endpoints = &body.networking_config.endpoints_config;
    if call.version < ApiVersion(1, 44) && endpoints.len() > 1 {
        let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
        let names = names.join(", ");
        return Err(Fault::bad(format!("a container can be created on one network only before API 1.44, got {names}")));
    }
    let name = call.query.text("name").map(|n| n.strip_prefix('/').unwrap_or(&n).to_owned());
    let platform = call.query.get("platform").to_owned();
    let created = call.api.engine.container_create(name, platform, body).await?;
    Ok(reply::json(StatusCode::CREATED, &created))
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    Ok(reply::ok(&call.api.engine.container_inspect(&call.name, call.query.flag("size")).await?))
}

pub(crate) async fn start(call: Call) -> Outcome {
    call.refuse_body_at_start()?;
    call.api.engine.container_start(&call.name).await?;
    Ok(reply::no_content())
}

fn stop_options(call: &Call) -> Result<StopContainer, Fault> {
    Ok(StopContainer { signal: call.query.text("signal"), timeout_s: call.query.number("t")? })
}

pub(crate) async fn stop(call: Call) -> Outcome {
    call.api.engine.container_stop(&call.name, stop_options(&call)?).await?;
    Ok(reply::no_content())
}

pub(crate) async fn restart(call: Call) -> Outcome {
    call.api.engine.container_restart(&call.name, stop_options(&call)?).await?;
    Ok(reply::no_content())
}

pub(crate) async fn kill(call: Call) -> Outcome {
    call.api.engine.container_kill(&call.name, call.query.text("signal")).await?;
    Ok(reply::no_content())
}

pub(crate) async fn pause(call: Call) -> Outcome {
    call.api.engine.container_pause(&call.name).await?;
    Ok(reply::no_content())
}

pub(crate) async fn unpause(call: Call) -> Outcome {
    call.api.engine.container_unpause(&call.name).await?;
    Ok(reply::no_content())
}

pub(crate) async fn rename(call: Call) -> Outcome {
    let name = call.query.text("name").ok_or_else(|| Fault::bad("Neither old nor new names may be empty"))?;
    call.api.engine.container_rename(&call.name, name.strip_prefix('/').unwrap_or(&name).to_owned()).await?;
    Ok(reply::no_content())
}

pub(crate) async fn update(mut call: Call) -> Outcome {
    let update: ContainerUpdate = call.document().await?;
    Ok(reply::ok(&call.api.engine.container_update(&call.name, update).await?))
}

pub(crate) async fn remove(call: Call) -> Outcome {
    if call.query.flag("link") {
        call.api.engine.container_unlink(&call.name).await?;
        return Ok(reply::no_content());
    }
    let options = RemoveContainer { force: call.query.flag("force"), volumes: call.query.flag("v") };
    call.api.engine.container_remove(&call.name, options).await?;
    Ok(reply::no_content())
}

/// The head goes out as soon as the wait is registered: clients start the container only then.
pub(crate) async fn wait(call: Call) -> Outcome {
    let condition = match call.query.get("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(Fault::bad(format!("invalid condition: {other:?}"))),
    };
    let ended = call.api.engine.container_wait(&call.name, condition).await?;
    let result = async move {
        match ended.await {
            // Its node was lost: nobody knows how it will end. Clients take whatever is written here for its end, some without
            // a look at the error in it: they get none.
            Err(e) if e.kind == Kind::Unavailable => Err(e),
            Err(e) => Ok(WaitResult { status_code: -1, error: Some(WaitError { message: e.message }) }),
            Ok(ended) => Ok(ended),
        }
    };
    Ok(reply::lines(futures_util::stream::once(result)))
}

pub(crate) async fn top(call: Call) -> Outcome {
    let args = call.query.text("ps_args").unwrap_or_else(|| "-ef".to_owned());
    Ok(reply::ok(&call.api.engine.container_top(&call.name, args).await?))
}

pub(crate) async fn stats(call: Call) -> Outcome {
    let stream = call.query.flag_or("stream", true);
    let one_shot = call.query.flag("one-shot");
    if stream && one_shot {
        return Err(Fault::bad("cannot have stream=true and one-shot=true"));
    }
    let mut samples = call.api.engine.container_stats(&call.name, stream, one_shot).await?;
    if stream {
        return Ok(reply::lines(samples));
    }
    match samples.next().await {
        Some(sample) => Ok(reply::ok(&sample?)),
        None => Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine has no sample for this container")),
    }
}

pub(crate) async fn resize(call: Call) -> Outcome {
    let (height, width) = size_of(&call)?;
    call.api.engine.container_resize(&call.name, height, width).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `h` and `w`, both needed.
pub(crate) fn size_of(call: &Call) -> Result<(u16, u16), Fault> {
    let side = |name: &str| {
        call.query.number::<u16>(name)?.ok_or_else(|| Fault::bad(format!("invalid {name}: expected a number")))
    };
    Ok((side("h")?, side("w")?))
}

pub(crate) async fn changes(call: Call) -> Outcome {
    let changes = call.api.engine.container_changes(&call.name).await?;
    Ok(reply::ok(&reply::or_null(&changes)))
}

pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.query.filters(&["until", "label", "label!"])?;
    let PruneReport { containers_deleted, space_reclaimed, warnings, .. } =
        call.api.engine.container_prune(filters).await?;
    let report = json!({ "ContainersDeleted": containers_deleted.filter(|all| !all.is_empty()), "SpaceReclaimed": space_reclaimed });
    Ok(reply::warned(reply::ok(&report), warnings))
}

pub(crate) async fn export(call: Call) -> Outcome {
    let tar: muster_calls::Stream<Bytes> = call.api.engine.container_export(&call.name).await?;
    Ok(reply::stream("application/octet-stream", tar))
}
