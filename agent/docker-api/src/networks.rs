//! `/networks`: those of the engine and, on a member of a cluster, those that span its hosts, in one list.

use crate::{
    call::Call,
    fault::{Fault, Outcome},
    reply,
    swarm::member_of,
    version::ApiVersion,
};
use http::StatusCode;
use muster_calls::{Cluster, Error, Kind, ListContainers, Patterns, ServiceView, TaskQuery};
use muster_model::{
    cluster::{Network, Node, Task, TaskState},
    engine::{
        ContainerSummary, Filters, Ipam, IpamConfig, NetworkConnect, NetworkContainer, NetworkCreate,
        NetworkDisconnect, NetworkResource, NetworkTask, PeerInfo, PruneReport, ServiceInfo, Strings,
    },
    spec::{Invalid, NetworkSpec},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

const LIST_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "node", "scope", "type"];

/// The control plane, if there is one to ask; a host outside of a cluster has no such networks.
async fn cluster_of(call: &Call) -> Option<Arc<dyn Cluster>> {
    member_of(&call.api).await.ok()
}

pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.query.filters(LIST_FILTERS)?;
    filters.flag("dangling")?;
    let mut networks = call.api.engine.network_list(filters.clone()).await?;
    // Of one node there are those that it lists itself.
    if !filters.contains("node")
        && let Some(cluster) = cluster_of(&call).await
    {
        for network in cluster.network_list().await? {
            let shown = show(&network);
            // A host lists an overlay itself once a container of its own is on it.
            if !networks.items.iter().any(|n| n.id == shown.id) && passes(&filters, &shown) {
                networks.items.push(shown);
            }
        }
    }
    Ok(reply::listed(&networks))
}

/// What the engine does for its own networks. Whether anything is on a cluster network is not known here: it is never dangling.
fn passes(filters: &Filters, network: &NetworkResource) -> bool {
    let kind = if network.ingress || network.name == "docker_gwbridge" { "builtin" } else { "custom" };
    Patterns::of(filters, "name").take(&network.name)
        && filters.matches_prefix("id", &network.id)
        && filters.matches_exactly("driver", &network.driver)
        && filters.matches_exactly("scope", &network.scope)
        && filters.matches_exactly("type", kind)
        && filters.matches_labels("label", &network.labels)
        && filters.flag("dangling").ok().flatten() != Some(true)
}

fn show(network: &Network) -> NetworkResource {
    let options =
        Strings::from([("com.docker.network.driver.overlay.vxlanid_list".to_owned(), network.vni.to_string())]);
    NetworkResource {
        name: network.spec.name.clone(),
        id: network.id.to_string(),
        created: network.meta.created_at.into(),
        scope: "swarm".to_owned(),
        driver: "overlay".to_owned(),
        enable_ipv4: true,
        ipam: Ipam {
            driver: "default".to_owned(),
            options: None,
            config: vec![IpamConfig {
                subnet: network.subnet.to_string(),
                gateway: network.gateway.to_string(),
                ..IpamConfig::default()
            }],
        },
        internal: network.spec.internal,
        attachable: network.spec.attachable,
        ingress: network.ingress,
        options,
        labels: network.spec.labels.clone(),
        ..NetworkResource::default()
    }
}

/// The engine's own come first; `scope=swarm` asks for the cluster's alone. Other scopes than those two have no network.
pub(crate) async fn inspect(call: Call) -> Outcome {
    let scope = call.query.get("scope");
    let missing = match scope {
        "" | "local" => match call.api.engine.network_inspect(&call.name).await {
            Ok(network) => return Ok(reply::ok(&network)),
            Err(e) => e,
        },
        _ => Error::not_found(format!("network {} not found", call.name)),
    };
    let verbose = call.query.flag("verbose");
    if missing.kind != Kind::NotFound || !matches!(scope, "" | "swarm") {
        return Err(missing.into());
    }
    let Some(cluster) = cluster_of(&call).await else { return Err(missing.into()) };
    match cluster.network_inspect(&call.name).await {
        Ok(network) => {
            let mut shown = show(&network);
            shown.containers = residents(&call, &network).await?;
            let users = users(&*cluster, &network).await?;
            shown.peers = peers(&users);
            if verbose {
                shown.services = services(&network, &users);
            }
            Ok(reply::ok(&shown))
        }
        Err(e) if e.kind == Kind::NotFound => Err(missing.into()),
        Err(e) => Err(e.into()),
    }
}

/// The services on a network of the cluster, and their tasks with addresses on it and the nodes these run on.
struct Users {
    services: Vec<ServiceView>,
    tasks: Vec<(Task, Ipv4Addr, Option<Node>)>,
}

