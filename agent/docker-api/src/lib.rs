//! The Docker Engine REST API (1.24 to 1.50) as a face over [`muster_calls::Engine`] and [`muster_calls::Cluster`].
//!
//! The face reads requests, calls the traits and writes answers as stock clients expect them: version negotiation, hijacked
//! connections, stream framing, early headers, error texts. It holds no state, decides nothing about containers and cannot
//! tell one host from a whole cluster. What Muster does not do is refused with 501 and a message that names it; a field of a
//! service that cannot be honoured is refused by its name, never ignored.
//!
//! Read first: [`Api`] and [`serve`], then `routes.rs`, the table of all operations.

#![forbid(unsafe_code)]

mod access;
mod api;
mod attach;
mod call;
mod containers;
mod fault;
mod files;
mod framing;
mod hijack;
mod images;
mod logs;
mod networks;
mod query;
mod refused;
mod reply;
mod route;
mod routes;
mod serve;
mod swarm;
mod system;
mod version;
mod volumes;
mod websocket;

pub use access::{Access, Role};
pub use api::{Api, Settings};
pub use call::decode_registry_auth;
pub use networks::overlay_spec;
pub use serve::{serve, serve_connection};
