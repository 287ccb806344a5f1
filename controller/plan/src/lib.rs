//! What the cluster should do next: pure functions from the state and the time to a list of changes.
//!
//! A [`Planner`] keeps indexes that follow from the state (free resources and addresses, which services may need a
//! decision) up to date by the events of applied entries, so that a plan costs what has changed and not what exists. It
//! never holds a decision: every rule reads the state, so a new leader's planner, built by [`Planner::new`], goes on where
//! the last one stopped.
//!
//! One call of [`Planner::plan`] takes a service through all rooms over one draft: orchestrate (which tasks), allocate
//! (addresses, ports), schedule (which node). A new task is ASSIGNED in the proposal that makes it. Nothing here reads a
//! clock or draws a random number ([`IdSource`] is seeded by the shell), and equal inputs give equal plans.
//!
//! Read first: [`Planner`], [`Plan`], then `service.rs`, which says in which order the rooms are visited.

#![forbid(unsafe_code)]

mod attach;
mod draft;
mod endpoint;
mod enforce;
mod explain;
mod global;
mod hosts;
mod ids;
mod ipam;
mod network;
mod planner;
mod reap;
mod replicated;
mod restart;
mod schedule;
mod service;
mod single;
mod spread;
mod text;
mod update;

pub use explain::{Explanation, Reason};
pub use ids::IdSource;
pub use ipam::pick_subnet;
pub use network::{NetworkError, first_ingress, new_network};
pub use planner::{Plan, Planner, Subject};
pub use schedule::{eligible, explain};
pub use single::{Extra, Unplaced, Wish, place_single};
