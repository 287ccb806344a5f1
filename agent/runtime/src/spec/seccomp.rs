//! System call filters: our own default table, and profiles in Docker's JSON form.
//!
//! The default allows what Docker's default allows. What the kernel has and a container may not use answers EPERM; what is not
//! in any list (calls newer than this table) answers ENOSYS, so that a C library falls back to an older call in place of
//! failing.

mod profile;
mod table;

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;

use super::error::Error;
use super::input::SeccompProfile;

/// The filter of a container with these capabilities; `None` for no filter.
pub(super) fn filter(profile: &SeccompProfile, caps: &BTreeSet<String>) -> Result<Option<LinuxSeccomp>, Error> {
    match profile {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::Default => table::filter(caps).map(Some),
        SeccompProfile::Json(text) => profile::filter(text, caps).map(Some),
    }
}

/// Checks a profile before it is stored.
///
/// # Errors
/// What in it is no profile.
pub fn parse_profile(text: &str) -> Result<(), Error> {
    profile::filter(text, &BTreeSet::new()).map(|_| ())
}
