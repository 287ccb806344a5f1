//! What each request does to a container.

use super::{
    actor::{Actor, Reply, Stopping},
    restart::Backoff,
    up, update,
};
use crate::{
    clock, error, names,
    record::{Durability, Phase},
};
use muster_calls::{Error, Kind, RemoveContainer, Result};
use muster_model::{Timestamp, engine::ContainerUpdate};
use muster_runtime::ProcessRef;
use std::time::Duration;
use tokio::time::Instant;

/// Seconds between the stop signal and SIGKILL where nobody said otherwise (Docker's default).
const STOP_TIMEOUT_S: i64 = 10;
/// Who gives so long to stop means for ever, as with a negative time: a century.
const NEVER: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

impl Actor {
    /// Starts it for a user.
    pub(super) async fn start(&mut self) -> Result<()> {
        let state = &self.record.state;
        match state.phase {
            Phase::Running if state.paused => {
                return Err(Error::conflict("cannot start a paused container, try unpause instead"));
            }
            Phase::Running => return Err(Error::not_modified("container is already running")),
            Phase::Removing => {
                return Err(Error::conflict("container is marked for removal and cannot be started"));
            }
            _ => {}
        }
        self.restart_at = None;
        self.record.state.backoff = Backoff::default();
        self.record.state.restart_count = 0;
        let started = self.bring_up().await;
        if started.is_err() {
            self.waiting.clear();
            if self.record.host.auto_remove {
                self.remove_now(RemoveContainer { force: true, volumes: true }, Durability::Process).await.unwrap_or_else(|e| {
                    tracing::warn!(container.id = %self.record.id, error = %e, "cannot remove a container that did not start");
                });
            }
        }
        started
    }

    /// Starts it, whoever wants it. On an error everything made for it is gone again, and the record tells why.
    pub(super) async fn bring_up(&mut self) -> Result<()> {
        let before = self.record.state.phase;
        match up::bring_up(&self.shared, &mut self.record, &mut self.waiting, self.leases > 0).await {
            Ok(()) => {
                self.health = super::health::first(&self.record.config);
                self.record.state.health.clone_from(&self.health);
                self.exit_error.clear();
                self.watch_process();
                self.publish();
                super::links::refresh(&self.shared, &self.record).await;
                self.shared.announce_networks(&self.record, "connect");
                self.shared.container_event(&self.record, "start", &[]);
                self.shared.changed(&self.record.id, crate::Change::Start);
                Ok(())
            }
            Err(failure) => {
                let state = &mut self.record.state;
                state.phase = if before == Phase::Restarting {
                    Phase::Restarting
                } else if state.started_at.is_zero() {
                    Phase::Created
                } else {
                    Phase::Exited
                };
                (state.exit_code, state.error) = (failure.exit_code, failure.error.message.clone());
                if state.phase != Phase::Restarting {
                    self.shared.release_attachments(&mut self.record);
                }
                let _ = self.persist(Durability::Process).await; // The start's own error is what the user must see.
                self.publish();
                Err(failure.error)
            }
        }
    }

    /// A restart by policy that failed counts as a run that ended at once.
    pub(super) async fn after_failed_restart(&mut self) {
        let code = self.record.state.exit_code;
        self.plan_restart(code, Duration::ZERO);
        let _ = self.persist(Durability::Process).await; // It is read again from the runtime's state at the next start.
        self.publish();
    }

    /// Decides whether the policy starts it again, and when.
    pub(super) fn plan_restart(&mut self, exit_code: i32, ran: Duration) -> bool {
        let policy = self.record.restart_policy();
        let state = &mut self.record.state;
        let delay = state.backoff.after_exit(policy, exit_code, ran, state.stopped_by_user);
        state.restart_at = delay.map_or(Timestamp::ZERO, |d| clock::now().after(d));
        self.restart_at = delay.map(|d| Instant::now() + d);
        self.record.state.phase = if delay.is_some() { Phase::Restarting } else { Phase::Exited };
        delay.is_some()
    }

    /// Sends a signal to its init.
    pub(super) async fn signal(&self, signal: i32) -> Result<()> {
        match self.shared.config.runtime.kill(ProcessRef::Container(&self.record.id), signal, false).await {
            // Its end is on its way to us.
            Err(muster_runtime::Error::NotRunning { .. }) => Ok(()),
            other => other.map_err(error::runtime),
        }
    }

    pub(super) async fn stop(&mut self, signal: Option<i32>, timeout_s: Option<i64>, reply: Reply<()>) {
        if self.record.state.phase == Phase::Restarting {
            let _ = reply.send(self.cancel_restart().await);
        } else if !self.record.state.is_running() {
            let _ = reply.send(Err(Error::not_modified("container is already stopped")));
        } else {
            match self.begin_stop(signal, timeout_s).await {
                Ok(()) => self.stopping.get_or_insert_default().replies.push(reply),
                Err(e) => drop(reply.send(Err(e))),
            }
        }
    }

    pub(super) async fn restart(&mut self, signal: Option<i32>, timeout_s: Option<i64>, reply: Reply<()>) {
        if self.record.state.is_running() {
            match self.begin_stop(signal, timeout_s).await {
                Ok(()) => self.stopping.get_or_insert_default().restarts.push(reply),
                Err(e) => drop(reply.send(Err(e))),
            }
            return;
        }
        let started = self.start().await;
        if started.is_ok() {
            self.shared.container_event(&self.record, "restart", &[]);
        }
        let _ = reply.send(started);
    }

