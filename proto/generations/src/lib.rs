//! Closed generations: keys and values as sled databases that nobody has open.
//!
//! sled never calls fsync, and a damaged database may panic when it is opened. So none here is ever written twice: a
//! generation is written, closed, every file of it synced and listed with its checksum, and only then switched to by a rename.
//! Reading checks the list first, and lets sled work on a copy.
//!
//! ```text
//! CURRENT                       the number of the generation in force, with a checksum
//! gen-0000000000000007/db/      a sled database nobody has open
//! gen-0000000000000007/MANIFEST what it is about, its files with their checksums
//! scratch/                      copies that sled may open (opening writes), swept at start
//! damaged-0000000000000007/     a generation that was put aside
//! ```
//!
//! Which generation to fall back to, which to keep and what a damaged one means is the user's business: a manager's checkpoints
//! (`muster-journal`) and an engine's index over its records answer that differently. One process at a time may write in a
//! folder: the user sees to that. Everything here blocks.
//!
//! Read first: [`Generations::write`], [`Generations::check`], [`Generation::pairs`].

#![forbid(unsafe_code)]

pub mod disk;

mod database;
mod error;
mod generation;
mod manifest;

pub use error::Error;
pub use generation::{Generation, Generations, Kind, Pairs};
pub use manifest::About;
