//! The wall clock, read in one place.

use muster_model::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now.
pub(crate) fn now() -> Timestamp {
    from_system(SystemTime::now())
}

/// A time of the standard library; before 1970 counts as 1970.
pub(crate) fn from_system(at: SystemTime) -> Timestamp {
    let nanos = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Timestamp(i64::try_from(nanos).unwrap_or(i64::MAX))
}
