//! Gateway devices of bridge networks: for each the data plane keeps a device with the gateway's addresses, for as long as the
//! network is there. It is called as Docker calls it: `br-` and the start of the network's id, what the option
//! `com.docker.network.bridge.name` says, and `docker0` for the default network.
//!
//! There is one `docker0` in a network namespace. Where it is somebody else's, another engine's, the default network's device is
//! called like any other, and goes on being so: else who of the two starts first after a boot would have it.

use super::{
    Gateway, NetworkRecord, NoGateway,
    networks::{MTU_OPTION, NAME_OPTION, PREDEFINED},
};
use crate::{engine::Shared, names};
use muster_calls::{Error, Result};
use muster_model::view::Network4;
use std::collections::BTreeMap;

/// What the device of the default network is called if nobody else's is.
pub(super) const DEFAULT_DEVICE: &str = "docker0";

impl NetworkRecord {
    /// What the host's device of this network is called, if it has one.
    pub(super) fn device(&self) -> Option<String> {
        (self.driver == "bridge").then(|| self.given_device().map_or_else(|| self.own_device(), str::to_owned))
    }

    /// What the option says.
    pub(super) fn given_device(&self) -> Option<&str> {
        self.options.get(NAME_OPTION).map(String::as_str).filter(|_| !self.is_remote())
    }

    /// A name that is no other network's: 15 bytes, as many as the kernel takes.
    pub(super) fn own_device(&self) -> String {
        format!("br-{}", names::short(&self.id))
    }

    fn gateway(&self, mtu: u32) -> Option<Gateway> {
        Some(Gateway {
            name: self.device()?,
            v4: self.range().map(|r| Network4 { subnet: r.subnet, gateway: r.gateway }),
            v6: self.v6(),
            mtu: self.options.get(MTU_OPTION).and_then(|m| m.parse().ok()).unwrap_or(mtu),
        })
    }
}

impl Shared {
    /// Has the device of a new network made. Answers with a warning, empty if all is well: the containers of a network without one
    /// lack nothing but the host's services at their gateway.
    ///
    /// # Errors
    /// `Forbidden` with the reason where a user has chosen the name: then the network should not be.
    pub(super) async fn make_gateway(&self, network: &NetworkRecord) -> Result<String> {
        let Some(name) = network.device() else { return Ok(String::new()) };
        match self.sync_gateways().await.remove(&name) {
            Some(why) if network.given_device().is_some() => {
                Err(Error::forbidden(format!("network option {NAME_OPTION}={name}: {why}")))
            }
            Some(why) if self.config.network.is_present() => Ok(format!(
                "network {}: this host has no device {name} for its gateway, where containers would reach the host: {why}",
                network.name
            )),
            _ => Ok(String::new()),
        }
    }

    /// Has the device of a network that is gone removed.
    pub(super) async fn forget_gateway(&self, network: &NetworkRecord) {
        if network.device().is_some() {
            self.sync_gateways().await;
        }
    }

    /// At the start of the daemon: makes those that are missing, and removes those of networks that are gone. What cannot be made is
    /// in the data plane's log.
    pub(crate) async fn make_gateways(&self) {
        self.sync_gateways().await;
    }

    async fn sync_gateways(&self) -> BTreeMap<String, NoGateway> {
        // The list that is told last is the one that is true last.
        let _turn = self.networks.naming.lock().await;
        let broken = self.tell_gateways().await;
        let is_taken = |n: &NetworkRecord| n.given_device().is_some_and(|d| broken.get(d) == Some(&NoGateway::Taken));
        match self.networks.find(PREDEFINED[0]) {
            Ok(default) if is_taken(&default) => {
                self.call_by_its_own(&default).await;
                self.tell_gateways().await
            }
            _ => broken,
        }
    }

    async fn tell_gateways(&self) -> BTreeMap<String, NoGateway> {
        let gateways = self.networks.all().iter().filter_map(|n| n.gateway(self.config.mtu)).collect();
        self.config.network.set_gateways(gateways).await
    }

    async fn call_by_its_own(&self, default: &NetworkRecord) {
        let (taken, device) = (default.device().unwrap_or_default(), default.own_device());
        tracing::warn!(%taken, %device, "the host has a device of that name which is not ours: the default network's goes by another");
        let mut record = default.clone();
        record.options.insert(NAME_OPTION.to_owned(), device);
        if let Err(error) = self.networks.write(&record).await {
            tracing::warn!(%error, "the name of the default network's device is found anew at the next start");
        }
        self.networks.replace(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_called_by_the_option_or_by_the_networks_id_and_plugins_networks_have_none() {
        let mut network =
            NetworkRecord { id: "0123456789abcdef".repeat(4), driver: "bridge".to_owned(), ..NetworkRecord::default() };
        assert_eq!(network.device().as_deref(), Some("br-0123456789ab"));
        network.options.insert(NAME_OPTION.to_owned(), "lan".to_owned());
        assert_eq!(network.device().as_deref(), Some("lan"));
        for driver in ["host", "null", "weave"] {
            assert_eq!(NetworkRecord { driver: driver.to_owned(), ..network.clone() }.device(), None);
        }
    }
}
