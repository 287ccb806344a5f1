//! The leader's sessions with the agents: what goes down each, and when one is ended.

use super::Turn;
use muster_controller_core::{Call, CallError, CloseReason, Input, Reply, SessionId, Token};
use muster_model::{
    AttachmentId, NodeId,
    assignment::{Assignment, AssignmentUpdate, TaskReport},
    cluster::{AttachRequest, NodeDescription},
    spec::Role,
};
use muster_proto::v1;
use std::{collections::BTreeMap, net::SocketAddr};
use tokio::sync::mpsc;
use tonic::Status;
use tracing::{debug, info, info_span, warn};

/// What a session's stream carries.
pub(crate) type SessionOut = mpsc::Sender<Result<v1::ManagerMessage, Status>>;

/// What a session's handler tells the loop.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    Opened {
        node: NodeId,
        session: SessionId,
        description: Box<NodeDescription>,
        out: SessionOut,
    },
    /// The agent described itself anew.
    Described {
        node: NodeId,
        session: SessionId,
        description: Box<NodeDescription>,
    },
    Heartbeat {
        node: NodeId,
        session: SessionId,
    },
    Reports {
        node: NodeId,
        session: SessionId,
        sequence: u64,
        reports: Vec<TaskReport>,
    },
    NeedWhole {
        node: NodeId,
        session: SessionId,
    },
    Attach {
        node: NodeId,
        session: SessionId,
        requests: Vec<AttachRequest>,
    },
    Detach {
        node: NodeId,
        ids: Vec<AttachmentId>,
    },
    Leaving {
        node: NodeId,
    },
    Closed {
        node: NodeId,
        session: SessionId,
    },
}

/// One open session.
struct Sink {
    node: NodeId,
    out: SessionOut,
    /// Room kept for the last word.
    last: Option<mpsc::OwnedPermit<Result<v1::ManagerMessage, Status>>>,
    managers: Option<v1::Managers>,
}

#[derive(Default)]
pub(super) struct Sessions {
    open: BTreeMap<SessionId, Sink>,
    /// Reports that are not part of the state yet: whose, and what the agent calls them.
    reports: BTreeMap<Token, (SessionId, u64)>,
    /// Places that were asked for and are not decided; `None`: given back, nobody waits.
    places: BTreeMap<Token, Option<(SessionId, AttachmentId)>>,
}

