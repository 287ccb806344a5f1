//! Docker Engine semantics of one host: containers, images, volumes and networks as Docker's clients know them.
//!
//! [`LocalEngine`] implements [`muster_calls::Engine`] over the runtime room (`muster-runtime`), the image room
//! (`muster-image`) and whatever implements [`Network`]. It keeps one small record per container, network and volume, and is
//! the only one that writes them; each container has one owner task, so that requests for it cannot race. It works without a
//! cluster; one is asked only for places of containers on its networks, through [`Spanning`].
//!
//! What it never does: speak HTTP or gRPC, program the kernel's network beyond making namespaces, decide where things run.
//!
//! Read first: [`EngineConfig`], [`LocalEngine::open`], [`net::Sandbox`].
//!
//! Records are read once at open and kept in memory, where a list of thousands takes milliseconds. Where there are many, an index
//! over their files (`record/index.rs`) spares that reading the opening of each; it is used where it agrees with the files.

#![forbid(unsafe_code)]

mod adopt;
mod calls;
mod clock;
mod config;
mod container;
mod detach;
mod engine;
mod error;
mod events;
mod exec;
mod image;
mod logging;
mod names;
pub mod net;
mod plugin;
mod record;
mod signal;
mod survey;
mod system;
mod volume;

pub use config::EngineConfig;
pub use container::{EndpointSpec, labels_pass, until as prune_until};
pub use engine::LocalEngine;
pub use error::OpenError;
pub use events::EVENT_FILTERS;
pub use logging::{ContainerLogs, LogLine, OtlpLogs, OtlpSender};
pub use net::{Network, NoNetwork, NoSpanning, Spanning};
pub use record::RecordsRead;
pub use system::DROPPED;

/// What happened to a container, for those who look after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its command was let run.
    Start,
    /// The OOM killer killed in it; `Die` follows if its init has ended.
    Oom,
    /// It has ended; its restart policy may start it again.
    Die { exit_code: i32, oom_killed: bool, error: String },
    /// `starting`, `healthy` or `unhealthy`.
    Health { status: String },
    /// It is gone.
    Removed,
}

/// Changes of containers: full id and what happened. Bounded: who is too slow is told so and looks at everything anew.
pub type Changes = tokio::sync::broadcast::Receiver<(String, Change)>;
