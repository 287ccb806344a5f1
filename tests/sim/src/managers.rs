//! The manager's half of a daemon: the shell around [`Manager`] and [`Consensus`], in the order that the real one keeps.

use crate::agents::Down;
use crate::check::Broken;
use crate::doors::Waiter;
use crate::world::{World, trace};
use muster_consensus::{
    Body, Change, Committed, Config, Consensus, Message, Payload, PeerId, ProposeError, Ready, Role, RoleChange,
    SnapshotMeta, StepError, Token as Proposed,
};
use muster_controller_core::{
    Config as ManagerConfig, Effect, Effects, Input, Manager, PeerChange, ProposalId, Refusal, SessionId, Token,
};
use muster_model::spec::Role as NodeRole;
use muster_state::{Change as StateChange, Entry, Object, State};
use std::collections::{BTreeMap, BTreeSet};

/// A follower this close to the end of the log may vote.
const CAUGHT_UP: u64 = 4;
/// Rounds of effects in one turn; more means that the machines do not come to rest.
const ROUNDS: usize = 2_000;

/// What dies with the daemon.
#[derive(Debug)]
pub struct ManagerHalf {
    pub manager: Manager,
    pub consensus: Consensus,
    pub(crate) effects: Effects,
    office: Option<u64>,
    pub(crate) arrived: Option<(SnapshotMeta, State)>,
    pub(crate) waiters: BTreeMap<Token, Waiter>,
    pub(crate) next_token: u64,
    pub(crate) since_checkpoint: u64,
    pub(crate) checkpointing: bool,
    /// Open plan proposals: at most one.
    plans: BTreeSet<Proposed>,
    /// What the manager was told of the others.
    progress: BTreeMap<PeerId, (bool, bool)>,
    /// The other end of each session.
    pub sessions: BTreeMap<SessionId, usize>,
}

impl World {
    pub(crate) fn boot_manager(&mut self, host: usize) -> Result<(), Broken> {
        if self.hosts[host].role != NodeRole::Manager {
            return Ok(());
        }
        let (start, state) = self.hosts[host].disk.recover();
        let node = self.hosts[host].node;
        let config = Config { heartbeat_ticks: 2, ..Config::new(node.raft_id(), self.rng.draw()) };
        let consensus = Consensus::new(config, start).map_err(|e| format!("host {host} does not start: {e}"))?;
        let config = ManagerConfig { hash_every: 8, ..ManagerConfig::new(node, self.rng.seed()) };
        let half = ManagerHalf {
            manager: Manager::new(config, state),
            consensus,
            effects: Effects::new(),
            office: None,
            arrived: None,
            waiters: BTreeMap::new(),
            next_token: 1,
            since_checkpoint: 0,
            checkpointing: false,
            plans: BTreeSet::new(),
            progress: BTreeMap::new(),
            sessions: BTreeMap::new(),
        };
        self.hosts[host].manager = Some(half);
        self.tell_membership(host)?;
        if let Some(half) = &mut self.hosts[host].manager
            && half.consensus.membership().voters() == [node.raft_id()]
        {
            half.consensus.campaign();
        }
        self.pump(host)
    }

    pub(crate) fn manager_tick(&mut self, host: usize) -> Result<(), Broken> {
        let now = self.clock(host);
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        half.consensus.tick();
        let due = half.manager.deadline(now).is_some_and(|at| at <= now.mono);
        let office = half.office.is_some();
        if office {
            self.tell_progress(host)?;
        }
        if due {
            self.input(host, Input::Tick)?;
        }
        self.pump(host)
    }

    /// Lets both machines work until neither has anything left to do.
    pub(crate) fn pump(&mut self, host: usize) -> Result<(), Broken> {
        for _ in 0..ROUNDS {
            self.perform_effects(host)?;
            let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
            match half.consensus.ready() {
                Some(ready) => self.carry_out(host, ready)?,
                None if half.effects.is_empty() => {
                    self.checkpoint_if_due(host);
                    return Ok(());
                }
                None => {}
            }
        }
        Err(format!("host {host} does not come to rest within one turn"))
    }

    pub(crate) fn input(&mut self, host: usize, input: Input) -> Result<(), Broken> {
        let now = self.clock(host);
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        half.manager.handle(now, input, &mut half.effects);
        // Each entry is looked at with the state right after it.
        let applied = half.effects.iter().find_map(|e| match e {
            Effect::Applied(applied) if applied.index == half.manager.state().index() => Some(applied.clone()),
            _ => None,
        });
        match applied {
            Some(applied) => self.checker.applied(host, half.manager.state(), &applied),
            None => Ok(()),
        }
    }

