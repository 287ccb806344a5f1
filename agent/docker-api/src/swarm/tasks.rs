//! `/tasks`.

use super::{member_of, networks_of, services::with_origin, show};
use crate::{
    call::Call,
    fault::{Fault, Outcome},
    logs::{self, options_of, prefix_of},
    reply,
};
use futures_util::TryStreamExt;
use muster_calls::{Cluster, Kind, TaskQuery};
use muster_model::{
    NodeId, ServiceId,
    cluster::{Service, Task},
    engine::{Filters, Strings},
};
use std::collections::BTreeMap;

type Services = BTreeMap<ServiceId, Service>;

const KEYS: &[&str] = &["_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"];

/// The states of a task, as the filter `desired-state` takes them.
const STATES: &[&str] = &[
    "new",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
    "complete",
    "shutdown",
    "failed",
    "rejected",
    "remove",
    "orphaned",
];

pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.query.filters(KEYS)?;
    filters.flag("_up-to-date")?;
    if let Some(state) = filters.values("desired-state").find(|state| !STATES.contains(state)) {
        return Err(Fault::bad(format!("Invalid desired-state filter: '{state}'")));
    }
    let cluster = member_of(&call.api).await?;
    let services: Services = cluster.service_list().await?.into_iter().map(|v| (v.service.id, v.service)).collect();
    let query = TaskQuery {
        services: services_of(&filters, &services)?,
        nodes: nodes_of(&filters, &*cluster).await?,
        ids: Vec::new(),
    };
    let mut tasks = cluster.task_list(query).await?;
    tasks.retain(|task| passes(&filters, task, services.get(&task.service)));
    let networks = networks_for(&*cluster, &tasks).await?;
    let documents: Vec<_> = tasks.iter().map(|t| show::task(t, &labels_of(&services, t), &networks)).collect();
    Ok(reply::ok(&documents))
}

async fn networks_for(cluster: &dyn Cluster, tasks: &[Task]) -> Result<show::Networks, Fault> {
    if tasks.iter().all(|t| t.addresses.is_empty()) {
        return Ok(show::Networks::new());
    }
    networks_of(cluster).await
}

fn labels_of(services: &Services, task: &Task) -> Strings {
    services.get(&task.service).map(|s| s.spec.labels.clone()).unwrap_or_default()
}

/// The `service` filter takes names and ids.
fn services_of(filters: &Filters, services: &Services) -> Result<Vec<ServiceId>, Fault> {
    let find = |given: &str| {
        let fits = |s: &&Service| s.spec.name == given || s.id.to_string() == given;
        // Tasks may outlive their service for a moment; its id is then still good.
        let id = services.values().find(fits).map(|s| s.id).or_else(|| given.parse().ok());
        id.ok_or_else(|| Fault::not_found(format!("service {given} not found")))
    };
    filters.values("service").map(find).collect()
}

/// The `node` filter takes names and ids.
async fn nodes_of(filters: &Filters, cluster: &dyn Cluster) -> Result<Vec<NodeId>, Fault> {
    let mut nodes = Vec::new();
    for given in filters.values("node") {
        nodes.push(match cluster.node_inspect(given).await {
            Ok(view) => view.node.id,
            Err(e) if e.kind == Kind::NotFound && given.parse::<NodeId>().is_ok() => given.parse().unwrap_or_default(),
            Err(e) => return Err(e.into()),
        });
    }
    Ok(nodes)
}

fn passes(filters: &Filters, task: &Task, service: Option<&Service>) -> bool {
    let name = format!("{}.{}.{}", task.service_name, slot_of(task), task.id);
    // What clients show as wanted is "running" or "shutdown"; the other states pass by their own names.
    let up_to_date = service.is_some_and(|s| s.spec_version == task.spec_version);
    filters.matches_prefix("id", &task.id.to_string())
        && filters.matches_prefix("name", &name)
        && filters.matches_exactly("desired-state", task.desired.as_str())
        && filters.matches_exactly("runtime", "container")
        && filters.matches_labels("label", &service.map(|s| s.spec.labels.clone()).unwrap_or_default())
        && filters.flag("_up-to-date").ok().flatten().is_none_or(|wanted| wanted == up_to_date)
}

fn slot_of(task: &Task) -> String {
    match (task.slot, task.node) {
        (0, Some(node)) => node.to_string(),
        (slot, _) => slot.to_string(),
    }
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let cluster = member_of(&call.api).await?;
    let task = cluster.task_inspect(&call.name).await?;
    let labels = match cluster.service_inspect(&task.service.to_string()).await {
        Ok(view) => view.service.spec.labels,
        Err(e) if e.kind == Kind::NotFound => Strings::new(),
        Err(e) => return Err(e.into()),
    };
    let networks = networks_for(&*cluster, std::slice::from_ref(&task)).await?;
    Ok(reply::ok(&show::task(&task, &labels, &networks)))
}

pub(crate) async fn logs(call: Call) -> Outcome {
    let options = options_of(&call)?;
    let prefix = prefix_of(&options);
    let cluster = member_of(&call.api).await?;
    let tty = cluster.task_inspect(&call.name).await?.spec.container.tty;
    let lines = cluster.task_logs(&call.name, options).await?;
    Ok(logs::answer(call.version, tty, prefix, lines.map_ok(with_origin)))
}
