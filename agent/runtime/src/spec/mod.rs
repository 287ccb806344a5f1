//! OCI `config.json` from what a user asked for: [`build`] for a container, [`exec_process`] for an exec.
//!
//! Defaults are those of Docker Engine: capabilities, seccomp, masked paths, mounts, environment. Reads the image's
//! `/etc/passwd` and `/etc/group` (never following a link out of the root file system) and the host's device nodes; starts
//! nothing and mounts nothing.

mod capabilities;
mod devices;
mod environment;
mod error;
mod host;
mod input;
mod mounts;
mod namespaces;
mod paths;
mod process;
mod resources;
mod seccomp;
mod user;

pub use capabilities::{ALL as ALL_CAPABILITIES, DEFAULT as DEFAULT_CAPABILITIES};
pub use environment::DEFAULT_PATH;
pub use error::Error;
pub use host::Host;
pub use input::{
    Bind, DeviceMapping, EtcFiles, ExecInput, MountRequest, NamespaceMode, Namespaces, Propagation, Rlimit,
    SeccompProfile, SpecInput, Tmpfs,
};
pub use paths::{MASKED as MASKED_PATHS, READONLY as READONLY_PATHS};
pub use process::exec_process;
pub use resources::{linux_resources, supported};
pub use seccomp::parse_profile;

use oci_spec::runtime::Spec;

/// A spec together with what could not be honoured to the letter and was clamped, in words for the user.
#[derive(Debug, Clone)]
pub struct Built {
    /// The OCI spec.
    pub spec: Spec,
    /// Warnings, as Docker returns them from container create.
    pub warnings: Vec<String>,
}

/// Checks what of a request can be checked before there is a root file system: limits, capabilities, rules, tmpfs options.
/// Answers with what this host cannot honour and leaves out, in words for the user.
///
/// # Errors
/// [`Error`] naming the field, as [`build`].
pub fn vet(input: &SpecInput, host: &Host) -> Result<Vec<String>, Error> {
    process::vet(input, host)
}

/// Builds the OCI spec of a container.
///
/// # Errors
/// [`Error`] naming the field that cannot be: unknown capability, user or group that the image does not have, device that
/// does not exist, malformed rule, profile or mount.
pub fn build(input: &SpecInput, host: &Host) -> Result<Built, Error> {
    process::container(input, host)
}
