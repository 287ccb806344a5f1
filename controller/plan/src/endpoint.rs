//! What a service and its tasks are reached by: networks, virtual addresses, published ports, task addresses.

use crate::{draft::ServiceDraft, network, planner::Context};
use muster_model::{
    NetworkId,
    cluster::{AllocatedPort, Endpoint, Service, Task, TaskAddress, TaskState},
    net::{Mac, Protocol},
    spec::{EndpointMode, PublishMode, PublishedPort, ServiceSpec, TaskSpec},
};
use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

/// Where ports are picked from that the user left open. As SwarmKit's.
const PICKED_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// Ports that each task of the service binds on its own host.
pub(crate) fn host_ports(spec: &ServiceSpec) -> impl Iterator<Item = AllocatedPort> {
    spec.endpoint.ports.iter().filter(|p| p.mode == PublishMode::Host).map(|p| allocated(p, p.published))
}

fn allocated(p: &PublishedPort, published: u16) -> AllocatedPort {
    AllocatedPort { protocol: p.protocol, target: p.target, published, mode: p.mode }
}

/// Whether a task lacks something that the service's endpoint asks of it, or has too much.
pub(crate) fn differs(task: &Task, spec: &ServiceSpec) -> bool {
    let lacks_ingress =
        task.addresses.is_empty() && leads_through_ingress(spec) && task.status.state >= TaskState::Pending;
    lacks_ingress || !task.host_ports.iter().copied().eq(host_ports(spec))
}

/// Ports on every node, and no network of its own that they could lead through.
fn leads_through_ingress(spec: &ServiceSpec) -> bool {
    spec.task.networks.is_empty() && spec.endpoint.ports.iter().any(|p| p.mode == PublishMode::Ingress)
}

/// The networks a spec names. They were resolved to ids when the service was accepted.
fn named_networks(spec: &TaskSpec) -> Vec<NetworkId> {
    spec.networks.iter().filter_map(|n| n.target.parse().ok()).collect()
}

/// Gives the service its endpoint. `None`: not possible now; its new tasks say why.
pub(crate) fn allocate(draft: &mut ServiceDraft, cx: &mut Context<'_>) -> Option<Arc<Service>> {
    let service = draft.service.clone()?;
    match endpoint(draft, cx, &service) {
        Ok(endpoint) if endpoint == service.endpoint => Some(service),
        Ok(endpoint) => {
            let mut new = Service::clone(&service);
            new.endpoint = endpoint;
            let new = Arc::new(new);
            draft.service = Some(new.clone());
            Some(new)
        }
        Err(why) => {
            blocked(draft, cx, &why);
            None
        }
    }
}

fn blocked(draft: &mut ServiceDraft, cx: &Context<'_>, why: &str) {
    draft.waiting = true;
    for t in draft.tasks.iter_mut().filter(|t| t.active() && t.task.status.state == TaskState::New) {
        t.observe(TaskState::New, cx.now, why);
    }
}

fn endpoint(draft: &mut ServiceDraft, cx: &mut Context<'_>, service: &Service) -> Result<Endpoint, String> {
    let mut networks = named_networks(&service.spec.task);
    if leads_through_ingress(&service.spec) {
        networks.push(ingress(draft, cx)?);
    }
    let mut vips = BTreeMap::new();
    if service.spec.endpoint.mode == EndpointMode::Vip {
        for network in networks {
            let vip = match service.endpoint.vips.get(&network) {
                Some(vip) => *vip,
                None => cx.ipam.take(network).map_err(|why| format!("no virtual address: {why}"))?,
            };
            draft.needs.push(network);
            vips.insert(network, vip);
        }
    }
    Ok(Endpoint { vips, ports: ports(cx, service)? })
}

/// The ingress network, made when it is needed first.
fn ingress(draft: &mut ServiceDraft, cx: &mut Context<'_>) -> Result<NetworkId, String> {
    if let Some(network) = cx.state.ingress_network() {
        return Ok(network.id);
    }
    if let Some(made) = cx.ipam.made_ingress() {
        return Ok(made);
    }
    let made = network::ingress(cx.state, cx.ids).map_err(|e| e.to_string())?;
    cx.ipam.make_network(&made);
    let id = made.id;
    draft.networks.push(made);
    Ok(id)
}

fn ports(cx: &mut Context<'_>, service: &Service) -> Result<Vec<AllocatedPort>, String> {
    let mut had: Vec<AllocatedPort> = service.endpoint.ports.clone();
    let mut ports = Vec::with_capacity(service.spec.endpoint.ports.len());
    for p in &service.spec.endpoint.ports {
        let published = match (p.mode, p.published) {
            (PublishMode::Ingress, 0) => match take_same(&mut had, p) {
                Some(port) => port,
                None => pick_port(cx, p.protocol)?,
            },
            (_, given) => given,
        };
        ports.push(allocated(p, published));
    }
    Ok(ports)
}

/// A port that was picked for the same target before stays.
fn take_same(had: &mut Vec<AllocatedPort>, p: &PublishedPort) -> Option<u16> {
    let same = |h: &AllocatedPort| {
        h.protocol == p.protocol && h.target == p.target && h.mode == p.mode && PICKED_PORTS.contains(&h.published)
    };
    let at = had.iter().position(same)?;
    Some(had.swap_remove(at).published)
}

fn pick_port(cx: &mut Context<'_>, protocol: Protocol) -> Result<u16, String> {
    let free = |port: &u16| cx.state.service_by_port(protocol, *port).is_none() && !cx.ipam.port_taken(protocol, *port);
    match PICKED_PORTS.clone().find(free) {
        Some(port) => {
            cx.ipam.take_port(protocol, port);
            Ok(port)
        }
        None => {
            let (first, last) = (PICKED_PORTS.start(), PICKED_PORTS.end());
            Err(format!("no free {protocol} port to publish: all of {first} to {last} are in use"))
        }
    }
}

/// Gives new tasks their addresses: `New` becomes `Pending`.
pub(crate) fn addresses(draft: &mut ServiceDraft, cx: &mut Context<'_>, service: &Service) {
    let ingress = service.endpoint.vips.keys().copied().find(|_| leads_through_ingress(&service.spec));
    let mut waiting = false;
    for t in &mut draft.tasks {
        if !t.active() || t.task.status.state != TaskState::New {
            continue;
        }
        let mut networks = named_networks(&t.task.spec);
        if networks.is_empty() {
            networks.extend(ingress);
        }
        match networks.iter().map(|n| address(cx, *n)).collect::<Result<Vec<_>, _>>() {
            Ok(addresses) => {
                if !addresses.is_empty() {
                    Arc::make_mut(&mut t.task).addresses = addresses;
                }
                t.observe(TaskState::Pending, cx.now, "");
            }
            Err(why) => {
                waiting = true;
                t.observe(TaskState::New, cx.now, &why);
            }
        }
    }
    draft.waiting |= waiting;
}

fn address(cx: &mut Context<'_>, network: NetworkId) -> Result<TaskAddress, String> {
    let ip = cx.ipam.take(network)?;
    Ok(TaskAddress { network, ip, mac: Mac::of(ip) })
}
