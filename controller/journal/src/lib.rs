//! A manager's memory across crashes and power cuts: the raft log, and checkpoints of the state it leads to.
//!
//! - [`Journal`]: entries and hard state in preallocated segment files. Each write is one frame with a checksum, followed
//!   by one fdatasync; a frame is there whole after a crash, or not at all. A torn last frame is the end of the log; a
//!   damaged one with later frames behind it is an error that names file and offset, never a silent loss.
//! - [`Checkpoints`]: the whole state as a closed sled database per generation (`muster-generations`): nothing here relies on
//!   a sled database that is open, for sled itself never calls fsync.
//! - [`open`] brings both together after a restart: the newest sound checkpoint, and the log that continues it. A damaged
//!   checkpoint falls back to the one before, which is why [`Journal::compact`] takes a [`Floor`] that only
//!   [`Checkpoints::floor`] hands out: the log reaches back to the generation before the last.
//!
//! Contents are opaque: entries are bytes with an index and a term, the state is keys and values. Everything here blocks;
//! call it from a thread that may. One process at a time: a lock file sees to that.
//!
//! Read first: [`open`], [`Journal::append`], [`Checkpoints::write`].

#![forbid(unsafe_code)]

mod checkpoint;
mod error;
mod frame;
mod journal;
mod lock;
mod recover;
mod scan;
mod segment;

pub use checkpoint::{Checkpoints, Floor, Generation, Meta, Pairs};
pub use error::{DiskError, Error};
pub use frame::{HardState, Position, Record};
pub use journal::{Journal, Options};
pub use recover::{Opened, Recovered, open};
pub use scan::TornTail;
