//! A small engine in memory, only to have something behind the face: its "processes" are a handful of words.
//!
//! `echo ...` writes to stdout, `err ...` to stderr, `cat` copies stdin until it is closed, `exit N` ends with N, `sleep` runs
//! until it is killed; an exec of `refuse` does not start. Anything else ends with 127.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod cluster;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use muster_calls::*;
use muster_model::{Timestamp, engine::*};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

pub const IMAGE: &str = "busybox:e2e";
const IMAGE_ID: &str = "sha256:e2a2e888bac60565acdfab5c145874a142ee49d5336d55d2ea4933e1e79e4a41";

#[derive(Clone)]
struct Container {
    name: String,
    body: ContainerCreateBody,
    status: &'static str,
    exit_code: i64,
    exits: u64,
    outputs: Vec<mpsc::Sender<Result<Output>>>,
    log: Vec<(StdStream, Bytes)>,
    stdin: mpsc::Sender<Input>,
    inbox: Arc<Mutex<Option<mpsc::Receiver<Input>>>>,
    killed: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<String, (ExecConfig, Option<i64>)>,
    /// Kept when the container has been removed.
    exit_codes: BTreeMap<String, i64>,
    counter: u64,
}

pub struct Fake {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// Streams and waits that are alive.
    pub alive: Arc<AtomicUsize>,
    pub uploaded: Mutex<Vec<u8>>,
}

/// Counts something that lives as long as it is not dropped.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A stream of nothing that counts as alive until it is dropped.
fn endless<T: Send + 'static>(alive: Alive) -> Stream<T> {
    let wait = async move {
        let _alive = alive;
        std::future::pending().await
    };
    stream::once(wait).boxed()
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            alive: Arc::default(),
            uploaded: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock held")
    }

    fn find(&self, id: &str) -> Result<(String, Container)> {
        let state = self.state();
        let found = state.containers.iter().find(|(full, c)| c.name == id || full.starts_with(id));
        found.map(|(k, c)| (k.clone(), c.clone())).ok_or_else(|| Error::not_found(format!("No such container: {id}")))
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Container)) {
        if let Some(c) = self.state().containers.get_mut(id) {
            change(c);
        }
        self.changed.send_modify(|n| *n += 1);
    }

    fn finish(&self, id: &str, code: i64) {
        let mut remove = false;
        self.state().exit_codes.insert(id.to_owned(), code);
        self.change(id, |c| {
            (c.status, c.exit_code) = ("exited", code);
            c.exits += 1;
            c.outputs.clear();
            remove = c.body.host_config.auto_remove;
        });
        if remove {
            self.state().containers.remove(id);
            self.changed.send_modify(|n| *n += 1);
        }
    }
}

/// Runs the words of a fake process; answers its exit code.
async fn run(
    words: &[String],
    mut stdin: mpsc::Receiver<Input>,
    killed: &tokio::sync::Notify,
    mut write: impl FnMut(StdStream, Bytes),
) -> i64 {
    let text = |words: &[String]| Bytes::from(words.join(" ") + "\n");
    match words.split_first() {
        Some((word, rest)) if word == "echo" => write(StdStream::Stdout, text(rest)),
        Some((word, rest)) if word == "err" => write(StdStream::Stderr, text(rest)),
        Some((word, rest)) if word == "exit" => return rest.first().and_then(|n| n.parse().ok()).unwrap_or(0),
        Some((word, _)) if word == "cat" => {
            while let Some(Input::Data(data)) = stdin.recv().await {
                write(StdStream::Stdout, data);
            }
        }
        Some((word, _)) if word == "sleep" => {
            killed.notified().await;
            return 137;
        }
        _ => return 127,
    }
    0
}

struct Handle(Arc<Fake>);

/// The engine as the face takes it.
pub fn engine(fake: &Arc<Fake>) -> Arc<dyn Engine> {
    Arc::new(Handle(Arc::clone(fake)))
}

#[async_trait]
impl Engine for Handle {
    async fn version(&self) -> Result<VersionInfo> {
        Ok(VersionInfo {
            version: "0.1.0".into(),
            api_version: "1.50".into(),
            min_api_version: "1.24".into(),
            os: "linux".into(),
            arch: "amd64".into(),
            ..VersionInfo::default()
        })
    }