    async fn begin_stop(&mut self, signal: Option<i32>, timeout_s: Option<i64>) -> Result<()> {
        let config = &self.record.config;
        let signal = match signal {
            Some(signal) => signal,
            None => self.record.stop_signal()?,
        };
        let timeout_s = timeout_s.or(config.stop_timeout).unwrap_or(STOP_TIMEOUT_S);
        self.record.state.stopped_by_user = true;
        self.note_stop().await;
        self.signal(signal).await?;
        self.shared.container_event(&self.record, "kill", &[("signal", &signal.to_string())]);
        let stopping = self.stopping.get_or_insert_with(Stopping::default);
        // A second stop may shorten the wait of the first, never lengthen it.
        let patience = u64::try_from(timeout_s).ok().map(Duration::from_secs).filter(|wait| *wait < NEVER);
        let kill_at = patience.and_then(|wait| Instant::now().checked_add(wait));
        stopping.kill_at = match (stopping.kill_at, kill_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Ok(())
    }

    /// Writes down that a user wants it stopped. On a full disk it must still be possible to stop what fills it.
    async fn note_stop(&self) {
        if let Err(e) = self.persist(Durability::Power).await {
            tracing::warn!(container.id = %self.record.id, error = %e, "cannot note that a user stops a container");
        }
    }

    async fn cancel_restart(&mut self) -> Result<()> {
        self.restart_at = None;
        self.record.state.phase = Phase::Exited;
        self.record.state.stopped_by_user = true;
        self.shared.release_attachments(&mut self.record);
        self.persist(Durability::Power).await?;
        self.exits += 1;
        self.publish();
        self.shared.container_event(&self.record, "stop", &[]);
        Ok(())
    }

    pub(super) async fn kill(&mut self, signal: i32) -> Result<()> {
        if self.record.state.phase == Phase::Restarting {
            return self.cancel_restart().await;
        }
        if !self.record.state.is_running() {
            let (name, id) = (&self.record.name, &self.record.id);
            return Err(Error::conflict(format!("cannot kill container: {name}: container {id} is not running")));
        }
        if signal == libc::SIGKILL || Some(signal) == self.record.stop_signal().ok() {
            self.record.state.stopped_by_user = true;
            self.note_stop().await;
        }
        self.signal(signal).await?;
        self.shared.container_event(&self.record, "kill", &[("signal", &signal.to_string())]);
        Ok(())
    }

    pub(super) async fn pause(&mut self) -> Result<()> {
        if !self.record.state.is_running() {
            return Err(self.not_running());
        }
        if self.record.state.paused {
            return Err(Error::conflict(format!("container {} is already paused", self.record.id)));
        }
        self.shared.config.runtime.pause(&self.record.id).await.map_err(error::runtime)?;
        self.set_paused(true, "pause").await
    }

    pub(super) async fn unpause(&mut self) -> Result<()> {
        if !self.record.state.paused {
            return Err(Error::conflict(format!("container {} is not paused", self.record.id)));
        }
        self.shared.config.runtime.resume(&self.record.id).await.map_err(error::runtime)?;
        self.set_paused(false, "unpause").await
    }

    async fn set_paused(&mut self, paused: bool, event: &str) -> Result<()> {
        self.record.state.paused = paused;
        self.publish();
        self.shared.container_event(&self.record, event, &[]);
        // The runtime knows too, and is asked after a restart: the record need not be flushed.
        self.persist(Durability::Process).await
    }

    pub(super) async fn rename(&mut self, name: String) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
        if name == self.record.name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        if !names::is_valid(&name) {
            return Err(no_new_name(super::create::bad_name(&format!("/{name}"))));
        }
        self.shared.containers.reserve(&name, &self.record.id).map_err(no_new_name)?;
        let old = std::mem::replace(&mut self.record.name, name.clone());
        if let Err(e) = self.persist(Durability::Power).await {
            self.record.name = old;
            self.shared.containers.release(&name, &self.record.id);
            return Err(e);
        }
        self.shared.containers.release(&old, &self.record.id);
        self.publish();
        self.shared.container_event(&self.record, "rename", &[("oldName", &format!("/{old}"))]);
        if self.record.state.is_running() {
            self.shared.sync_network(&self.record).await?;
            self.shared.hold_attachments(&self.record);
        }
        Ok(())
    }

    /// Answers with warnings.
    pub(super) async fn update(&mut self, update: ContainerUpdate) -> Result<Vec<String>> {
        let id = &self.record.id;
        let cannot = |e: Error| match e.kind {
            Kind::Conflict => Error::conflict(format!("Cannot update container {id}: {}", e.message)),
            _ => e,
        };
        let host = update::merged(&self.record.host, &update).map_err(cannot)?;
        let (resources, warnings) = update::changes(&update.resources, &host, &self.shared.spec_host)?;
        if self.record.state.is_running() {
            self.shared.config.runtime.update(&self.record.id, &resources).await.map_err(error::runtime)?;
        }
        self.record.host = host;
        self.persist(Durability::Power).await?;
        self.publish();
        self.shared.container_event(&self.record, "update", &[]);
        Ok(warnings)
    }
}

/// Docker's words around why a container cannot be called so.
fn no_new_name(e: Error) -> Error {
    Error::new(e.kind, format!("Error when allocating new name: {}", e.message))
}
