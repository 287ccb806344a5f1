//! The worker's keeper: hands it what the session and the containers tell, and carries out what it decides.

use super::{
    ledger::{self, LedgerFile},
    member::Member,
    runner::Runner,
    session::{Event, Order, now},
};
use crate::host::Host;
use muster_agent_core::{Container, Effect, Input, Ledger, Phase, Worker};
use muster_model::{TaskId, assignment::AssignmentSet, cluster::Task};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::mpsc;

/// The worker as the ledger and the containers that are there tell it.
///
/// # Errors
/// When the containers cannot be listed.
pub(super) async fn recover(runner: &Runner, mut ledger: Ledger) -> anyhow::Result<Worker> {
    for image in ledger::private_images(&ledger) {
        if runner.has_image(&image).await {
            ledger::needs_no_credentials(&mut ledger, &image);
        }
    }
    let found = runner.survey().await.map_err(|e| anyhow::anyhow!("list the tasks' containers: {e}"))?;
    let look = |id: TaskId| found.get(&id).map_or(Container::Missing, |(_, c)| c.clone());
    Ok(Worker::recover(now(), ledger, look))
}

/// Owns the worker.
pub(super) struct Keeper {
    host: Arc<Host>,
    member: Arc<Member>,
    worker: Worker,
    runner: Runner,
    ledger: LedgerFile,
    orders: mpsc::Sender<Order>,
    /// The assignments are those of this session.
    current: bool,
    sequence: u64,
    /// Reports that the leader has not taken yet.
    sent: BTreeMap<u64, Vec<muster_model::assignment::TaskReport>>,
}

impl Keeper {
    pub(super) fn new(
        (host, member): (Arc<Host>, Arc<Member>),
        worker: Worker,
        runner: Runner,
        ledger: LedgerFile,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        Self { host, member, worker, runner, ledger, orders, current: false, sequence: 0, sent: BTreeMap::new() }
    }

    /// Lets the worker work until the session's task has ended.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut events: mpsc::Receiver<Event>) {
        let mut effects = Vec::new();
        self.worker.resume(now(), &mut effects);
        // Those that are to stop as well: somebody has to hear of their end.
        let run = |phase| matches!(phase, Phase::Running | Phase::Stopping);
        let running: Vec<Arc<Task>> =
            self.worker.tasks().filter(|(.., phase)| run(*phase)).map(|(t, ..)| t.clone()).collect();
        running.into_iter().for_each(|t| self.runner.watch(t));
        self.perform(effects).await;
        loop {
            let input = tokio::select! {
                input = inputs.recv() => input,
                event = events.recv() => match event {
                    None => return,
                    Some(event) => self.on_event(event).await,
                },
            };
            let Some(input) = input else { continue };
            let whole = matches!(input, Input::Update(muster_model::assignment::AssignmentUpdate::Whole(_)));
            self.current |= whole;
            let mut effects = Vec::new();
            self.worker.handle(now(), input, &mut effects);
            self.perform(effects).await;
            if whole {
                self.discard_strays().await;
            }
        }
    }

    async fn on_event(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Opened => {
                self.sent.clear();
                self.session_changed();
                Some(Input::SessionOpened)
            }
            Event::Closed => {
                self.session_changed();
                Some(Input::SessionClosed)
            }
            Event::Refused { id, why } => {
                self.member.places.refused(id, why);
                None
            }
            Event::Update(update) => Some(Input::Update(update)),
            Event::Taken(sequence) => self.sent.remove(&sequence).map(Input::Reported),
            Event::Managers { managers, role, revoked } => {
                self.member.took_managers(managers);
                self.member.took_revoked(revoked);
                if !role.is_empty() && role != self.member.tls().identity().role.as_str() {
                    let (member, host) = (self.member.clone(), self.host.clone());
                    tokio::spawn(async move {
                        if let Err(error) = member.renew(&host).await {
                            tracing::warn!(
                                error = format!("{error:#}"),
                                "this node could not take up its new role yet"
                            );
                        }
                    });
                }
                None
            }
            Event::Removed => {
                tracing::warn!("this node was removed from the cluster: it leaves");
                let (member, host) = (self.member.clone(), self.host.clone());
                tokio::spawn(async move {
                    host.dismissed(&member);
                    if let Err(error) = member.leave(true).await {
                        tracing::error!(error = format!("{error:#}"), "leaving the cluster left something behind");
                    }
                });
                None
            }
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Prepare(task) => self.runner.prepare(task, self.worker.assignments().clone()),
                Effect::Start(id) => self.with(id, Runner::start),
                Effect::Stop(id) => self.with(id, Runner::stop),
                Effect::Cancel(id) => self.runner.cancel(id),
                Effect::Remove(id) => self.with(id, Runner::remove),
                Effect::Report(reports) => {
                    self.sequence += 1;
                    self.sent.insert(self.sequence, reports.clone());
                    // A session that does not take them has ended or will be; the next one is told everything.
                    let _ = self.orders.try_send(Order::Report { sequence: self.sequence, reports });
                }
                Effect::NeedWhole => {
                    let _ = self.orders.try_send(Order::NeedWhole);
                }
                Effect::Save => self.save().await,
                Effect::ViewChanged => self.view_changed().await,
            }
        }
    }

    fn with(&self, id: TaskId, act: impl Fn(&Runner, Arc<Task>)) {
        if let Some((task, ..)) = self.worker.tasks().find(|(t, ..)| t.id == id) {
            act(&self.runner, task.clone());
        }
    }

    async fn save(&self) {
        let (ledger, file) = (self.worker.ledger(), self.ledger.clone());
        let saved = tokio::task::spawn_blocking(move || file.save(&ledger)).await;
        if let Ok(Err(error)) = saved {
            // The containers are the truth and the leader knows the rest: going on is better than stopping.
            tracing::error!(error = format!("{error:#}"), "the agent's ledger could not be written");
        }
    }

    async fn view_changed(&self) {
        let set: Arc<AssignmentSet> = Arc::new(self.worker.assignments().clone());
        self.member.directory().update(&set);
        if let Some(network) = &self.host.network {
            network.assign(self.member.directory().me(), set.clone()).await;
        }
        // Who waits for a place finds the network's other endpoints known.
        self.member.places.assigned(&set, self.current);
    }

    fn session_changed(&mut self) {
        self.current = false;
        self.member.places.session_changed();
    }

    /// Containers of tasks that neither the leader nor the ledger knows.
    async fn discard_strays(&self) {
        let known: BTreeSet<TaskId> = self.worker.tasks().map(|(t, ..)| t.id).collect();
        match self.runner.survey().await {
            Ok(found) => {
                for (id, (container, _)) in found {
                    if !known.contains(&id) {
                        self.runner.discard_stray(container);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the containers of tasks could not be listed"),
        }
    }
}
