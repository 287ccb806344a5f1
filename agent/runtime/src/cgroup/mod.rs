//! The machine's cgroups: which layout it has, where a container's directories are, and what their files say.
//!
//! Never creates or limits a container's cgroup: the OCI runtime does that from `cgroupsPath` and `linux.resources`.

mod layout;
mod migration;
mod reader;

pub use layout::{Layout, Paths};
pub use migration::Migration;
pub(crate) use reader::signal;
pub use reader::{freezer_frozen, kill_all, oom_kills, processes, read_stats, thaw};
