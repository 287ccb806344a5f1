//! Networks of this host: their records and addresses, published ports, namespaces, plugins, and the wall to the data plane.
//!
//! Read [`Network`] and [`Sandbox`] first: they are what a data plane implements and is told.

mod attach;
mod create;
mod document;
mod gateways;
mod ipam;
pub(crate) mod netns;
mod networks;
mod options;
mod plug;
mod ports;
mod publish;
mod relay;
mod remote;
mod sandbox;
mod spanning;

pub use ipam::default_pools;
pub use plug::{
    Dns, Endpoint, Foreign, Gateway, Linked, Network, NetworkError, NoGateway, NoNetwork, Published, Sandbox,
};

pub use spanning::{NoSpanning, Spanning};

pub(crate) use networks::{NetworkRecord, Networks};
pub(crate) use options::{check_driver_opts, check_ifname};
pub(crate) use ports::Ports;
pub(crate) use publish::parse_port;
pub(crate) use remote::{Joined, Ledger, NETWORK_DRIVER};
pub(crate) use sandbox::gives_names;
