//! The agent's session to the leader: found, kept, found again.
//!
//! One task owns the stream. It tells the worker's task what arrives and sends what that wants sent; it decides nothing.

use super::identity::Facts;
use muster_model::{
    AttachmentId, NodeId, Timestamp,
    assignment::{AssignmentUpdate, TaskReport},
    cluster::{AttachRequest, NodeDescription},
};
use muster_mtls::{Expect, Tls};
use muster_proto::{FromLeader, LEADER_KEY, v1};
use rand::Rng as _;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Messages that may wait on their way to the leader: a full one means it does not read, and the session is given up.
const OUTBOX: usize = 64;
/// Between attempts, doubling: the first manager that answers is wanted soon, a restarted cluster must not be stormed.
const BACKOFF: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(2);
/// A leader that says nothing at all for so long is gone. Heartbeats are answered by HTTP/2, so this only bounds `Session`.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a leader may ask for.
const HEARTBEAT: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(60);

/// What a session tells.
#[derive(Debug)]
pub enum Event {
    Opened,
    Closed,
    Update(AssignmentUpdate),
    Taken(u64),
    /// A place on a network is not given.
    Refused {
        id: AttachmentId,
        why: muster_calls::Error,
    },
    Managers {
        managers: Vec<(NodeId, String)>,
        role: String,
        /// Serials of certificates that were called back.
        revoked: Vec<String>,
    },
    /// The cluster does not know this node any more.
    Removed,
}

/// What is sent up a session.
#[derive(Debug)]
pub enum Order {
    Report {
        sequence: u64,
        reports: Vec<TaskReport>,
    },
    NeedWhole,
    Attach(Vec<AttachRequest>),
    Detach(Vec<AttachmentId>),
    /// The node leaves: said, and no session is opened after this one. Dropped when the session has ended.
    Leave(oneshot::Sender<()>),
}

/// Everything a session needs to know.
pub struct Session {
    pub tls: Tls,
    pub facts: watch::Receiver<Facts>,
    pub description: watch::Receiver<NodeDescription>,
    pub events: mpsc::Sender<Event>,
    pub orders: mpsc::Receiver<Order>,
}

enum End {
    /// Try another manager, or this one again.
    Retry,
    /// This one is the leader.
    Redirect(String),
    Removed,
    /// The worker's task has ended.
    Stop,
}

impl Session {
    /// Runs until the node is removed from the cluster or nobody listens to `events`.
    pub async fn run(mut self) {
        let mut backoff = BACKOFF.start;
        let mut turn = rand::rng().random_range(0..16);
        let mut redirect: Option<String> = None;
        // What was said since a manager was last reached: each failure once, however long it lasts.
        let mut told = BTreeSet::new();
        loop {
            let managers = self.facts.borrow().managers.clone();
            let next = redirect.take().or_else(|| managers.get(turn % managers.len().max(1)).map(|(_, a)| a.clone()));
            let Some(addr) = next else {
                tokio::time::sleep(BACKOFF.end).await;
                continue;
            };
            let mut opened = false;
            let end = self.once(&addr, &mut opened, &mut told).await;
            if opened {
                told.clear();
                backoff = BACKOFF.start;
                if self.events.send(Event::Closed).await.is_err() {
                    return;
                }
            }
            match end {
                End::Stop => return,
                End::Removed => {
                    let _ = self.events.send(Event::Removed).await;
                    return;
                }
                End::Redirect(leader) if leader != addr => redirect = Some(leader),
                End::Redirect(_) | End::Retry => {
                    turn += 1;
                    let jitter = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
                    tokio::time::sleep(jitter).await;
                    backoff = (backoff * 2).min(BACKOFF.end);
                }
            }
        }
    }

    async fn once(&mut self, addr: &str, opened: &mut bool, told: &mut BTreeSet<String>) -> End {
        let mut unreached = |why: String| {
            if told.insert(format!("{addr} {why}")) {
                tracing::warn!(manager = %addr, %why, "a manager cannot be reached: this node gets no orders until one is");
            }
            End::Retry
        };
        let channel = match tokio::time::timeout(OPEN_TIMEOUT, self.tls.channel(addr, Expect::Manager)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return unreached(error.to_string()),
            Err(_) => return unreached(format!("no answer within {} s", OPEN_TIMEOUT.as_secs())),
        };
        let (tx, rx) = mpsc::channel(OUTBOX);
        let hello = hello(&self.description.borrow_and_update().clone());
        if tx.try_send(hello).is_err() {
            return End::Retry;
        }
        let mut client = v1::dispatch_client::DispatchClient::new(channel)
            .max_decoding_message_size(muster_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(muster_proto::MAX_MESSAGE_BYTES);
        let stream = match tokio::time::timeout(OPEN_TIMEOUT, client.session(ReceiverStream::new(rx))).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return refused(addr, &status),
            Err(_) => return End::Retry,
        };
        tracing::info!(%addr, "session to the leader opened");
        let mut leaving = None;
        let end = self.carry(stream, tx, opened, &mut leaving).await;
        if leaving.is_some() { End::Stop } else { end }
    }

