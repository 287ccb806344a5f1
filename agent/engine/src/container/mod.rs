//! Containers: one owner task each ([`actor`]), views for everybody else ([`handle`]).
//!
//! Making one: `create.rs` (checks in `check.rs`, mounts in `mounts.rs`). Running one: `up.rs`, `spec.rs`, `etc.rs`.
//! Telling of them: `list.rs`, `inspect.rs`, `stats.rs`, `logs.rs`.

pub(crate) mod actor;
mod acts;
mod attach;
mod check;
mod connect;
mod create;
mod etc;
mod exit;
mod handle;
mod health;
mod inspect;
mod joined;
mod links;
mod list;
mod logs;
mod mounts;
mod prune;
mod restart;
mod shm;
mod spec;
mod stats;
mod status;
mod top;
mod up;
mod update;
mod wait;

pub(crate) use actor::{Begin, Command, RootLease, spawn};
pub(crate) use attach::pump;
pub(crate) use connect::{parse_mac, placed};
pub use create::EndpointSpec;
pub(crate) use create::{cluster_place, image_config, no_such_image};
pub(crate) use handle::{Containers, Handle, View};
pub(crate) use links::named as named_links;
pub(crate) use logs::is_live;
pub use prune::{go_duration, labels_pass, until};
pub(crate) use restart::{Backoff, at_daemon_start};
pub(crate) use shm::sweep as sweep_shm;
pub(crate) use up::{bring_down, forget_places};

use crate::{record::Record, signal};
use restart::Policy;

impl Record {
    /// The restart policy; one that cannot be read was refused at create.
    pub(crate) fn restart_policy(&self) -> Policy {
        let policy = &self.host.restart_policy;
        Policy::parse(&policy.name, policy.maximum_retry_count).unwrap_or_default()
    }

    /// The signal that asks it to end.
    ///
    /// # Errors
    /// `Invalid` when the image names none that exists.
    pub(crate) fn stop_signal(&self) -> muster_calls::Result<i32> {
        match self.config.stop_signal.as_str() {
            "" => Ok(libc::SIGTERM),
            text => signal::parse(text),
        }
    }
}
