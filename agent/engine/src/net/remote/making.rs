//! Networks of plugins, or with addresses of one: made and removed.
//!
//! Before a plugin is asked, the network's record is on the disk, marked as unsettled; so it is again before the plugin is
//! asked to remove it. Nobody sees it then, and the next start of the daemon ends what was begun.

use super::{NULL_IPAM, driver::Driver, pools::Pools, settle::heard};
use crate::{
    engine::Shared,
    error,
    net::{NetworkRecord, create::configs},
};
use muster_calls::{Error, Kind, Result};
use muster_model::{
    engine::{Ipam, NetworkCreate},
    net::Scope,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Whether only a plugin can be meant by a network driver's name.
pub(in crate::net) fn is_plugin(driver: &str) -> bool {
    !matches!(driver, "" | "bridge" | "default" | "host" | "null" | "overlay" | "macvlan" | "ipvlan")
}

/// The same of an address driver's.
fn is_address_plugin(driver: &str) -> bool {
    !matches!(driver, "" | "default" | NULL_IPAM)
}

/// Whether a network that is asked for needs more than this engine.
pub(in crate::net) fn needs_plugin(body: &NetworkCreate) -> bool {
    is_plugin(&body.driver) || body.ipam.as_ref().is_some_and(|i| is_address_plugin(&i.driver))
}

impl Shared {
    /// Has a network made. After an error no plugin has it, unless it does not answer any more.
    ///
    /// # Errors
    /// As [`crate::net::Networks::create`]; `NotFound` for a plugin that is not there, its own words, `Unavailable` when it does not
    /// answer in time.
    pub(in crate::net) async fn make_remote(self: &Arc<Self>, body: NetworkCreate) -> Result<Arc<NetworkRecord>> {
        if is_plugin(&body.driver) {
            Driver::new(&self.plugins, &body.driver).check().await?;
        }
        let ipam = body.ipam.clone().unwrap_or_default();
        let shared = self.clone();
        let mut record = error::blocking(move || shared.networks.reserve(body)).await?;
        let made = self.make_reserved(&mut record, ipam).await;
        if made.is_err() {
            self.networks.abandon(&record.id);
        }
        made
    }

    async fn make_reserved(self: &Arc<Self>, record: &mut NetworkRecord, ipam: Ipam) -> Result<Arc<NetworkRecord>> {
        if !is_address_plugin(&record.ipam_driver) {
            return self.make_at_plugin(record).await;
        }
        let driver = record.ipam_driver.clone();
        let pools = Pools::new(&self.plugins, &driver);
        let (four, six) = configs(ipam)?;
        let six = if record.enable_ipv6 { Some(six.unwrap_or_default()) } else { None };
        let leased = match pools.lease(&self.networks, record, &four, six.as_ref()).await {
            Ok(()) => self.hold_leased(record).await,
            Err(e) => Err(e),
        };
        if let Err(e) = leased {
            self.end_record(record).await;
            return Err(e);
        }
        self.make_at_plugin(record).await
    }

    async fn hold_leased(self: &Arc<Self>, record: &NetworkRecord) -> Result<()> {
        let (shared, record) = (self.clone(), record.clone());
        error::blocking(move || shared.networks.hold_leased(&record)).await
    }

    /// Gives back what a network that no plugin has any more leased, and erases its record; one whose address plugin does not
    /// answer is kept for the next start of the daemon. True: it is gone.
    pub(super) async fn end_record(&self, record: &mut NetworkRecord) -> bool {
        let (before, driver) = (record.clone(), record.ipam_driver.clone());
        let ended = match Pools::new(&self.plugins, &driver).end_leases(record).await {
            Ok(()) => self.networks.erase(&record.id).await,
            Err(e) if *record == before => Err(e),
            Err(e) => self.networks.write(record).await.and(Err(e)),
        };
        ended
            .inspect_err(|error| {
                tracing::warn!(network = %record.name, %error, "the record of a network that is gone stays");
            })
            .is_ok()
    }

    async fn make_at_plugin(&self, record: &mut NetworkRecord) -> Result<Arc<NetworkRecord>> {
        record.unsettled = true;
        if let Err(e) = self.networks.write(record).await {
            self.end_record(record).await;
            return Err(e);
        }
        if record.is_remote() {
            let driver = Driver::new(&self.plugins, &record.driver);
            let (four, six) = pool_data(record);
            if let Err(e) = driver.create_network(record, four, six).await {
                // It may have been made in spite of that.
                let lost = e.kind == Kind::Unavailable && heard(driver.delete_network(&record.id).await).is_err();
                if !lost {
                    self.end_record(record).await;
                }
                return Err(e);
            }
        }
        record.unsettled = false;
        let entered = self.networks.settle(record.clone()).await;
        if entered.is_err() && record.is_remote() {
            // The record on the disk says that it is to go, and its leases with it.
            let _ = Driver::new(&self.plugins, &record.driver).delete_network(&record.id).await;
        }
        entered
    }

    /// Removes a network: one of a plugin when that has answered, or is not installed any more.
    ///
    /// # Errors
    /// `Forbidden`, in Docker's words, when somebody is on it; `Unavailable` when the plugin does not answer, and then the
    /// network stays.
    pub(in crate::net) async fn remove_network(&self, network: &Arc<NetworkRecord>) -> Result<()> {
        if !network.is_remote() && !is_address_plugin(&network.ipam_driver) {
            self.networks.remove(network).await?;
        } else {
            self.remove_remote(network).await?;
        }
        self.config.network.forget(Scope::local(network.scope)).await;
        Ok(())
    }

    async fn remove_remote(&self, network: &Arc<NetworkRecord>) -> Result<()> {
        self.networks.take_out(network)?;
        let mut going = NetworkRecord { unsettled: true, ..(**network).clone() };
        let removed = match self.networks.write(&going).await {
            Ok(()) => self.delete_at_plugin(network).await,
            Err(e) => Err(e),
        };
        if let Err(e) = removed {
            // As it was; when the disk does not take that, the next start removes it.
            let _ = self.networks.settle((**network).clone()).await;
            return Err(e);
        }
        self.end_record(&mut going).await;
        self.networks.abandon(&network.id);
        self.ledger.strike_network(&network.id).await;
        Ok(())
    }

    async fn delete_at_plugin(&self, network: &NetworkRecord) -> Result<()> {
        self.settle_with(network).await;
        if !network.is_remote() {
            return Ok(());
        }
        // As dockerd: what a plugin says against it is logged. It may be that it has heard before.
        match heard(Driver::new(&self.plugins, &network.driver).delete_network(&network.id).await) {
            Err(e) if e.kind == Kind::NotFound => {
                tracing::warn!(network = %network.name, driver = %network.driver, "removed without its plugin, which is gone");
                Ok(())
            }
            other => other.map_err(|e| {
                Error::new(e.kind, format!("error while removing network: {}: {}", network.name, e.message))
            }),
        }
    }
}

/// A network's pools as plugins are told of them (libnetwork, `IPAMData`).
fn pool_data(record: &NetworkRecord) -> (Value, Value) {
    if record.ipam_driver == NULL_IPAM {
        return (json!([{ "AddressSpace": NULL_IPAM, "Pool": "0.0.0.0/0" }]), json!([]));
    }
    // What the engine's own is called (libnetwork, `ipamapi`).
    let space =
        |pool: &Option<super::Pool>| pool.as_ref().map_or_else(|| "LocalDefault".to_owned(), |p| p.space.clone());
    let four = record.range().map(|range| {
        let prefix = range.subnet.prefix();
        let auxiliary = |(name, ip): (&String, &String)| (name.clone(), Value::from(format!("{ip}/{prefix}")));
        json!({
            "AddressSpace": space(&record.pool),
            "Pool": range.subnet.to_string(),
            "Gateway": format!("{}/{prefix}", range.gateway),
            "AuxAddresses": record.auxiliary.iter().map(auxiliary).collect::<serde_json::Map<_, _>>(),
        })
    });
    let six = record.v6().map(|net| {
        let prefix = net.subnet.prefix();
        json!({
            "AddressSpace": space(&record.pool6),
            "Pool": net.subnet.to_string(),
            "Gateway": format!("{}/{prefix}", net.gateway),
            "AuxAddresses": record.auxiliary6.iter()
                .map(|(name, ip)| (name.clone(), Value::from(format!("{ip}/{prefix}"))))
                .collect::<serde_json::Map<_, _>>(),
        })
    });
    let list = |one: Option<Value>| Value::from(one.into_iter().collect::<Vec<_>>());
    (list(four), list(six))
}
