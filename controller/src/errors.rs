//! Refusals as the API's callers see them.

use muster_calls::{Error, Kind};
use muster_controller_core::CallError;

/// What a manager that does not lead says. Nothing was done: whoever hears it asks the leader.
pub(crate) const NOT_LEADER: &str = "this manager is not the leader";

pub(crate) fn from_call_error(e: CallError) -> Error {
    let kind = match &e {
        CallError::NotFound(_) => Kind::NotFound,
        CallError::Invalid(_) => Kind::Invalid,
        CallError::Conflict(_) | CallError::NoMajorityWithout(_) => Kind::Conflict,
        CallError::Forbidden(_) => Kind::Forbidden,
        CallError::OutOfSequence { .. } => Kind::OutOfSequence,
        CallError::NotLeader { .. } => return Error::unavailable(NOT_LEADER),
        CallError::Unavailable(_) | CallError::Interrupted => Kind::Unavailable,
    };
    Error::new(kind, e.to_string())
}

/// The call was not carried out since it reached a manager that does not lead.
pub(crate) fn is_not_leader(e: &Error) -> bool {
    e.kind == Kind::Unavailable && e.message == NOT_LEADER
}

pub(crate) fn stopped() -> Error {
    Error::unavailable("the control plane of this node has stopped")
}

pub(crate) fn no_majority(waited: std::time::Duration) -> Error {
    Error::unavailable(format!(
        "no majority of the managers answered within {waited:?}: whether the change will happen is not known"
    ))
}