    fn carry_out(&mut self, host: usize, ready: Ready) -> Result<(), Broken> {
        self.send(host, ready.messages);
        if let Some(persist) = ready.persist {
            self.persist(host, ready.number, persist)?;
        }
        for committed in ready.committed {
            self.checker.committed(host, &committed)?;
            self.apply(host, committed)?;
            self.perform_effects(host)?;
        }
        for order in ready.snapshots {
            self.send_snapshot(host, order);
        }
        match ready.role {
            Some(change) => self.role_changed(host, change),
            None => Ok(()),
        }
    }

    pub(crate) fn raft(&mut self, to: usize, message: Message) -> Result<(), Broken> {
        if self.hosts[to].up && self.hosts[to].manager.is_some() {
            if !matches!(message.body, Body::Heartbeat { .. } | Body::HeartbeatReply { .. }) {
                trace!(self, "{} <- {}", self.hosts[to].name, self.describe(&message));
            }
            self.step(to, message)?;
            self.pump(to)?;
        }
        Ok(())
    }

    pub(crate) fn step(&mut self, host: usize, message: Message) -> Result<(), Broken> {
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        match half.consensus.step(message) {
            Err(e @ StepError::LogLost { .. }) => Err(format!("host {host}: {e}")),
            // Refusals of messages that came late; the sender's own affair.
            _ => Ok(()),
        }
    }

    fn apply(&mut self, host: usize, committed: Committed) -> Result<(), Broken> {
        let Committed { index, term, payload } = committed;
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        half.since_checkpoint += 1;
        half.plans.retain(|proposed| proposed.index > index);
        match payload {
            Payload::Empty => {}
            Payload::Normal(bytes) => {
                let entry = self.decode(index, term, &bytes)?;
                trace!(self, "{} applies {index} of term {term}: {}", self.hosts[host].name, summary(&entry));
                self.input(host, Input::Committed { index, entry })?;
            }
            Payload::Membership { change, accepted, membership, .. } => {
                trace!(self, "{} applies {index} of term {term}: {change:?} -> {membership:?}", self.hosts[host].name);
                if !accepted {
                    self.input(host, Input::MembershipFailed)?;
                }
                self.tell_membership(host)?;
            }
        }
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        if half.office.is_none() && half.consensus.is_leader() && term == half.consensus.term() {
            half.office = Some(term);
            half.progress.clear();
            self.report.elections += 1;
            trace!(self, "{} takes office in term {term}", self.hosts[host].name);
            self.tell_progress(host)?;
            self.input(host, Input::Leading { term })?;
            self.tell_progress(host)?;
            self.acknowledged_writes_are_there(host)?;
        }
        Ok(())
    }

    /// Each entry is decoded once: the checker has seen that it is the same everywhere.
    fn decode(&mut self, index: u64, term: u64, bytes: &[u8]) -> Result<Entry, Broken> {
        if let Some(entry) = self.decoded.get(&(index, term)) {
            return Ok(entry.clone());
        }
        let entry = Entry::decode(bytes).map_err(|e| format!("entry {index}: {e}"))?;
        self.decoded.insert((index, term), entry.clone());
        Ok(entry)
    }

    fn role_changed(&mut self, host: usize, change: RoleChange) -> Result<(), Broken> {
        let RoleChange { role, leader, term } = change;
        if role == Role::Leader {
            self.checker.leads(host, term)?;
        }
        trace!(
            self,
            "{} is {role:?} in term {term}, leader {:?}",
            self.hosts[host].name,
            leader.and_then(|l| self.host_of_peer(l)).map(|h| h + 1)
        );
        let leader = leader.filter(|_| role != Role::Leader).and_then(|id| self.host_of_peer(id));
        let leader = leader.map(|at| self.hosts[at].node);
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        if half.office.is_some_and(|office| role != Role::Leader || office != term) {
            half.office = None;
            half.plans.clear();
        }
        if half.office.is_none() {
            self.input(host, Input::Following { leader })?;
        }
        self.perform_effects(host)
    }

    pub(crate) fn tell_membership(&mut self, host: usize) -> Result<(), Broken> {
        let Some(half) = &self.hosts[host].manager else { return Ok(()) };
        let now = half.consensus.membership();
        let (voters, learners) = (now.voters().to_vec(), now.learners().to_vec());
        self.input(host, Input::Membership { voters, learners })
    }

