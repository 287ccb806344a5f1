//! Certificates that were called back before their end: by serial, as the cluster's state has them.

use arc_swap::ArcSwap;
use std::{collections::BTreeSet, sync::Arc};

/// The list that this host goes by. Cheap to clone; whoever has it sees what it says now.
#[derive(Clone, Debug, Default)]
pub struct Revoked(Arc<ArcSwap<BTreeSet<String>>>);

impl Revoked {
    /// Whether a certificate of this serial, in lower-case hexadecimal digits, is on it.
    pub fn has(&self, serial: &str) -> bool {
        self.0.load().contains(serial.trim_start_matches('0'))
    }

    /// Replaces the list. False: it was the same.
    pub(crate) fn replace(&self, serials: BTreeSet<String>) -> bool {
        let changed = **self.0.load() != serials;
        if changed {
            self.0.store(Arc::new(serials));
        }
        changed
    }
}
