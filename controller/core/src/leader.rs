//! What only a leader does: takes calls and reports, plans, tells nodes what to run.

use crate::{
    CallError, Config, Effect, Effects, Input, Now, ProposalId, Refusal, Reply,
    assign::Dispatch,
    commands::{self, View},
    office::{Clock, Desk},
    pending::{Command, Decision, InFlight, Pending, Request},
    reports::Reports,
    roles,
    sessions::Sessions,
};
use muster_model::NodeId;
use muster_plan::Planner;
use muster_state::{Applied, Change, Entry, Group, HashCheck, Key, Origin, Outcome, State};
use std::{sync::Arc, time::Duration};

/// How often a call is decided anew when the state has moved on under it.
const RETRIES: u32 = 5;
/// Wait after consensus did not take a proposal.
const BACKOFF: Duration = Duration::from_millis(100);
/// How long a new leader takes its not having heard from another manager for no news of it. Longer than consensus' election
/// timeout: it has sent to each of them many times by then.
const HEARING: Duration = Duration::from_secs(3);

/// One term in office.
#[derive(Debug)]
pub(crate) struct Leader {
    config: Arc<Config>,
    /// Of all entries that this office proposes.
    epoch: u64,
    clock: Clock,
    planner: Planner,
    sessions: Sessions,
    dispatch: Dispatch,
    in_flight: InFlight,
    reports: Reports,
    /// Changes of the observations in flight, to be said again if they fail.
    observed: Vec<Change>,
    /// Consensus is overloaded: nothing of our own is proposed before this time.
    not_before: Duration,
    /// Nodes have changed since roles were compared with consensus.
    nodes_changed: bool,
    /// A step of consensus' membership is under way or due.
    step_wanted: bool,
    /// Something has changed since it was last looked for nodes that have left consensus.
    follow_wanted: bool,
    /// The last index whose hash was put into an entry.
    checked: u64,
    /// Until then calls that need managers to answer wait for those that were not heard from.
    hearing_until: Duration,
    /// Calls that wait so.
    held: Vec<Request>,
}

impl Leader {
    /// `former`: who led before, and when it was noticed that it does no more.
    pub fn new(
        config: Arc<Config>,
        term: u64,
        epoch: u64,
        state: &State,
        former: Option<(NodeId, Duration)>,
        now: Now,
    ) -> Self {
        let clock = Clock::new(state, now);
        Self {
            config,
            // The random bits keep apart the lives of a manager, the term its offices.
            epoch: epoch ^ term.rotate_left(48),
            clock,
            planner: Planner::new(state),
            sessions: Sessions::new(state, former, clock.read(state, now)),
            dispatch: Dispatch::new(state),
            in_flight: InFlight::default(),
            reports: Reports::default(),
            observed: Vec::new(),
            not_before: Duration::ZERO,
            nodes_changed: true,
            step_wanted: true,
            follow_wanted: true,
            checked: state.index(),
            hearing_until: now.mono + HEARING,
            held: Vec::new(),
        }
    }

    /// The office's time.
    pub fn time(&mut self, state: &State, now: Now) -> Now {
        self.clock.advance(state, now)
    }

    pub fn has_session(&self, node: NodeId) -> bool {
        self.sessions.session(node).is_some()
    }

    /// The office is lost: what is open has an unknown end.
    pub fn leave(mut self, out: &mut Effects) {
        let mut tokens = self.in_flight.drain_tokens();
        tokens.extend(self.reports.drain_tokens());
        out.extend(tokens.into_iter().map(|token| Effect::Reply { token, result: Err(CallError::Interrupted) }));
        // Nothing was done for those: whoever leads next may do it.
        let not_leader = || CallError::NotLeader { leader: None };
        out.extend(self.held.drain(..).map(|r| Effect::Reply { token: r.token, result: Err(not_leader()) }));
        self.sessions.close_all(out);
    }

    pub fn deadline(&self, state: &State, ready_at: Duration, now: Now) -> Option<Duration> {
        let mut due = self.sessions.deadline();
        let mut also = |at: Duration| due = Some(due.map_or(at, |d| d.min(at)));
        if now.mono < self.not_before {
            also(self.not_before);
        } else if let (false, Some(at)) = (self.in_flight.plan(), self.planner.deadline()) {
            also(now.mono + at.since(self.clock.read(state, now).wall));
        }
        if self.step_wanted {
            also(ready_at);
        }
        if !self.held.is_empty() {
            also(self.hearing_until);
        }
        due
    }

