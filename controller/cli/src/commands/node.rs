//! Nodes.

use crate::{
    args::{AvailabilityArg, Node, pair},
    commands::undisturbed,
    connect::Host,
    render::{self, Row},
    say,
};
use anyhow::bail;
use muster_calls::{Cluster as _, NodeView};
use muster_model::{
    cluster::NodeState,
    spec::{Availability, NodeSpec, Role},
};
use muster_proto::RemoteCluster;

pub async fn run(host: &Host, command: Node) -> anyhow::Result<u8> {
    let cluster = host.cluster();
    match command {
        Node::Ls { show, filter } => {
            let me = cluster.membership().await?.member.map(|m| m.node);
            let mut rows = Vec::new();
            for node in cluster.node_list().await? {
                if matches(&node, &filter)? {
                    rows.push(row(&node, me == Some(node.node.id)));
                }
            }
            let columns = [
                ("ID", "ID"),
                ("Hostname", "HOSTNAME"),
                ("Status", "STATUS"),
                ("Availability", "AVAILABILITY"),
                ("ManagerStatus", "MANAGER STATUS"),
                ("EngineVersion", "ENGINE VERSION"),
            ];
            render::list(&show, &columns, rows)?;
        }
        Node::Inspect { form, nodes } => {
            let mut all = Vec::new();
            for name in &nodes {
                all.push(serde_json::to_value(cluster.node_inspect(name).await?)?);
            }
            render::documents(form.format.as_deref(), all)?;
        }
        Node::Update { availability, label_add, label_rm, node } => {
            change(&cluster, &node, |spec| {
                if let Some(a) = availability {
                    spec.availability = match a {
                        AvailabilityArg::Active => Availability::Active,
                        AvailabilityArg::Pause => Availability::Pause,
                        AvailabilityArg::Drain => Availability::Drain,
                    };
                }
                spec.labels.retain(|k, _| !label_rm.contains(k));
                spec.labels.extend(label_add.iter().map(|l| pair(l)));
            })
            .await?;
            say!("{node}");
        }
        Node::Promote { nodes } => {
            for name in &nodes {
                change(&cluster, name, |spec| spec.role = Role::Manager).await?;
                say!("Node {name} is to become a manager.");
            }
        }
        Node::Demote { nodes } => {
            for name in &nodes {
                change(&cluster, name, |spec| spec.role = Role::Worker).await?;
                say!("Node {name} is to become a worker.");
            }
        }
        Node::Rm { force, nodes } => {
            for name in &nodes {
                cluster.node_remove(name, force).await?;
                say!("{name}");
            }
        }
    }
    Ok(0)
}

async fn change(cluster: &RemoteCluster, name: &str, edit: impl Fn(&mut NodeSpec)) -> anyhow::Result<()> {
    undisturbed(async || {
        let node = cluster.node_inspect(name).await?.node;
        let mut spec = node.spec;
        edit(&mut spec);
        Ok(cluster.node_update(node.id, node.meta.version, spec).await?)
    })
    .await
}

fn matches(view: &NodeView, filters: &[String]) -> anyhow::Result<bool> {
    for filter in filters {
        let Some((key, value)) = filter.split_once('=') else { bail!("--filter {filter:?}: expected KEY=VALUE") };
        let node = &view.node;
        let holds = match key {
            "name" => node.description.hostname.starts_with(value),
            "id" => node.id.to_string().starts_with(value),
            "role" => node.spec.role.as_str() == value,
            "node.label" | "label" => {
                let (k, v) = pair(value);
                node.spec.labels.get(&k).is_some_and(|have| v.is_empty() || *have == v)
            }
            _ => bail!("--filter {filter:?}: expected name=, id=, role= or label="),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn row(view: &NodeView, mine: bool) -> Row {
    let node = &view.node;
    let status = match node.status.state {
        NodeState::Ready => "Ready",
        NodeState::Down => "Down",
        NodeState::Unknown => "Unknown",
    };
    let manager = match (view.leader, node.manager_addr.is_some(), view.reachable) {
        (true, ..) => "Leader",
        (false, true, true) => "Reachable",
        (false, true, false) => "Unreachable",
        (false, false, _) => "",
    };
    let availability = match node.spec.availability {
        Availability::Active => "Active",
        Availability::Pause => "Pause",
        Availability::Drain => "Drain",
    };
    let fields = vec![
        ("ID", node.id.to_string()),
        ("Hostname", node.description.hostname.clone()),
        ("Status", status.to_owned()),
        ("Availability", availability.to_owned()),
        ("ManagerStatus", manager.to_owned()),
        ("EngineVersion", node.description.engine_version.clone()),
        ("Self", mine.to_string()),
    ];
    Row { fields, shown: vec![("ID", format!("{}{}", node.id, if mine { " *" } else { "" }))] }
}
