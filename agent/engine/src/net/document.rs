//! Networks in Docker's documents, and the calls on them.

use super::{networks::NetworkRecord, remote::needs_plugin};
use crate::{
    container::{Command, labels_pass, until},
    engine::Shared,
    error, names,
};
use muster_calls::{Error, Filters, Result};
use muster_model::engine::{
    Ipam, IpamConfig, NetworkConnect, NetworkContainer, NetworkCreate, NetworkCreated, NetworkDisconnect,
    NetworkResource, PruneReport, Strings,
};
use std::{collections::BTreeMap, sync::Arc};

const KEYS: &[&str] = &["dangling", "driver", "id", "label", "label!", "name", "scope", "type", "until"];

fn document(network: &NetworkRecord, containers: BTreeMap<String, NetworkContainer>) -> NetworkResource {
    let config = network.subnet.map(|subnet| IpamConfig {
        subnet: subnet.to_string(),
        ip_range: network.ip_range.map(|r| r.to_string()).unwrap_or_default(),
        gateway: network.gateway.map(|g| g.to_string()).unwrap_or_default(),
        auxiliary_addresses: network.auxiliary.clone(),
    });
    let config6 = network.subnet6.map(|subnet| IpamConfig {
        subnet: subnet.to_string(),
        ip_range: network.ip_range6.map(|r| r.to_string()).unwrap_or_default(),
        gateway: network.gateway6.map(|g| g.to_string()).unwrap_or_default(),
        auxiliary_addresses: network.auxiliary6.clone(),
    });
    NetworkResource {
        name: network.name.clone(),
        id: network.id.clone(),
        created: network.created.into(),
        scope: "local".to_owned(),
        driver: network.driver.clone(),
        enable_ipv4: network.subnet.is_some() || network.subnet6.is_none(),
        enable_ipv6: network.enable_ipv6,
        ipam: Ipam {
            driver: if network.ipam_driver.is_empty() { "default".to_owned() } else { network.ipam_driver.clone() },
            options: network.ipam_options.clone(),
            config: config.into_iter().chain(config6).collect(),
        },
        internal: network.internal,
        attachable: network.attachable,
        containers,
        options: network.options.clone(),
        labels: network.labels.clone(),
        ..NetworkResource::default()
    }
}

impl Shared {
    pub(crate) async fn network_create(self: &Arc<Self>, body: NetworkCreate) -> Result<NetworkCreated> {
        let shared = self.clone();
        let network = if needs_plugin(&body) {
            // To its end, also when the client goes.
            self.finish(async move { shared.make_remote(body).await }).await?
        } else {
            error::blocking(move || shared.networks.create(body)).await?
        };
        let warning = match self.make_gateway(&network).await {
            Ok(warning) => warning,
            Err(e) => {
                self.remove_network(&network).await?;
                return Err(e);
            }
        };
        self.network_event(&network, "create");
        Ok(NetworkCreated { id: network.id.clone(), warning })
    }

    pub(super) fn network_event(&self, network: &NetworkRecord, action: &str) {
        let attributes: Strings =
            [("name".to_owned(), network.name.clone()), ("type".to_owned(), network.driver.clone())].into();
        self.events.publish("network", action, network.id.clone(), attributes);
    }

    pub(crate) fn network_list(&self, filters: &Filters) -> Result<Vec<NetworkResource>> {
        let invalid = |e: muster_model::engine::FilterError| Error::invalid(e.to_string());
        filters.allow(KEYS).map_err(invalid)?;
        let dangling = filters.flag("dangling").map_err(invalid)?;
        if let Some(kind) = filters.values("type").find(|k| !matches!(*k, "builtin" | "custom")) {
            return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
        let names = muster_calls::Patterns::of(filters, "name");
        let takes = |n: &Arc<NetworkRecord>| {
            names.take(&n.name)
                && filters.matches_prefix("id", &n.id)
                && filters.matches_exactly("driver", &n.driver)
                && filters.matches_exactly("scope", "local")
                && filters.matches_exactly("type", if n.is_predefined() { "builtin" } else { "custom" })
                && labels_pass(filters, &n.labels)
                && dangling.is_none_or(|wanted| (!n.is_predefined() && self.networks.users(&n.id).is_empty()) == wanted)
        };
        Ok(self.networks.all().iter().filter(|n| takes(n)).map(|n| document(n, BTreeMap::new())).collect())
    }

    pub(crate) fn network_inspect(&self, name: &str) -> Result<NetworkResource> {
        let network = self.networks.find(name)?;
        Ok(document(&network, self.on_network(&network)))
    }

    /// The running containers on a network.
    fn on_network(&self, network: &NetworkRecord) -> BTreeMap<String, NetworkContainer> {
        let host = matches!(network.driver.as_str(), "host" | "null");
        let entry = |record: Arc<crate::record::Record>| {
            if host {
                let here = record.state.is_running() && record.host.network_mode == network.name;
                return here.then(|| {
                    (record.id.clone(), NetworkContainer { name: record.name.clone(), ..NetworkContainer::default() })
                });
            }
            let place = record.places.iter().find(|p| p.network_id == network.id)?;
            let got = place.got.as_ref()?;
            // As Docker calls what nobody asked for.
            let name =
                if place.way_out { format!("gateway_{}", names::short(&record.id)) } else { record.name.clone() };
            let place = NetworkContainer {
                name,
                endpoint_id: got.endpoint_id.clone(),
                mac_address: got.mac.to_string(),
                ipv4_address: got.v4().map(|ip| format!("{ip}/{}", got.prefix)).unwrap_or_default(),
                ipv6_address: got.v6.map(|(ip, n)| format!("{ip}/{}", n.subnet.prefix())).unwrap_or_default(),
            };
            Some((record.id.clone(), place))
        };
        self.containers.all().iter().filter_map(|h| entry(h.record())).collect()
    }

    pub(crate) async fn network_remove(&self, name: &str) -> Result<()> {
        self.unmake_network(&self.networks.find(name)?).await
    }

    async fn unmake_network(&self, network: &Arc<NetworkRecord>) -> Result<()> {
        self.remove_network(network).await?;
        self.forget_gateway(network).await;
        self.network_event(network, "destroy");
        Ok(())
    }

    pub(crate) async fn network_connect(&self, name: &str, connect: NetworkConnect) -> Result<()> {
        let place = self.place_on(name, connect.endpoint_config.unwrap_or_default())?;
        let handle = self.find(&connect.container)?;
        handle.ask(|reply| Command::Connect { place: Box::new(place), reply }).await
    }

    pub(crate) async fn network_disconnect(&self, name: &str, disconnect: NetworkDisconnect) -> Result<()> {
        // A network that is not of this host may be one of the cluster's that the container is on.
        let network = self.networks.find(name).map_or_else(|_| name.to_owned(), |n| n.name.clone());
        let handle = self.find(&disconnect.container)?;
        handle.ask(|reply| Command::Disconnect { network, reply }).await
    }

    pub(crate) async fn network_prune(&self, filters: &Filters) -> Result<PruneReport> {
        filters.allow(&["until", "label", "label!"]).map_err(|e| Error::invalid(e.to_string()))?;
        let until = until(filters)?;
        let mut deleted = Vec::new();
        for network in self.networks.all() {
            if network.is_predefined()
                || until.is_some_and(|t| network.created >= t)
                || !labels_pass(filters, &network.labels)
            {
                continue;
            }
            // One that somebody is on stays.
            if self.unmake_network(&network).await.is_ok() {
                deleted.push(network.name.clone());
            }
        }
        Ok(PruneReport { networks_deleted: Some(deleted), ..PruneReport::default() })
    }
}
