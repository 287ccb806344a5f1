//! The agent's decisions, without its hands: which of the node's tasks to prepare, start, stop and forget, what to report,
//! and what the data plane and the name server are to know.
//!
//! [`Worker`] is a machine without await, clock or I/O: inputs go in with the time, [`Effect`]s come out, the shell in
//! `musterd` performs them and feeds their results back. [`view::node_view`] and [`view::names`] are pure functions of the
//! assignments and the endpoints that exist on this host.
//!
//! [`attach::Attachments`] keeps the places of containers of no service on networks that span hosts.
//!
//! Read first: [`Worker::handle`].

#![forbid(unsafe_code)]

pub mod attach;
mod task;
pub mod view;
mod worker;

pub use task::{Container, Phase};
pub use worker::{Effect, Input, Ledger, Worker};
