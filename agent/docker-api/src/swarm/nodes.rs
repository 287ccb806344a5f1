//! `/nodes`.

use super::{docs::NodeSpecDoc, member_of, parse, show, version_of, words::word};
use crate::{call::Call, fault::Outcome, reply};
use http::StatusCode;
use muster_calls::NodeView;
use muster_model::engine::Filters;

pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.query.filters(&["id", "label", "membership", "name", "node.label", "role"])?;
    let cluster = member_of(&call.api).await?;
    let (nodes, tls) = (cluster.node_list().await?, show::tls_info(&cluster.cluster().await?.ca_cert_pem));
    let documents: Vec<_> = nodes.iter().filter(|n| passes(&filters, n)).map(|n| show::node(n, &tls)).collect();
    Ok(reply::ok(&documents))
}

/// Every node here is an accepted member; there is no pending membership.
fn passes(filters: &Filters, view: &NodeView) -> bool {
    let node = &view.node;
    filters.matches_prefix("id", &node.id.to_string())
        && [&node.description.hostname, &node.spec.name].iter().any(|name| filters.matches_prefix("name", name))
        && filters.matches_labels("label", &node.description.engine_labels)
        && filters.matches_labels("node.label", &node.spec.labels)
        && filters.matches_exactly("role", &word(node.spec.role))
        && filters.matches_exactly("membership", "accepted")
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let cluster = member_of(&call.api).await?;
    let (node, tls) = (cluster.node_inspect(&call.name).await?, show::tls_info(&cluster.cluster().await?.ca_cert_pem));
    Ok(reply::ok(&show::node(&node, &tls)))
}

pub(crate) async fn update(mut call: Call) -> Outcome {
    let doc: NodeSpecDoc = call.document().await?;
    let version = version_of(&call, "node")?;
    let cluster = member_of(&call.api).await?;
    let spec = parse::node_spec(doc)?;
    let id = cluster.node_inspect(&call.name).await?.node.id;
    cluster.node_update(id, version, spec).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn remove(call: Call) -> Outcome {
    member_of(&call.api).await?.node_remove(&call.name, call.query.flag("force")).await?;
    Ok(reply::empty(StatusCode::OK))
}
