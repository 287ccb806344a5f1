//! The nouns of Muster: ids, specs, states, generations, time, and the documents of the engine API.
//!
//! Every other crate speaks in these types. Nothing here does I/O, reads a clock, draws a random number or knows a wire
//! format beyond serde's traits; a value that exists is valid ([`spec::ServiceSpec::validate`] is called at the door).
//!
//! Read first: [`cluster::Service`], [`cluster::Task`], [`cluster::Node`], then [`view::NodeView`] (what one host must know).

#![forbid(unsafe_code)]

pub mod assignment;
pub mod cluster;
pub mod engine;
pub mod id;
pub mod names;
pub mod net;
pub mod spec;
pub mod time;
pub mod view;

pub use id::{
    AttachmentId, ClusterId, ConfigId, ContainerId, Id, IdParseError, NetworkId, NodeId, SecretId, ServiceId, TaskId,
};
pub use time::Timestamp;
