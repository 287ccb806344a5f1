//! A host for real containers: temporary folders, a cgroup parent of its own, a busybox root file system, and the certainty
//! that nothing is left of them, also after a failed assertion.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use muster_runtime::spec::{self, SpecInput};
use muster_runtime::{
    AttachOptions, Attachment, CreateSpec, ExecSpec, ExitStatus, LogConfig, Output, ProcessRef, RuncConfig,
    RuncRuntime, Runtime, Stdio,
};

/// More than anything here takes, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The shim of this build: built where it is missing or older than its sources (`cargo test` of one package does not build
/// the binary of another).
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let test = std::env::current_exe().expect("own path");
        let path = test.parent().and_then(Path::parent).expect("target/debug/deps").join("muster-shim");
        if changed(&path) < sources_changed() {
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

fn changed(path: &Path) -> SystemTime {
    path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn sources_changed() -> SystemTime {
    let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shim");
    let sources = fs::read_dir(shim.join("src")).expect("sources").flatten().map(|entry| entry.path());
    sources.chain([shim.join("build.rs"), shim.join("Cargo.toml")]).map(|path| changed(&path)).max().expect("sources")
}

/// One test's host.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub runtime: RuncRuntime,
    pub config: RuncConfig,
    pub facts: spec::Host,
    parent: String,
}

impl Host {
    pub async fn new() -> Host {
        Host::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut RuncConfig)) -> Host {
        assert!(rustix::process::geteuid().is_root(), "these tests make containers: run them as root");
        let dir = tempfile::tempdir().expect("temporary folder");
        make_rootfs(&dir.path().join("rootfs"));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/muster-test-{}-{number}", std::process::id());
        // Longer than a socket's path may be.
        let run = dir.path().join("run").join("d".repeat(100));
        let mut config = RuncConfig::new(shim(), run, &parent);
        change(&mut config);
        let runtime = RuncRuntime::new(config.clone()).await.expect("runtime");
        Host { dir, runtime, config, facts: spec::Host::detect().expect("host"), parent }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path("rootfs")
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.path(id).join(format!("{id}-json.log"))
    }

    /// A container's input that runs `script` in a shell.
    pub fn input(&self, id: &str, script: &str) -> SpecInput {
        SpecInput {
            rootfs: self.rootfs(),
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            hostname: id.to_owned(),
            cgroups_path: format!("{}/{id}", self.parent),
            ..SpecInput::default()
        }
    }

    pub fn create_spec(&self, id: &str, input: &SpecInput) -> CreateSpec {
        let built = spec::build(input, &self.facts).expect("spec");
        let folder = self.path(id);
        fs::create_dir_all(&folder).expect("folder");
        CreateSpec {
            id: id.to_owned(),
            bundle: folder.clone(),
            state_dir: folder,
            spec: built.spec,
            stdio: Stdio { tty: input.tty, open_stdin: false, size: None },
            log: LogConfig::json_file(self.log(id)),
        }
    }

    /// Creates and starts a container; its log goes to [`Host::log`].
    pub async fn run(&self, id: &str, script: &str) {
        let spec = self.create_spec(id, &self.input(id, script));
        self.runtime.create(&spec).await.expect("created");
        self.runtime.start(id).await.expect("started");
    }

    /// Runs a container to its end: exit, standard output, standard error.
    pub async fn output(&self, spec: &CreateSpec) -> (ExitStatus, String, String) {
        self.runtime.create(spec).await.expect("created");
        let attached = self.runtime.attach(container(&spec.id), AttachOptions::output()).await.expect("attached");
        self.runtime.start(&spec.id).await.expect("started");
        let result = collect(attached).await;
        self.runtime.delete(&spec.id, false).await.expect("deleted");
        result
    }

    pub async fn script(&self, id: &str, script: &str) -> (ExitStatus, String, String) {
        self.output(&self.create_spec(id, &self.input(id, script))).await
    }

    pub async fn wait(&self, id: &str) -> ExitStatus {
        within(self.runtime.wait(container(id))).await.expect("ended")
    }

    pub fn exec_spec(&self, create: &CreateSpec, exec: &spec::ExecInput) -> ExecSpec {
        let process = spec::exec_process(&create.spec, &self.rootfs(), exec, &self.facts).expect("exec spec");
        ExecSpec { process, stdio: Stdio { tty: exec.tty, open_stdin: true, size: None } }
    }

    /// Runs an exec to its end.
    pub async fn exec(&self, create: &CreateSpec, exec_id: &str, spec: &ExecSpec) -> (ExitStatus, String, String) {
        let id = &create.id;
        self.runtime.exec_create(id, exec_id, spec).await.expect("prepared");
        let process = ProcessRef::Exec { container: id, exec: exec_id };
        let options = AttachOptions { stdin: false, ..AttachOptions::output() };
        let attached = self.runtime.attach(process, options).await.expect("attached");
        self.runtime.exec_start(id, exec_id).await.expect("started");
        let result = collect(attached).await;
        self.runtime.exec_delete(id, exec_id).await.expect("deleted");
        result
    }

    /// Asserts that nothing is left: containers, cgroups, mounts, processes.
    pub async fn assert_clean(&self) {
        self.runtime.sweep(&[]).await.expect("swept");
        self.assert_nothing_left();
    }

    pub fn assert_nothing_left(&self) {
        let base = self.dir.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(&base), "mounts are left");
        let entries = |path: PathBuf| fs::read_dir(path).map_or(0, |entries| entries.count());
        assert_eq!(entries(self.config.run_dir.join("c")), 0, "run folders are left");
        assert_eq!(entries(self.config.run_dir.join("rt")), 0, "runtime state is left");
        for dir in self.runtime.layout().paths(&self.parent).all() {
            let left: Vec<_> = fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "shim")
                .collect();
            assert!(left.is_empty(), "cgroups are left: {left:?}");
        }
        wait_until("shims to be gone", || shims_of(&base).is_empty());
    }
}

