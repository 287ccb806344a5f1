//! Where a manager meets others: messages to its peers, calls of clients, sessions of agents.

use crate::agents::{Down, Up};
use crate::check::Broken;
use crate::world::{Event, World};
use muster_consensus::Message;
use muster_controller_core::{Call, CallError, Input, Reply, SessionId, Token};
use muster_model::{AttachmentId, NodeId, assignment::TaskReport};

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub enum Waiter {
    Client {
        line: usize,
        attempt: u64,
    },
    Agent {
        session: SessionId,
        reports: Vec<TaskReport>,
    },
    Place {
        session: SessionId,
        id: AttachmentId,
    },
    /// Places were given back: nobody waits.
    Nobody,
}

impl World {
    pub(crate) fn send(&mut self, host: usize, messages: Vec<Message>) {
        for message in messages {
            let Some(to) = self.host_of_peer(message.to) else { continue };
            for delay in self.net.deliveries(host, to, &mut self.rng) {
                self.after(delay, Event::Raft { to, message: message.clone() });
            }
        }
    }

    pub(crate) fn reply(&mut self, host: usize, token: Token, result: Result<Reply, CallError>) {
        let waiter = self.hosts[host].manager.as_mut().and_then(|half| half.waiters.remove(&token));
        match waiter {
            Some(Waiter::Client { line, attempt }) => {
                let delay = self.net.delay(&mut self.rng);
                self.after(delay, Event::Answer { line, attempt, result });
            }
            Some(Waiter::Agent { session, reports }) if result.is_ok() => {
                self.down(host, session, Down::Reported(reports));
            }
            Some(Waiter::Place { session, id }) => match result {
                Ok(_) | Err(CallError::NotLeader { .. } | CallError::Interrupted) => {}
                Err(_) => self.down(host, session, Down::Refused(id)),
            },
            _ => {}
        }
    }

    /// A client's call reaches this host. `false`: it does not lead.
    pub(crate) fn call(&mut self, host: usize, waiter: Waiter, call: Call) -> Result<(), Broken> {
        let Some(token) = self.wait(host, waiter) else { return Ok(()) };
        self.input(host, Input::Call { token, call: Box::new(call), trace_parent: None })?;
        self.pump(host)
    }

    pub(crate) fn wait(&mut self, host: usize, waiter: Waiter) -> Option<Token> {
        let half = self.hosts[host].manager.as_mut()?;
        let token = Token(half.next_token);
        half.next_token += 1;
        half.waiters.insert(token, waiter);
        Some(token)
    }

    /// Something came up a session.
    pub(crate) fn at_manager(&mut self, host: usize, session: SessionId, node: NodeId, up: Up) -> Result<(), Broken> {
        let leader = self.leader_known(host);
        let agent = self.host_of(node);
        let Some(half) = self.hosts[host].manager.as_mut() else { return Ok(()) };
        let input = match up {
            Up::Open(description) => {
                if let Some(agent) = agent {
                    half.sessions.insert(session, agent);
                }
                if !half.manager.is_leader() {
                    self.down(host, session, Down::Closed { leader });
                    return Ok(());
                }
                self.down(host, session, Down::Accepted);
                Input::SessionOpened { node, session, description }
            }
            _ if !half.sessions.contains_key(&session) => {
                // Of an earlier life of this manager: the connection is reset.
                if let Some(agent) = agent {
                    let delay = self.net.delay(&mut self.rng);
                    self.after(delay, Event::ToAgent { host: agent, session, down: Down::Closed { leader } });
                }
                return Ok(());
            }
            Up::Heartbeat => {
                self.down(host, session, Down::Alive);
                Input::Heartbeat { node, session }
            }
            Up::Resync => Input::Resync { node, session },
            Up::Close => Input::SessionClosed { node, session },
            Up::Attach(requests) => {
                for request in requests {
                    let waiter = Waiter::Place { session, id: request.id };
                    self.call(host, waiter, Call::Attach { node, request: Box::new(request) })?;
                }
                return Ok(());
            }
            Up::Detach(ids) => return self.call(host, Waiter::Nobody, Call::Detach { node, ids }),
            Up::Reports(reports) => {
                let waiter = Waiter::Agent { session, reports: reports.clone() };
                let Some(token) = self.wait(host, waiter) else { return Ok(()) };
                Input::Reports { node, session, token, reports }
            }
        };
        self.input(host, input)?;
        self.pump(host)
    }

    pub(crate) fn leader_known(&self, host: usize) -> Option<NodeId> {
        self.hosts[host].manager.as_ref().and_then(|half| half.manager.leader())
    }
}
