//! The hands of the worker: pulls images, makes, starts, watches, stops and removes the containers of tasks.
//!
//! Each step runs in a task of its own and answers with one input for the worker. A step that was done before a crash is
//! found done: containers are looked up by their name, which holds the task's id.

use super::spec;
use futures_util::StreamExt as _;
use muster_agent_core::{Container, Input};
use muster_calls::{Engine as _, Kind, ListContainers, Pull, RemoveContainer, StopContainer, WaitCondition};
use muster_engine::{Change, LocalEngine};
use muster_model::{TaskId, assignment::AssignmentSet, cluster::Task, spec::AuthForm};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::mpsc, task::AbortHandle};
use tracing::Instrument as _;

/// Runs tasks on one engine. Cloning shares it.
#[derive(Clone)]
pub struct Runner(Arc<Inner>);

struct Inner {
    engine: Arc<LocalEngine>,
    inputs: mpsc::Sender<Input>,
    overlay_mtu: u16,
    hostname: String,
    /// Preparations that may be given up.
    preparing: Mutex<BTreeMap<TaskId, AbortHandle>>,
}

impl Runner {
    pub fn new(engine: Arc<LocalEngine>, inputs: mpsc::Sender<Input>, overlay_mtu: u16, hostname: String) -> Self {
        Self(Arc::new(Inner { engine, inputs, overlay_mtu, hostname, preparing: Mutex::default() }))
    }

    /// Makes the task's container; answers `Prepared`.
    pub fn prepare(&self, task: Arc<Task>, set: AssignmentSet) {
        let span = task_span(&task, "task.prepare");
        let (this, id) = (self.clone(), task.id);
        let work = async move {
            let result = this.container(&task, &set).await;
            this.locked(|p| p.remove(&task.id));
            this.tell(Input::Prepared { task: task.id, result }).await;
        };
        // Under the lock, so that the work cannot take its entry out before it is in.
        self.locked(|p| p.insert(id, tokio::spawn(work.instrument(span)).abort_handle()));
    }

    /// Gives a preparation up; it answers `Prepared` with an error. What it made is removed with the task.
    pub fn cancel(&self, task: TaskId) {
        if let Some(handle) = self.locked(|p| p.remove(&task)) {
            handle.abort();
            let this = self.clone();
            tokio::spawn(async move { this.tell(Input::Prepared { task, result: Err("cancelled".to_owned()) }).await });
        }
    }

    /// Lets the container run; answers `Started`, and `Exited` when it has ended.
    pub fn start(&self, task: Arc<Task>) {
        let span = task_span(&task, "task.start");
        let this = self.clone();
        tokio::spawn(async move { this.start_and_watch(&task, span).await });
    }

    /// Watches a container that ran before the daemon did; answers `Exited`.
    pub fn watch(&self, task: Arc<Task>) {
        let this = self.clone();
        tokio::spawn(async move {
            let name = spec::container_name(&task);
            match this.0.engine.container_wait(&name, WaitCondition::NotRunning).await {
                Ok(ended) => this.exited(task.id, ended.await).await,
                Err(e) => this.tell(Input::Exited { task: task.id, exit_code: 137, error: e.message }).await,
            }
        });
    }

    /// Tells the container to end; `Exited` follows.
    pub fn stop(&self, task: Arc<Task>) {
        let span = task_span(&task, "task.stop");
        let this = self.clone();
        let work = async move {
            let stopped = this.0.engine.container_stop(&spec::container_name(&task), StopContainer::default()).await;
            if let Err(e) = stopped
                && e.kind != Kind::NotModified
            {
                tracing::warn!(task.id = %task.id, error = %e, "a task's container did not stop");
                if e.kind == Kind::NotFound {
                    this.tell(Input::Exited { task: task.id, exit_code: 137, error: e.message }).await;
                }
            }
        };
        tokio::spawn(work.instrument(span));
    }

