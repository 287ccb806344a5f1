//! Health of containers: probes at intervals, and what follows from their outcomes.

use super::actor::{Actor, Command};
use crate::{
    clock,
    engine::Shared,
    exec::words as words_of,
    names,
    record::{Durability, Record},
};
use muster_model::engine::{ContainerConfig, Health, HealthConfig, HealthcheckResult};
use muster_runtime::{AttachOptions, Output, ProcessRef, spec::ExecInput};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;
/// Probes that are remembered, and bytes of output of each.
const LOG: usize = 5;
const OUTPUT: usize = 4096;

/// How a container is probed, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: i64,
}

fn plan(config: &ContainerConfig) -> Option<Plan> {
    let check = config.healthcheck.as_ref()?;
    let rest = || check.test.iter().skip(1).cloned();
    let command = match check.test.first().map(String::as_str) {
        Some("CMD") => rest().collect(),
        Some("CMD-SHELL") => {
            let shell = if config.shell.is_empty() {
                vec!["/bin/sh".to_owned(), "-c".to_owned()]
            } else {
                config.shell.0.clone()
            };
            shell.into_iter().chain(rest()).collect()
        }
        _ => return None,
    };
    Some(timed(check, command))
}

fn timed(check: &HealthConfig, command: Vec<String>) -> Plan {
    let or =
        |ns: i64, default: Duration| u64::try_from(ns).ok().filter(|n| *n > 0).map_or(default, Duration::from_nanos);
    Plan {
        command,
        interval: or(check.interval, INTERVAL),
        timeout: or(check.timeout, TIMEOUT),
        start_period: or(check.start_period, Duration::ZERO),
        start_interval: or(check.start_interval, START_INTERVAL),
        retries: if check.retries > 0 { check.retries } else { RETRIES },
    }
}

/// The health of a container that has just been started; `None` when it is not probed.
pub(super) fn first(config: &ContainerConfig) -> Option<Health> {
    plan(config).map(|_| Health { status: "starting".to_owned(), ..Health::default() })
}

/// The health after a probe. Within the start period failures do not count. Pure.
fn after(mut health: Health, result: HealthcheckResult, plan: &Plan, in_start_period: bool) -> Health {
    if result.exit_code == 0 {
        health.failing_streak = 0;
        health.status = "healthy".to_owned();
    } else if !(in_start_period && health.status == "starting") {
        health.failing_streak += 1;
        if health.failing_streak >= plan.retries {
            health.status = "unhealthy".to_owned();
        }
    }
    health.log.push(result);
    if health.log.len() > LOG {
        health.log.remove(0);
    }
    health
}

impl Actor {
    /// Starts probing the container that has just begun to run.
    pub(super) fn start_probing(&mut self) {
        if let Some(old) = self.probe.take() {
            old.abort();
        }
        let (Some(plan), Some(owner)) = (plan(&self.record.config), self.sender()) else { return };
        let health = self.health.clone().or_else(|| first(&self.record.config)).unwrap_or_default();
        self.health = Some(health.clone());
        let probing = probe_on(self.shared.clone(), self.record.clone(), plan, health, owner.downgrade());
        self.probe = Some(self.shared.spawn("health check", probing));
    }

    /// Takes the outcome of a probe of the process `pid`.
    pub(super) async fn on_health(&mut self, pid: u32, health: Health) {
        if pid != self.record.state.pid || !self.record.state.is_running() {
            return; // Of a run that is over.
        }
        let changed = self.health.as_ref().is_none_or(|old| old.status != health.status);
        let status = health.status.clone();
        self.health = Some(health);
        self.record.state.health.clone_from(&self.health);
        self.publish();
        // So that the next daemon goes on with it; a full disk makes nobody sick.
        if let Err(e) = self.persist(Durability::Process).await {
            tracing::debug!(container.id = %self.record.id, error = %e, "cannot note its health");
        }
        if changed {
            self.shared.container_event(&self.record, &format!("health_status: {status}"), &[]);
            self.shared.changed(&self.record.id, crate::Change::Health { status });
        }
    }
}

async fn probe_on(
    shared: Arc<Shared>,
    record: Record,
    plan: Plan,
    mut health: Health,
    owner: mpsc::WeakSender<Command>,
) {
    // The start period began with the container, which a daemon may find running.
    let ran = clock::now().since(record.state.started_at);
    let began = Instant::now();
    let age = || ran + began.elapsed();
    loop {
        let starting = health.status == "starting" && age() < plan.start_period;
        tokio::select! {
            () = tokio::time::sleep(if starting { plan.start_interval.min(plan.interval) } else { plan.interval }) => {}
            () = shared.stop.cancelled() => return,
        }
        // A frozen container answers no probe, and that is no sickness.
        if shared.find(&record.id).is_ok_and(|h| h.record().state.paused) {
            continue;
        }
        let result = probe(&shared, &record, &plan).await;
        health = after(health, result, &plan, age() < plan.start_period);
        let Some(owner) = owner.upgrade() else { return };
        if owner.send(Command::Health { pid: record.state.pid, health: health.clone() }).await.is_err() {
            return;
        }
    }
}

