//! What happens in the cluster, told by every manager and passed on once.

use muster_model::engine::EventMessage;
use std::collections::BTreeSet;

/// Events that are remembered; managers lag behind each other by far fewer, and remember no more themselves.
const KEPT: usize = 2048;

/// An event's entry in the cluster's log, and its place there: the same on every manager.
pub(super) type Entry = (u64, u32);

/// Which event of the cluster it is. `None`: it is a node's own.
pub(super) fn entry_of(event: &EventMessage) -> Option<Entry> {
    let (index, place) = event.entry.split_once('.')?;
    Some((index.parse().ok()?, place.parse().ok()?))
}

/// The events that were passed on last.
#[derive(Debug, Default)]
pub(super) struct Once {
    told: BTreeSet<Entry>,
    /// What is not after this was told, or is too old to say.
    forgotten: Option<Entry>,
}

impl Once {
    /// Whether this is the first to tell of it.
    pub fn is_new(&mut self, entry: Entry) -> bool {
        if self.forgotten.is_some_and(|f| entry <= f) || !self.told.insert(entry) {
            return false;
        }
        if self.told.len() > KEPT {
            self.forgotten = self.told.pop_first();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_managers_tell_is_new_once() {
        let mut once = Once::default();
        assert!(once.is_new((7, 0)) && once.is_new((7, 1)));
        assert!(!once.is_new((7, 0)));
        assert!(once.is_new((6, 0)), "one that is behind tells what the other did not");
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_not_told_again() {
        let mut once = Once::default();
        for index in 0..2 * KEPT as u64 {
            assert!(once.is_new((index, 0)));
        }
        assert_eq!(once.told.len(), KEPT);
        assert!((0..2 * KEPT as u64).all(|index| !once.is_new((index, 0))));
    }

    #[test]
    fn a_nodes_own_event_is_no_entry() {
        let event = |entry: &str| EventMessage { entry: entry.to_owned(), ..EventMessage::default() };
        assert_eq!(entry_of(&event("")), None);
        assert_eq!(entry_of(&event("12.3")), Some((12, 3)));
        assert_eq!(entry_of(&event("12.x")), None);
    }
}