    /// Removes what is left of the task; answers `Removed` once nothing is.
    pub fn remove(&self, task: Arc<Task>) {
        let this = self.clone();
        tokio::spawn(async move {
            let name = spec::container_name(&task);
            let mut pause = std::time::Duration::from_millis(200);
            while let Err(e) = this.discard(&name).await {
                tracing::warn!(task.id = %task.id, error = %e, "a task's container cannot be removed; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(std::time::Duration::from_secs(30));
            }
            this.tell(Input::Removed { task: task.id }).await;
        });
    }

    /// What there is of each task, by task id.
    pub async fn survey(&self) -> muster_calls::Result<BTreeMap<TaskId, (String, Container)>> {
        let mut filters = muster_calls::Filters::default();
        filters.add("label", spec::TASK_ID);
        let listed = self.0.engine.container_list(ListContainers { all: true, filters, ..Default::default() }).await?;
        let mut found = BTreeMap::new();
        for c in listed.items {
            let Some(task) = c.labels.get(spec::TASK_ID).and_then(|t| t.parse().ok()) else { continue };
            let inspect = match self.0.engine.container_inspect(&c.id, false).await {
                // Removed since it was listed.
                Err(e) if e.kind == muster_calls::Kind::NotFound => continue,
                inspected => inspected?,
            };
            let state = &inspect.state;
            let container = match state.status.as_str() {
                "created" => Container::Created,
                "running" | "paused" | "restarting" => {
                    Container::Running { pid: u32::try_from(state.pid).unwrap_or(0) }
                }
                _ => Container::Exited {
                    exit_code: i32::try_from(state.exit_code).unwrap_or(137),
                    error: state.error.clone(),
                },
            };
            found.insert(task, (c.id, container));
        }
        Ok(found)
    }

    pub async fn has_image(&self, image: &str) -> bool {
        self.0.engine.image_inspect(image).await.is_ok()
    }

    /// Removes a container of a task that nobody knows any more.
    pub fn discard_stray(&self, container: String) {
        let this = self.clone();
        tokio::spawn(async move {
            match this.discard(&container).await {
                Ok(()) => {
                    tracing::info!(container.id = %container, "removed the container of a task that is not ours any more")
                }
                Err(e) => tracing::warn!(container.id = %container, error = %e, "a stray container cannot be removed"),
            }
        });
    }

    async fn discard(&self, container: &str) -> muster_calls::Result<()> {
        match self.0.engine.container_remove(container, RemoveContainer { force: true, volumes: true }).await {
            Err(e) if e.kind == Kind::NotFound => Ok(()),
            other => other,
        }
    }

    async fn container(&self, task: &Arc<Task>, set: &AssignmentSet) -> Result<String, String> {
        let endpoints = spec::endpoints(task, set, self.0.overlay_mtu)?;
        self.image(task).await?;
        let name = spec::container_name(task);
        let span = tracing::info_span!("container.create", container.name = %name);
        let made = self
            .0
            .engine
            .create_with_endpoints(Some(name.clone()), spec::body(task, &self.0.hostname), endpoints)
            .instrument(span)
            .await;
        match made {
            Ok(id) => Ok(id),
            // Made before a crash.
            Err(e) if e.kind == Kind::Conflict => {
                let there = self.0.engine.container_inspect(&name, false).await.map_err(|_| e.message)?;
                Ok(there.id)
            }
            Err(e) => Err(e.message),
        }
    }

    /// Pulls the task's image unless it is here.
    async fn image(&self, task: &Task) -> Result<(), String> {
        let image = &task.spec.container.image;
        if self.has_image(image).await {
            return Ok(());
        }
        let span = tracing::info_span!("image.pull", image.reference = %image);
        let auth = task.spec.container.registry_auth.as_ref().and_then(|auth| {
            // Without them the registry decides; the secret itself is for no log.
            let read = match auth.form() {
                AuthForm::Given(header) => muster_docker_api::decode_registry_auth(header).ok(),
                _ => None,
            };
            if read.is_none() {
                tracing::warn!(task.id = %task.id, "the registry credentials of a service cannot be read");
            }
            read
        });
        let pull = Pull { reference: image.clone(), auth, ..Pull::default() };
        async {
            self.tell(Input::Progress { task: task.id, message: format!("pulling {image}") }).await;
            let mut lines = self.0.engine.image_pull(pull).await.map_err(|e| e.message)?;
            while let Some(line) = lines.next().await {
                let line = line.map_err(|e| e.message)?;
                if !line.error.is_empty() {
                    return Err(line.error);
                }
            }
            Ok(())
        }
        .instrument(span)
        .await
    }

    async fn start_and_watch(&self, task: &Arc<Task>, span: tracing::Span) {
        let mut changes = self.0.engine.subscribe();
        let begun = match self.begin(task).instrument(span).await {
            Ok(begun) => begun,
            Err(e) => return self.tell(Input::Started { task: task.id, result: Err(e.message) }).await,
        };
        if !begun.probed {
            drop(changes);
            self.tell(Input::Started { task: task.id, result: Ok(begun.pid) }).await;
            return self.exited(task.id, begun.ended.await).await;
        }
        let (this, watched) = (self.clone(), task.clone());
        let healthy = async move { this.follow_health(&watched, &begun.container, begun.pid, &mut changes).await };
        let watching = tokio::spawn(healthy);
        self.exited(task.id, begun.ended.await).await;
        watching.abort();
    }

    /// Lets the container run, its end waited for from before it does.
    async fn begin(&self, task: &Task) -> muster_calls::Result<Begun> {
        let name = spec::container_name(task);
        let engine = &self.0.engine;
        let ended = engine.container_wait(&name, WaitCondition::NextExit).await?;
        match engine.container_start(&name).await {
            Err(e) if e.kind != Kind::NotModified => return Err(e),
            _ => {}
        }
        let inspected = engine.container_inspect(&name, false).await?;
        Ok(Begun {
            ended,
            container: inspected.id,
            pid: u32::try_from(inspected.state.pid).unwrap_or(0),
            probed: inspected.state.health.is_some(),
        })
    }

    /// A task with a health check runs once it is healthy, and is stopped when it is not any more.
    async fn follow_health(&self, task: &Arc<Task>, container: &str, pid: u32, changes: &mut muster_engine::Changes) {
        loop {
            let status = match changes.recv().await {
                Ok((id, Change::Health { status })) if id == container => status,
                Ok((id, Change::Removed)) if id == container => return,
                Ok(_) => continue,
                // Some were missed: look.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                    match self.0.engine.container_inspect(container, false).await {
                        Ok(i) => i.state.health.map(|h| h.status).unwrap_or_default(),
                        Err(_) => return,
                    }
                }
                Err(_) => return,
            };
            match status.as_str() {
                "healthy" => self.tell(Input::Started { task: task.id, result: Ok(pid) }).await,
                "unhealthy" => {
                    tracing::warn!(task.id = %task.id, "the task's container is unhealthy: it is stopped");
                    let _ = self.0.engine.container_stop(container, StopContainer::default()).await;
                    return;
                }
                _ => {}
            }
        }
    }

    async fn exited(&self, task: TaskId, result: muster_calls::Result<muster_model::engine::WaitResult>) {
        let (exit_code, error) = match result {
            Ok(r) => (i32::try_from(r.status_code).unwrap_or(137), r.error.map(|e| e.message).unwrap_or_default()),
            Err(e) => (137, e.message),
        };
        self.tell(Input::Exited { task, exit_code, error }).await;
    }

    async fn tell(&self, input: Input) {
        // The worker's task ends only with the daemon or the membership: then nobody wants to know.
        let _ = self.0.inputs.send(input).await;
    }

    fn locked<T>(&self, f: impl FnOnce(&mut BTreeMap<TaskId, AbortHandle>) -> T) -> T {
        f(&mut self.0.preparing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A container that was let run.
struct Begun {
    ended: muster_calls::Future<muster_calls::Result<muster_model::engine::WaitResult>>,
    container: String,
    pid: u32,
    /// It has a health check.
    probed: bool,
}

/// A span of the task's own trace: it began with the request that made the service what it is.
fn task_span(task: &Task, name: &'static str) -> tracing::Span {
    let span = match name {
        "task.prepare" => {
            tracing::info_span!(parent: None, "task.prepare", task.id = %task.id, service.name = %task.service_name)
        }
        "task.start" => {
            tracing::info_span!(parent: None, "task.start", task.id = %task.id, service.name = %task.service_name)
        }
        _ => tracing::info_span!(parent: None, "task.stop", task.id = %task.id, service.name = %task.service_name),
    };
    if let Some(parent) = &task.trace_parent {
        muster_telemetry::continue_from(&span, parent);
    }
    span
}
