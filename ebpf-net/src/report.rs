//! What a sync did, and what can go wrong.

use crate::bridges::NoBridge;
use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

/// What one [`sync`](crate::DataPlane::sync) did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Endpoints that have no working interface now, by endpoint key, with the reason. The next sync tries again.
    pub failed: BTreeMap<String, String>,
    /// Devices of [`Surroundings::bridges`](crate::Surroundings::bridges) that are not there now, with the reason.
    pub bridges: BTreeMap<String, NoBridge>,
    /// Endpoints whose interface was made by this sync.
    pub created: Vec<String>,
    /// Interfaces of ours that were removed because the view does not have them.
    pub removed: Vec<String>,
    /// Things that work less well than asked, in words (an address used twice on this host, no uplink, ...).
    pub notes: Vec<String>,
    /// Map entries written and deleted.
    pub entries_written: usize,
    pub entries_deleted: usize,
    /// How long the sync took.
    pub took: Duration,
}

impl Report {
    /// Nothing failed.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.bridges.is_empty()
    }
}

/// Why the data plane as a whole could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network configuration field {field}: {why}")]
    Config { field: &'static str, why: String },
    #[error("cannot {doing} {path:?}")]
    Path {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the network namespace {path:?}")]
    Netns {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("netlink: cannot {doing}")]
    Netlink {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error("eBPF: cannot {doing}: {why}")]
    Bpf { doing: String, why: String },
    #[error("nft: cannot {doing}: {why}")]
    Nft { doing: &'static str, why: String },
    #[error("this kernel cannot carry container networks: {what}")]
    Kernel { what: String },
    #[error("the network worker thread ended by a panic")]
    Worker,
}

/// An error with everything below it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(e) = below {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        below = e.source();
    }
    text
}
