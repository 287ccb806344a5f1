//! What came of an entry.

use crate::{Key, Kind, Object, StateHash};
use muster_model::{
    NetworkId, ServiceId, Timestamp,
    cluster::Version,
    net::{Protocol, Subnet},
};

/// What applying one entry did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    /// The entry's time after it was forced to grow: what `updated_at` of changed objects says.
    pub time: Timestamp,
    /// One for each group, in order.
    pub outcomes: Vec<Outcome>,
    /// What changed, in order.
    pub events: Vec<Event>,
}

/// What came of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its changes were made, except for the observations that came too late.
    Done { ignored: Vec<Ignored> },
    /// Nothing of it was done.
    Rejected(Rejection),
}

impl Outcome {
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Done { .. } => None,
            Self::Rejected(r) => Some(r),
        }
    }
}

/// An observation that changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("{0} is gone")]
    Gone(Key),
    /// The object has moved further already: an observed state never goes back.
    #[error("{0} is further already")]
    Backward(Key),
    /// It says what is known.
    #[error("{0} says so already")]
    Same(Key),
}

/// Why a group was refused. An expected outcome: whoever proposed it decides again from the newer state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("{key} has version {}, not {}", found.0, expected.0)]
    Version { key: Key, expected: Version, found: Version },
    #[error("{0} does not exist")]
    Missing(Key),
    #[error("a {} named {name:?} exists already", kind.as_str())]
    NameTaken { kind: Kind, name: String, by: Key },
    #[error("port {port}/{protocol} is published by service {by}")]
    PortTaken { protocol: Protocol, port: u16, by: ServiceId },
    #[error("subnet {subnet} overlaps {with} of network {by}")]
    SubnetTaken { subnet: Subnet, with: Subnet, by: NetworkId },
    #[error("network number {vni} is network {by}'s")]
    VniTaken { vni: u32, by: NetworkId },
    #[error("network {network} is used by {by}")]
    NetworkUsed { network: NetworkId, by: Key },
    /// A task's desired state was to be lowered, or its node or service changed: a task never moves.
    #[error("{key} cannot change its {field}")]
    Immutable { key: Key, field: &'static str },
}

/// One object before and after. `None`: it did not exist, it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Key,
    pub before: Option<Object>,
    pub after: Option<Object>,
}

/// Why an entry could not be applied. Both mean that this replica must stop: it is not what the others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("entry {index} follows entry {applied}: entries are applied once, in order")]
    OutOfOrder { index: u64, applied: u64 },
    #[error("this replica differs from the leader's: at index {index} its state hash is {found}, expected {expected}")]
    Divergence { index: u64, expected: StateHash, found: StateHash },
}