    async fn info(&self) -> Result<SystemInfo> {
        Ok(SystemInfo {
            id: "fake".into(),
            name: "vm".into(),
            ncpu: 2,
            os_type: "linux".into(),
            ..SystemInfo::default()
        })
    }

    async fn events(&self, _: EventsQuery) -> Result<Stream<EventMessage>> {
        let first =
            EventMessage { kind: "container".into(), action: "start".into(), time: 1, ..EventMessage::default() };
        let alive = Alive::of(&self.0.alive);
        Ok(stream::iter([Ok(first)]).chain(endless(alive)).boxed())
    }

    async fn container_create(
        &self,
        name: Option<String>,
        _: String,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreated> {
        if body.config.image != IMAGE {
            return Err(Error::not_found(format!("No such image: {}", body.config.image)));
        }
        let mut state = self.0.state();
        state.counter += 1;
        let id = format!("{:064x}", 0xabc0_0000_0000_u64 + state.counter).chars().rev().collect::<String>();
        let name = name.unwrap_or_else(|| format!("fake_{}", state.counter));
        if state.containers.values().any(|c| c.name == name) {
            return Err(Error::conflict(format!("Conflict. The container name \"/{name}\" is already in use")));
        }
        let (stdin, inbox) = mpsc::channel(8);
        let container = Container {
            name,
            body,
            status: "created",
            exit_code: 0,
            exits: 0,
            outputs: Vec::new(),
            log: Vec::new(),
            stdin,
            inbox: Arc::new(Mutex::new(Some(inbox))),
            killed: Arc::default(),
        };
        state.containers.insert(id.clone(), container);
        Ok(ContainerCreated { id, warnings: Vec::new() })
    }

    async fn container_list(&self, options: ListContainers) -> Result<Listed<ContainerSummary>> {
        let state = self.0.state();
        let shown = state.containers.iter().filter(|(_, c)| options.all || c.status == "running");
        let items = shown.map(|(id, c)| ContainerSummary {
            id: id.clone(),
            names: vec![format!("/{}", c.name)],
            image: c.body.config.image.clone(),
            command: c.body.config.cmd.join(" "),
            state: c.status.into(),
            status: c.status.into(),
            ..ContainerSummary::default()
        });
        let unreached = vec![Unreached { node: "host2".into(), reason: "no answer within 2 s".into() }];
        Ok(Listed { items: items.collect(), unreached })
    }

    async fn container_inspect(&self, id: &str, _: bool) -> Result<ContainerInspect> {
        let (id, c) = self.0.find(id)?;
        let mut config = c.body.config.clone();
        config.hostname = id[..12].to_owned();
        Ok(ContainerInspect {
            id,
            name: format!("/{}", c.name),
            state: ContainerState {
                status: c.status.into(),
                running: c.status == "running",
                exit_code: c.exit_code,
                ..Default::default()
            },
            host_config: c.body.host_config,
            config,
            ..ContainerInspect::default()
        })
    }

    async fn container_start(&self, id: &str) -> Result<()> {
        let (id, c) = self.0.find(id)?;
        if c.status == "running" {
            return Err(Error::not_modified("it runs"));
        }
        let inbox = c.inbox.lock().expect("not poisoned").take();
        let inbox = inbox.unwrap_or_else(|| mpsc::channel(1).1);
        self.0.change(&id, |c| c.status = "running");
        let fake = Arc::clone(&self.0);
        tokio::spawn(async move {
            let words = c.body.config.cmd.0.clone();
            let (pipe, mut written) = mpsc::unbounded_channel();
            let code = run(&words, inbox, &c.killed, move |stream, data| drop(pipe.send((stream, data))));
            let fan = async {
                while let Some((stream, data)) = written.recv().await {
                    let mut outputs = Vec::new();
                    fake.change(&id, |c| {
                        c.log.push((stream, data.clone()));
                        outputs = c.outputs.clone();
                    });
                    for output in outputs {
                        let _ = output.send(Ok(Output { stream, data: data.clone() })).await;
                    }
                }
            };
            let (code, ()) = tokio::join!(code, fan);
            fake.finish(&id, code);
        });
        Ok(())
    }

    async fn container_stop(&self, id: &str, _: StopContainer) -> Result<()> {
        self.container_kill(id, None).await.map_err(|_| Error::not_modified("it does not run"))
    }

    async fn container_restart(&self, _: &str, _: StopContainer) -> Result<()> {
        Err(Error::internal("fakes do not restart"))
    }

    async fn container_kill(&self, id: &str, _: Option<String>) -> Result<()> {
        let (_, c) = self.0.find(id)?;
        if c.status != "running" {
            return Err(Error::conflict(format!("cannot kill container: {id}: container ID is not running")));
        }
        c.killed.notify_one();
        Ok(())
    }

    async fn container_remove(&self, id: &str, _: RemoveContainer) -> Result<()> {
        let (id, _) = self.0.find(id)?;
        self.0.state().containers.remove(&id);
        self.0.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    async fn container_wait(&self, id: &str, condition: WaitCondition) -> Result<Future<Result<WaitResult>>> {
        let (id, before) = self.0.find(id)?;
        let (fake, alive) = (Arc::clone(&self.0), Alive::of(&self.0.alive));
        let mut changed = self.0.changed.subscribe();
        Ok(Box::pin(async move {
            let _alive = alive;
            loop {
                let now = fake.state().containers.get(&id).cloned();
                let met = match (&now, condition) {
                    (None, _) => true,
                    (Some(c), WaitCondition::NextExit) => c.exits > before.exits,
                    (Some(c), WaitCondition::NotRunning) => c.status != "running",
                    (Some(_), WaitCondition::Removed) => false,
                };
                if met {
                    let status_code = fake.state().exit_codes.get(&id).copied().unwrap_or(0);
                    return Ok(WaitResult { status_code, error: None });
                }
                changed.changed().await.map_err(|_| Error::internal("the engine has ended"))?;
            }
        }))
    }

    async fn container_logs(&self, id: &str, options: Logs) -> Result<LogStream> {
        let (_, c) = self.0.find(id)?;
        let mut lines: Vec<Result<LogChunk>> = Vec::new();
        for (stream, data) in c.log {
            lines.push(Ok(LogChunk {
                stream,
                time: Timestamp(1_500_000_000),
                data,
                attrs: vec![("k".into(), "v".into())],
            }));
        }
        let alive = Alive::of(&self.0.alive);
        let (rest, lines) = (endless(alive), stream::iter(lines));
        Ok(LogStream {
            tty: c.body.config.tty,
            lines: if options.follow { lines.chain(rest).boxed() } else { lines.boxed() },
        })
    }

    async fn container_attach(&self, id: &str, _: Attach) -> Result<Attached> {
        let (id, c) = self.0.find(id)?;
        let (to, from) = mpsc::channel(16);
        self.0.change(&id, |c| c.outputs.push(to));
        Ok(Attached { tty: c.body.config.tty, output: ReceiverStream::new(from).boxed(), input: c.stdin })
    }

    async fn container_resize(&self, _: &str, _: u16, _: u16) -> Result<()> {
        Ok(())
    }

    async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String> {
        self.0.find(container)?;
        let mut state = self.0.state();
        state.counter += 1;
        let id = format!("{:064x}", state.counter);
        state.execs.insert(id.clone(), (config, None));
        Ok(id)
    }

    async fn exec_start(&self, id: &str, _: ExecStart) -> Result<Attached> {
        let config = self
            .0
            .state()
            .execs
            .get(id)
            .map(|(c, _)| c.clone())
            .ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))?;
        if config.cmd[0] == "refuse" {
            return Err(Error::invalid("exec failed: no such file: refuse"));
        }
        let (input, inbox) = mpsc::channel(8);
        let (to, from) = mpsc::channel(64);
        let (fake, id, tty) = (Arc::clone(&self.0), id.to_owned(), config.tty);
        tokio::spawn(async move {
            let never = tokio::sync::Notify::new();
            let code =
                run(&config.cmd, inbox, &never, |stream, data| drop(to.try_send(Ok(Output { stream, data })))).await;
            if let Some(exec) = fake.state().execs.get_mut(&id) {
                exec.1 = Some(code);
            }
        });
        Ok(Attached { tty, output: ReceiverStream::new(from).boxed(), input })
    }

