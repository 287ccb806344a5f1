//! What the engine remembers on disk: one small file per container, network and volume; where there are many, an index spares
//! a start the opening of each (`keeper.rs`). Networks are few, and read one by one.

pub(crate) mod durable;
pub(crate) mod folder;

mod container;
mod index;
mod keeper;
mod print;

pub(crate) use container::{ClusterPlace, Got, Mounted, NO_MAC, Phase, Place, PublishedPort, ReadError, Record, State};
pub(crate) use durable::Durability;
pub use keeper::RecordsRead;
pub(crate) use keeper::{Keeper, Records};
use print::Print;

/// Name of the record in a container's or volume's folder.
pub(crate) const FILE: &str = "record.json";
/// Name of a container's last state where it was not flushed; it stands beside the flushed one, for a power cut may spoil it.
const RECENT: &str = "recent.json";
