//! Refusals as the API's callers see them.

use muster_calls::{Error, Kind};
use muster_controller_core::CallError;

/// What a manager that does not lead says. Nothing was done: whoever hears it asks the leader.
pub const NOT_LEADER: &str = "this manager is not the leader";

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

/// What a connection says that nobody takes (ECONNREFUSED, connect(2)): never of one that was open.
const REFUSED: &str = "Connection refused (os error 111)";
/// What the transport says when a connection breaks.
const BROKEN: [&str; 4] =
    ["http2 error", "transport error", "Connection reset by peer (os error 104)", "Broken pipe (os error 32)"];

/// The call was certainly not carried out: it reached nobody, or a manager that does not lead.
pub(crate) fn was_not_done(e: &Error) -> bool {
    is_not_leader(e) || (e.kind == Kind::Unavailable && e.message.contains(REFUSED))
}

/// The leader was asked, and another one leads before it has answered.
pub(crate) fn outcome_unknown() -> Error {
    from_call_error(CallError::Interrupted)
}

/// The transport's words for a lost answer in those of the call.
pub(crate) fn of_lost_answer(e: Error) -> Error {
    match BROKEN.contains(&e.message.as_str()) {
        true => Error::new(
            e.kind,
            format!("the leader went away while the request was in flight: its outcome is unknown ({})", e.message),
        ),
        false => e,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_reached_nobody_is_made_again_and_one_whose_answer_is_lost_is_not() {
        let refused = Error::unavailable(format!("node host2: {REFUSED}"));
        assert!(was_not_done(&refused) && was_not_done(&Error::unavailable(NOT_LEADER)));
        for broken in BROKEN {
            let told = of_lost_answer(Error::unavailable(broken));
            assert!(told.message.contains("outcome is unknown") && !was_not_done(&told), "{told}");
        }
        let fault = Error::conflict("a name is taken");
        assert_eq!(of_lost_answer(fault.clone()).message, fault.message);
        assert!(!was_not_done(&outcome_unknown()));
    }
}
