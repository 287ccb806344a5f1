//! The connections that this host has dialled and that are open: the servers that are to see its next certificate.
//!
//! A server closes a connection at the end of the certificate that it was dialled with, unless it has been shown a newer one
//! ([`crate::Connections`]).

use crate::Expect;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// `host:port`, and whom that is meant to be.
pub(crate) type Server = (String, Expect);

/// How many connections are open to which server. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing(Arc<Mutex<HashMap<Server, usize>>>);

/// A connection that is about to be made.
pub(crate) struct Entry {
    outgoing: Outgoing,
    server: Server,
}

/// Held by a connection; takes it out again when dropped.
pub(crate) struct Noted(Entry);

impl Outgoing {
    fn table(&self) -> MutexGuard<'_, HashMap<Server, usize>> {
        // No code panics while it holds the lock, and the table is whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn entry(&self, addr: &str, expect: Expect) -> Entry {
        Entry { outgoing: self.clone(), server: (addr.to_owned(), expect) }
    }

    /// The servers that there is a connection to.
    pub(crate) fn servers(&self) -> Vec<Server> {
        self.table().keys().cloned().collect()
    }
}

impl Entry {
    /// The connection stands.
    pub(crate) fn note(self) -> Noted {
        *self.outgoing.table().entry(self.server.clone()).or_default() += 1;
        Noted(self)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut table = self.0.outgoing.table();
        if let Some(open) = table.get_mut(&self.0.server) {
            *open -= 1;
            if *open == 0 {
                table.remove(&self.0.server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_listed_as_long_as_one_connection_to_it_is_open() {
        let all = Outgoing::default();
        let (a, b) = (all.entry("h:1", Expect::Manager).note(), all.entry("h:1", Expect::Manager).note());
        drop(all.entry("h:2", Expect::Manager));
        drop(a);
        assert_eq!(all.servers(), [("h:1".to_owned(), Expect::Manager)]);
        drop(b);
        assert!(all.servers().is_empty());
    }
}