async fn probe(shared: &Shared, record: &Record, plan: &Plan) -> HealthcheckResult {
    let (start, exec) = (clock::now(), names::new_id());
    shared.note_probe(&record.id, &exec);
    // As it is called now.
    let named = shared.find(&record.id).map_or_else(|_| Arc::new(record.clone()), |handle| handle.record());
    let tell = |action: &str, extra: &[(&str, &str)]| shared.exec_event(&named, &exec, action, extra);
    let command = words_of(&plan.command);
    tell(&format!("exec_create: {command}"), &[]);
    tell(&format!("exec_start: {command}"), &[]);
    let outcome = tokio::time::timeout(plan.timeout, run(shared, record, &exec, plan)).await;
    let died = |code: i64| tell("exec_die", &[("exitCode", &code.to_string())]);
    let (exit_code, output) = match outcome {
        Ok(Ok(outcome)) => {
            died(outcome.0);
            outcome
        }
        Ok(Err(text)) => (-1, text),
        Err(_) => {
            died((128 + libc::SIGKILL).into());
            let process = ProcessRef::Exec { container: &record.id, exec: &exec };
            let _ = shared.config.runtime.kill(process, libc::SIGKILL, false).await; // It may just have ended.
            (-1, format!("Health check exceeded timeout ({})", words(plan.timeout)))
        }
    };
    // What is left of it goes with the container at the latest.
    let _ = shared.config.runtime.exec_delete(&record.id, &exec).await;
    shared.forget_probe(&record.id, &exec);
    HealthcheckResult { start: start.into(), end: clock::now().into(), exit_code, output }
}

async fn run(shared: &Shared, record: &Record, exec: &str, plan: &Plan) -> Result<(i64, String), String> {
    let input = ExecInput { args: plan.command.clone(), ..ExecInput::default() };
    shared.exec_prepare(record, exec, input, None, false).await.map_err(|e| e.message)?;
    let process = ProcessRef::Exec { container: &record.id, exec };
    let runtime = &shared.config.runtime;
    let mut attachment = runtime.attach(process, AttachOptions::output()).await.map_err(|e| e.to_string())?;
    runtime.exec_start(&record.id, exec).await.map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    loop {
        match attachment.output.next().await.map_err(|e| e.to_string())? {
            Some(Output::Stdout(data) | Output::Stderr(data)) => {
                text.extend_from_slice(&data[..data.len().min(OUTPUT - text.len())])
            }
            Some(Output::Exit(status)) => return Ok((status.code.into(), String::from_utf8_lossy(&text).into_owned())),
            None => return Err("the probe's output was cut off".to_owned()),
        }
    }
}

/// A duration as Go writes it, for whole seconds and milliseconds.
fn words(d: Duration) -> String {
    if d.subsec_nanos() == 0 { format!("{}s", d.as_secs()) } else { format!("{}ms", d.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(test: &[&str]) -> ContainerConfig {
        let test = test.iter().map(|t| (*t).to_owned()).collect();
        ContainerConfig {
            healthcheck: Some(HealthConfig { test, retries: 2, ..HealthConfig::default() }),
            ..ContainerConfig::default()
        }
    }

    fn exit(code: i64) -> HealthcheckResult {
        HealthcheckResult { exit_code: code, ..HealthcheckResult::default() }
    }

    #[test]
    fn a_container_is_unhealthy_after_as_many_failures_in_a_row_as_it_may_have() {
        let plan = plan(&with(&["CMD-SHELL", "true"])).expect("probed");
        assert_eq!(plan.command, ["/bin/sh", "-c", "true"]);
        let mut health = first(&with(&["CMD", "true"])).expect("probed");
        for (code, status) in [(1, "starting"), (0, "healthy"), (1, "healthy"), (1, "unhealthy"), (0, "healthy")] {
            health = after(health, exit(code), &plan, false);
            assert_eq!(health.status, status);
        }
        assert_eq!(health.log.len(), 5);
        assert_eq!(after(health, exit(0), &plan, false).log.len(), 5);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count() {
        let plan = plan(&with(&["CMD", "x"])).expect("probed");
        let mut health = first(&with(&["CMD", "x"])).expect("probed");
        for _ in 0..9 {
            health = after(health, exit(1), &plan, true);
        }
        assert_eq!((health.status.as_str(), health.failing_streak), ("starting", 0));
    }

    #[test]
    fn none_means_no_probe() {
        assert_eq!(plan(&with(&["NONE"])), None);
        assert_eq!(plan(&with(&[])), None);
        assert_eq!(words(Duration::from_millis(1500)), "1500ms");
    }
}
