//! The way out of containers whose networks of plugins name no gateway: an interface on a bridge network of this host, with the
//! default route and the published ports, as Docker has it (`docker_gwbridge`).
//!
//! The network is made when it is needed first. One of that name that a user has made before, with a subnet of their choice,
//! serves as well. Its containers do not reach each other over it.

use crate::{
    engine::Shared,
    net::{
        NetworkRecord,
        networks::{ICC_OPTION, MASQUERADE_OPTION},
    },
    record::{Place, Record},
};
use muster_calls::{Error, Result};
use muster_model::engine::NetworkCreate;
use std::sync::Arc;

/// What Docker calls it.
const NAME: &str = "docker_gwbridge";

/// A place that a container does not need any more: to be given back when the data plane has let go of it.
#[derive(Debug)]
#[must_use = "its address stays taken"]
pub(crate) struct WayOut(Place);

impl Shared {
    /// Gives a container its way out if it needs one, before the data plane is told; takes one out of the record that is not
    /// needed any more, and answers with it.
    ///
    /// # Errors
    /// Where the network cannot be made or has no address left; the record is as it was then.
    pub(crate) async fn fit_way_out(&self, record: &mut Record) -> Result<Option<WayOut>> {
        let there = record.places.iter().position(|p| p.way_out);
        match (self.needs_way_out(record), there) {
            (true, None) => {
                let network = self.way_out_network().await?;
                let taken: Vec<&str> =
                    record.places.iter().filter_map(|p| p.got.as_ref()).map(|g| g.ifname.as_str()).collect();
                let index = (0..).find(|n| !taken.contains(&format!("eth{n}").as_str())).unwrap_or(0);
                let mut place = Place {
                    network: network.name.clone(),
                    network_id: network.id.clone(),
                    way_out: true,
                    ..Place::default()
                };
                place.got = Some(self.take_place(record, &mut place, index).await?);
                record.places.push(place);
                Ok(None)
            }
            (false, Some(at)) => Ok(Some(WayOut(record.places.remove(at)))),
            _ => Ok(None),
        }
    }

    /// Gives back what [`Shared::fit_way_out`] answered.
    pub(crate) async fn release_way_out(&self, container: &str, gone: Option<WayOut>) {
        if let Some(WayOut(place)) = gone {
            self.release_place(container, &place).await;
        }
    }

    /// A plugin has an interface in the container, none of its networks leads out, and none of its plugins is against it.
    fn needs_way_out(&self, record: &Record) -> bool {
        let asked_for = || record.places.iter().filter(|p| !p.way_out);
        let joined = || asked_for().filter(|p| !self.is_internal(p)).filter_map(|p| p.got.as_ref()?.joined.as_ref());
        let leads_out = self.exit_among(record, |p| !p.way_out).is_some();
        !leads_out && joined().next().is_some() && joined().all(|j| !j.own_way)
    }

    async fn way_out_network(&self) -> Result<Arc<NetworkRecord>> {
        // Two containers may need it at the same time.
        let _making = self.networks.making_way_out.lock().await;
        if let Ok(network) = self.networks.find(NAME) {
            return check(network);
        }
        let network = self.networks.settle(self.networks.reserve(wanted())?).await?;
        self.make_gateway(&network).await?;
        self.network_event(&network, "create");
        Ok(network)
    }
}

fn wanted() -> NetworkCreate {
    let options = [(ICC_OPTION, "false"), (MASQUERADE_OPTION, "true")];
    NetworkCreate {
        name: NAME.to_owned(),
        driver: "bridge".to_owned(),
        options: options.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..NetworkCreate::default()
    }
}

/// One that a user has made may be anything.
fn check(network: Arc<NetworkRecord>) -> Result<Arc<NetworkRecord>> {
    if network.driver == "bridge" && !network.internal && !network.asks_plugins() && network.range().is_some() {
        return Ok(network);
    }
    Err(Error::internal(format!(
        "network {NAME} cannot be the way out of containers on networks of plugins: expected driver bridge, with IPv4, not internal"
    )))
}
