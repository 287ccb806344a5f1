//! The turn loop: the one task that owns this manager's two machines, the controller's and raft's.
//!
//! A turn takes what has arrived, lets both machines work, and carries out their effects in the order that keeps promises
//! (the heads of `muster-consensus` and `muster-controller-core`): a leader's messages may go before its disk has the
//! entries, everybody's votes and acknowledgements only after. The loop waits for nothing but its inbox and the clock; the
//! disk, the network and the clients are other tasks and threads, which it hands work without waiting.

mod effects;
mod orders;
mod reads;
mod sessions;
mod spans;

pub(crate) use reads::View;
pub(crate) use sessions::{SessionEvent, address, not_leader};

use crate::{
    Timing,
    clock::Clock,
    config::Storage as StorageConfig,
    credentials::Sealer,
    disk::{Disk, Done},
    peers::{Addresses, Peers},
    witness::Witness,
};
use muster_consensus::{Body, Consensus, Membership, Message, PeerId, Role, SnapshotMeta, StepError};
use muster_controller_core::{Call, CallError, Effects, Input, Manager, Reply, Token};
use muster_model::{NodeId, cluster::Version};
use muster_mtls::Tls;
use muster_state::State;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{Span, info, warn};

/// Where a call's answer goes.
type Answer = oneshot::Sender<Result<Reply, CallError>>;

/// What reaches the loop. Bounded: who sends waits.
#[derive(Debug)]
pub(crate) enum Inbox {
    Messages(Vec<Message>),
    /// A whole snapshot has arrived. Answered when consensus has looked at it.
    SnapshotArrived {
        message: Message,
        state: Box<State>,
        seen: oneshot::Sender<()>,
    },
    SnapshotSent {
        to: PeerId,
        arrived: bool,
    },
    Unreachable(PeerId),
    Call {
        call: Box<Call>,
        trace_parent: Option<String>,
        reply: Answer,
    },
    /// Answered when this manager has proven to lead; `Err`: it does not.
    Read(oneshot::Sender<Result<View, CallError>>),
    Session(SessionEvent),
    Disk(Done),
    Shutdown,
}

/// What everybody in this process may look at without asking: a moment's state, not proven to be the newest.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub state: State,
    /// Who leads, as far as is known here.
    pub leader: Option<NodeId>,
    /// This manager leads and takes calls.
    pub leading: bool,
    /// The members of consensus.
    pub membership: Membership,
    pub term: u64,
    /// How far this manager has applied.
    pub applied: u64,
    /// Entries that this manager has proposed since it started.
    pub proposals: u64,
    pub(crate) addresses: Addresses,
}

/// Messages taken in one turn: enough to batch, few enough that ticks are on time.
const PER_TURN: usize = 256;
/// Rounds of effects in one turn; more means that the machines do not come to rest, which must not stop the clock.
const ROUNDS: usize = 10_000;
/// A machine whose deadline has passed and stays so is asked again after this.
const TICK_GAP: Duration = Duration::from_millis(5);
/// A removed or demoted node's connections are closed after this: its last answer is on its way.
const CLOSE_DELAY: Duration = Duration::from_secs(1);

pub(crate) struct Turn {
    clock: Clock,
    timing: Timing,
    storage: StorageConfig,
    me: NodeId,
    tls: Tls,
    /// The cluster object that the doors of this host go by.
    doors: Version,
    sealer: Sealer,
    manager: Manager,
    consensus: Consensus,
    effects: Effects,
    disk: Disk,
    peers: Peers,
    /// Where to answer before the state says so.
    hints: Addresses,
    inbox: mpsc::Sender<Inbox>,
    published: watch::Sender<Arc<Published>>,
    changed: bool,
    /// The term in which the manager was told that it leads.
    office: Option<u64>,
    /// A received state that consensus has not decided upon.
    arrived: Option<(SnapshotMeta, State)>,
    snapshots: JoinSet<()>,
    next_token: u64,
    calls: HashMap<Token, Answer>,
    /// Answers of this turn: given once it is published, so that who is answered finds what it did.
    answers: Vec<(Answer, Result<Reply, CallError>)>,
    proposals: HashMap<u64, Vec<Span>>,
    proposed: u64,
    reads: reads::Reads,
    sessions: sessions::Sessions,
    progress: BTreeMap<PeerId, (bool, bool)>,
    since_checkpoint: (u64, u64),
    closing: Vec<(Instant, NodeId)>,
    stopped: Option<String>,
    witness: Arc<dyn Witness>,
    /// What was committed when this manager first led or heard from a leader: up to there it is told nothing anew.
    past: Option<u64>,
}

