//! `/services`.

use super::{docs::ServiceSpecDoc, member_of, networks_of, parse, show, version_of};
use crate::{
    call::Call,
    fault::{Fault, Outcome},
    logs::{self, options_of, prefix_of},
    reply,
};
use futures_util::TryStreamExt;
use http::StatusCode;
use muster_calls::{Cluster, Kind, LogChunk, ServiceView, TaskLog};
use muster_model::{engine::Filters, names, spec::Mode};
use serde_json::json;

/// How many made-up names a service without one tries: they are ten thousand.
const NAME_ATTEMPTS: u32 = 10;

pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.query.filters(&["id", "label", "mode", "name", "runtime"])?;
    let status = call.query.flag("status");
    let cluster = member_of(&call.api).await?;
    let mut services = cluster.service_list().await?;
    services.retain(|view| passes(&filters, view));
    let networks = networks_for(&*cluster, &services).await?;
    let documents: Vec<_> =
        services.iter().map(|view| show::without_defaults(show::service(view, &networks, status))).collect();
    Ok(reply::ok(&documents))
}

fn passes(filters: &Filters, view: &ServiceView) -> bool {
    let service = &view.service;
    let mode = match service.spec.mode {
        Mode::Replicated { .. } => "replicated",
        Mode::Global => "global",
    };
    filters.matches_prefix("id", &service.id.to_string())
        && filters.matches_prefix("name", &service.spec.name)
        && filters.matches_labels("label", &service.spec.labels)
        && filters.matches_exactly("mode", mode)
        && filters.matches_exactly("runtime", "container")
}

/// The networks are asked for only when there is an address to show.
async fn networks_for(cluster: &dyn Cluster, services: &[ServiceView]) -> Result<show::Networks, Fault> {
    if services.iter().all(|view| view.service.endpoint.vips.is_empty()) {
        return Ok(show::Networks::new());
    }
    networks_of(cluster).await
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    let mut doc: ServiceSpecDoc = call.document().await?;
    let cluster = member_of(&call.api).await?;
    let mut attempts = 0;
    if doc.name.is_empty() {
        (doc.name, attempts) = (names::from_number(rand::random()), NAME_ATTEMPTS);
    }
    let mut spec = parse::service_spec(doc)?;
    spec.task.container.registry_auth = call.raw_registry_auth()?;
    let made = loop {
        match cluster.service_create(spec.clone()).await {
            Err(e) if e.kind == Kind::Conflict && attempts > 1 => {
                (spec.name, attempts) = (names::from_number(rand::random()), attempts - 1);
            }
            other => break other?,
        }
    };
    Ok(reply::json(StatusCode::CREATED, &json!({ "ID": made.id, "Warnings": reply::or_null(&made.warnings) })))
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let cluster = member_of(&call.api).await?;
    let view = cluster.service_inspect(&call.name).await?;
    let networks = networks_for(&*cluster, std::slice::from_ref(&view)).await?;
    let document = show::service(&view, &networks, false);
    let whole = call.query.flag("insertDefaults");
    Ok(reply::ok(&if whole { document } else { show::without_defaults(document) }))
}

pub(crate) async fn update(mut call: Call) -> Outcome {
    let doc: ServiceSpecDoc = call.document().await?;
    let version = version_of(&call, "service")?;
    let cluster = member_of(&call.api).await?;
    let current = cluster.service_inspect(&call.name).await?.service;
    let made = match call.query.get("rollback") {
        "previous" => cluster.service_rollback(current.id, version).await?,
        "" | "none" => {
            let mut spec = parse::service_spec(doc)?;
            spec.task.container.registry_auth = match call.query.get("registryAuthFrom") {
                "" | "spec" => call.raw_registry_auth()?.or(current.spec.task.container.registry_auth),
                "previous-spec" => current.previous_spec.and_then(|p| p.task.container.registry_auth.clone()),
                other => {
                    return Err(Fault::bad(format!(
                        "invalid registryAuthFrom {other:?}: expected spec or previous-spec"
                    )));
                }
            };
            cluster.service_update(current.id, version, spec).await?
        }
        other => return Err(Fault::bad(format!("unrecognized rollback option {other}"))),
    };
    Ok(reply::ok(&json!({ "Warnings": reply::or_null(&made.warnings) })))
}

pub(crate) async fn remove(call: Call) -> Outcome {
    member_of(&call.api).await?.service_remove(&call.name).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn logs(call: Call) -> Outcome {
    let options = options_of(&call)?;
    let prefix = prefix_of(&options);
    let cluster = member_of(&call.api).await?;
    let tty = cluster.service_inspect(&call.name).await?.service.spec.task.container.tty;
    let lines = cluster.service_logs(&call.name, options).await?;
    Ok(logs::answer(call.version, tty, prefix, lines.map_ok(with_origin)))
}

/// Clients read whose line it is from these attributes.
pub(super) fn with_origin(log: TaskLog) -> LogChunk {
    let TaskLog { service, task, node, mut chunk } = log;
    let attr = |name: &str, value: String| (format!("com.docker.swarm.{name}"), value);
    chunk.attrs.extend([
        attr("node.id", node.to_string()),
        attr("service.id", service.to_string()),
        attr("task.id", task.to_string()),
    ]);
    chunk
}
