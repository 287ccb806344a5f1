//! What follows the end of a container's process: clean up, record, tell, restart or remove.

use super::{actor::Actor, up};
use crate::{
    clock, logging,
    record::{Durability, Phase},
};
use muster_calls::{Error, RemoveContainer, Result};
use muster_runtime::ExitStatus;

impl Actor {
    pub(super) async fn on_exit(&mut self, status: muster_runtime::Result<ExitStatus>) {
        let status = status.unwrap_or_else(|e| ExitStatus {
            // The runtime cannot say: what is left of it is killed below.
            code: 128 + libc::SIGKILL,
            signal: Some(libc::SIGKILL),
            at: std::time::SystemTime::now(),
            oom_killed: false,
            error: Some(e.to_string()),
        });
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
        // A removal unmounts the root by itself.
        let keep_root = self.leases > 0 || self.goes_after_exit();
        up::bring_down(&self.shared, &self.record, keep_root).await;
        self.settle(&status).await;
    }

    fn restarts_after_exit(&self) -> bool {
        self.stopping.as_ref().is_some_and(|s| !s.restarts.is_empty())
    }

    fn goes_after_exit(&self) -> bool {
        self.removal.is_some() || (self.record.host.auto_remove && !self.restarts_after_exit())
    }

    /// Records an exit whose kernel side has been cleaned up, and goes on from there.
    pub(super) async fn settle(&mut self, status: &ExitStatus) {
        let before = self.record.clone();
        let ran = self.note(status);
        let (again, removal) = (self.restarts_after_exit(), self.goes_after_exit());
        self.record.state.phase = Phase::Exited;
        if !removal && !again {
            self.plan_restart(status.code, ran);
        }
        if !again && self.record.state.phase != Phase::Restarting {
            self.shared.release_attachments(&mut self.record);
        }
        // A removal writes the record anyway.
        if !removal && let Err(e) = self.persist(Durability::Process).await {
            // The shim's exit record stays: the next start of the daemon reads it.
            tracing::error!(container.id = %self.record.id, error = %e, "cannot record an exit");
        }
        self.exits += 1;
        self.tell(&before, status, ran);
        self.publish();
        self.answer_stops().await;
        self.finish_removal(removal).await;
    }

    fn note(&mut self, status: &ExitStatus) -> std::time::Duration {
        let state = &mut self.record.state;
        let finished = clock::from_system(status.at);
        let ran = finished.since(state.started_at);
        state.finished_at = finished;
        (state.pid, state.paused) = (0, false);
        (state.exit_code, state.oom_killed) = (status.code, status.oom_killed);
        state.error = status.error.clone().unwrap_or_default();
        self.exit_error.clone_from(&state.error);
        up::forget_places(&mut self.record);
        if let Some(health) = &mut self.health {
            health.status = "unhealthy".to_owned();
        }
        self.record.state.health.clone_from(&self.health);
        ran
    }

    fn tell(&self, before: &crate::record::Record, status: &ExitStatus, ran: std::time::Duration) {
        let shared = &self.shared;
        shared.announce_networks(before, "disconnect");
        if status.oom_killed {
            shared.container_event(&self.record, "oom", &[]);
            shared.changed(&self.record.id, crate::Change::Oom);
        }
        let (code, seconds) = (status.code.to_string(), ran.as_secs().to_string());
        shared.container_event(&self.record, "die", &[("exitCode", &code), ("execDuration", &seconds)]);
        shared.changed(
            &self.record.id,
            crate::Change::Die {
                exit_code: status.code,
                oom_killed: status.oom_killed,
                error: self.exit_error.clone(),
            },
        );
    }

    async fn answer_stops(&mut self) {
        let Some(stopping) = self.stopping.take() else { return };
        self.shared.container_event(&self.record, "stop", &[]);
        for reply in stopping.replies {
            let _ = reply.send(Ok(()));
        }
        if stopping.restarts.is_empty() {
            return;
        }
        // A user's restart is no user's stop.
        self.record.state.stopped_by_user = false;
        let started = self.start().await;
        if started.is_ok() {
            self.shared.container_event(&self.record, "restart", &[]);
        }
        for reply in stopping.restarts {
            let _ = reply.send(started.clone());
        }
    }

    async fn finish_removal(&mut self, wanted: bool) {
        if !wanted || self.removed || self.record.state.is_running() {
            return;
        }
        let (options, replies) =
            self.removal.take().unwrap_or((RemoveContainer { force: true, volumes: true }, Vec::new()));
        let durability = if replies.is_empty() { Durability::Process } else { Durability::Power };
        let removed = self.remove_now(options, durability).await;
        if let (Err(e), true) = (&removed, replies.is_empty()) {
            tracing::warn!(container.id = %self.record.id, error = %e, "cannot remove a container");
        }
        for reply in replies {
            let _ = reply.send(removed.clone());
        }
    }

    pub(super) async fn remove(&mut self, options: RemoveContainer, reply: super::actor::Reply<()>) {
        let state = &self.record.state;
        let busy = state.is_running() || state.phase == Phase::Restarting;
        if busy && !options.force {
            let name = &self.record.name;
            let (what, hint) = match state.word() {
                "paused" => ("paused", "unpause the container before removing or force remove"),
                "restarting" => ("restarting", "stop the container before removing or force remove"),
                _ => ("running", "stop the container before removing or force remove"),
            };
            let _ = reply.send(Err(Error::conflict(format!(
                "cannot remove container \"/{name}\": container is {what}: {hint}"
            ))));
            return;
        }
        if !state.is_running() {
            let removed = self.remove_now(options, Durability::Power).await;
            let _ = reply.send(removed);
            return;
        }
        if let Some((_, replies)) = &mut self.removal {
            replies.push(reply);
            return;
        }
        self.record.state.stopped_by_user = true;
        match self.signal(libc::SIGKILL).await {
            Ok(()) => {
                self.shared.container_event(&self.record, "kill", &[("signal", "9")]);
                self.removal = Some((options, vec![reply]));
            }
            Err(e) => {
                let refusal =
                    Error::internal(format!("cannot remove container \"/{}\": could not kill: {e}", self.record.name));
                let _ = reply.send(Err(refusal));
            }
        }
    }

    /// Removes a container that does not run: intent first, then what it owns, its folder last, so that a crash anywhere
    /// leaves a record that says what is left to do.
    pub(super) async fn remove_now(&mut self, options: RemoveContainer, durability: Durability) -> Result<()> {
        self.restart_at = None;
        self.shared.release_attachments(&mut self.record);
        let before = std::mem::replace(&mut self.record.state.phase, Phase::Removing);
        let removed = self.remove_parts(options, durability).await;
        if let Err(e) = removed {
            self.record.state.phase = before;
            if let Ok(handle) = self.shared.find(&self.record.id) {
                self.forwarder = logging::forward::start(&self.shared, &handle);
            }
            let _ = self.persist(Durability::Process).await; // Whatever the disk says, the user must see the first error.
            self.publish();
            return Err(e);
        }
        self.gone().await;
        Ok(())
    }

    async fn remove_parts(&mut self, options: RemoveContainer, durability: Durability) -> Result<()> {
        self.persist(durability).await?;
        if let Some(forwarder) = self.forwarder.take() {
            forwarder.finish().await;
        }
        self.shared.discard_container(&self.record, options.volumes).await
    }
}
