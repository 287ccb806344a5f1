//! Messages to the other managers: one task and one stream each, dialled when there is something to say.
//!
//! raft bears loss, so a peer that is away or slow costs messages, never memory: a full queue drops.

use crate::turn::Inbox;
use muster_consensus::{Message, PeerId};
use muster_model::NodeId;
use muster_mtls::{Expect, Tls};
use muster_proto::{MAX_MESSAGE_BYTES, v1};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

/// Batches that wait for one peer: some seconds of heartbeats, or a few hundred MiB of appends at the very worst.
const QUEUE: usize = 64;
/// One message on the stream is about so large, so that heartbeats do not wait behind many megabytes.
const BATCH_BYTES: usize = 2 << 20;
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(800);

/// Where managers are.
pub(crate) type Addresses = BTreeMap<PeerId, (NodeId, SocketAddr)>;

/// The streams to all peers.
pub(crate) struct Peers {
    tls: Tls,
    inbox: mpsc::Sender<Inbox>,
    addresses: Addresses,
    open: BTreeMap<PeerId, Line>,
}

/// Ends with its value.
struct Line {
    to: (NodeId, SocketAddr),
    queue: mpsc::Sender<v1::RaftBatch>,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peers {
    pub(crate) fn new(tls: Tls, inbox: mpsc::Sender<Inbox>) -> Self {
        Self { tls, inbox, addresses: Addresses::new(), open: BTreeMap::new() }
    }

    /// Replaces what is known of where managers are. Lines to others end.
    pub(crate) fn set_addresses(&mut self, addresses: Addresses) {
        self.open.retain(|id, line| addresses.get(id) == Some(&line.to));
        self.addresses = addresses;
    }

    pub(crate) fn known(&self) -> &Addresses {
        &self.addresses
    }

    pub(crate) fn address(&self, peer: PeerId) -> Option<(NodeId, SocketAddr)> {
        self.addresses.get(&peer).copied()
    }

    /// Sends what can be sent; answers the peers whose messages were dropped.
    pub(crate) fn send(&mut self, messages: Vec<Message>) -> Vec<PeerId> {
        let mut per_peer: BTreeMap<PeerId, Vec<v1::RaftMessage>> = BTreeMap::new();
        for message in messages {
            per_peer.entry(message.to).or_default().push(crate::wire::to_wire(&message));
        }
        let mut dropped = Vec::new();
        for (peer, messages) in per_peer {
            let Some(line) = self.line(peer) else {
                debug!(peer, "no address of this manager is known");
                continue;
            };
            let sent = batches(messages).into_iter().all(|batch| line.queue.try_send(batch).is_ok());
            if !sent {
                dropped.push(peer);
            }
        }
        dropped
    }

    fn line(&mut self, peer: PeerId) -> Option<&Line> {
        let to = *self.addresses.get(&peer)?;
        let line = self.open.entry(peer).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            let task = tokio::spawn(speak(self.tls.clone(), peer, to, waiting, self.inbox.clone()));
            Line { to, queue, task }
        });
        Some(line)
    }
}

fn batches(messages: Vec<v1::RaftMessage>) -> Vec<v1::RaftBatch> {
    let (mut out, mut bytes) = (vec![v1::RaftBatch::default()], 0);
    for message in messages {
        let size = message.entries.iter().map(|e| e.data.len() + 32).sum::<usize>() + 64;
        if bytes + size > BATCH_BYTES && bytes > 0 {
            out.push(v1::RaftBatch::default());
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = out.last_mut() {
            last.messages.push(message);
        }
    }
    out
}

/// Keeps one stream to a peer going, for as long as there is a queue.
async fn speak(
    tls: Tls,
    peer: PeerId,
    (node, addr): (NodeId, SocketAddr),
    mut queue: mpsc::Receiver<v1::RaftBatch>,
    inbox: mpsc::Sender<Inbox>,
) {
    let mut wait = FIRST_RETRY;
    while let Some(first) = queue.recv().await {
        let begun = tokio::time::Instant::now();
        match stream(&tls, node, addr, first, &mut queue).await {
            Ok(()) => return,
            Err(why) => debug!(node.id = %node, %addr, why, "raft stream ended"),
        }
        if inbox.send(Inbox::Unreachable(peer)).await.is_err() {
            return;
        }
        wait = if begun.elapsed() > Duration::from_secs(5) { FIRST_RETRY } else { (wait * 2).min(LAST_RETRY) };
        sleep(wait).await;
        // What has waited since is of the past.
        while queue.try_recv().is_ok() {}
    }
}

/// One stream until it breaks (`Err`) or the queue closes (`Ok`).
async fn stream(
    tls: &Tls,
    node: NodeId,
    addr: SocketAddr,
    first: v1::RaftBatch,
    queue: &mut mpsc::Receiver<v1::RaftBatch>,
) -> Result<(), String> {
    let channel = tls.channel(&addr.to_string(), Expect::Node(node)).await.map_err(|e| e.to_string())?;
    let mut client = v1::raft_client::RaftClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
    // Two: the one on its way, and the next.
    let (tx, rx) = mpsc::channel(2);
    let call = client.step(ReceiverStream::new(rx));
    tokio::pin!(call);
    let mut next = Some(first);
    loop {
        tokio::select! {
            ended = &mut call => {
                return Err(ended.map_or_else(|status| status.to_string(), |_| "closed by the peer".to_owned()));
            }
            room = tx.reserve(), if next.is_some() => match (room, next.take()) {
                (Ok(room), Some(batch)) => room.send(batch),
                _ => return Err("closed by the peer".to_owned()),
            },
            batch = queue.recv(), if next.is_none() => match batch {
                Some(batch) => next = Some(batch),
                None => return Ok(()),
            },
        }
    }
}