    async fn exec_resize(&self, _: &str, _: u16, _: u16) -> Result<()> {
        Ok(())
    }

    async fn exec_inspect(&self, id: &str) -> Result<ExecInspect> {
        let state = self.0.state();
        let (_, code) = state.execs.get(id).ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))?;
        Ok(ExecInspect { id: id.to_owned(), running: code.is_none(), exit_code: *code, ..ExecInspect::default() })
    }

    async fn archive_stat(&self, _: &str, path: String) -> Result<PathStat> {
        Ok(PathStat { name: path.trim_matches('/').to_owned(), mode: 1 << 31 | 0o755, ..PathStat::default() })
    }

    async fn archive_put(&self, _: &str, _: String, _: bool, _: bool, mut tar: Stream<Bytes>) -> Result<()> {
        while let Some(part) = tar.next().await {
            self.0.uploaded.lock().expect("not poisoned").extend_from_slice(&part?);
        }
        Ok(())
    }

    async fn image_list(&self, _: bool, _: bool, _: Filters) -> Result<Listed<ImageSummary>> {
        let image = ImageSummary {
            id: IMAGE_ID.into(),
            repo_tags: vec![IMAGE.into()],
            size: 1,
            containers: -1,
            shared_size: -1,
            ..Default::default()
        };
        Ok(vec![image].into())
    }

    async fn image_inspect(&self, name: &str) -> Result<ImageInspect> {
        if name != IMAGE {
            return Err(Error::not_found(format!("No such image: {name}")));
        }
        Ok(ImageInspect { id: IMAGE_ID.into(), repo_tags: vec![IMAGE.into()], ..ImageInspect::default() })
    }

    async fn image_pull(&self, pull: Pull) -> Result<Stream<ProgressLine>> {
        if pull.reference.contains("none") {
            return Err(Error::not_found(format!("manifest for {} not found: manifest unknown", pull.reference)));
        }
        let who = pull.auth.map(|a| a.username).unwrap_or_default();
        let lines = [
            Ok(ProgressLine::about(pull.reference, format!("Pulling as {who:?}"), 1, 2)),
            Err(Error::internal("the disk is full")),
        ];
        Ok(stream::iter(lines).boxed())
    }

    async fn image_remove(&self, name: &str, _: bool, _: bool) -> Result<Vec<ImageDeleteItem>> {
        Ok(vec![ImageDeleteItem { untagged: name.to_owned(), ..ImageDeleteItem::default() }])
    }

    async fn image_load(&self, tar: Stream<Bytes>, _: bool, _: String) -> Result<Stream<ProgressLine>> {
        let sizes = tar.map(|part| part.map(|bytes| bytes.len()));
        let total = sizes.fold(0, |sum, size| async move { sum + size.unwrap_or(0) }).await;
        Ok(stream::iter([Ok(ProgressLine::stream(format!("Loaded {total} bytes\n")))]).boxed())
    }

    async fn network_list(&self, filters: Filters) -> Result<Listed<NetworkResource>> {
        let fits = filters.matches_exactly("driver", "bridge") && !filters.contains("label");
        Ok(fits.then(bridge).into_iter().collect::<Vec<_>>().into())
    }

    async fn network_inspect(&self, name: &str) -> Result<NetworkResource> {
        if name == "bridge" { Ok(bridge()) } else { Err(Error::not_found(format!("network {name} not found"))) }
    }
}

fn bridge() -> NetworkResource {
    NetworkResource {
        name: "bridge".into(),
        id: "b".repeat(64),
        driver: "bridge".into(),
        scope: "local".into(),
        ..Default::default()
    }
}

/// A running face over a fake; ends with the test.
pub struct Server {
    pub socket: std::path::PathBuf,
    pub fake: Arc<Fake>,
    pub folder: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    done: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    pub fn start(cluster: Option<Arc<dyn Cluster>>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&socket).expect("binds");
        let fake = Fake::new();
        let settings = muster_docker_api::Settings { server_version: "0.1.0".into(), continue_trace: |_, _| {} };
        let api = Arc::new(muster_docker_api::Api::new(engine(&fake), cluster, &settings));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let done = tokio::spawn(muster_docker_api::serve(listener, api, async { drop(stopped.await) }));
        Self { socket, fake, folder, stop: Some(stop), done: Some(done) }
    }

    /// Asks for shutdown and waits for it.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        self.done.take().expect("stopped once").await.expect("the server does not panic");
    }
}
