//! After the faults: everything that was asked for is so, on every host, within bounded virtual time.

use crate::check::Broken;
use crate::script;
use crate::world::{SETTLE, World};
use muster_model::{
    TaskId,
    cluster::TaskState,
    spec::{Mode, Role},
};
use muster_state::State;
use std::collections::BTreeSet;

impl World {
    /// Whether the cluster has come to rest where it should.
    pub(crate) fn settle(&mut self) -> Result<bool, Broken> {
        match self.unsettled() {
            None => {
                self.report.settled_us = self.now - self.heal_at;
                Ok(true)
            }
            Some(why) if self.now > self.heal_at + SETTLE => {
                Err(format!("not settled {} s after the last fault: {why}", SETTLE / 1_000_000))
            }
            Some(_) => Ok(false),
        }
    }

    /// The first thing that is not as it should be.
    fn unsettled(&self) -> Option<String> {
        if !self.script.is_done() {
            return Some("clients still wait".into());
        }
        let leaders: Vec<usize> = (0..self.hosts.len()).filter(|at| self.is_leader(*at)).collect();
        let [leader] = leaders[..] else { return Some(format!("{} leaders", leaders.len())) };
        let state = self.hosts[leader].manager.as_ref().map(|half| half.manager.state())?;
        if let Err(e) = script::kept(state, &self.script) {
            return Some(e);
        }
        self.replicas(state)
            .or_else(|| services(state))
            .or_else(|| self.containers(state))
            .or_else(|| self.places(state))
    }

    /// Which service is not run as it should be by hosts that live, as the leader knows it; `None`: all are.
    pub(crate) fn not_running(&self) -> Option<String> {
        let Some(leader) = (0..self.hosts.len()).find(|at| self.is_leader(*at)) else {
            return Some("nobody leads".into());
        };
        let state = self.hosts[leader].manager.as_ref().map(|half| half.manager.state())?;
        let lost = |task: &&std::sync::Arc<muster_model::cluster::Task>| {
            let host = task.node.and_then(|node| self.host_of(node));
            task.desired <= TaskState::Running && host.is_some_and(|host| !self.hosts[host].up)
        };
        match state.tasks().find(lost) {
            Some(task) => Some(format!("task {} is on a host that is lost", task.id)),
            None => services(state),
        }
    }

    pub(crate) fn is_leader(&self, host: usize) -> bool {
        self.hosts[host].manager.as_ref().is_some_and(|half| half.manager.is_leader())
    }

    /// Every manager is a voter and has the leader's state; nobody else is.
    fn replicas(&self, state: &State) -> Option<String> {
        for node in state.nodes() {
            let host = &self.hosts[self.host_of(node.id)?];
            if node.role != host.role {
                return Some(format!("{} is a {:?} still", host.name, node.role));
            }
        }
        for host in self.hosts.iter().filter(|host| host.role == Role::Manager) {
            let half = host.manager.as_ref()?;
            if !half.consensus.membership().is_voter(host.node.raft_id()) {
                return Some(format!("{} is no voter yet", host.name));
            }
            let own = half.manager.state();
            if (own.index(), own.hash()) != (state.index(), state.hash()) {
                return Some(format!("{} is at {}, the leader at {}", host.name, own.index(), state.index()));
            }
        }
        None
    }

    /// What runs is what should run, everywhere, and nothing else.
    fn containers(&self, state: &State) -> Option<String> {
        for host in &self.hosts {
            let should: BTreeSet<TaskId> = state
                .tasks_on_node(host.node)
                .filter(|t| t.desired == TaskState::Running && t.status.state == TaskState::Running)
                .map(|t| t.id)
                .collect();
            let does: BTreeSet<TaskId> = host.runtime.running().collect();
            if should != does {
                return Some(format!("{} runs {does:?}, should run {should:?}", host.name));
            }
            if let Some(orphan) = host.runtime.all().find(|id| state.task(*id).is_none()) {
                return Some(format!("{} has a container of task {orphan}, which nobody knows", host.name));
            }
        }
        None
    }
}

/// Each service has its replicas running, on nodes that live.
fn services(state: &State) -> Option<String> {
    for service in state.services() {
        if service.removing {
            return Some(format!("{} is still being removed", service.spec.name));
        }
        let Mode::Replicated { replicas } = service.spec.mode else { continue };
        let image = &service.spec.task.container.image;
        let tasks = state.tasks_of_service(service.id).filter(|t| t.desired <= TaskState::Running);
        let running =
            tasks.filter(|t| t.status.state == TaskState::Running && &t.spec.container.image == image).count() as u64;
        if running != replicas {
            return Some(format!("{} has {running} of {replicas} replicas of {image}", service.spec.name));
        }
    }
    None
}
