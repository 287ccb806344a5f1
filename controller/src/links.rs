//! Channels to other managers for calls, kept open between calls.

use muster_calls::Error;
use muster_model::NodeId;
use muster_mtls::{Expect, Tls};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tonic::transport::Channel;

pub(crate) struct Links {
    tls: Tls,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// The installation of credentials that the channels were made under.
    credentials: u64,
    channels: BTreeMap<(NodeId, SocketAddr), Channel>,
}

impl Links {
    pub(crate) fn new(tls: Tls) -> Self {
        Self { tls, open: Mutex::default() }
    }

    /// A channel to a node. A new one is dialled here, so that an error means that nothing was sent.
    pub(crate) async fn to(&self, node: NodeId, addr: SocketAddr) -> Result<Channel, Error> {
        if let Some(known) = self.open().channels.get(&(node, addr)) {
            return Ok(known.clone());
        }
        let channel = self.tls.channel(&addr.to_string(), Expect::Node(node)).await;
        let channel = channel.map_err(|e| Error::unavailable(e.to_string()))?;
        self.open().channels.insert((node, addr), channel.clone());
        Ok(channel)
    }

    /// The next call dials anew.
    pub(crate) fn forget(&self, node: NodeId) {
        self.open().channels.retain(|(id, _), _| *id != node);
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // New credentials show the old connections' peers nothing: dial anew, the streams on them go on.
        let current = *self.tls.installed().borrow();
        if open.credentials != current {
            *open = Open { credentials: current, channels: BTreeMap::new() };
        }
        open
    }
}
