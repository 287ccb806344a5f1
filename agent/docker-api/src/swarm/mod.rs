//! Swarm's endpoints over [`muster_calls::Cluster`]: services, tasks, nodes, membership.

pub(crate) mod cluster;
mod docs;
pub(crate) mod nodes;
mod objects;
mod parse;
pub(crate) mod secrets;
pub(crate) mod services;
mod show;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;
mod words;

use crate::{api::Api, call::Call, fault::Fault};
use muster_calls::{Cluster, Membership};
use muster_model::{
    cluster::Version,
    engine::{PeerNode, SwarmInfo},
};
use std::sync::Arc;

/// The control plane, if this host is a member.
///
/// # Errors
/// 503 with dockerd's text otherwise.
pub(crate) async fn member_of(api: &Api) -> Result<Arc<dyn Cluster>, Fault> {
    let cluster = api.cluster.as_ref().ok_or_else(Fault::no_swarm)?;
    match cluster.membership().await?.member {
        Some(_) => Ok(Arc::clone(cluster)),
        None => Err(Fault::no_swarm()),
    }
}

/// The word for the `Swarm` header of a ping.
pub(crate) async fn ping_state(api: &Api) -> &'static str {
    let Some(cluster) = &api.cluster else { return "inactive" };
    match cluster.membership().await {
        Ok(Membership { member: None }) => "inactive",
        Ok(Membership { member: Some(m) }) if m.control_available => "active/manager",
        Ok(_) => "active/worker",
        Err(_) => "error",
    }
}

/// The swarm part of `/info`. Never fails: what is wrong stands in its `Error`.
pub(crate) async fn info(api: &Api) -> SwarmInfo {
    let inactive = SwarmInfo { local_node_state: "inactive".to_owned(), ..SwarmInfo::default() };
    let Some(cluster) = &api.cluster else { return inactive };
    let member = match cluster.membership().await {
        Ok(Membership { member: Some(member) }) => member,
        Ok(Membership { member: None }) => return inactive,
        Err(e) => return SwarmInfo { local_node_state: "error".to_owned(), error: e.message, ..inactive },
    };
    let document = match member.control_available {
        true => cluster.cluster().await.ok().and_then(|c| serde_json::to_value(show::cluster(&c, None)).ok()),
        false => None,
    };
    let manager = |(id, addr): &(muster_model::NodeId, std::net::SocketAddr)| PeerNode {
        node_id: id.to_string(),
        addr: addr.to_string(),
    };
    SwarmInfo {
        node_id: member.node.to_string(),
        node_addr: member.addr.ip().to_string(),
        local_node_state: "active".to_owned(),
        control_available: member.control_available,
        error: member.error,
        remote_managers: member.managers.iter().map(manager).collect(),
        nodes: member.nodes.into(),
        managers: member.manager_count.into(),
        cluster: document,
    }
}

/// The `version` that an update must carry.
///
/// # Errors
/// 400, naming the kind of object.
fn version_of(call: &Call, kind: &str) -> Result<Version, Fault> {
    let text = call.query.get("version");
    text.parse()
        .map(Version)
        .map_err(|_| Fault::bad(format!("invalid {kind} version '{text}': expected the object's Version.Index")))
}

/// All networks of the cluster, for showing addresses.
async fn networks_of(cluster: &dyn Cluster) -> Result<show::Networks, Fault> {
    Ok(cluster.network_list().await?.into_iter().map(|n| (n.id, n)).collect())
}