async fn users(cluster: &dyn Cluster, network: &Network) -> Result<Users, Error> {
    let nodes = cluster.node_list().await?;
    let services = cluster.service_list().await?;
    let here = |task: Task| {
        let runs = task.status.state == TaskState::Running;
        let ip = task.addresses.iter().find(|a| a.network == network.id).filter(|_| runs)?.ip;
        let node = nodes.iter().find(|n| Some(n.node.id) == task.node).map(|n| n.node.clone());
        Some((task, ip, node))
    };
    let tasks = cluster.task_list(TaskQuery::default()).await?.into_iter().filter_map(here).collect();
    Ok(Users { services, tasks })
}

/// The hosts that tasks on the network run on.
fn peers(users: &Users) -> Vec<PeerInfo> {
    let nodes = users.tasks.iter().filter_map(|(.., node)| node.as_ref()).map(|n| (n.id, n));
    let by_id: BTreeMap<_, _> = nodes.collect();
    by_id.into_values().map(|n| PeerInfo { name: n.description.hostname.clone(), ip: host_ip(n) }).collect()
}

fn host_ip(node: &Node) -> String {
    let tunnel = node.description.vtep.map(IpAddr::V4);
    tunnel.or_else(|| node.description.api_addr.map(|a| a.ip())).map(|ip| ip.to_string()).unwrap_or_default()
}

/// What `verbose` asks for, as dockerd words it. How tasks' endpoints are called on their hosts is not known here.
fn services(network: &Network, users: &Users) -> BTreeMap<String, ServiceInfo> {
    let task = |(task, ip, node): &(Task, Ipv4Addr, Option<Node>)| NetworkTask {
        name: task_name(task),
        endpoint_id: String::new(),
        endpoint_ip: ip.to_string(),
        info: node.iter().map(|n| ("Host IP".to_owned(), host_ip(n))).collect(),
    };
    let entry = |view: &ServiceView| {
        let service = &view.service;
        let vip = service.endpoint.vips.get(&network.id);
        let tasks: Vec<_> = users.tasks.iter().filter(|(t, ..)| t.service == service.id).map(task).collect();
        (vip.is_some() || !tasks.is_empty()).then(|| {
            let ports = service.endpoint.ports.iter();
            let info = ServiceInfo {
                vip: vip.map(Ipv4Addr::to_string).unwrap_or_default(),
                ports: ports.map(|p| format!("Target: {}, Publish: {}", p.target, p.published)).collect(),
                local_lb_index: 0,
                tasks,
            };
            (service.spec.name.clone(), info)
        })
    };
    users.services.iter().filter_map(entry).collect()
}

fn task_name(task: &Task) -> String {
    let slot = match (task.slot, task.node) {
        (0, Some(node)) => node.to_string(),
        (slot, _) => slot.to_string(),
    };
    format!("{}.{slot}.{}", task.service_name, task.id)
}

/// The containers of this endpoint on a network of the cluster.
async fn residents(call: &Call, network: &Network) -> Result<BTreeMap<String, NetworkContainer>, Error> {
    let id = network.id.to_string();
    let mut filters = Filters::default();
    filters.add("network", id.as_str());
    let listed = call.api.engine.container_list(ListContainers { filters, ..Default::default() }).await?;
    let entry = |c: ContainerSummary| {
        let place = c.network_settings.networks.values().find(|p| p.network_id == id)?.clone();
        let shown = NetworkContainer {
            name: c.names.first().map(|n| n.trim_start_matches('/').to_owned()).unwrap_or_default(),
            endpoint_id: place.endpoint_id,
            mac_address: place.mac_address,
            ipv4_address: format!("{}/{}", place.ip_address, place.ip_prefix_len),
            ipv6_address: String::new(),
        };
        Some((c.id, shown))
    };
    Ok(listed.items.into_iter().filter_map(entry).collect())
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    let mut network: NetworkCreate = call.document().await?;
    // Before 1.48 clients say false where nothing was said (CHANGELOG of the API, v1.48: EnableIPv6 may be left out).
    if call.version < ApiVersion(1, 48) {
        network.enable_ipv6 = network.enable_ipv6.filter(|wanted| *wanted);
    }
    if network.driver == "overlay" || network.scope == "swarm" {
        return create_overlay(&call, network).await;
    }
    let created = call.api.engine.network_create(network).await?;
    Ok(reply::json(StatusCode::CREATED, &created))
}

async fn create_overlay(call: &Call, network: NetworkCreate) -> Outcome {
    let cluster = member_of(&call.api).await?;
    let made = cluster.network_create(overlay_spec(network)?).await?;
    Ok(reply::json(StatusCode::CREATED, &json!({ "Id": made.id, "Warning": made.warnings.join("\n") })))
}

