//! [`Consensus`]: one manager's seat at the table.

use crate::config::{Config, ConfigError, Start, check_start};
use crate::convert::{
    change_to_raft, entry_from_raft, entry_to_raft, hard_state_from_raft, message_from_raft, message_to_raft,
    read_from_raft, snapshot_from_raft,
};
use crate::election;
use crate::log::Log;
use crate::message::{Body, Malformed, Message, StepError};
use crate::ready::{Committed, Payload, Persist, Read, Ready, Role, RoleChange, SnapshotOrder};
use crate::types::{EntryBody, PeerId, SnapshotMeta};
use raft::{RawNode, SnapshotStatus, eraftpb};
use std::collections::VecDeque;

/// A [`Ready`] whose writing or whose predecessors' writing is not done.
struct Waiting {
    number: u64,
    disk: bool,
    snapshot: Option<SnapshotMeta>,
    messages: Vec<Message>,
}

/// One node's raft, without clock, chance or disk. See the crate's head for the loop around it.
pub struct Consensus {
    pub(crate) raw: RawNode<Log>,
    pub(crate) config: Config,
    waiting: VecDeque<Waiting>,
    reported: RoleChange,
    /// Who may vote, sorted: kept apart, since each call needs it.
    voters: Vec<PeerId>,
    pub(crate) next_read: u64,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("status", &self.status()).field("waiting", &self.waiting.len()).finish()
    }
}

