//! The image room of one host: a content store by digest, the registry client that fills it, and the overlay
//! snapshots that containers run on.
//!
//! Read [`Store`] first: everything hangs on it. [`Reference`] says how images are named, [`Image`] what is known of
//! one, [`RootFs`] what a container is given, [`Error`] what can go wrong. [`archive`] is the safe tar extractor and
//! archiver that layers, `docker cp` and `docker export` share.
//!
//! What is visible in the store is whole, whatever instant the process or the machine died at: blobs and layers are
//! made under `ingest/`, flushed, and renamed into place; an image exists once its record is.
//!
//! This crate never runs a container and knows no container states: who uses an image is told to it ([`Usage`]).

pub mod archive;
pub mod config;
pub mod manifest;

mod ahead;
mod changes;
mod commit;
mod compression;
mod digest;
mod distribution;
mod durable;
mod early;
mod error;
mod fetch;
mod flight;
mod follow;
mod image;
mod index;
mod layer;
mod load;
mod marks;
mod mount;
mod platform;
mod progress;
mod prune;
mod pull;
mod push;
mod reference;
mod registry;
mod remove;
mod save;
mod snapshot;
mod staging;
mod store;
mod trash;

pub use changes::{Change, ChangeKind};
pub use commit::Commit;
pub use config::{ContainerConfig, Healthcheck, History, ImageConfig};
pub use digest::{Digest, InvalidDigest};
pub use distribution::Distribution;
pub use error::{Error, Result};
pub use image::{HistoryEntry, Image, Layer};
#[doc(hidden)]
pub use layer::time_of_unpacking;
pub use load::{Import, Loaded};
pub use platform::{InvalidPlatform, Platform};
pub use progress::{Progress, Status};
pub use prune::{DiskUsage, PruneReport};
pub use push::Pushed;
pub use reference::{InvalidReference, Reference};
pub use registry::{Credentials, Found, ProxyConfig, RegistryConfig};
pub use remove::{Removed, Usage};
pub use snapshot::{RootFs, SnapshotInfo};
pub use store::{Options, Store};
