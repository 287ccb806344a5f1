//! System call filters: our own default table, and profiles in Docker's JSON form.
//!
//! The default allows what Docker's default allows; the rest answers EPERM. For calls newer than any in the list the runtime
//! answers ENOSYS by itself (runc 1.0.0-rc93 and newer), so that a C library falls back to an older call in place of failing.
//!
//! The length of the list is latency: of the 40 ms that `runc run` takes, libseccomp 2.5 spends 20 on turning 446 names for three
//! architectures into a program. So nothing is in it that the answer does not need: no rules that say what the default says, and
//! no architecture that the kernel does not run.

mod profile;
mod table;

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;

use super::error::Error;
use super::host::Host;
use super::input::SeccompProfile;

/// 32-bit pointers with the registers of x86-64: kernels are hardly built with it any more.
const X32: &str = "SCMP_ARCH_X32";

/// The filter of a container with these capabilities; `None` for no filter.
pub(super) fn filter(
    profile: &SeccompProfile,
    caps: &BTreeSet<String>,
    host: &Host,
) -> Result<Option<LinuxSeccomp>, Error> {
    match profile {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::Default => table::filter(caps, host.x32).map(Some),
        SeccompProfile::Json(text) => profile::filter(text, caps, host.x32).map(Some),
    }
}

/// Checks a profile before it is stored.
///
/// # Errors
/// What in it is no profile.
pub fn parse_profile(text: &str) -> Result<(), Error> {
    profile::filter(text, &BTreeSet::new(), true).map(|_| ())
}
