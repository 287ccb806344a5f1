//! New networks: a number and a subnet that nobody else has.

use crate::{IdSource, ipam::pick_subnet, schedule::node_name};
use muster_model::{
    NetworkId,
    cluster::{Meta, Network},
    net::Subnet,
    spec::NetworkSpec,
};
use muster_state::State;
use std::collections::BTreeSet;

/// VXLAN network identifiers have 24 bits (RFC 7348 section 5); the low ones are left to what else an operator may run.
const FIRST_VNI: u32 = 4097;
const LAST_VNI: u32 = (1 << 24) - 1;

/// Where subnets are cut from in a cluster that says nothing else.
const DEFAULT_POOL: ([u8; 4], u8, u8) = ([10, 0, 0, 0], 8, 24);

const INGRESS: &str = "ingress";

/// Why a network cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("subnet {subnet} overlaps {other} of network {name}")]
    OverlapsNetwork { subnet: Subnet, other: Subnet, name: String },
    #[error("subnet {subnet} overlaps the route {route} of node {node}")]
    OverlapsRoute { subnet: Subnet, route: Subnet, node: String },
    #[error("no free /{prefix} subnet is left in the address pool {pool}; give the network a subnet of its own")]
    PoolExhausted { pool: Subnet, prefix: u8 },
    #[error("all network numbers are in use")]
    NoVni,
}

/// The network that a spec (already valid) asks for, with all that the user left open.
///
/// # Errors
/// [`NetworkError`] names what is in the way.
pub fn new_network(state: &State, spec: NetworkSpec, id: NetworkId) -> Result<Network, NetworkError> {
    let subnet = match spec.subnet {
        Some(subnet) => {
            check_free(state, subnet)?;
            subnet
        }
        None => free_subnet(state)?,
    };
    let gateway = spec.gateway.unwrap_or_else(|| subnet.gateway());
    Ok(Network { id, meta: Meta::default(), spec, vni: free_vni(state)?, subnet, gateway, ingress: false })
}

/// The ingress network of a new cluster, which has nothing yet but its pool and the routes of its first node.
///
/// # Errors
/// [`NetworkError::PoolExhausted`]: no room beside the routes.
pub fn first_ingress(
    id: NetworkId,
    pool: Subnet,
    prefix: u8,
    routes_of_node: &[Subnet],
) -> Result<Network, NetworkError> {
    let blocked: Vec<Subnet> = routes(routes_of_node).collect();
    let subnet = pick_subnet(pool, prefix, &blocked).ok_or(NetworkError::PoolExhausted { pool, prefix })?;
    let spec = NetworkSpec { name: INGRESS.into(), ..NetworkSpec::default() };
    let gateway = subnet.gateway();
    Ok(Network { id, meta: Meta::default(), spec, vni: FIRST_VNI, subnet, gateway, ingress: true })
}

/// The network that ports of services without a network lead through.
pub(crate) fn ingress(state: &State, ids: &mut IdSource) -> Result<Network, NetworkError> {
    let spec = NetworkSpec { name: INGRESS.into(), ..NetworkSpec::default() };
    Ok(Network { ingress: true, ..new_network(state, spec, ids.id())? })
}

fn check_free(state: &State, subnet: Subnet) -> Result<(), NetworkError> {
    if let Some(n) = state.networks().find(|n| n.subnet.overlaps(subnet)) {
        return Err(NetworkError::OverlapsNetwork { subnet, other: n.subnet, name: n.spec.name.clone() });
    }
    for node in state.nodes() {
        if let Some(route) = routes(&node.description.routes).find(|r| r.overlaps(subnet)) {
            return Err(NetworkError::OverlapsRoute { subnet, route, node: node_name(node) });
        }
    }
    Ok(())
}

/// A default route overlaps everything and means nothing.
fn routes(all: &[Subnet]) -> impl Iterator<Item = Subnet> {
    all.iter().copied().filter(|r| r.prefix() > 0)
}

fn free_subnet(state: &State) -> Result<Subnet, NetworkError> {
    let (addr, length, default_prefix) = DEFAULT_POOL;
    let (pool, prefix) = state.cluster().map_or_else(
        || (Subnet::containing(addr.into(), length), default_prefix),
        |c| (c.address_pool, c.subnet_prefix),
    );
    let mut blocked: Vec<Subnet> = state.networks().map(|n| n.subnet).collect();
    blocked.extend(state.nodes().flat_map(|n| routes(&n.description.routes)));
    pick_subnet(pool, prefix, &blocked).ok_or(NetworkError::PoolExhausted { pool, prefix })
}

fn free_vni(state: &State) -> Result<u32, NetworkError> {
    let used: BTreeSet<u32> = state.networks().map(|n| n.vni).collect();
    // Behind the highest, so that a number is used again as late as possible; then whatever is left.
    let next = used.last().map_or(FIRST_VNI, |last| last + 1).max(FIRST_VNI);
    (next..=LAST_VNI).next().or_else(|| (FIRST_VNI..=LAST_VNI).find(|v| !used.contains(v))).ok_or(NetworkError::NoVni)
}