/// What a network that spans hosts is to be, from the words of a request.
///
/// # Errors
/// Names the first field that is wrong or cannot be honoured.
pub fn overlay_spec(network: NetworkCreate) -> Result<NetworkSpec, Error> {
    let NetworkCreate {
        name,
        driver,
        scope,
        enable_ipv4,
        enable_ipv6,
        ipam,
        internal,
        attachable,
        ingress,
        config_only,
        config_from,
        options,
        labels,
    } = network;
    let ipam = ipam.unwrap_or_default();
    let refused = [
        (!matches!(driver.as_str(), "overlay" | ""), "Driver (other than overlay) with Scope swarm"),
        (!matches!(scope.as_str(), "swarm" | ""), "Scope (other than swarm) of an overlay network"),
        (enable_ipv4 == Some(false), "EnableIPv4 false"),
        (enable_ipv6 == Some(true), "EnableIPv6"),
        (ingress, "Ingress"),
        (config_only, "ConfigOnly"),
        (config_from.is_some_and(|c| !c.network.is_empty()), "ConfigFrom"),
        (!matches!(ipam.driver.as_str(), "default" | ""), "IPAM.Driver"),
        (ipam.options.is_some_and(|o| !o.is_empty()), "IPAM.Options"),
        (ipam.config.len() > 1, "IPAM.Config with more than one subnet"),
    ];
    if let Some((_, field)) = refused.iter().find(|(refused, _)| *refused) {
        return Err(Error::unimplemented(field));
    }
    if let Some(option) = options.keys().next() {
        return Err(Error::unimplemented(format_args!("Options.{option} of an overlay network")));
    }
    let config = ipam.config.into_iter().next().unwrap_or_default();
    for (given, field) in [
        (!config.ip_range.is_empty(), "IPAM.Config.IPRange"),
        (!config.auxiliary_addresses.is_empty(), "IPAM.Config.AuxiliaryAddresses"),
    ] {
        if given {
            return Err(Error::unimplemented(field));
        }
    }
    let spec = NetworkSpec {
        name,
        labels,
        subnet: parse_given("IPAM.Config.Subnet", &config.subnet)?,
        gateway: parse_given("IPAM.Config.Gateway", &config.gateway)?,
        internal,
        attachable,
    };
    spec.validate()?;
    Ok(spec)
}

fn parse_given<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<Option<T>, Error> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|e| Invalid::new(field, format!("{e}")).into()),
    }
}

pub(crate) async fn remove(call: Call) -> Outcome {
    match call.api.engine.network_remove(&call.name).await {
        Ok(()) => {}
        Err(e) if matches!(e.kind, Kind::NotFound | Kind::Unimplemented) => remove_overlay(&call, e).await?,
        Err(e) => return Err(e.into()),
    }
    Ok(reply::no_content())
}

async fn remove_overlay(call: &Call, missing: Error) -> Result<(), Fault> {
    let Some(cluster) = cluster_of(call).await else { return Err(missing.into()) };
    match cluster.network_remove(&call.name).await {
        Err(e) if e.kind == Kind::NotFound => Err(missing.into()),
        other => other.map_err(Fault::from),
    }
}

pub(crate) async fn connect(mut call: Call) -> Outcome {
    let connect: NetworkConnect = call.document().await?;
    call.api.engine.network_connect(&call.name, connect).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn disconnect(mut call: Call) -> Outcome {
    let disconnect: NetworkDisconnect = call.document().await?;
    call.api.engine.network_disconnect(&call.name, disconnect).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// The engine's own networks; those of the cluster are removed by name only.
pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.query.filters(&["until", "label", "label!"])?;
    let PruneReport { networks_deleted, warnings, .. } = call.api.engine.network_prune(filters).await?;
    Ok(reply::warned(
        reply::ok(&json!({ "NetworksDeleted": networks_deleted.filter(|all| !all.is_empty()) })),
        warnings,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay() -> NetworkCreate {
        NetworkCreate { name: "shop".into(), driver: "overlay".into(), ..NetworkCreate::default() }
    }

    #[test]
    fn an_overlay_with_a_subnet_is_taken() {
        let config =
            vec![IpamConfig { subnet: "10.9.0.0/24".into(), gateway: "10.9.0.1".into(), ..IpamConfig::default() }];
        let network = NetworkCreate { ipam: Some(Ipam { config, ..Ipam::default() }), attachable: true, ..overlay() };
        let spec = overlay_spec(network).expect("taken");
        assert_eq!((spec.subnet.map(|s| s.to_string()).as_deref(), spec.attachable), (Some("10.9.0.0/24"), true));
    }

    #[test]
    fn what_an_overlay_cannot_honour_is_named() {
        let mut encrypted = overlay();
        encrypted.options.insert("encrypted".into(), String::new());
        let v6 = NetworkCreate { enable_ipv6: Some(true), ..overlay() };
        for (network, field) in [(encrypted, "Options.encrypted"), (v6, "EnableIPv6")] {
            let e = overlay_spec(network).expect_err(field);
            assert!(e.kind == Kind::Unimplemented && e.message.contains(field), "{}", e.message);
        }
        let bad = NetworkCreate {
            ipam: Some(Ipam {
                config: vec![IpamConfig { subnet: "10.9".into(), ..IpamConfig::default() }],
                ..Ipam::default()
            }),
            ..overlay()
        };
        assert!(overlay_spec(bad).expect_err("bad subnet").message.contains("IPAM.Config.Subnet"));
    }
}
