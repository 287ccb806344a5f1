//! What can be asked of an engine and of a cluster, as Rust traits: *the* API, without a wire.
//!
//! [`Engine`] is Docker Engine semantics. One host implements it (`muster-engine`), a host elsewhere does (the gRPC client
//! in `muster-proto`), and so does the whole cluster (fan-out and look-up in `musterd`): a face such as the Docker REST API
//! is written once and cannot tell them apart. [`Cluster`] is the control plane's side: services, nodes, networks, joining.
//!
//! Nothing here does the work. A method that an implementation does not have refuses by name ([`Kind::Unimplemented`]).

#![forbid(unsafe_code)]

mod cluster;
mod engine;
mod error;
mod options;
mod patterns;
mod place;

pub use cluster::*;
pub use engine::*;
pub use error::{Error, Kind, Result};
pub use options::*;
pub use patterns::Patterns;
pub use place::*;

/// An owned stream of results, sendable between tasks.
pub type Stream<T> = futures_core::stream::BoxStream<'static, Result<T>>;
/// An owned future, sendable between tasks.
pub type Future<T> = futures_core::future::BoxFuture<'static, T>;