impl Drop for Host {
    /// Whatever the test left, in whatever state: containers are killed by cgroup, then deleted.
    fn drop(&mut self) {
        let layout = self.runtime.layout().clone();
        let mut dirs = Vec::new();
        for dir in layout.paths(&self.parent).all() {
            dirs.extend(fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name()));
        }
        dirs.sort();
        dirs.dedup();
        for name in dirs.iter().filter_map(|name| name.to_str()).filter(|name| layout.paths(name).path != "/shim") {
            let _ = muster_runtime::cgroup::kill_all(&layout.paths(&format!("{}/{name}", self.parent)));
        }
        let root = self.config.run_dir.join("rt");
        for id in fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.file_name()) {
            let _ = Command::new("runc").arg("--root").arg(&root).args(["delete", "--force"]).arg(&id).output();
        }
        for pid in shims_of(&self.dir.path().to_string_lossy()) {
            kill(pid, 9);
        }
        // The kernel lets a cgroup go a moment after its last process.
        for _ in 0..500 {
            self.runtime.remove_cgroups();
            if layout.paths(&self.parent).all().iter().all(|dir| !dir.exists()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub fn container(id: &str) -> ProcessRef<'_> {
    ProcessRef::Container(id)
}

/// Pids of shims whose command line names a path below `base`.
pub fn shims_of(base: &str) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").expect("proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').next().is_some_and(|name| name.ends_with("muster-shim"))
            && String::from_utf8_lossy(&line).contains(base)
    })
    .collect()
}

pub fn kill(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    let signal = rustix::process::Signal::from_named_raw(signal).expect("a signal");
    let _ = rustix::process::kill_process(pid, signal);
}

/// All output of an attachment, and the exit at its end.
pub async fn collect(mut attached: Attachment) -> (ExitStatus, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match within(attached.output.next()).await.expect("output").expect("an exit before the end") {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
            Output::Exit(exit) => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                return (exit, text(&out), text(&err));
            }
        }
    }
}

/// Output until `wanted` has come.
pub async fn read_until(attached: &mut Attachment, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let piece = within(attached.output.next()).await.expect("output");
        let Some(piece) = piece else { panic!("ended with {text:?}, waiting for {wanted:?}") };
        assert!(!matches!(piece, Output::Exit(_)), "exited with {text:?}, waiting for {wanted:?}");
        text.push_str(&String::from_utf8_lossy(piece.bytes()));
    }
    text
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Polls what the kernel gives no event for.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn make_rootfs(root: &Path) {
    for dir in ["bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "root", "home/web"] {
        fs::create_dir_all(root.join(dir)).expect("folder");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "true", "false", "cat", "echo", "sleep", "id", "stty", "env", "ls", "head", "kill", "ps", "tty", "mount",
        "dd", "unshare", "hostname", "grep", "seq", "readlink", "wc", "mknod", "stat", "touch", "yes", "sync", "pwd",
    ] {
        symlink("busybox", root.join("bin").join(applet)).expect("link");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n").expect("passwd");
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:34:\nextra:x:50:web\n").expect("group");
    fs::write(root.join("etc/text"), "not a program\n").expect("file");
}
