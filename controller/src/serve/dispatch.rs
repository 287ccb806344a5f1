//! Agents' sessions: one bidirectional stream each, on the leader.
//!
//! No task of its own: the stream that goes down to the agent also reads what comes up, for as long as the agent takes what
//! it is sent.

use super::Slot;
use crate::{
    Controller,
    turn::{Inbox, SessionEvent, not_leader},
};
use futures_util::stream::{self, BoxStream};
use muster_controller_core::SessionId;
use muster_model::{
    NodeId,
    cluster::{ClusterSpec, NodeDescription},
};
use muster_mtls::require_peer_node;
use muster_proto::{FromAgent, to_status, v1};
use std::time::Duration;
use tokio::{sync::mpsc, time::timeout};
use tonic::{Request, Response, Status, Streaming};

/// What may wait for a slow agent. Full: its session is ended, and it is sent the whole set when it comes back.
const DEPTH: usize = 64;
/// An agent says hello at once, or is none.
const HELLO: Duration = Duration::from_secs(10);

pub(super) struct DispatchService(pub(super) Slot);

type Down = BoxStream<'static, Result<v1::ManagerMessage, Status>>;

#[tonic::async_trait]
impl v1::dispatch_server::Dispatch for DispatchService {
    type SessionStream = Down;

    async fn session(&self, request: Request<Streaming<v1::AgentMessage>>) -> Result<Response<Down>, Status> {
        // Whose session it is says the certificate, never a message.
        let node = require_peer_node(&request)?;
        let controller = self.0.served()?;
        let published = controller.published();
        if !published.leading {
            let leader = published.leader.and_then(|id| published.addresses.get(&id.raft_id())).map(|(_, addr)| *addr);
            return Err(not_leader(leader));
        }
        if published.state.node(node).is_none() {
            return Err(Status::permission_denied(format!("node {node} is no member of the cluster")));
        }
        let mut up = request.into_inner();
        let description = hello(&mut up).await?;
        let session = SessionId(controller.next_session());
        let (out, down) = mpsc::channel(DEPTH);
        let spec = published.state.cluster().map_or_else(ClusterSpec::default, |c| c.spec.clone());
        let welcome = v1::Welcome {
            session_id: session.0.to_string(),
            heartbeat_period_ms: spec.heartbeat_period.as_millis() as u64,
        };
        let welcome = v1::ManagerMessage { of: Some(v1::manager_message::Of::Welcome(welcome)) };
        out.try_send(Ok(welcome)).map_err(|_| Status::internal("a new channel has no room"))?;
        let opened = SessionEvent::Opened { node, session, description: Box::new(description), out };
        controller.tell(Inbox::Session(opened)).await.map_err(to_status)?;
        let open = Open { controller, node, session, up, down };
        Ok(Response::new(Box::pin(stream::unfold(Some(open), next))))
    }
}

async fn hello(up: &mut Streaming<v1::AgentMessage>) -> Result<NodeDescription, Status> {
    let first = timeout(HELLO, up.message()).await.map_err(|_| Status::deadline_exceeded("no hello in time"))??;
    match first.map(FromAgent::read).transpose()?.flatten() {
        Some(FromAgent::Hello(description)) => Ok(*description),
        _ => Err(Status::invalid_argument("the first message of a session is hello")),
    }
}

/// A session while it is open. Dropping it, for whatever reason, tells the loop.
struct Open {
    controller: Controller,
    node: NodeId,
    session: SessionId,
    up: Streaming<v1::AgentMessage>,
    down: mpsc::Receiver<Result<v1::ManagerMessage, Status>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let closed = SessionEvent::Closed { node: self.node, session: self.session };
        self.controller.tell_soon(Inbox::Session(closed));
    }
}

/// The next message down; takes in what comes up meanwhile. An error is the last item.
async fn next(open: Option<Open>) -> Option<(Result<v1::ManagerMessage, Status>, Option<Open>)> {
    let mut open = open?;
    loop {
        tokio::select! {
            down = open.down.recv() => return match down? {
                Ok(message) => Some((Ok(message), Some(open))),
                Err(status) => Some((Err(status), None)),
            },
            up = open.up.message() => match up {
                Ok(Some(message)) => {
                    if let Err(status) = open.take(message).await {
                        return Some((Err(status), None));
                    }
                }
                // The agent has hung up.
                Ok(None) => return None,
                Err(status) => return Some((Err(status), None)),
            },
        }
    }
}

impl Open {
    async fn take(&self, message: v1::AgentMessage) -> Result<(), Status> {
        let (node, session) = (self.node, self.session);
        let Some(said) = FromAgent::read(message)? else { return Ok(()) };
        let event = match said {
            FromAgent::Hello(description) => SessionEvent::Described { node, session, description },
            FromAgent::Heartbeat => SessionEvent::Heartbeat { node, session },
            FromAgent::Reports { sequence, reports } => SessionEvent::Reports { node, session, sequence, reports },
            FromAgent::NeedWhole => SessionEvent::NeedWhole { node, session },
            FromAgent::Attach(requests) => SessionEvent::Attach { node, session, requests },
            FromAgent::Detach(ids) => SessionEvent::Detach { node, ids },
            FromAgent::Leaving => SessionEvent::Leaving { node },
        };
        self.controller.tell(Inbox::Session(event)).await.map_err(to_status)
    }
}
