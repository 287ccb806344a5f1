//! The control plane's shell: everything around the pure cores that waits, dials, writes or reads a clock.
//!
//! [`Controller::start`] opens a manager's data and runs its turn loop; [`Face`] is the cluster's API on it, sent to the
//! leader wherever that is; [`routes`] are the services for peers and agents (`Ca`, `Dispatch`, `Raft`), which find the
//! controller in a [`Slot`]. [`join`] and [`renew`] are the other side of `Ca`, for every host.
//!
//! It decides nothing about services, tasks or nodes: that is `muster-controller-core`'s, and `muster-state` alone changes
//! a table. Nothing is acknowledged before it is durable on a majority.
//!
//! Read first: [`Controller`], then the turn loop (`turn`).

#![forbid(unsafe_code)]

mod claims;
mod clock;
mod cluster;
mod config;
mod controller;
mod credentials;
mod disk;
mod errors;
mod founding;
mod join;
mod links;
mod peers;
mod seal;
mod serve;
mod snapshots;
mod storage;
mod turn;
mod wire;
mod witness;

pub use cluster::Face;
pub use config::{Bootstrap, ControllerConfig, StartError, Storage, Timing};
pub use controller::{Controller, Stopped};
pub use errors::NOT_LEADER;
pub use founding::Founding;
pub use join::{JoinError, Membership, join, renew};
pub use muster_controller_core::{ClusterEvent, NewCluster, Registration};
pub use seal::{Error as SealError, SealKey};
pub use serve::{Slot, routes};
pub use turn::Published;
pub use witness::Witness;
