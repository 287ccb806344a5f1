//! The open connections of this host's servers, so that they end when their holder's rights do.
//!
//! TLS looks at a certificate once, at the handshake. Demotion, removal and expiry come later: whoever learns of them
//! closes by node id. A connection stays good beyond its own certificate's end when its holder has since shown a newer
//! one here ([`crate::Tls::show`]), so that renewal drops no stream.

use crate::{CertRole, Leaf, NodeIdentity};
use muster_model::{NodeId, Timestamp};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long a connection may stay whose holder has no valid certificate: enough to join or renew.
const GUEST_TIME: Duration = Duration::from_secs(60);

/// One open connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    pub remote: Option<SocketAddr>,
    /// `None`: an anonymous client.
    pub identity: Option<NodeIdentity>,
    /// Of its certificate.
    pub serial: Option<String>,
    pub opened: Timestamp,
}

/// The registry of one host. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Open>,
    /// How long the newest certificate seen of a holder is valid, in nanoseconds since the epoch.
    valid_until: HashMap<(NodeId, CertRole), Arc<AtomicI64>>,
}

#[derive(Debug)]
struct Open {
    info: ConnectionInfo,
    valid_until: Option<Arc<AtomicI64>>,
    close: CancellationToken,
}

/// Held by a connection; takes it out of the registry when dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    connections: Connections,
    id: u64,
    pub(crate) close: CancellationToken,
    pub(crate) valid_until: Option<Arc<AtomicI64>>,
}

impl Connections {
    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics while it holds the lock, and the table is whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn register(&self, remote: Option<SocketAddr>, leaf: Option<&Leaf>, now: Timestamp) -> Registered {
        let mut table = self.table();
        let valid_until = leaf.map(|leaf| {
            let key = (leaf.identity.node_id, leaf.identity.role);
            let shared = table.valid_until.entry(key).or_default().clone();
            shared.fetch_max(leaf.not_after.0, Ordering::Relaxed);
            shared
        });
        let id = table.next;
        table.next += 1;
        let close = CancellationToken::new();
        let info = ConnectionInfo {
            remote,
            identity: leaf.map(|l| l.identity),
            serial: leaf.map(|l| l.serial.clone()),
            opened: now,
        };
        table.open.insert(id, Open { info, valid_until: valid_until.clone(), close: close.clone() });
        drop(table);
        Registered { connections: self.clone(), id, close, valid_until }
    }

    /// Closes all connections that `which` picks; answers how many. Their streams end with an I/O error.
    pub fn close_where(&self, mut which: impl FnMut(&ConnectionInfo) -> bool) -> usize {
        let table = self.table();
        let picked = table.open.values().filter(|open| which(&open.info));
        picked.map(|open| open.close.cancel()).count()
    }

    /// Closes all connections of a node (or operator): at its removal, demotion or promotion.
    pub fn close_node(&self, node: NodeId) -> usize {
        self.table().valid_until.retain(|(id, _), _| *id != node);
        self.close_where(|c| c.identity.is_some_and(|i| i.node_id == node))
    }

    /// Closes connections whose holder has no valid certificate any more, and those of guests that stayed too long.
    pub fn close_expired(&self, now: Timestamp) -> usize {
        let mut table = self.table();
        let mut closed = 0;
        for open in table.open.values() {
            let valid = open.valid_until.as_ref().is_some_and(|v| v.load(Ordering::Relaxed) >= now.0);
            if !valid && now.since(open.info.opened) > GUEST_TIME {
                open.close.cancel();
                closed += 1;
            }
        }
        table.valid_until.retain(|_, v| v.load(Ordering::Relaxed) >= now.0);
        closed
    }

    /// The connections that are open now.
    pub fn list(&self) -> Vec<ConnectionInfo> {
        self.table().open.values().map(|open| open.info.clone()).collect()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.table().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::ClusterId;

    const SECOND: i64 = 1_000_000_000;

    fn leaf(node: u128, not_after: i64) -> Leaf {
        let identity = NodeIdentity {
            node_id: NodeId::from_u128(node),
            cluster_id: ClusterId::from_u128(1),
            role: CertRole::Worker,
        };
        Leaf { identity, serial: "1".into(), not_before: Timestamp(0), not_after: Timestamp(not_after) }
    }

    #[test]
    fn a_connection_outlives_its_certificate_once_its_holder_has_shown_a_newer_one() {
        let all = Connections::default();
        let old = all.register(None, Some(&leaf(1, 100 * SECOND)), Timestamp(0));
        let other = all.register(None, Some(&leaf(2, 100 * SECOND)), Timestamp(0));
        let new = all.register(None, Some(&leaf(1, 900 * SECOND)), Timestamp(90 * SECOND));
        assert_eq!(all.close_expired(Timestamp(200 * SECOND)), 1);
        assert!(other.close.is_cancelled() && !old.close.is_cancelled() && !new.close.is_cancelled());
        assert_eq!(all.close_expired(Timestamp(1000 * SECOND)), 3);
    }

    #[test]
    fn guests_may_stay_a_minute() {
        let all = Connections::default();
        let guest = all.register(None, None, Timestamp(0));
        assert_eq!(all.close_expired(Timestamp(59 * SECOND)), 0);
        assert_eq!(all.close_expired(Timestamp(61 * SECOND)), 1);
        assert!(guest.close.is_cancelled());
    }

    #[test]
    fn closing_a_node_leaves_the_others_open_and_dropped_connections_are_forgotten() {
        let all = Connections::default();
        let a = all.register(None, Some(&leaf(1, 100)), Timestamp(0));
        let b = all.register(None, Some(&leaf(2, 100)), Timestamp(0));
        assert_eq!(all.close_node(NodeId::from_u128(1)), 1);
        assert!(a.close.is_cancelled() && !b.close.is_cancelled());
        drop((a, b));
        assert!(all.list().is_empty());
    }
}
