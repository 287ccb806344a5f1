//! A host for real engines: temporary folders, a cgroup parent of its own, a busybox image, and the certainty that nothing is
//! left of them, also after a failed assertion.

#![allow(dead_code)]

pub mod fragile;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use muster_calls::{
    Attach, Attached, Engine, Import, Input, ListContainers, RemoveContainer, StdStream, WaitCondition,
};
use muster_engine::{EngineConfig, LocalEngine, NoNetwork};
use muster_image::Store;
use muster_model::engine::{ContainerCreateBody, ContainerInspect};
use muster_runtime::{RuncConfig, RuncRuntime, Runtime};
use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub const IMAGE: &str = "busybox:test";
/// More than anything here takes, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The shim of this build; built here where it is missing or older than its source.
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let test = std::env::current_exe().expect("own path");
        let path = test.parent().and_then(Path::parent).expect("target/debug/deps").join("muster-shim");
        let changed = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shim/src");
        let newest =
            fs::read_dir(&source).expect("the shim's source").flatten().filter_map(|e| changed(&e.path())).max();
        if changed(&path) < newest {
            let status = Command::new(env!("CARGO"))
                .args(["build", "--quiet", "--package", "muster-shim", "--bin", "muster-shim"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .expect("cargo runs");
            assert!(status.success(), "the shim does not build");
        }
        assert!(path.exists(), "no shim at {}", path.display());
        path
    })
}

/// Folders and cgroups of one engine; the engine itself may come and go.
pub struct Host {
    pub dir: PathBuf,
    parent: String,
    /// Removed with the host; `None` in a process that shares another's folder.
    _temp: Option<tempfile::TempDir>,
}

impl Host {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make containers: run them as root");
        let temp = tempfile::tempdir().expect("temporary folder");
        let parent = format!("/muster-engine-test/{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { dir: temp.path().to_owned(), parent, _temp: Some(temp) }
    }

    /// The same host in another process.
    pub fn of(dir: &str, parent: &str) -> Self {
        Self { dir: dir.into(), parent: parent.to_owned(), _temp: None }
    }

    pub fn parent(&self) -> &str {
        &self.parent
    }

    async fn runtime(&self) -> RuncRuntime {
        let config = RuncConfig::new(shim(), self.dir.join("run/runtime"), &self.parent);
        RuncRuntime::new(config).await.expect("runtime")
    }

    pub async fn config(&self) -> EngineConfig {
        self.config_at(&self.dir).await
    }

    /// With what survives a reboot below another folder.
    pub async fn config_at(&self, disk: &Path) -> EngineConfig {
        let images = Store::open(&disk.join("images")).expect("store");
        let runtime = Arc::new(self.runtime().await);
        let mut config = EngineConfig::new(
            disk.join("data"),
            self.dir.join("run"),
            runtime,
            images,
            Arc::new(NoNetwork),
            shim().to_owned(),
        );
        config.name = "test".to_owned();
        config.cgroup_parent.clone_from(&self.parent);
        config
    }

    /// Opens the engine, with the test image in its store.
    pub async fn open(&self) -> Arc<LocalEngine> {
        let engine = LocalEngine::open(self.config().await).await.expect("engine opens");
        if engine.image_inspect(IMAGE).await.is_err() {
            import(&*engine, IMAGE).await;
        }
        engine
    }

    /// What is mounted below the host's folder.
    pub fn mounts(&self) -> Vec<String> {
        let base = self.dir.to_string_lossy().into_owned();
        let table = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let points = table.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| p.starts_with(&base));
        points.map(str::to_owned).collect()
    }

    /// Removes every container and asserts that nothing of them is left.
    pub async fn finish(self, engine: Arc<LocalEngine>) {
        let all = ListContainers { all: true, ..ListContainers::default() };
        for container in engine.container_list(all).await.expect("list").items {
            engine
                .container_remove(&container.id, RemoveContainer { force: true, volumes: true })
                .await
                .expect("removed");
        }
        engine.shutdown().await;
        assert_eq!(self.mounts(), Vec::<String>::new(), "mounts are left");
        let entries = |name: &str| fs::read_dir(self.dir.join(name)).map_or(0, |d| d.count());
        for folder in ["data/containers", "images/snapshots", "run/netns", "run/runtime/c"] {
            assert_eq!(entries(folder), 0, "{folder} is not empty");
        }
    }
}

