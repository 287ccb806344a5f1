//! Whole control planes in one process: real journals, real mTLS on loopback.

mod agents;
mod certificates;
mod credentials;
mod harness;
mod kill;
mod members;
mod replication;
