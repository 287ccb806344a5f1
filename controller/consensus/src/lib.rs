//! Raft consensus as a pure machine: ticks, messages and proposals in, work orders out.
//!
//! The algorithm is the crate `raft` 0.7; this crate is the wall around it. Nothing here does I/O, reads a clock or draws
//! a random number: time arrives as [`Consensus::tick`], chance as [`Config::seed`], and the disk is somebody else's
//! business. What must be written, sent or applied leaves as a [`Ready`]; that the writing is done comes back as
//! [`Consensus::persisted`], and only that call hands out the messages that had to wait for the disk.
//!
//! All types on this wall are plain structs of our own. They are converted field by field to those of `raft`, so that
//! bytes of strangers never meet the old protobuf parser below it (RUSTSEC-2024-0437), and each message is checked before
//! the algorithm sees it: whatever a peer sends is an [`StepError`], not a panic.
//!
//! The shell's loop, in the order that keeps promises:
//!
//! ```text
//! tick / step / propose / read_index        any number, also while the disk is busy
//! while let Some(ready) = consensus.ready()
//!     send ready.messages                   a leader's appends may leave before its own disk has them
//!     hand ready.persist to the disk        in the order of `number`; several may share one fdatasync
//!     apply ready.committed                 durable on a majority; in order, each once
//!     stream a snapshot for each of ready.snapshots (state exactly after ready.committed)
//! when the disk has finished `number`
//!     send consensus.persisted(number)      votes and acknowledgements, now true
//! ```
//!
//! Read first: [`Consensus`], [`Ready`], then [`Message`].

#![forbid(unsafe_code)]

mod codec;
mod config;
mod convert;
mod election;
mod log;
mod machine;
mod message;
mod propose;
mod ready;
mod status;
mod types;

pub use bytes::Bytes;
pub use codec::DecodeError;
pub use config::{Config, ConfigError, Start};
pub use machine::Consensus;
pub use message::{Body, Malformed, Message, Reject, StepError};
pub use ready::{
    Committed, Outcome, Payload, Persist, ProposeError, Read, Ready, Role, RoleChange, SnapshotOrder, Token,
};
pub use status::{PeerStatus, Status};
pub use types::{Change, Entry, EntryBody, HardState, LIMIT, Membership, MembershipError, PeerId, SnapshotMeta};