impl Drop for Host {
    /// Whatever the test left, in whatever state.
    fn drop(&mut self) {
        if self._temp.is_none() {
            return;
        }
        // A runtime of its own, in a thread of its own: this may run inside of one that is ending.
        std::thread::scope(|threads| {
            let cleaned = threads.spawn(|| {
                let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
                tokio.block_on(async {
                    let runtime = self.runtime().await;
                    runtime.sweep(&[]).await.expect("swept");
                    let deadline = Instant::now() + PATIENCE;
                    let dirs = runtime.layout().paths(&self.parent);
                    // The kernel lets a cgroup go a moment after its last process.
                    while dirs.all().iter().any(|d| d.exists()) && Instant::now() < deadline {
                        runtime.remove_cgroups();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    for dir in dirs.all() {
                        // Shared by hosts that run at the same time: the last one takes it away.
                        let _ = dir.parent().map(fs::remove_dir);
                    }
                });
            });
            if cleaned.join().is_err() {
                eprintln!("the test host could not be cleaned up");
            }
        });
        for mount in self.mounts().iter().rev() {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// What the engine has noted of a container last, in the container's folder.
pub fn record_in(folder: &Path) -> Option<serde_json::Value> {
    let read = |name: &str| fs::read(folder.join(name)).ok();
    serde_json::from_slice(&read("recent.json").or_else(|| read("record.json"))?).ok()
}

/// A tar of a root file system with busybox and a few files.
fn rootfs() -> Vec<u8> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|p| Path::new(p).exists())
        .expect("busybox-static is installed");
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(true);
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    };
    let mut dir = |path: &str, mode: u32| {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        tar.append_data(&mut header, path, std::io::empty()).expect("folder");
    };
    for (path, mode) in
        [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("filled", 0o750), ("mnt", 0o755)]
    {
        dir(path, mode);
    }
    tar.append_path_with_name(busybox, "bin/busybox").expect("busybox");
    let mut file = |path: &str, text: &str| {
        let mut header = header(tar::EntryType::Regular, 0o644, text.len());
        tar.append_data(&mut header, path, text.as_bytes()).expect("file");
    };
    file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
    file("etc/group", "root:x:0:\nnogroup:x:65534:\n");
    file("filled/seed", "from the image\n");
    for applet in [
        "sh", "cat", "echo", "sleep", "true", "false", "env", "id", "ls", "stat", "test", "touch", "tty", "stty",
        "hostname", "mount", "grep", "kill", "head", "dd", "rm", "wc", "ln",
    ] {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("link");
    }
    tar.into_inner().expect("tar")
}

/// Imports the test image under a name.
pub async fn import(engine: &dyn Engine, name: &str) {
    static ROOTFS: OnceLock<Bytes> = OnceLock::new();
    let tar = ROOTFS.get_or_init(|| rootfs().into()).clone();
    let (repo, tag) = name.rsplit_once(':').expect("name with a tag");
    let changes = vec!["CMD [\"sh\"]".to_owned(), "ENV PATH=/bin".to_owned(), "LABEL made=here".to_owned()];
    let import = Import { repo: repo.to_owned(), tag: tag.to_owned(), changes, ..Import::default() };
    let lines = engine.image_import(stream::iter([Ok(tar)]).boxed(), import).await.expect("imported");
    lines.for_each(|line| async move { assert_eq!(line.expect("line").error, "") }).await;
}

/// A container that runs `script` in a shell.
pub fn script(script: &str) -> ContainerCreateBody {
    command(&["sh", "-c", script])
}

pub fn command(words: &[&str]) -> ContainerCreateBody {
    let mut body = ContainerCreateBody::default();
    body.config.image = IMAGE.to_owned();
    body.config.cmd = words.iter().copied().collect();
    (body.config.attach_stdout, body.config.attach_stderr) = (true, true);
    body
}

/// Fails the test where it would hang.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until something is so that tells nobody.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub struct Outcome {
    pub id: String,
    pub code: i64,
    pub stdout: String,
    pub stderr: String,
}

/// What `docker run` does: create, wait, attach, start.
pub async fn run(engine: &LocalEngine, name: Option<&str>, body: ContainerCreateBody) -> Outcome {
    let condition = if body.host_config.auto_remove { WaitCondition::Removed } else { WaitCondition::NextExit };
    let id = engine.container_create(name.map(str::to_owned), String::new(), body).await.expect("created").id;
    let ended = engine.container_wait(&id, condition).await.expect("waits");
    let attach = Attach { stdout: true, stderr: true, stream: true, ..Attach::default() };
    let attached = engine.container_attach(&id, attach).await.expect("attached");
    engine.container_start(&id).await.expect("started");
    let (stdout, stderr) = within(collect(attached)).await;
    let code = within(ended).await.expect("ended").status_code;
    Outcome { id, code, stdout, stderr }
}

/// Creates and starts, as `docker run -d`.
pub async fn start(engine: &LocalEngine, name: &str, body: ContainerCreateBody) -> String {
    let id = engine.container_create(Some(name.to_owned()), String::new(), body).await.expect("created").id;
    engine.container_start(&id).await.expect("started");
    id
}

/// All output of a connection: standard output and error.
pub async fn collect(mut attached: Attached) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = attached.output.next().await {
        let piece = piece.expect("output");
        let to = if piece.stream == StdStream::Stderr { &mut err } else { &mut out };
        to.extend_from_slice(&piece.data);
    }
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(out), text(err))
}

pub async fn send(attached: &Attached, text: &str) {
    attached.input.send(Input::Data(Bytes::copy_from_slice(text.as_bytes()))).await.expect("input is open");
}

pub async fn inspect(engine: &LocalEngine, id: &str) -> ContainerInspect {
    engine.container_inspect(id, false).await.expect("inspected")
}

pub async fn state(engine: &LocalEngine, id: &str) -> String {
    inspect(engine, id).await.state.status
}
