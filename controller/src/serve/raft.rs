//! What other managers send: messages, and whole states.

use super::Slot;
use crate::{snapshots, turn::Inbox, wire};
use muster_consensus::Message;
use muster_model::NodeId;
use muster_mtls::require_peer_manager;
use muster_proto::{to_status, v1};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

pub(super) struct RaftService(pub(super) Slot);

#[tonic::async_trait]
impl v1::raft_server::Raft for RaftService {
    async fn step(&self, request: Request<Streaming<v1::RaftBatch>>) -> Result<Response<v1::RaftAck>, Status> {
        let sender = require_peer_manager(&request)?;
        let controller = self.0.served()?;
        let mut batches = request.into_inner();
        while let Some(batch) = batches.message().await? {
            let messages = batch
                .messages
                .into_iter()
                .map(|m| checked(m, sender, controller.node_id()))
                .collect::<Result<_, _>>()?;
            // Waits while the loop is busy: the sender's queue then fills, and drops.
            controller.tell(Inbox::Messages(messages)).await.map_err(to_status)?;
        }
        Ok(Response::new(v1::RaftAck {}))
    }

    async fn snapshot(&self, request: Request<Streaming<v1::SnapshotPiece>>) -> Result<Response<v1::RaftAck>, Status> {
        let sender = require_peer_manager(&request)?;
        let controller = self.0.served()?;
        let check = |m: &Message| is_theirs(m, sender, controller.node_id());
        let (message, state) = snapshots::receive(request.into_inner(), check).await?;
        let (seen, answer) = oneshot::channel();
        let arrived = Inbox::SnapshotArrived { message, state: Box::new(state), seen };
        controller.tell(arrived).await.map_err(to_status)?;
        answer.await.map_err(|_| Status::unavailable("this manager stops"))?;
        Ok(Response::new(v1::RaftAck {}))
    }
}

fn checked(message: v1::RaftMessage, sender: NodeId, me: NodeId) -> Result<Message, Status> {
    let message = wire::from_wire(message).map_err(|e| Status::invalid_argument(e.to_string()))?;
    is_theirs(&message, sender, me)?;
    Ok(message)
}

/// A manager speaks for itself only, and to us.
fn is_theirs(message: &Message, sender: NodeId, me: NodeId) -> Result<(), Status> {
    if message.from != sender.raft_id() {
        return Err(Status::permission_denied(format!("node {sender} may not speak for peer {}", message.from)));
    }
    if message.to != me.raft_id() {
        return Err(Status::invalid_argument(format!("the message is for peer {}, this is node {me}", message.to)));
    }
    Ok(())
}
