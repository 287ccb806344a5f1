//! Being a member of a cluster: identity, the session to the leader, and the tasks that come down it.

mod describe;
mod host;
mod identity;
mod keeper;
mod ledger;
mod logs;
mod member;
mod places;
mod remote;
mod runner;
mod session;
mod spec;
mod teller;

pub use describe::{advertise_addr, describe};
pub use host::HostCluster;
pub use member::{Member, Origin, overlay_mtu};
pub use places::Places;