    fn tell_progress(&mut self, host: usize) -> Result<(), Broken> {
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        let status = half.consensus.status();
        let mut now = BTreeMap::new();
        for peer in status.peers.iter().filter(|peer| peer.id != status.id) {
            let caught_up = !peer.in_snapshot && peer.matched + CAUGHT_UP >= status.last_index;
            now.insert(peer.id, (caught_up, peer.active));
        }
        let before = std::mem::replace(&mut half.progress, now.clone());
        for (peer, (caught_up, active)) in now {
            if before.get(&peer) != Some(&(caught_up, active)) {
                self.input(host, Input::Progress { peer, caught_up, active })?;
            }
        }
        Ok(())
    }

    fn perform_effects(&mut self, host: usize) -> Result<(), Broken> {
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        for effect in std::mem::take(&mut half.effects) {
            self.perform(host, effect)?;
        }
        Ok(())
    }

    fn perform(&mut self, host: usize, effect: Effect) -> Result<(), Broken> {
        match effect {
            Effect::Propose { proposal, entry, .. } => self.propose(host, proposal, &entry),
            Effect::Reply { token, result } => {
                self.reply(host, token, result);
                Ok(())
            }
            Effect::SendAssignments { session, update, .. } => {
                self.down(host, session, Down::Update(update));
                Ok(())
            }
            Effect::CloseSession { session, .. } => {
                self.down(host, session, Down::Closed { leader: self.leader_known(host) });
                if let Some(half) = &mut self.hosts[host].manager {
                    half.sessions.remove(&session);
                }
                Ok(())
            }
            Effect::ChangeMembership(change) => self.change_membership(host, change),
            Effect::TransferLeadership { to } => {
                let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
                match half.consensus.transfer_leader(to.raft_id()) {
                    Ok(()) => Ok(()),
                    Err(_) => self.input(host, Input::MembershipFailed),
                }
            }
            Effect::Applied(_) => Ok(()),
            Effect::Halt(error) => Err(format!("host {host} halts: {error}")),
        }
    }

    fn propose(&mut self, host: usize, proposal: ProposalId, entry: &Entry) -> Result<(), Broken> {
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        match half.consensus.propose(entry.encode()) {
            Ok(token) => {
                if is_plan(entry) {
                    half.plans.insert(token);
                }
                if half.plans.len() > 1 {
                    return Err(format!("host {host} has {} plan proposals in flight", half.plans.len()));
                }
                trace!(
                    self,
                    "{} proposes {} at {}: {}",
                    self.hosts[host].name,
                    proposal.0,
                    token.index,
                    summary(entry)
                );
                Ok(())
            }
            Err(error) => {
                let why = match error {
                    ProposeError::Overloaded => Refusal::Overloaded,
                    _ => Refusal::NotLeader,
                };
                self.input(host, Input::ProposalFailed { proposal, why })
            }
        }
    }

    fn change_membership(&mut self, host: usize, change: PeerChange) -> Result<(), Broken> {
        let change = match change {
            PeerChange::AddLearner { node, .. } => Change::AddLearner(node.raft_id()),
            PeerChange::AddVoter { node, .. } => Change::AddVoter(node.raft_id()),
            PeerChange::Remove { peer } => Change::Remove(peer),
        };
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        match half.consensus.propose_membership(change, "") {
            Ok(_) => Ok(()),
            Err(_) => self.input(host, Input::MembershipFailed),
        }
    }

    fn describe(&self, message: &Message) -> String {
        let from = self.host_of_peer(message.from).map_or("?", |at| &self.hosts[at].name);
        let what = match &message.body {
            Body::Append { prev_index, entries, commit, .. } => {
                format!("append {} after {prev_index}, commit {commit}", entries.len())
            }
            other => format!("{other:?}"),
        };
        format!("{from} in term {}: {what}", message.term)
    }
}

/// Plans are what changes the desired half of tasks.
fn is_plan(entry: &Entry) -> bool {
    entry.groups.iter().flat_map(|g| &g.changes).any(|c| matches!(c, StateChange::Put(Object::Task(_))))
}

fn summary(entry: &Entry) -> String {
    let changes = entry.groups.iter().flat_map(|group| &group.changes).map(|change| match change {
        StateChange::TaskStatus { task, status } => format!("{} {:?}", task.short(), status.state),
        StateChange::Put(Object::Task(task)) => {
            format!(
                "put {} of {}.{} {:?} desired {:?}",
                task.id.short(),
                task.service_name,
                task.slot,
                task.status.state,
                task.desired
            )
        }
        StateChange::Put(object) => format!("put {}", object.key()),
        StateChange::NodeStatus { node, status, .. } => format!("node {} {:?}", node.short(), status.state),
        StateChange::Delete(key) => format!("delete {key}"),
    });
    changes.collect::<Vec<_>>().join(", ")
}
