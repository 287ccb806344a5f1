//! The cluster's events on a manager's host: told where the host's own are, and remembered with them.

use muster_controller::{ClusterEvent, Witness};
use muster_engine::LocalEngine;
use std::{fmt, sync::Arc};

/// Tells the host's engine.
pub struct Teller(Arc<LocalEngine>);

impl Teller {
    pub fn new(engine: Arc<LocalEngine>) -> Self {
        Self(engine)
    }
}

impl Witness for Teller {
    fn saw(&self, event: ClusterEvent) {
        let ClusterEvent { entry: (index, place), kind, action, id, attributes } = event;
        self.0.cluster_event(format!("{index}.{place}"), kind, action, id, attributes);
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Teller")
    }
}
