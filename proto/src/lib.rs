//! `muster.v1` on the wire: generated stubs, and the traits of `muster-calls` carried over them in both directions.
//!
//! This is the only crate that knows protobuf. [`RemoteEngine`] and [`RemoteCluster`] are clients that implement the call
//! traits; [`EngineService`] and [`ClusterService`] are servers that answer from an implementation of them.

#![forbid(unsafe_code)]

/// The generated messages and stubs of package `muster.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    tonic::include_proto!("muster.v1");
}

mod cluster;
mod engine;
mod session;
mod status;
mod stream;

pub use cluster::{ClusterService, Clusters, RemoteCluster};
pub use engine::{EngineService, Engines, RemoteEngine, Target};
pub use session::{FromAgent, FromLeader};
pub use status::{from_status, to_status};

/// The largest message either side takes, in bytes: an `inspect` of everything fits, a bomb does not.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Metadata key: on whose behalf a node asks another one. Honoured only from managers and nodes of the cluster.
pub const CALLER_KEY: &str = "muster-caller";

/// Metadata key: the leader's address, in the refusal of a manager that is not it.
pub const LEADER_KEY: &str = "muster-leader";