impl Turn {
    pub(super) fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Opened { node, session, description, out } => {
                info!(node.id = %node, session = session.0, "session opened");
                let last = out.clone().try_reserve_owned().ok();
                self.sessions.open.insert(session, Sink { node, out, last, managers: None });
                self.input(Input::SessionOpened { node, session, description });
                self.tell_managers(Some(session));
            }
            SessionEvent::Described { node, session, description } if self.sessions.open.contains_key(&session) => {
                self.input(Input::SessionOpened { node, session, description });
            }
            SessionEvent::Heartbeat { node, session } => self.input(Input::Heartbeat { node, session }),
            SessionEvent::Reports { node, session, sequence, reports } => {
                let token = self.token();
                self.sessions.reports.insert(token, (session, sequence));
                self.input(Input::Reports { node, session, token, reports });
            }
            SessionEvent::NeedWhole { node, session } => self.input(Input::Resync { node, session }),
            SessionEvent::Attach { node, session, requests } => {
                for request in requests {
                    let token = self.token();
                    self.sessions.places.insert(token, Some((session, request.id)));
                    self.place(token, Call::Attach { node, request: Box::new(request) });
                }
            }
            SessionEvent::Detach { node, ids } => {
                let token = self.token();
                self.sessions.places.insert(token, None);
                self.place(token, Call::Detach { node, ids });
            }
            SessionEvent::Leaving { node } => {
                let token = self.token();
                // Refused for a manager, and lost with the leadership: then its silence tells.
                self.sessions.places.insert(token, None);
                self.place(token, Call::Leave { node, force: false });
            }
            SessionEvent::Closed { node, session } => self.drop_session(node, session),
            SessionEvent::Described { .. } => {}
        }
    }

    fn drop_session(&mut self, node: NodeId, session: SessionId) {
        if self.sessions.open.remove(&session).is_some() {
            info!(node.id = %node, session = session.0, "session closed");
            self.input(Input::SessionClosed { node, session });
        }
    }

    pub(super) fn send_assignments(&mut self, node: NodeId, session: SessionId, mut update: AssignmentUpdate) {
        trace_dispatch(node, &update);
        self.sealer.open_tasks(&mut update);
        let bytes = match rmp_serde::to_vec_named(&update) {
            Ok(bytes) => bytes,
            Err(error) => return self.stop(format!("assignments of {node} cannot be encoded: {error}")),
        };
        let message = v1::manager_message::Of::Assignments(v1::Assignments { update: bytes.into() });
        self.say(session, message);
    }

    /// An answer for reports? The agent is told when the state holds them; when they were not taken its session ends, and
    /// it repeats them in the next. `false`: the token is no report's.
    pub(super) fn reported(&mut self, token: Token, taken: bool) -> bool {
        let Some((session, sequence)) = self.sessions.reports.remove(&token) else { return false };
        if taken {
            self.say(session, v1::manager_message::Of::ReportsTaken(v1::ReportsTaken { sequence }));
        } else if let Some(node) = self.sessions.open.get(&session).map(|sink| sink.node) {
            self.end_session(session, self.not_leader_status());
            self.input(Input::SessionClosed { node, session });
        }
        true
    }

    fn place(&mut self, token: Token, call: Call) {
        self.input(Input::Call { token, call: Box::new(call), trace_parent: None });
    }

    /// The answer to a request for a place? What is given comes with the assignments. What a manager that leads no more
    /// left open is asked for again in the next session. `false`: the token is no such request's.
    pub(super) fn placed(&mut self, token: Token, result: &Result<Reply, CallError>) -> bool {
        let Some(asked) = self.sessions.places.remove(&token) else { return false };
        let (Some((session, id)), Err(error)) = (asked, result) else { return true };
        if matches!(error, CallError::NotLeader { .. } | CallError::Interrupted) {
            return true;
        }
        let status = muster_proto::to_status(crate::errors::from_call_error(error.clone()));
        let refused =
            v1::Refused { id: id.to_string(), code: status.code().into(), message: status.message().to_owned() };
        self.say(session, v1::manager_message::Of::Refused(refused));
        true
    }

    /// Sends, or ends a session that does not read: the agent comes back and is sent the whole set.
    fn say(&mut self, session: SessionId, message: v1::manager_message::Of) {
        let Some(sink) = self.sessions.open.get(&session) else { return };
        let node = sink.node;
        match sink.out.try_send(Ok(v1::ManagerMessage { of: Some(message) })) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                warn!(node.id = %node, session = session.0, "the agent does not read its session: closed");
                self.end_session(session, Status::resource_exhausted("the session is not read"));
                self.input(Input::SessionClosed { node, session });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => self.drop_session(node, session),
        }
    }

    pub(super) fn close_session(&mut self, session: SessionId, why: CloseReason) {
        debug!(session = session.0, %why, "session ended by the manager");
        let status = match why {
            CloseReason::NotLeader => self.not_leader_status(),
            CloseReason::NotMember => Status::permission_denied(why.to_string()),
            CloseReason::Replaced | CloseReason::Silent | CloseReason::Left => Status::aborted(why.to_string()),
        };
        self.end_session(session, status);
    }

    fn end_session(&mut self, session: SessionId, status: Status) {
        if let Some(last) = self.sessions.open.remove(&session).and_then(|sink| sink.last) {
            last.send(Err(status));
        }
    }

    fn not_leader_status(&self) -> Status {
        let leader = self.leader().filter(|id| *id != self.me);
        let addr = leader.and_then(|id| self.peers.address(id.raft_id())).map(|(_, addr)| addr);
        not_leader(addr)
    }

    /// Tells each agent (or the one of a session) where managers are, which role its node is to have, which certificates open
    /// no door and how often it is to say that it lives, if that is news.
    pub(super) fn tell_managers(&mut self, only: Option<SessionId>) {
        if self.sessions.open.is_empty() {
            return;
        }
        let membership = self.consensus.membership();
        let (known, state) = (self.peers_known(), self.manager.state());
        let mut managers: Vec<_> = known.values().collect();
        managers.sort();
        let managers: Vec<_> = managers.into_iter().map(|(id, addr)| address(*id, *addr)).collect();
        let revoked: Vec<_> = state.cluster().iter().flat_map(|c| c.revoked_serials()).map(str::to_owned).collect();
        let heartbeat_period_ms = state.cluster().map_or(0, |c| c.spec.heartbeat_period.as_millis() as u64);
        let mut news = Vec::new();
        let asked = self.sessions.open.iter_mut().filter(|(session, _)| only.is_none_or(|only| only == **session));
        for (session, sink) in asked {
            let wanted = state.node(sink.node).map_or(Role::Worker, |n| n.spec.role);
            // Who is in consensus still needs a manager's certificate to get out of it in order.
            let role = if membership.contains(sink.node.raft_id()) { Role::Manager } else { wanted };
            let (managers, role) = (managers.clone(), role.as_str().to_owned());
            let message = v1::Managers { managers, role, revoked: revoked.clone(), heartbeat_period_ms };
            if sink.managers.as_ref() != Some(&message) {
                sink.managers = Some(message.clone());
                news.push((*session, message));
            }
        }
        for (session, message) in news {
            self.say(session, v1::manager_message::Of::Managers(message));
        }
    }
}

pub(crate) fn address(node: NodeId, addr: SocketAddr) -> v1::ManagerAddress {
    v1::ManagerAddress { node_id: node.to_string(), address: addr.to_string() }
}

/// The refusal of a manager that does not lead, with the leader's address when it is known.
pub(crate) fn not_leader(leader: Option<SocketAddr>) -> Status {
    let mut status = Status::unavailable(crate::errors::NOT_LEADER);
    if let Some(value) = leader.and_then(|addr| addr.to_string().parse().ok()) {
        status.metadata_mut().insert(muster_proto::LEADER_KEY, value);
    }
    status
}

/// A span for each request whose task goes to a node now.
fn trace_dispatch(node: NodeId, update: &AssignmentUpdate) {
    let AssignmentUpdate::Delta { put, .. } = update else { return };
    let mut traced = std::collections::BTreeSet::new();
    for item in put {
        let Assignment::Task(task) = item else { continue };
        if let Some(trace) = task.trace_parent.as_deref().filter(|t| traced.insert(*t)) {
            let span = info_span!("dispatch", node.id = %node, task.id = %task.id);
            muster_telemetry::continue_from(&span, trace);
            span.in_scope(|| {});
        }
    }
}
