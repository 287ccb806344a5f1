//! Who is told what happens in the cluster.

use muster_controller_core::ClusterEvent;

/// Listens to one manager: it is told what happens while that is up to date, in order, each event once.
///
/// What happened while the manager was away, or before it became one, is not told there.
pub trait Witness: std::fmt::Debug + Send + Sync {
    /// Called by the turn loop: must not block.
    fn saw(&self, event: ClusterEvent);
}

/// Nobody.
impl Witness for () {
    fn saw(&self, _: ClusterEvent) {}
}