/// What a loop is made of.
pub(crate) struct Parts {
    pub(crate) clock: Clock,
    pub(crate) timing: Timing,
    pub(crate) storage: StorageConfig,
    pub(crate) me: NodeId,
    pub(crate) tls: Tls,
    pub(crate) sealer: Sealer,
    pub(crate) manager: Manager,
    pub(crate) consensus: Consensus,
    pub(crate) disk: Disk,
    pub(crate) hints: Addresses,
    pub(crate) inbox: mpsc::Sender<Inbox>,
    pub(crate) published: watch::Sender<Arc<Published>>,
    pub(crate) witness: Arc<dyn Witness>,
}

impl Turn {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            clock,
            timing,
            storage,
            me,
            tls,
            sealer,
            manager,
            consensus,
            disk,
            hints,
            inbox,
            published,
            witness,
        } = parts;
        let peers = Peers::new(tls.clone(), inbox.clone());
        Self {
            clock,
            timing,
            storage,
            me,
            tls,
            doors: Version::ABSENT,
            sealer,
            manager,
            consensus,
            effects: Effects::new(),
            disk,
            peers,
            hints,
            inbox,
            published,
            changed: true,
            office: None,
            arrived: None,
            snapshots: JoinSet::new(),
            next_token: 1,
            calls: HashMap::new(),
            answers: Vec::new(),
            proposals: HashMap::new(),
            proposed: 0,
            reads: reads::Reads::default(),
            sessions: sessions::Sessions::default(),
            progress: BTreeMap::new(),
            since_checkpoint: (0, 0),
            closing: Vec::new(),
            stopped: None,
            witness,
            past: None,
        }
    }

    /// Runs until it is told to shut down (`Ok`) or cannot go on (`Err`, for people).
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Inbox>) -> Result<(), String> {
        self.tell_membership();
        self.refresh_addresses();
        if self.consensus.membership().voters() == [self.me.raft_id()] {
            // Nobody else could lead.
            self.consensus.campaign();
        }
        self.pump();
        let mut tick = interval(self.timing.tick);
        // After a stall the others have not waited either: catching up on ticks would only start an election.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_tick = Instant::now();
        let mut leaving: Option<Instant> = None;
        loop {
            let due = self
                .manager
                .deadline(self.clock.now())
                .map(|d| Instant::from_std(self.clock.instant(d)).max(last_tick + TICK_GAP));
            tokio::select! {
                biased;
                _ = tick.tick() => self.tick(),
                Some(first) = inbox.recv() => {
                    let mut next = Some(first);
                    for _ in 0..PER_TURN {
                        match next {
                            Some(Inbox::Shutdown) => leaving = leaving.or_else(|| Some(self.leave())),
                            Some(message) => self.take(message),
                            None => break,
                        }
                        next = inbox.try_recv().ok();
                    }
                    if let Some(message) = next {
                        self.take(message);
                    }
                }
                () = async { sleep_until(due.unwrap_or(last_tick)).await }, if due.is_some() => {}
            }
            // Also when the inbox was never empty.
            if due.is_some_and(|due| Instant::now() >= due) {
                last_tick = Instant::now();
                self.input(Input::Tick);
            }
            self.pump();
            if let Some(why) = self.stopped.take() {
                return Err(why);
            }
            if leaving.is_some_and(|until| !self.consensus.is_leader() || Instant::now() >= until) {
                return Ok(());
            }
        }
    }

    fn tick(&mut self) {
        self.consensus.tick();
        if self.office.is_some() {
            self.tell_progress();
        }
        let now = Instant::now();
        let tls = &self.tls;
        self.closing.retain(|(due, node)| {
            if *due <= now {
                tls.connections().close_node(*node);
            }
            *due > now
        });
        while self.snapshots.try_join_next().is_some() {}
    }

    fn take(&mut self, message: Inbox) {
        match message {
            Inbox::Messages(messages) => messages.into_iter().for_each(|m| self.step(m)),
            Inbox::SnapshotArrived { message, state, seen } => {
                if let Body::Snapshot(meta) = &message.body {
                    self.arrived = Some((meta.clone(), *state));
                }
                self.step(message);
                // Before another one can arrive and take its place.
                self.pump();
                // The sender may have given up waiting.
                let _ = seen.send(());
            }
            Inbox::SnapshotSent { to, arrived } => self.consensus.report_snapshot(to, arrived),
            Inbox::Unreachable(peer) => self.consensus.report_unreachable(peer),
            Inbox::Call { call, trace_parent, reply } => {
                let token = self.token();
                self.calls.insert(token, reply);
                self.input(Input::Call { token, call, trace_parent });
            }
            Inbox::Read(reply) => self.reads.ask(reply),
            Inbox::Session(event) => self.session(event),
            Inbox::Disk(done) => self.disk_done(done),
            // Taken by the loop itself.
            Inbox::Shutdown => {}
        }
    }

    fn step(&mut self, message: Message) {
        let from = message.from;
        let committed = if let Body::Append { commit, .. } = message.body { Some(commit) } else { None };
        match self.consensus.step(message) {
            Ok(()) => self.past = self.past.or(committed),
            Err(e @ StepError::LogLost { .. }) => self.stop(e.to_string()),
            Err(error) => tracing::debug!(peer = from, %error, "raft message refused"),
        }
    }

    fn disk_done(&mut self, done: Done) {
        self.disk.done(&done);
        match done {
            Done::Persisted(number) => {
                let messages = self.consensus.persisted(number);
                self.send(messages);
            }
            Done::Checkpointed { floor, .. } => self.consensus.compact(floor.index()),
            Done::Compacted => {}
            Done::Failed(why) => self.stop(why),
        }
    }

    /// Lets both machines work until neither has anything left to do.
    fn pump(&mut self) {
        for _ in 0..ROUNDS {
            self.perform_effects();
            self.begin_reads();
            match self.consensus.ready() {
                Some(ready) => self.carry_out(ready),
                None if self.effects.is_empty() => break,
                None => {}
            }
            if self.stopped.is_some() {
                return;
            }
        }
        self.checkpoint_if_due();
        self.publish();
        self.answer_reads();
        for (reply, result) in self.answers.drain(..) {
            // The caller may have given up.
            let _ = reply.send(result);
        }
    }

    pub(crate) fn input(&mut self, input: Input) {
        let (before, began) = (self.effects.len(), SystemTime::now());
        self.manager.handle(self.clock.now(), input, &mut self.effects);
        spans::planned(&self.effects[before..], began);
    }

    fn send(&mut self, messages: Vec<Message>) {
        for peer in self.peers.send(messages) {
            self.consensus.report_unreachable(peer);
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn stop(&mut self, why: String) {
        tracing::error!(why, "this manager stops");
        self.stopped.get_or_insert(why);
    }

    /// Hands the leadership on, if there is somebody; answers until when to wait for it.
    fn leave(&mut self) -> Instant {
        let status = self.consensus.status();
        let heir = status.peers.iter().filter(|p| p.voter && p.active && p.id != status.id).max_by_key(|p| p.matched);
        match heir {
            Some(heir) if self.consensus.transfer_leader(heir.id).is_ok() => {
                info!(to = heir.id, "handing the leadership on");
                Instant::now() + self.timing.tick * self.timing.election_ticks
            }
            _ => Instant::now(),
        }
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let status = Published {
            state: self.manager.state().snapshot(),
            leader: self.leader(),
            leading: self.office.is_some(),
            membership: self.consensus.membership(),
            term: self.consensus.term(),
            applied: self.consensus.applied().index,
            proposals: self.proposed,
            addresses: self.peers_known(),
        };
        if let Some(cluster) = status.state.cluster()
            && self.doors != cluster.meta.version
        {
            self.doors = cluster.meta.version;
            self.tls.revoke(cluster.revoked_serials().map(str::to_owned).collect());
        }
        self.published.send_replace(Arc::new(status));
    }

    fn leader(&self) -> Option<NodeId> {
        match self.consensus.leader()? {
            id if id == self.me.raft_id() => self.office.map(|_| self.me),
            id => self.peers.address(id).map(|(node, _)| node),
        }
    }

    fn role(&self) -> Role {
        self.consensus.role()
    }

    fn close_later(&mut self, node: NodeId) {
        if node != self.me {
            warn!(node.id = %node, "closing the connections of a node that lost its rights");
            self.closing.push((Instant::now() + CLOSE_DELAY, node));
        }
    }
}
