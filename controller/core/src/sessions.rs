//! Who lives: sessions and heartbeats of agents, in the leader's memory only.
//!
//! A node without a session is given the node timeout to come back, counted from its last sign of life or from the
//! leader's taking office, whichever was later; then it is down. For the node that led before, consensus tells when it fell
//! silent: it is only given half of the timeout to come to the new leader, so that a lost leader's tasks are replaced as
//! soon as anybody's.

use crate::{CloseReason, Effect, Effects, Now, SessionId};
use muster_model::{
    NodeId,
    cluster::{ClusterSpec, NodeDescription, NodeState, NodeStatus},
};
use muster_state::{Change, Event, Key, Object, State};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A turn that comes later than this after it was due was held up by this host, not by the others.
const STOOD_STILL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Life {
    session: Option<SessionId>,
    /// The last sign of life, by the monotonic clock.
    heard: Duration,
}

/// A change of a node's observed half that waits for its proposal.
#[derive(Debug)]
struct Observed {
    status: NodeStatus,
    description: Option<Arc<NodeDescription>>,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Nodes that are not down.
    lives: BTreeMap<NodeId, Life>,
    observed: BTreeMap<NodeId, Observed>,
    /// Sessions that were ended from here, until somebody asks.
    ended: Vec<(NodeId, SessionId)>,
    /// Not later than the first timeout.
    check_at: Duration,
}

fn timeout(state: &State) -> Duration {
    state.cluster().map_or_else(|| ClusterSpec::default().node_timeout, |c| c.spec.node_timeout)
}

impl Sessions {
    /// For a new leader: nobody has a session, everybody has time to open one. `former`: who led before, and when the
    /// others noticed that it does no more.
    pub fn new(state: &State, former: Option<(NodeId, Duration)>, now: Now) -> Self {
        let timeout = timeout(state);
        let mut sessions = Self { check_at: now.mono + timeout / 2, ..Self::default() };
        let heard = |node| match former {
            Some((led, until)) if led == node => until.max(now.mono.saturating_sub(timeout / 2)).min(now.mono),
            _ => now.mono,
        };
        for node in state.nodes().filter(|n| n.status.state != NodeState::Down) {
            sessions.lives.insert(node.id, Life { session: None, heard: heard(node.id) });
            if node.status.state == NodeState::Ready {
                sessions.see(node.id, NodeState::Unknown, "no session since the leader took office", None, now);
            }
        }
        sessions
    }

    fn see(
        &mut self,
        node: NodeId,
        state: NodeState,
        message: &str,
        description: Option<Arc<NodeDescription>>,
        now: Now,
    ) {
        let status = NodeStatus { state, message: message.to_owned(), since: now.wall };
        let description = description.or_else(|| self.observed.remove(&node).and_then(|o| o.description));
        self.observed.insert(node, Observed { status, description });
    }

    pub fn session(&self, node: NodeId) -> Option<SessionId> {
        self.lives.get(&node).and_then(|l| l.session)
    }

    pub fn is_current(&self, node: NodeId, session: SessionId) -> bool {
        self.session(node) == Some(session)
    }