impl Consensus {
    /// Takes a seat.
    ///
    /// # Errors
    /// [`ConfigError`] when the numbers make no sense or `start` contradicts itself.
    pub fn new(config: Config, start: Start) -> Result<Self, ConfigError> {
        check_start(&start)?;
        let raft_config = config.to_raft(start.snapshot.index);
        raft_config.validate().map_err(|e| ConfigError::Invalid(e.to_string()))?;
        let entries = start.entries.into_iter().map(entry_to_raft).collect();
        let log = Log::new(start.hard_state, start.snapshot, entries);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, log, &logger).map_err(|e| ConfigError::Invalid(e.to_string()))?;
        let reported = RoleChange { role: Role::Follower, leader: None, term: start.hard_state.term };
        let mut node = Self { raw, config, waiting: VecDeque::new(), reported, voters: Vec::new(), next_read: 1 };
        node.learn_voters();
        node.settle();
        Ok(node)
    }

    /// One tick has passed. A node that waits for its disk does not campaign: a vote for a log that is not there yet
    /// would be one for nothing.
    pub fn tick(&mut self) {
        if self.is_leader() || self.waiting.is_empty() {
            self.raw.tick();
            self.settle();
        }
    }

    /// Campaigns now, without waiting for a timeout: for the only voter of a cluster, and for tests. Without effect on a
    /// leader, a node without a vote, or one that waits for its disk.
    pub fn campaign(&mut self) {
        if self.waiting.is_empty() && self.raw.raft.promotable() {
            // The only error is that of a dropped proposal, and this is none.
            let _ = self.raw.campaign();
            self.settle();
        }
    }

    /// Takes a peer's message.
    ///
    /// # Errors
    /// [`StepError`]; the message has had no effect. All but [`StepError::LogLost`] are the peer's fault and to be
    /// dropped; that one must stop this node.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        let (me, from, to) = (self.config.id, message.from, message.to);
        if to != me || from == me || from == 0 {
            return Err(StepError::Misaddressed { me, from, to });
        }
        message.check().map_err(|malformed| StepError::Malformed { from, malformed })?;
        if !self.admit(&message)? {
            return Ok(());
        }
        let result = self.raw.step(message_to_raft(message));
        self.settle();
        match result {
            Err(raft::Error::StepPeerNotFound) => Err(StepError::NotMember { from }),
            // What is left are dropped proposals, and peers cannot propose here.
            _ => Ok(()),
        }
    }

    /// Checks a message against the log. `false`: to be ignored.
    fn admit(&self, message: &Message) -> Result<bool, StepError> {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        match &message.body {
            Body::Heartbeat { commit, .. } if message.term >= raft.term && *commit > last => {
                Err(StepError::LogLost { leader: message.from, last_index: last, acknowledged: *commit })
            }
            Body::AppendReply { index, reject, .. } if message.term == raft.term && self.is_leader() => {
                let matched = raft.prs().get(message.from).map_or(0, |progress| progress.matched);
                match reject {
                    // A refusal of what it has acknowledged since is an old one. raft 0.7.0 would believe it and set its
                    // next index below what matches (its issue 555, mended by 557 after the release): entries, or a
                    // whole snapshot, would travel again.
                    Some(_) => Ok(*index > matched),
                    None if *index > last => Err(StepError::Malformed {
                        from: message.from,
                        malformed: Malformed::BeyondLog { index: *index, last },
                    }),
                    None => Ok(true),
                }
            }
            // raft would look for entries that a snapshot under way to the disk has replaced.
            Body::TimeoutNow => Ok(self.waiting.is_empty()),
            _ => Ok(true),
        }
    }

    /// A message to `peer` could not be sent: look for its position anew instead of sending ahead.
    pub fn report_unreachable(&mut self, peer: PeerId) {
        self.raw.report_unreachable(peer);
        self.settle();
    }

    /// The transfer that a [`SnapshotOrder`] asked for has ended: `arrived` when the peer has it all.
    pub fn report_snapshot(&mut self, peer: PeerId, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(peer, status);
        self.settle();
    }

    /// Forgets entries up to `through` (at most what is applied): peers further behind get a snapshot. Keep some, so that
    /// a peer that blinked need not take the whole state.
    pub fn compact(&mut self, through: u64) {
        self.raw.mut_store().compact(through);
    }

    /// The next work order, `None` when there is nothing to do. Everything in `committed` counts as applied from here on.
    pub fn ready(&mut self) -> Option<Ready> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut work = self.raw.ready();
        let number = work.number();
        let entries = work.take_entries();
        let snapshot = (!work.snapshot().is_empty()).then(|| snapshot_from_raft(work.snapshot()));
        let (now, later) = (work.take_messages(), work.take_persisted_messages());
        let committed = work.take_committed_entries();
        let reads = work.take_read_states();
        let must_sync = work.must_sync();
        let log = self.raw.mut_store();
        if let Some(meta) = &snapshot {
            log.restore(meta);
        }
        log.append(&entries);
        self.raw.advance_append_async(work);
        if snapshot.is_some() {
            self.learn_voters();
        }

        let persist = must_sync.then(|| Persist {
            hard_state: hard_state_from_raft(&self.raw.raft.hard_state()),
            entries: entries.iter().map(entry_from_raft).collect(),
            snapshot: snapshot.clone(),
        });
        let mut ready = Ready { number, persist, ..Default::default() };
        ready.committed = committed.iter().map(|entry| self.apply(entry)).collect();
        if let Some(last) = ready.committed.last() {
            let membership = self.membership();
            self.raw.mut_store().set_applied(last.index, last.term, membership);
            self.raw.advance_apply_to(last.index);
            self.leave_if_removed();
        }
        ready.reads = reads
            .iter()
            .filter_map(|read| Some(Read { id: read_from_raft(&read.request_ctx)?, index: read.index }))
            .collect();
        self.sort_messages(&now, &mut ready);
        let later = later.iter().filter_map(message_from_raft).filter(|m| !matches!(m.body, Body::Snapshot(_)));
        self.hold(number, must_sync, snapshot, later.collect(), &mut ready);
        self.settle();
        ready.role = self.role_change();
        Some(ready)
    }

    /// The disk holds the [`Persist`] of this number and all before it. Returns what may now be sent.
    ///
    /// Call [`Consensus::ready`] again afterwards: more may be committed.
    pub fn persisted(&mut self, number: u64) -> Vec<Message> {
        let mut out = Vec::new();
        while let Some(front) = self.waiting.front()
            && (front.number <= number || !front.disk)
        {
            let done = self.waiting.pop_front().expect("the front was just looked at");
            self.raw.on_persist_ready(done.number);
            if let Some(meta) = done.snapshot {
                self.raw.advance_apply_to(meta.index);
                self.raw.mut_store().set_applied(meta.index, meta.term, meta.membership);
            }
            out.extend(done.messages);
        }
        self.settle();
        out
    }

    /// Messages of an order without a write go out at once, unless earlier writes are under way.
    fn hold(
        &mut self,
        number: u64,
        disk: bool,
        snapshot: Option<SnapshotMeta>,
        messages: Vec<Message>,
        ready: &mut Ready,
    ) {
        if disk || !self.waiting.is_empty() {
            self.waiting.push_back(Waiting { number, disk, snapshot, messages });
        } else {
            self.raw.on_persist_ready(number);
            ready.messages.extend(messages);
        }
    }

    fn sort_messages(&self, now: &[eraftpb::Message], ready: &mut Ready) {
        for message in now.iter().filter_map(message_from_raft) {
            if !matches!(message.body, Body::Snapshot(_)) {
                ready.messages.push(message);
                continue;
            }
            // raft asked at the state's position before this order; the state to send is the one after it.
            let meta = self.raw.store().applied().clone();
            let message = Message { body: Body::Snapshot(meta.clone()), ..message };
            ready.snapshots.push(SnapshotOrder { to: message.to, meta, message });
        }
    }

    fn apply(&mut self, entry: &eraftpb::Entry) -> Committed {
        let entry = entry_from_raft(entry);
        let payload = match entry.body {
            EntryBody::Empty => Payload::Empty,
            EntryBody::Normal(data) => Payload::Normal(data),
            EntryBody::Membership { change, context } => {
                let room = self.membership().contains(change.peer()) || self.member_count() < 64;
                let accepted = room && self.raw.apply_conf_change(&change_to_raft(change)).is_ok();
                self.learn_voters();
                Payload::Membership { change, context, membership: self.membership(), accepted }
            }
        };
        Committed { index: entry.index, term: entry.term, payload }
    }

    /// A leader without a vote would refuse all proposals and yet keep its followers quiet.
    fn leave_if_removed(&mut self) {
        if self.is_leader() && !self.raw.raft.promotable() {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
    }

    fn role_change(&mut self) -> Option<RoleChange> {
        let now = RoleChange { role: self.role(), leader: self.leader(), term: self.raw.raft.term };
        (now != std::mem::replace(&mut self.reported, now)).then_some(now)
    }

    /// Puts the deterministic election timeout in place of the one that `raft` may just have drawn.
    pub(crate) fn settle(&mut self) {
        let Config { seed, id, election_ticks, .. } = self.config;
        let raft = &mut self.raw.raft;
        raft.set_randomized_election_timeout(election::timeout(seed, id, raft.term, &self.voters, election_ticks));
    }

    fn learn_voters(&mut self) {
        self.voters = self.membership().voters().to_vec();
    }
}
