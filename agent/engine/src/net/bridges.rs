//! Names of bridges (`com.docker.network.bridge.name`): the data plane keeps a device of that name, with the gateway's addresses,
//! for as long as the network is there.

use super::{
    NamedBridge, NetworkRecord,
    networks::{MTU_OPTION, NAME_OPTION},
};
use crate::engine::Shared;
use muster_calls::{Error, Result};
use muster_model::view::Network4;
use std::collections::BTreeMap;

impl NetworkRecord {
    /// What the host's device of this network is called, if it is to have one.
    pub(super) fn bridge_name(&self) -> Option<&str> {
        self.options.get(NAME_OPTION).map(String::as_str).filter(|_| !self.is_remote())
    }
}

impl Shared {
    /// Has the device of a new network made, if it is given a name.
    ///
    /// # Errors
    /// `Forbidden` with the reason: then the network should not be.
    pub(super) async fn name_bridge(&self, network: &NetworkRecord) -> Result<()> {
        let Some(name) = network.bridge_name() else { return Ok(()) };
        match self.sync_bridges().await.remove(name) {
            Some(why) => Err(Error::forbidden(format!("network option {NAME_OPTION}={name}: {why}"))),
            None => Ok(()),
        }
    }

    /// Has the device of a network that is gone removed.
    pub(super) async fn forget_bridge(&self, network: &NetworkRecord) {
        if network.bridge_name().is_some() {
            self.sync_bridges().await;
        }
    }

    /// At the start of the daemon, which removes devices of networks that are gone. What cannot be made is in the data plane's log.
    pub(crate) async fn name_bridges(&self) {
        self.sync_bridges().await;
    }

    async fn sync_bridges(&self) -> BTreeMap<String, String> {
        // The list that is told last is the one that is true last.
        let _turn = self.networks.naming.lock().await;
        let all = self.networks.all();
        let named = all.iter().filter_map(|network| {
            Some(NamedBridge {
                name: network.bridge_name()?.to_owned(),
                v4: network.range().map(|r| Network4 { subnet: r.subnet, gateway: r.gateway }),
                v6: network.v6(),
                mtu: network.options.get(MTU_OPTION).and_then(|m| m.parse().ok()).unwrap_or(self.config.mtu),
            })
        });
        self.config.network.name_bridges(named.collect()).await
    }
}
