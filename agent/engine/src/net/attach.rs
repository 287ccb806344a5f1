//! A container's places on networks that span hosts: asked for at start, kept over restarts by policy, given back at the end.

use super::{check_driver_opts, gives_names};
use crate::{
    container::cluster_place,
    engine::Shared,
    names,
    record::{Got, Place, Record},
};
use muster_calls::{Error, Kind, Result};
use muster_model::{AttachmentId, cluster::AttachRequest, net::Mac};

impl Shared {
    /// Whether only the cluster can know the network of this place.
    pub(super) fn is_spanning(&self, place: &Place) -> bool {
        let missing = || self.networks.find(&place.network).is_err_and(|e| e.kind == Kind::NotFound);
        place.spanning || (place.cluster.is_none() && self.config.spanning.is_member() && missing())
    }

    /// Has the cluster give an address; the place then knows its network.
    pub(super) async fn take_spanning(&self, record: &Record, place: &mut Place, ifname: String) -> Result<Got> {
        place.spanning = true;
        check_driver_opts(&place.driver_opts)?;
        if place.wanted_ip6.is_some() {
            return Err(Error::unimplemented("IPv6 on networks of the cluster (IPAMConfig.IPv6Address)"));
        }
        let id = *place.attachment.get_or_insert_with(draw);
        let given = self.config.spanning.attach(self.attach_request(record, place, id)).await?;
        place.network.clone_from(&given.network_name);
        place.network_id.clone_from(&given.network_id);
        let (ip, mac) = (given.ip, place.wanted_mac.unwrap_or(Mac::of(given.ip)));
        let (gateway, prefix) = (given.gateway, given.subnet.prefix());
        place.cluster = Some(cluster_place(&given));
        Ok(Got { endpoint_id: names::new_id(), ip, mac, gateway, prefix, ifname, ..Got::default() })
    }

    fn attach_request(&self, record: &Record, place: &Place, id: AttachmentId) -> AttachRequest {
        AttachRequest {
            id,
            network: if place.network_id.is_empty() { place.network.clone() } else { place.network_id.clone() },
            container: record.id.clone(),
            names: if gives_names(place) { self.dns_names(record, place) } else { Vec::new() },
            // What it has is what it wants, should the cluster have forgotten.
            ip: place.got.as_ref().map(|g| g.ip).or(place.wanted_ip),
            mac: place.wanted_mac,
        }
    }

    /// Says what a container holds: after a restart of the daemon, and when it goes by another name.
    pub(crate) fn hold_attachments(&self, record: &Record) {
        for place in &record.places {
            if let Some(id) = place.attachment {
                self.config.spanning.hold(self.attach_request(record, place, id));
            }
        }
    }

    /// Gives back what a container held that does not run again by itself.
    pub(crate) fn release_attachments(&self, record: &mut Record) {
        record.places.iter_mut().for_each(|p| self.release_attachment(p));
    }

    pub(crate) fn release_attachment(&self, place: &mut Place) {
        if let Some(id) = place.attachment.take() {
            self.config.spanning.release(id);
        }
    }
}

/// A new id: 128 of the 256 random bits of a container's.
fn draw() -> AttachmentId {
    let bits = names::new_id().get(..32).and_then(|digits| u128::from_str_radix(digits, 16).ok());
    AttachmentId::from_u128(bits.unwrap_or_default())
}