    async fn carry(
        &mut self,
        mut stream: tonic::Streaming<v1::ManagerMessage>,
        tx: mpsc::Sender<v1::AgentMessage>,
        opened: &mut bool,
        leaving: &mut Option<oneshot::Sender<()>>,
    ) -> End {
        let mut beats = Duration::from_secs(1);
        let mut heartbeat = beating(beats);
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                _ = heartbeat.tick() => {
                    if tx.try_send(agent(v1::agent_message::Of::Heartbeat(v1::Heartbeat {}))).is_err() {
                        return End::Retry;
                    }
                    continue;
                }
                changed = self.description.changed() => {
                    if changed.is_err() {
                        return End::Stop;
                    }
                    let description = self.description.borrow_and_update().clone();
                    if tx.try_send(hello(&description)).is_err() {
                        return End::Retry;
                    }
                    continue;
                }
                order = self.orders.recv() => {
                    let Some(order) = order else { return End::Stop };
                    // Many containers may start at once: a leader that reads makes room soon.
                    if tx.send_timeout(message_of(order, leaving), OPEN_TIMEOUT).await.is_err() {
                        return End::Retry;
                    }
                    continue;
                }
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return End::Retry,
                Err(status) => return refused("the leader", &status),
            };
            let event = match FromLeader::read(message) {
                Ok(Some(FromLeader::Welcome { heartbeat: period })) => {
                    *opened = true;
                    beats = period;
                    heartbeat = beating(beats);
                    // Orders of an earlier session: the worker says everything again.
                    while let Ok(order) = self.orders.try_recv() {
                        if matches!(order, Order::Leave(_)) && tx.try_send(message_of(order, leaving)).is_err() {
                            return End::Retry;
                        }
                    }
                    Event::Opened
                }
                Ok(Some(FromLeader::Assignments(update))) => Event::Update(update),
                Ok(Some(FromLeader::Managers { managers, role, revoked, heartbeat: period })) => {
                    if let Some(period) = period.filter(|period| *period != beats) {
                        beats = period;
                        heartbeat = beating(beats);
                    }
                    Event::Managers { managers, role, revoked }
                }
                Ok(Some(FromLeader::ReportsTaken { sequence })) => Event::Taken(sequence),
                Ok(Some(FromLeader::Refused { id, why })) => Event::Refused { id, why },
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(error = error.message(), "what the leader said cannot be read");
                    return End::Retry;
                }
            };
            if self.events.send(event).await.is_err() {
                return End::Stop;
            }
        }
    }
}

/// Heartbeats from now on, the first at once.
fn beating(period: Duration) -> tokio::time::Interval {
    let mut heartbeat = tokio::time::interval(period.clamp(HEARTBEAT.start, HEARTBEAT.end));
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    heartbeat
}

/// What a refusal means. A node that is no member any more is told so by PERMISSION_DENIED.
fn refused(addr: &str, status: &Status) -> End {
    if let Some(leader) = status.metadata().get(LEADER_KEY).and_then(|v| v.to_str().ok()).filter(|l| !l.is_empty()) {
        return End::Redirect(leader.to_owned());
    }
    tracing::debug!(%addr, code = ?status.code(), why = status.message(), "session ended");
    match status.code() {
        tonic::Code::PermissionDenied => End::Removed,
        _ => End::Retry,
    }
}

fn agent(of: v1::agent_message::Of) -> v1::AgentMessage {
    v1::AgentMessage { of: Some(of) }
}

fn hello(description: &NodeDescription) -> v1::AgentMessage {
    let description = serde_json::to_vec(description).expect("a description is plain data").into();
    agent(v1::agent_message::Of::Hello(v1::Hello { description }))
}

fn message_of(order: Order, leaving: &mut Option<oneshot::Sender<()>>) -> v1::AgentMessage {
    agent(match order {
        Order::Report { sequence, reports } => {
            let reports = rmp_serde::to_vec_named(&reports).expect("reports are plain data").into();
            v1::agent_message::Of::Reports(v1::Reports { reports, sequence })
        }
        Order::Attach(requests) => {
            let requests = rmp_serde::to_vec_named(&requests).expect("requests are plain data").into();
            v1::agent_message::Of::Attach(v1::Attach { requests })
        }
        Order::Detach(ids) => {
            v1::agent_message::Of::Detach(v1::Detach { ids: ids.iter().map(ToString::to_string).collect() })
        }
        Order::NeedWhole => v1::agent_message::Of::NeedWhole(v1::NeedWhole {}),
        Order::Leave(ended) => {
            *leaving = Some(ended);
            v1::agent_message::Of::Leaving(v1::Leaving {})
        }
    })
}

/// The clock of the shell.
pub fn now() -> Timestamp {
    muster_mtls::now()
}