    /// One input that only a leader understands.
    pub fn input(&mut self, desk: &mut Desk<'_>, input: Input) {
        match input {
            Input::Call { token, call, trace_parent } => {
                self.call(desk, Request { token, call: *call, trace_parent, retries: 0 });
            }
            Input::SessionOpened { node, session, description } => {
                let opened = self.sessions.open(desk.state, (node, session), *description, desk.now, desk.out);
                if opened {
                    self.dispatch.opened(node, session);
                }
            }
            Input::SessionClosed { node, session } => {
                self.sessions.close(node, session);
                self.dispatch.closed(node, session);
            }
            Input::Heartbeat { node, session } => self.sessions.heartbeat(node, session, desk.now),
            Input::Reports { node, session, token, reports } => {
                if self.sessions.is_current(node, session) {
                    self.sessions.heartbeat(node, session, desk.now);
                    self.reports.add(desk.state, &mut self.planner, node, token, reports);
                } else {
                    let why = CallError::Unavailable("the session has ended: open another".into());
                    desk.reply(token, Err(why));
                }
            }
            Input::Resync { node, session } => self.dispatch.resync(node, session),
            Input::ProposalFailed { proposal, why } => self.failed(desk, proposal, why),
            // Handled by the manager, or only time passing.
            _ => {}
        }
    }

    fn call(&mut self, desk: &mut Desk<'_>, request: Request) {
        let own = self.config.node;
        let view = View { state: desk.state, members: desk.members, own, now: desk.now.wall };
        match commands::decide(&view, desk.ids, &request.call) {
            Err(CallError::NoMajorityWithout(_)) if desk.now.mono < self.hearing_until => self.held.push(request),
            Err(e) => desk.reply(request.token, Err(e)),
            Ok(Decision::Nothing(reply)) => desk.reply(request.token, Ok(reply)),
            Ok(Decision::Propose(mut group, answer)) => {
                group.trace_parent.clone_from(&request.trace_parent);
                self.propose(desk, Pending::Command(Box::new(Command { request, answer })), vec![*group]);
            }
        }
    }

    /// Decides those anew that waited for other managers to be heard from.
    fn call_held(&mut self, desk: &mut Desk<'_>, heard: bool) {
        if heard || desk.now.mono >= self.hearing_until {
            std::mem::take(&mut self.held).into_iter().for_each(|request| self.call(desk, request));
        }
    }

    fn propose(&mut self, desk: &mut Desk<'_>, pending: Pending, groups: Vec<Group>) {
        let planned = matches!(pending, Pending::Plan(_));
        let proposal = self.in_flight.add(pending);
        let (every, index) = (self.config.hash_every, desk.state.index());
        let check = (every != 0 && index >= self.checked + every).then(|| {
            self.checked = index;
            HashCheck { index, hash: desk.state.hash() }
        });
        let origin = Origin { epoch: self.epoch, number: proposal.0 };
        let entry = Entry { time: desk.now.wall, origin, groups, check };
        desk.out.push(Effect::Propose { proposal, planned, entry });
    }

    fn failed(&mut self, desk: &mut Desk<'_>, proposal: ProposalId, why: Refusal) {
        self.not_before = desk.now.mono + BACKOFF;
        match self.in_flight.take(proposal) {
            Some(Pending::Command(command)) => {
                let error = match why {
                    Refusal::NotLeader => CallError::NotLeader { leader: None },
                    Refusal::Overloaded => CallError::Unavailable("the cluster is overloaded: try again".into()),
                };
                desk.reply(command.request.token, Err(error));
            }
            Some(Pending::Plan(subjects)) => subjects.into_iter().for_each(|s| self.planner.retry(s)),
            Some(Pending::Observations(tokens)) => {
                let changes = std::mem::take(&mut self.observed);
                self.sessions.again(&changes);
                self.reports.again(changes, tokens);
            }
            Some(Pending::Roles) => self.nodes_changed = true,
            None => {}
        }
    }

