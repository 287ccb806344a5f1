//! Other containers whose namespaces a container joins: `container:ID`.

use super::Handle;
use crate::{engine::Shared, record::Record};
use muster_calls::{Error, Result};
use muster_runtime::spec::NamespaceMode;
use std::{path::PathBuf, sync::Arc};

/// The other container named by a mode, if it names one.
pub(super) fn target(mode: &str) -> Option<&str> {
    mode.strip_prefix("container:")
}

/// The containers that one joins, all running.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub net: Option<Arc<Record>>,
    pub ipc: Option<Arc<Record>>,
    pub pid: Option<Arc<Record>>,
}

impl Joined {
    /// Looks them up.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for one that does not run, in Docker's words.
    pub fn find(shared: &Shared, record: &Record) -> Result<Self> {
        let running = |what: &str, mode: &str| -> Result<Option<Arc<Record>>> {
            let Some(name) = target(mode) else { return Ok(None) };
            let other = shared.find(name)?.record();
            if other.id == record.id {
                return Err(Error::invalid(format!("cannot join own {what} namespace")));
            }
            if !other.state.is_running() {
                return Err(Error::conflict(format!(
                    "cannot join {what} namespace of a non running container: {}",
                    other.id
                )));
            }
            Ok(Some(other))
        };
        Ok(Self {
            net: running("network", &record.host.network_mode)?,
            ipc: running("ipc", &record.host.ipc_mode)?,
            pid: running("PID", &record.host.pid_mode)?,
        })
    }
}

/// The namespace of another container's init.
pub(super) fn namespace(of: &Record, kind: &str) -> NamespaceMode {
    NamespaceMode::Path(PathBuf::from(format!("/proc/{}/ns/{kind}", of.state.pid)))
}

/// Replaces the name in `container:NAME` by the full id, so that a rename changes nothing.
pub(super) fn by_id(mode: &str, find: impl Fn(&str) -> Result<Arc<Handle>>) -> Result<String> {
    match target(mode) {
        Some("") => Err(Error::invalid("invalid container format container:<name|id>")),
        Some(name) => Ok(format!("container:{}", find(name)?.id)),
        None => Ok(mode.to_owned()),
    }
}
