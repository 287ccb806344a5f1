//! The machine itself: takes an input, applies what is committed, lets the leader's half decide.

use crate::{CallError, Config, Effect, Effects, Input, Now, leader::Leader, members::Members, office::Desk};
use muster_model::NodeId;
use muster_plan::IdSource;
use muster_state::{Entry, State};
use std::{sync::Arc, time::Duration};

/// One manager of a cluster.
#[derive(Debug)]
pub struct Manager {
    config: Config,
    state: State,
    ids: IdSource,
    members: Members,
    /// Who leads, when it is not us.
    leader: Option<NodeId>,
    /// Who led last, other than us, and since when it does no more.
    former: Option<(NodeId, Duration)>,
    /// What only a leader has.
    office: Option<Box<Leader>>,
    halted: bool,
}

impl Manager {
    /// A manager that follows, with the state of its last checkpoint (or [`State::new`]).
    pub fn new(config: Config, state: State) -> Self {
        let ids = IdSource::new(config.seed);
        Self {
            config,
            state,
            ids,
            members: Members::default(),
            leader: None,
            former: None,
            office: None,
            halted: false,
        }
    }

    /// The state as committed and applied here.
    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn is_leader(&self) -> bool {
        self.office.is_some()
    }

    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<NodeId> {
        if self.is_leader() { Some(self.config.node) } else { self.leader }
    }

    /// Whether this leader has a session with the node now. Followers know of none.
    pub fn has_session(&self, node: NodeId) -> bool {
        self.office.as_ref().is_some_and(|office| office.has_session(node))
    }

    /// When [`Input::Tick`] is due, by [`Now::mono`]. `None`: nothing waits for time. It may lie in the past.
    pub fn deadline(&self, now: Now) -> Option<Duration> {
        self.office.as_ref().and_then(|office| office.deadline(&self.state, self.members.ready_at(), now))
    }

    /// One turn.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Effects) {
        if self.halted {
            refuse(input, CallError::Unavailable("this manager has stopped".into()), out);
            return;
        }
        match input {
            Input::Committed { index, entry } => self.committed(now, index, &entry, out),
            Input::Restored(state) => {
                self.step_down(out);
                self.state = *state;
            }
            Input::Leading { term } => self.take_office(now, term, out),
            Input::Following { leader } => {
                self.follow(now, leader);
                self.step_down(out);
            }
            Input::Membership { voters, learners } => self.members.set(voters, learners),
            Input::Progress { peer, caught_up, active } => self.members.progress(peer, caught_up, active),
            Input::MembershipFailed => self.members.failed(now.mono),
            Input::Entropy(bits) => self.ids.mix(bits),
            other => match &self.office {
                None => refuse(other, CallError::NotLeader { leader: self.leader }, out),
                Some(_) => self.lead(now, out, |office, desk| office.input(desk, other)),
            },
        }
        self.lead(now, out, Leader::turn);
    }

    fn committed(&mut self, now: Now, index: u64, entry: &Entry, out: &mut Effects) {
        match self.state.apply(index, entry) {
            Err(e) => {
                self.step_down(out);
                self.halted = true;
                out.push(Effect::Halt(e));
            }
            Ok(applied) => {
                let at = out.len();
                self.lead(now, out, |office, desk| office.applied(desk, entry.origin, &applied));
                out.insert(at, Effect::Applied(applied));
            }
        }
    }

    /// Lets the leader's half work, if there is one.
    fn lead(&mut self, now: Now, out: &mut Effects, work: impl FnOnce(&mut Leader, &mut Desk<'_>)) {
        if let Some(office) = &mut self.office {
            let now = office.time(&self.state, now);
            let mut desk = Desk { state: &self.state, ids: &mut self.ids, members: &mut self.members, now, out };
            work(office, &mut desk);
        }
    }

    fn take_office(&mut self, now: Now, term: u64, out: &mut Effects) {
        self.step_down(out);
        self.follow(now, None);
        self.members.reset();
        let epoch = self.ids.draw() as u64;
        let office = Leader::new(Arc::new(self.config.clone()), term, epoch, &self.state, self.former, now);
        self.office = Some(Box::new(office));
    }

    fn follow(&mut self, now: Now, leader: Option<NodeId>) {
        if let Some(old) = self.leader.filter(|old| Some(*old) != leader) {
            self.former = Some((old, now.mono));
        }
        self.leader = leader;
    }

    fn step_down(&mut self, out: &mut Effects) {
        if let Some(office) = self.office.take() {
            office.leave(out);
        }
    }
}

/// Answers what wants an answer; the rest is dropped.
fn refuse(input: Input, why: CallError, out: &mut Effects) {
    match input {
        Input::Call { token, .. } | Input::Reports { token, .. } => out.push(Effect::Reply { token, result: Err(why) }),
        Input::SessionOpened { node, session, .. } => {
            out.push(Effect::CloseSession { node, session, why: crate::CloseReason::NotLeader });
        }
        _ => {}
    }
}
