//! Names of what we make in the kernel: short (15 bytes for an interface), the same at each start, and ours alone.

use crate::netlink::Link;
use muster_model::net::Mac;

/// Names for one instance.
#[derive(Clone, Debug)]
pub struct Names {
    instance: String,
    prefix: String,
}

impl Names {
    pub fn new(instance: &str) -> Self {
        Self { instance: instance.to_owned(), prefix: format!("mu{:04x}", fnv(instance.as_bytes()) & 0xffff) }
    }

    /// The host side of an endpoint's veth pair: 15 bytes, 45 bits of them from the endpoint's key.
    pub fn veth(&self, endpoint: &str) -> String {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
        let hash = fnv(endpoint.as_bytes());
        let digit = |i: u32| char::from(DIGITS[(hash >> (5 * i) & 31) as usize]);
        self.prefix.chars().chain((0..9).map(digit)).collect()
    }

    /// The device that leads from the host's stack to remote endpoints.
    pub fn host_device(&self) -> String {
        format!("{}-host", self.prefix)
    }

    /// Its other end, where no packet arrives.
    pub fn host_device_far(&self) -> String {
        format!("{}-far", self.prefix)
    }

    pub fn nft_table(&self) -> String {
        format!("muster_{}", self.instance.replace('-', "_"))
    }

    /// What a gateway device is called until it has its name.
    pub fn bridge_draft(&self) -> String {
        format!("{}-new", self.prefix)
    }

    /// What starts the alias of such a device.
    pub fn bridge_alias(&self) -> String {
        format!("{}bridge:", self.alias())
    }

    /// A gateway device of ours, whatever its name is.
    pub fn owns_bridge(&self, link: &Link) -> bool {
        link.alias.starts_with(&self.bridge_alias())
    }

    /// What starts the alias of each interface of ours.
    pub fn alias(&self) -> String {
        format!("muster:{}:", self.instance)
    }

    /// We made this interface. One without an alias was left half-made.
    pub fn owns(&self, link: &Link) -> bool {
        link.name.starts_with(&self.prefix) && (link.alias.is_empty() || link.alias.starts_with(&self.alias()))
    }

    /// Any interface of ours, for rules that match names.
    pub fn wildcard(&self) -> String {
        format!("{}*", self.prefix)
    }
}

/// A hardware address of our own choice for an interface of the host: locally administered, the same at each start.
pub fn mac_for(name: &str) -> Mac {
    let [_, _, _, a, b, c, d, e] = fnv(name.as_bytes()).to_be_bytes();
    Mac([0x06, a, b, c, d, e])
}

/// FNV-1a, 64 bits.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel_and_tell_instances_apart() {
        let (a, b) = (Names::new("host-1"), Names::new("host-2"));
        for name in [a.veth("container/network"), a.host_device(), a.host_device_far()] {
            assert!(name.len() <= 15, "{name}");
        }
        assert_ne!(a.veth("x"), b.veth("x"));
        assert_ne!(a.veth("x"), a.veth("y"));
    }

    #[test]
    fn an_interface_of_another_instance_is_not_ours() {
        let names = Names::new("host-1");
        let link = |alias: &str| Link {
            index: 1,
            name: names.veth("x"),
            alias: alias.into(),
            mac: None,
            mtu: 0,
            ethernet: true,
        };
        assert!(names.owns(&link("muster:host-1:abc")));
        assert!(names.owns(&link("")));
        assert!(!names.owns(&link("muster:host-12:abc")));
    }
}