    pub fn all(&self) -> impl Iterator<Item = (NodeId, SessionId)> + '_ {
        self.lives.iter().filter_map(|(node, life)| Some((*node, life.session?)))
    }

    /// `false`: refused, the node is no member.
    pub fn open(
        &mut self,
        state: &State,
        (node, session): (NodeId, SessionId),
        description: NodeDescription,
        now: Now,
        out: &mut Effects,
    ) -> bool {
        let Some(object) = state.node(node) else {
            out.push(Effect::CloseSession { node, session, why: CloseReason::NotMember });
            return false;
        };
        if let Some(old) = self.session(node).filter(|old| *old != session) {
            out.push(Effect::CloseSession { node, session: old, why: CloseReason::Replaced });
        }
        self.lives.insert(node, Life { session: Some(session), heard: now.mono });
        let known = object.status.state == NodeState::Ready && object.description == description;
        if known {
            self.observed.remove(&node);
        } else {
            self.see(node, NodeState::Ready, "", Some(Arc::new(description)), now);
        }
        self.check_at = self.check_at.min(now.mono + timeout(state));
        true
    }

    pub fn close(&mut self, node: NodeId, session: SessionId) {
        if let Some(life) = self.lives.get_mut(&node).filter(|l| l.session == Some(session)) {
            life.session = None;
        }
    }

    pub fn heartbeat(&mut self, node: NodeId, session: SessionId, now: Now) {
        if let Some(life) = self.lives.get_mut(&node).filter(|l| l.session == Some(session)) {
            life.heard = now.mono;
        }
    }

    /// Takes in that nodes came, went, or were said to be other than they are. `left`: who said that it leaves.
    pub fn applied(&mut self, events: &[Event], left: Option<NodeId>, now: Now, out: &mut Effects) {
        for event in events {
            if let (Some(Object::Cluster(before)), Some(Object::Cluster(after))) = (&event.before, &event.after)
                && before.spec.node_timeout != after.spec.node_timeout
            {
                self.give_time(after.spec.node_timeout, now);
            }
            let Key::Node(id) = event.key else { continue };
            let Some(Object::Node(node)) = &event.after else {
                self.forget(id, CloseReason::NotMember, out);
                continue;
            };
            if left == Some(id) {
                self.forget(id, CloseReason::Left, out);
            } else if self.session(id).is_some() {
                // It came while the entry that says otherwise was in flight.
                if node.status.state != NodeState::Ready && !self.observed.contains_key(&id) {
                    self.see(id, NodeState::Ready, "", None, now);
                }
            } else if node.status.state != NodeState::Down {
                self.lives.entry(id).or_insert(Life { session: None, heard: now.mono });
            } else {
                self.lives.remove(&id);
            }
        }
    }

    /// Another timeout holds. Nobody is blamed for a silence that was within the old timeout.
    fn give_time(&mut self, timeout: Duration, now: Now) {
        self.lives.values_mut().for_each(|life| life.heard = now.mono);
        self.check_at = now.mono + timeout;
    }

    fn forget(&mut self, node: NodeId, why: CloseReason, out: &mut Effects) {
        self.observed.remove(&node);
        self.end(node, why, out);
    }

    fn end(&mut self, node: NodeId, why: CloseReason, out: &mut Effects) {
        if let Some(session) = self.lives.remove(&node).and_then(|l| l.session) {
            self.ended.push((node, session));
            out.push(Effect::CloseSession { node, session, why });
        }
    }

    /// Sessions that were ended from here since the last call.
    pub fn take_ended(&mut self) -> Vec<(NodeId, SessionId)> {
        std::mem::take(&mut self.ended)
    }

    /// Declares nodes down that were silent for too long.
    pub fn expire(&mut self, state: &State, now: Now, out: &mut Effects) {
        if now.mono < self.check_at {
            return;
        }
        let timeout = timeout(state);
        self.forgive(now);
        let late: Vec<NodeId> =
            self.lives.iter().filter(|(_, l)| l.heard + timeout <= now.mono).map(|(n, _)| *n).collect();
        for node in late {
            self.end(node, CloseReason::Silent, out);
            self.see(node, NodeState::Down, "no heartbeat in time", None, now);
        }
        let first = self.lives.values().map(|l| l.heard).min().unwrap_or(now.mono);
        self.check_at = first + timeout;
    }

    /// Who comes too late to look at the clock has stood still and heard nobody meanwhile: nobody is blamed for that time.
    fn forgive(&mut self, now: Now) {
        let late = now.mono.saturating_sub(self.check_at);
        if late > STOOD_STILL {
            for life in self.lives.values_mut() {
                life.heard = (life.heard + late).min(now.mono);
            }
        }
    }

    /// When [`Sessions::expire`] has something to look at. `None`: never, nobody is alive.
    pub fn deadline(&self) -> Option<Duration> {
        (!self.lives.is_empty()).then_some(self.check_at)
    }

    pub fn has_news(&self) -> bool {
        !self.observed.is_empty()
    }

    /// The changes that are due; what the state says already is left out.
    pub fn news(&mut self, state: &State) -> Vec<Change> {
        let news = std::mem::take(&mut self.observed).into_iter();
        news.filter_map(|(node, o)| {
            let old = state.node(node)?;
            let same =
                old.status.state == o.status.state && o.description.as_deref().is_none_or(|d| *d == old.description);
            (!same).then_some(Change::NodeStatus { node, status: o.status, description: o.description })
        })
        .collect()
    }

    /// A proposal with these changes failed: they are due again, unless something newer is known.
    pub fn again(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::NodeStatus { node, status, description } = change {
                self.observed
                    .entry(*node)
                    .or_insert_with(|| Observed { status: status.clone(), description: description.clone() });
            }
        }
    }

    pub fn close_all(&self, out: &mut Effects) {
        for (node, session) in self.all() {
            out.push(Effect::CloseSession { node, session, why: CloseReason::NotLeader });
        }
    }
}
