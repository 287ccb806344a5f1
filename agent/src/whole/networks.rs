//! Networks: what is made here spans the cluster, since its containers may be anywhere; `NODE/NAME` is one host's own.

use super::{WholeEngine, demand::split_node, lists};
use crate::directory::Place;
use muster_calls::*;
use muster_model::engine::{Filters, NetworkCreate, NetworkCreated, NetworkResource, PruneReport};
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

    pub(super) async fn networks_of_all(&self, mut filters: Filters) -> Result<Listed<NetworkResource>> {
        let places = self.chosen(&mut filters)?;
        let ask = |place: &Place| {
            let (engine, filters) = (place.engine.clone(), filters.clone());
            async move { engine.network_list(filters).await }
        };
        let (answers, unreached) = self.gather_from(places, super::PATIENCE, ask).await?;
        let parts = answers.into_iter().map(|(place, list)| (place, list.items)).collect();
        Ok(Listed { items: lists::named_networks(parts), unreached })
    }

    /// Those of every host, and those that span hosts and nobody uses: here these are what `network create` makes. A filter
    /// that chooses nodes spares them: they are no node's.
    pub(super) async fn prune_networks(&self, mut filters: Filters) -> Result<PruneReport> {
        let mut report = self.prune(&filters, |e, f| async move { e.network_prune(f).await }).await?;
        if self.is_alone()? || lists::takes_nodes(&mut filters)? {
            return Ok(report);
        }
        let until = muster_engine::prune_until(&filters)?;
        for network in self.cluster().network_list().await? {
            let (spec, made) = (&network.spec, network.meta.created_at);
            if network.ingress
                || until.is_some_and(|t| made >= t)
                || !muster_engine::labels_pass(&filters, &spec.labels)
            {
                continue;
            }
            match self.cluster().network_remove(&network.id.to_string()).await {
                Ok(()) => report.networks_deleted.get_or_insert_default().push(network.spec.name),
                // Somebody uses it, or was faster.
                Err(e) if matches!(e.kind, Kind::Conflict | Kind::NotFound) => {}
                Err(e) => report.warnings.push(format!("network {}: {e}", network.spec.name)),
            }
        }
        Ok(report)
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
        let (found, _) = match self.networks_called(name).await {
            Ok(found) => found,
            Err(e) => return Err(self.or_another_kind(name, e).await),
        };
        let mut all = found.into_iter();
        let (place, mut network) = all.next().ok_or_else(|| Error::not_found(format!("network {name} not found")))?;
        if network.scope == "local" {
            lists::label(&mut network.labels, &place);
        }
        network.containers.extend(all.flat_map(|(_, n)| n.containers));
        Ok(network)
    }
}