    /// An entry was applied, ours or (from before we took office) another's.
    pub fn applied(&mut self, desk: &mut Desk<'_>, origin: Origin, applied: &Applied) {
        self.planner.observe(desk.state, &applied.events);
        self.dispatch.applied(desk.state, &applied.events);
        let ours = origin.epoch == self.epoch;
        let left = self.in_flight.leaving(ProposalId(origin.number)).filter(|_| ours);
        self.sessions.applied(&applied.events, left, desk.now, desk.out);
        self.nodes_changed |= applied.events.iter().any(|e| matches!(e.key, Key::Node(_)));
        if !ours {
            return;
        }
        match self.in_flight.take(ProposalId(origin.number)) {
            Some(Pending::Command(command)) => self.command_applied(desk, *command, applied),
            Some(Pending::Plan(subjects)) => {
                let refused = applied.outcomes.iter().map(|o| o.rejection().is_some());
                subjects
                    .into_iter()
                    .zip(refused)
                    .filter(|(_, refused)| *refused)
                    .for_each(|(s, _)| self.planner.retry(s));
            }
            Some(Pending::Observations(tokens)) => {
                self.observed.clear();
                tokens.into_iter().for_each(|token| desk.reply(token, Ok(Reply::Reported)));
            }
            Some(Pending::Roles) | None => {}
        }
    }

    fn command_applied(&mut self, desk: &mut Desk<'_>, command: Command, applied: &Applied) {
        let Command { mut request, answer } = command;
        match applied.outcomes.first() {
            Some(Outcome::Rejected(why)) if request.retries >= RETRIES => {
                desk.reply(request.token, Err(CallError::Conflict(why.to_string())));
            }
            Some(Outcome::Rejected(_)) => {
                request.retries += 1;
                self.call(desk, request);
            }
            _ => {
                if let Some(trace) = request.trace_parent {
                    self.note_trace(applied, &trace);
                }
                desk.reply(request.token, Ok(answer.reply(applied.index)));
            }
        }
    }

    fn note_trace(&mut self, applied: &Applied, trace: &str) {
        for event in &applied.events {
            if let Key::Service(id) = event.key {
                self.planner.note_trace(id, trace.to_owned());
            }
        }
    }

    /// What is due after each input.
    pub fn turn(&mut self, desk: &mut Desk<'_>) {
        self.sessions.expire(desk.state, desk.now, desk.out);
        if desk.now.mono >= self.not_before {
            self.observations(desk);
            self.plan(desk);
        }
        self.roles(desk);
        for (node, session) in self.sessions.take_ended() {
            self.dispatch.closed(node, session);
        }
        self.dispatch.send(desk.state, desk.out);
    }

    /// One proposal with all that was observed since the last one.
    fn observations(&mut self, desk: &mut Desk<'_>) {
        if self.in_flight.observations() || (self.reports.is_empty() && !self.sessions.has_news()) {
            return;
        }
        let mut changes = self.sessions.news(desk.state);
        let (reports, tokens) = self.reports.take();
        changes.extend(reports);
        if changes.is_empty() {
            tokens.into_iter().for_each(|token| desk.reply(token, Ok(Reply::Reported)));
            return;
        }
        self.observed.clone_from(&changes);
        self.propose(desk, Pending::Observations(tokens), vec![Group { changes, ..Group::default() }]);
    }

    fn plan(&mut self, desk: &mut Desk<'_>) {
        if self.in_flight.plan() || self.planner.deadline().is_none_or(|due| due > desk.now.wall) {
            return;
        }
        let plan = self.planner.plan(desk.state, desk.now.wall, desk.ids);
        if plan.is_empty() {
            return;
        }
        let (subjects, groups) = plan.groups.into_iter().unzip();
        self.propose(desk, Pending::Plan(subjects), groups);
    }

    /// Lets consensus follow the roles of the nodes, and the nodes follow consensus: those that have left it are workers.
    fn roles(&mut self, desk: &mut Desk<'_>) {
        let changed = desk.members.take_changed() | std::mem::take(&mut self.nodes_changed);
        self.call_held(desk, changed);
        let due = self.step_wanted && desk.now.mono >= desk.members.ready_at();
        if changed || due {
            self.step_wanted = roles::step(desk.state, self.config.node, desk.members, desk.now, desk.out);
        }
        self.follow_wanted |= changed;
        if !self.follow_wanted || self.in_flight.roles() || desk.now.mono < self.not_before {
            return;
        }
        self.follow_wanted = false;
        let groups = roles::followed(desk.state, self.config.node, desk.members);
        if !groups.is_empty() {
            self.propose(desk, Pending::Roles, groups);
        }
    }
}
