//! The control plane's turn machine: one manager of the cluster, without I/O.
//!
//! [`Manager::handle`] takes one [`Input`] with the time and leaves [`Effect`]s: what to propose, send and answer. It holds
//! the replicated [`muster_state::State`], which only committed entries change; while it leads, also what only a leader
//! knows (sessions, heartbeats, what each node was sent, what is in flight), which it builds anew each time it takes
//! office. No await, clock, random number or I/O: the shell and the simulation drive the same machine.
//!
//! The rules of a turn:
//! * one *plan* proposal is in flight at a time; calls and reports pipeline beside it;
//! * there are no debounce timers: what arrives while a proposal is in flight joins the next one;
//! * a call is answered when the entry that carries it was applied: acknowledged is applied;
//! * every decision follows from the state and the time, so that the next leader takes it up where this one stopped.
//!
//! What it relies on of agents: at the beginning of a session they report the state of every task they know, and repeat a
//! report until it is answered (a leader may go between the two). A task stays assigned until its object is forgotten, also
//! when it has ended: its container and logs are kept for `service logs`, and removed when the assignment is. A task that is
//! told with desired state `Shutdown` or higher is reported as ended also by an agent that never had it; until then its
//! addresses are not given to others. An ended task is never started again, whatever is desired of it.
//!
//! Read first: [`Manager`], [`Input`], [`Effect`], [`Call`].

#![forbid(unsafe_code)]

mod assign;
mod call;
mod commands;
mod credentials;
mod effect;
mod events;
mod input;
mod leader;
mod manager;
mod members;
mod office;
mod operators;
mod pending;
mod read;
mod reports;
mod roles;
mod sessions;

pub use call::{Call, CallError, NewCluster, Registration, Reply};
pub use effect::{CloseReason, Effect, Effects, PeerChange};
pub use events::{ClusterEvent, events_of};
pub use input::{Config, Input, Now, ProposalId, Refusal, SessionId, Token};
pub use manager::Manager;
pub use muster_plan::{Extra, IdSource, Unplaced, Wish, place_single};
pub use read::{ServiceStatus, cluster_services, service_status, tasks_for_people};
