//! The replicated state of the cluster: tables, indexes, versions, and the one function that changes them.
//!
//! Every manager applies the same [`Entry`]s in the same order by [`State::apply`] and so holds the same tables; nothing
//! else changes a table. An entry is a list of [`Group`]s; a group is atomic and carries what it was decided from
//! ([`Expect`]), so that a decision made from an older state is refused instead of overwriting a newer one. What the
//! controller wants of a task or node (the desired half) has a version; what an agent reports (the observed half) moves
//! by its own rule (only forward) and never conflicts with it.
//!
//! Tables are persistent maps: [`State::snapshot`] is a clone in O(1), to be encoded elsewhere while this one moves on.
//! Nothing here reads a clock, draws a random number or does I/O; time is what the entries say.
//!
//! Read first: [`State`], [`Entry`], [`Change`], [`Outcome`].

#![forbid(unsafe_code)]

mod apply;
mod codec;
mod digest;
mod entry;
mod find;
mod object;
mod outcome;
mod record;
mod snapshot;
mod tables;

pub use codec::DecodeError;
pub use digest::StateHash;
pub use entry::{Change, Entry, Expect, Group, HashCheck, Origin};
pub use find::FindError;
pub use object::{Key, Kind, Object};
pub use outcome::{Applied, ApplyError, Event, Ignored, Outcome, Rejection};
pub use snapshot::{Pair, RestoreError};
pub use tables::State;
