//! Networks: what is made here spans the cluster, since its containers may be anywhere; `NODE/NAME` is one host's own.

use super::{WholeEngine, demand::split_node, lists};
use crate::directory::Place;
use muster_calls::*;
use muster_model::engine::{Filters, NetworkCreate, NetworkCreated, NetworkResource};
use std::sync::Arc;

impl WholeEngine {
    /// A bridge of one host is no use to a container on another. The stock client says `bridge` where its user says nothing:
    /// the network is an attachable overlay then. Who wants one host's bridge says which: `NODE/NAME`, or scope `local` for
    /// this host's.
    pub(super) async fn create_network(&self, mut network: NetworkCreate) -> Result<NetworkCreated> {
        let (node, name) = split_node(&network.name);
        if let Some(node) = node {
            let place = self.node(node)?;
            network.name = name.to_owned();
            return place.engine.network_create(network).await;
        }
        let spans = matches!(network.driver.as_str(), "" | "default" | "bridge" | "overlay");
        if self.is_alone()? || network.scope == "local" || !spans {
            return self.here().engine.network_create(network).await;
        }
        network.driver = "overlay".to_owned();
        network.attachable = true;
        let spec = muster_docker_api::overlay_spec(network)?;
        let made = self.cluster().network_create(spec).await?;
        Ok(NetworkCreated { id: made.id.to_string(), warning: made.warnings.join("\n") })
    }

    pub(super) async fn networks_of_all(&self, filters: Filters) -> Result<Listed<NetworkResource>> {
        let ask = |e: Arc<dyn Engine>| {
            let filters = filters.clone();
            async move { e.network_list(filters).await }
        };
        let (answers, unreached) = self.gather(ask).await?;
        let parts = answers.into_iter().map(|(place, list)| (place, list.items)).collect();
        Ok(Listed { items: lists::named_networks(parts), unreached })
    }

    /// A network's name on a container's node.
    ///
    /// # Errors
    /// `Conflict`, when the name says that it is another node's.
    pub(super) fn network_beside<'n>(&self, network: &'n str, container: &Place) -> Result<&'n str> {
        let (node, name) = split_node(network);
        if let Some(node) = node
            && self.node(node)?.id != container.id
        {
            let on = &container.hostname;
            return Err(Error::conflict(format!(
                "network {network} is node {node}'s own, and the container is on {on}"
            )));
        }
        Ok(name)
    }

    /// One that spans hosts shows the containers of all of them.
    pub(super) async fn inspect_network(&self, name: &str) -> Result<NetworkResource> {
        let (found, _) = self.networks_called(name).await?;
        let mut all = found.into_iter();
        let (place, mut network) = all.next().ok_or_else(|| Error::not_found(format!("network {name} not found")))?;
        if network.scope == "local" {
            lists::label(&mut network.labels, &place);
        }
        network.containers.extend(all.flat_map(|(_, n)| n.containers));
        Ok(network)
    }
}
