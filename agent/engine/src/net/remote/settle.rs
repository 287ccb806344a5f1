//! What is owed to plugins: endpoints that no container has any more, networks that were being made or removed when the
//! daemon ended.

use super::{
    driver::{Driver, Endpoint},
    ledger::Entry,
    pools::Pools,
    wire,
};
use crate::{
    engine::Shared,
    net::NetworkRecord,
    record::{Got, Record},
};
use muster_calls::{Kind, Result};
use std::{sync::Arc, time::Duration};

/// How long the start of the daemon waits for plugins; what they have not answered by then goes on beside it.
const AT_START: Duration = Duration::from_secs(5);

impl Shared {
    /// A container's record has endpoints: those of plugins are not owed.
    pub(crate) fn hold_endpoints(&self, record: &Record) {
        record.places.iter().filter_map(|p| p.got.as_ref()).for_each(|got| self.ledger.hold(&got.endpoint_id));
    }

    /// Nothing is known of these containers, which may be alive: all of their endpoints are kept.
    pub(crate) fn hold_endpoints_of(&self, containers: &[String]) {
        self.ledger.hold_of(containers);
    }

    /// Settles what is owed to all plugins: at the start of the daemon, when every container's endpoints are held.
    pub(crate) async fn settle_at_start(self: &Arc<Self>) {
        let networks = self.networks.take_unsettled();
        let owed = self.ledger.take_owed(|_| true);
        if networks.is_empty() && owed.is_empty() {
            return;
        }
        let shared = self.clone();
        let (done, settled) = tokio::sync::oneshot::channel();
        self.spawn("what is owed to plugins", async move {
            shared.end_owed(owed).await;
            for network in networks {
                shared.settle_network(network).await;
            }
            let _ = done.send(()); // Nobody may be waiting any more.
        });
        let _ = tokio::time::timeout(AT_START, settled).await;
    }

    /// Settles what is owed to the plugins of a network, before they are asked for something new.
    pub(super) async fn settle_with(&self, network: &NetworkRecord) {
        let of = |name: &str| !name.is_empty() && (name == network.driver || name == network.ipam_driver);
        let owed = self.ledger.take_owed(|e| of(&e.driver) || of(&e.ipam_driver));
        self.end_owed(owed).await;
    }

    /// A plugin that does not answer is not asked for the rest: that would take as often as long.
    async fn end_owed(&self, owed: Vec<Entry>) {
        let mut silent: Vec<(String, String)> = Vec::new();
        for entry in owed {
            let plugins = (entry.driver.clone(), entry.ipam_driver.clone());
            if silent.contains(&plugins) {
                self.ledger.owe(&entry.endpoint);
            } else if !self.end(entry).await {
                silent.push(plugins);
            }
        }
    }

    /// Ends the endpoint that a place has got, if plugins have a part in it.
    pub(in crate::net) async fn end_remote(&self, got: &Got) {
        if let Some(entry) = self.ledger.get(&got.endpoint_id) {
            self.end(entry).await;
        }
    }

    /// False: it is still owed.
    async fn end(&self, mut entry: Entry) -> bool {
        let before = entry.clone();
        let Err(error) = self.try_end(&mut entry).await else {
            self.ledger.strike(&entry.endpoint).await;
            return true;
        };
        tracing::warn!(endpoint = %entry.endpoint, %error, "a plugin is owed the end of an endpoint");
        // What was done is not done again, unless its network is gone meanwhile, and the note with it.
        if entry != before
            && self.ledger.get(&entry.endpoint).is_some()
            && let Err(error) = self.ledger.note(&entry).await
        {
            tracing::warn!(endpoint = %entry.endpoint, %error, "the note of an endpoint is an old one");
        }
        self.ledger.owe(&entry.endpoint);
        false
    }

    /// Takes out of `entry` what need not be done again.
    async fn try_end(&self, entry: &mut Entry) -> Result<()> {
        let left = self.leave(entry).await;
        // Whatever the plugin says: the engine's addresses are others' next.
        if self.take_interface_out(entry).await {
            entry.interface = None;
        }
        left?;
        if entry.created {
            let of = Endpoint { network: &entry.network, id: &entry.endpoint };
            heard(Driver::new(&self.plugins, &entry.driver).delete_endpoint(&of).await)?;
        }
        let pools = Pools::new(&self.plugins, &entry.ipam_driver);
        while let Some((pool, ip)) = entry.addresses.last() {
            // The plugin may have heard of it before, and have given the address to somebody else since.
            let same = |e: &Entry| e.ipam_driver == entry.ipam_driver && e.addresses.contains(&(pool.clone(), *ip));
            if !self.ledger.has_another(&entry.endpoint, same) {
                heard(pools.give_back(pool, *ip).await)?;
            }
            entry.addresses.pop();
        }
        Ok(())
    }

    async fn leave(&self, entry: &Entry) -> Result<()> {
        let driver = Driver::new(&self.plugins, &entry.driver);
        let of = Endpoint { network: &entry.network, id: &entry.endpoint };
        if entry.programmed {
            heard(driver.unpublish(&of).await)?;
        }
        if entry.joined {
            heard(driver.leave(&of).await)?;
        }
        Ok(())
    }

    /// False: it is still in there, as far as is known.
    async fn take_interface_out(&self, entry: &Entry) -> bool {
        let Some((name, source)) = &entry.interface else { return true };
        // The container may have run anew since, with another interface of this name.
        let same = |e: &Entry| e.container == entry.container && e.interface.as_ref().is_some_and(|(n, _)| n == name);
        if self.ledger.has_another(&entry.endpoint, same) {
            return true;
        }
        let out = wire::take_out(self.netns(&entry.container), name.clone(), source.clone()).await;
        out.inspect_err(|error| {
            tracing::warn!(container.id = %entry.container, %error, "an interface of a plugin was not moved back");
        })
        .is_ok()
    }

    /// A network that was half-made or half-removed goes; one whose plugin does not answer is kept for the next start.
    async fn settle_network(&self, mut network: NetworkRecord) {
        let deleted = if network.is_remote() {
            heard(Driver::new(&self.plugins, &network.driver).delete_network(&network.id).await)
        } else {
            Ok(())
        };
        match deleted {
            // Not there is not gone: it may be started after us.
            Err(e) => {
                tracing::warn!(network = %network.name, error = %e, "a plugin is owed the end of a network");
            }
            Ok(()) => {
                self.end_record(&mut network).await;
                self.ledger.strike_network(&network.id).await;
            }
        }
    }
}

/// A plugin that answers has heard: what it says against it goes into the log.
pub(super) fn heard(answered: Result<()>) -> Result<()> {
    match answered {
        Err(error) if error.kind == Kind::Internal => {
            tracing::warn!(%error, "a plugin has something against the end of an endpoint or network");
            Ok(())
        }
        other => other,
    }
}
