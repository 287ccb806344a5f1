//! What the engine remembers on disk: one small file per container, network and volume.

pub(crate) mod durable;
pub(crate) mod folder;

mod container;

pub(crate) use container::{ClusterPlace, Got, Mounted, NO_MAC, Phase, Place, PublishedPort, ReadError, Record, State};
pub(crate) use durable::Durability;

/// Name of the record in a container's or volume's folder.
pub(crate) const FILE: &str = "record.json";
/// Name of a container's last state where it was not flushed; it stands beside the flushed one, for a power cut may spoil it.
const RECENT: &str = "recent.json";
