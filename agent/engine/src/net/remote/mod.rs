//! Networks and addresses of plugins: Docker's protocol for network drivers (`NetworkDriver.*`) and address drivers
//! (`IpamDriver.*`), for networks of this host alone.
//!
//! A network of a plugin is not of our data plane: the plugin makes an interface, and the engine moves it into the container
//! (`wire.rs`). Of the container the data plane is told its names only, so that 127.0.0.11 answers there too.
//!
//! Order for a container: the endpoint is noted (`ledger.rs`), addresses are asked for, `CreateEndpoint`; once there is a
//! network namespace, `Join` and the interface; on the way back `Leave`, `DeleteEndpoint`, the addresses, the note. What a plugin
//! did not answer stays noted and is asked again: at the next start of the daemon, and before the same plugin is asked for
//! anything new.
//!
//! A container whose plugins name no gateway gets a second interface for its way out, on `docker_gwbridge` (`gateway.rs`).
//!
//! What it never does: networks that span hosts (a plugin of scope `global` is refused).

mod driver;
mod endpoint;
mod gateway;
mod join;
mod ledger;
mod making;
mod pools;
mod settle;
mod wire;

pub(super) use driver::is_interface;
pub(crate) use ledger::Ledger;
pub(super) use making::{is_plugin, needs_plugin};

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr};

/// What networks of plugins have for a driver; `info` lists those that were asked.
pub(crate) const NETWORK_DRIVER: &str = "NetworkDriver";
const IPAM_DRIVER: &str = "IpamDriver";
/// The address driver that gives none: the network's plugin does.
pub(super) const NULL_IPAM: &str = "null";

/// Whose containers' addresses a driver gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pool {
    /// What the driver calls it.
    pub id: String,
    /// The address space that it is of.
    pub space: String,
    /// Addresses that it gave for the network itself: the gateway and those kept out of use.
    pub held: Vec<IpAddr>,
}

/// What a place on a plugin's network has got, beside addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Joined {
    /// The interface's name on the host.
    pub source: String,
    pub gateway6: Option<Ipv6Addr>,
    /// The plugin sees to the way out, or wants none: it disabled the gateway service, or set a default route of its own.
    pub own_way: bool,
    /// The plugin was told of published ports.
    pub programmed: bool,
}
