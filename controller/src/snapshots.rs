//! The whole state to a manager whose log is too far behind, in pieces, and back into a state over there.

use crate::{turn::Inbox, wire};
use muster_consensus::{Body, Message, SnapshotOrder};
use muster_model::NodeId;
use muster_mtls::{Expect, Tls};
use muster_proto::{MAX_MESSAGE_BYTES, v1};
use muster_state::{Pair, State};
use std::{net::SocketAddr, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Pairs travel in pieces of about this size.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces on the way: bounds the memory of a transfer to a slow peer at 2 MiB.
const PIECES: usize = 4;
/// A transfer that takes longer is given up: a million tasks are 250 MiB, ten seconds at 200 Mbit/s.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(300);

/// Sends `state`, which is the one at exactly `order.meta`, and tells the turn loop how it ended.
pub(crate) async fn send(
    tls: Tls,
    node: NodeId,
    addr: SocketAddr,
    order: SnapshotOrder,
    state: State,
    inbox: mpsc::Sender<Inbox>,
) {
    let (to, index) = (order.to, order.meta.index);
    let outcome = match timeout(TRANSFER_TIMEOUT, transfer(&tls, node, addr, &order.message, state)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("not done after {TRANSFER_TIMEOUT:?}")),
    };
    match &outcome {
        Ok(()) => tracing::info!(node.id = %node, index, "snapshot sent"),
        Err(why) => tracing::warn!(node.id = %node, index, why, "snapshot was not sent"),
    }
    // The loop is gone only at shutdown.
    let _ = inbox.send(Inbox::SnapshotSent { to, arrived: outcome.is_ok() }).await;
}

async fn transfer(tls: &Tls, node: NodeId, addr: SocketAddr, message: &Message, state: State) -> Result<(), String> {
    // A connection of its own: raft's heartbeats must not queue behind it.
    let channel = tls.channel(&addr.to_string(), Expect::Node(node)).await.map_err(|e| e.to_string())?;
    let mut client = v1::raft_client::RaftClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (tx, rx) = mpsc::channel(PIECES);
    let head = v1::SnapshotPiece { of: Some(v1::snapshot_piece::Of::Message(wire::to_wire(message))) };
    let encoding = tokio::task::spawn_blocking(move || encode(head, &state, &tx));
    let sent = client.snapshot(ReceiverStream::new(rx)).await;
    // Ends when its receiver is gone.
    encoding.await.map_err(|e| e.to_string())?;
    sent.map(drop).map_err(|status| status.to_string())
}

fn encode(head: v1::SnapshotPiece, state: &State, to: &mpsc::Sender<v1::SnapshotPiece>) {
    let mut pairs = v1::SnapshotPairs::default();
    let mut bytes = 0;
    let piece = |pairs| v1::SnapshotPiece { of: Some(v1::snapshot_piece::Of::Pairs(pairs)) };
    if to.blocking_send(head).is_err() {
        return;
    }
    for (key, value) in state.pairs() {
        bytes += key.len() + value.len();
        pairs.pairs.push(v1::SnapshotPair { key: key.into(), value: value.into() });
        if bytes >= PIECE_BYTES {
            bytes = 0;
            if to.blocking_send(piece(std::mem::take(&mut pairs))).is_err() {
                return;
            }
        }
    }
    // When the receiver is gone its call has failed, which is told there.
    let _ = to.blocking_send(piece(pairs));
}

/// Reads a whole transfer. `check` sees the message before anything else is read.
///
/// # Errors
/// INVALID_ARGUMENT when it is no snapshot or does not restore; the state's own hash covers its content.
pub(crate) async fn receive(
    mut pieces: Streaming<v1::SnapshotPiece>,
    check: impl FnOnce(&Message) -> Result<(), Status>,
) -> Result<(Message, State), Status> {
    let invalid = |why: String| Status::invalid_argument(format!("snapshot: {why}"));
    let first = pieces.message().await?.and_then(|p| p.of);
    let Some(v1::snapshot_piece::Of::Message(message)) = first else {
        return Err(invalid("the first piece is not the message".to_owned()));
    };
    let message = wire::from_wire(message).map_err(|e| invalid(e.to_string()))?;
    if !matches!(message.body, Body::Snapshot(_)) {
        return Err(invalid("the message is of another kind".to_owned()));
    }
    check(&message)?;
    let (tx, rx) = mpsc::channel::<Vec<v1::SnapshotPair>>(PIECES);
    let restoring = tokio::task::spawn_blocking(move || State::restore(flat(rx)));
    while let Some(piece) = pieces.message().await? {
        let Some(v1::snapshot_piece::Of::Pairs(pairs)) = piece.of else {
            return Err(invalid("a piece without pairs".to_owned()));
        };
        if tx.send(pairs.pairs).await.is_err() {
            break;
        }
    }
    drop(tx);
    let restored = restoring.await.map_err(|e| Status::internal(format!("snapshot: {e}")))?;
    let state = restored.map_err(|e| invalid(crate::disk::full_text(&e)))?;
    Ok((message, state))
}

fn flat(mut pieces: mpsc::Receiver<Vec<v1::SnapshotPair>>) -> impl Iterator<Item = Pair> {
    std::iter::from_fn(move || pieces.blocking_recv()).flatten().map(|pair| (pair.key.to_vec(), pair.value.to_vec()))
}
