//! Starting shims: for a container (which runs `runc create`) and for an exec (which waits to be told).

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::BytesMut;
use muster_shim::wire;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{RuncRuntime, client, folder};
use crate::attach::next_frame;
use crate::cgroup::{Layout, Paths};
use crate::error::{Error, Result};
use crate::{CreateSpec, Created, ExecSpec, LogDriver, ProcessRef};

impl RuncRuntime {
    pub(super) async fn create_container(&self, spec: &CreateSpec) -> Result<Created> {
        let process = ProcessRef::Container(&spec.id);
        self.folders.check(process)?;
        let folder = self.folders.create(process)?;
        let created = self.launch_container(spec, &folder).await;
        if created.is_err() {
            // The first error is the one to tell; what cannot be removed now is met again by sweep.
            let _ = self.remove_container(&spec.id, true).await;
        }
        created
    }

    async fn launch_container(&self, spec: &CreateSpec, folder: &Path) -> Result<Created> {
        let paths = self.write_bundle(spec)?;
        let mut command = self.shim("container", folder, &spec.id)?;
        command.arg("--bundle").arg(&spec.bundle).arg("--exit-file").arg(spec.state_dir.join(folder::EXIT));
        stdio_args(&mut command, spec.stdio);
        if spec.log.driver == LogDriver::JsonFile {
            command.arg("--log-path").arg(&spec.log.path);
            command.arg("--log-max-file").arg(spec.log.max_file.max(1).to_string());
            if spec.log.compress {
                command.arg("--log-compress");
            }
            if let Some(bytes) = spec.log.max_size {
                command.arg("--log-max-size").arg(bytes.to_string());
            }
        }
        if let Some(file) = paths.oom_file() {
            command.arg("--oom-file").arg(file);
        }
        let pid = started(command, &spec.id, &self.config.shim).await?;
        Ok(Created { pid })
    }

    /// Writes `config.json` and the notes; takes an older exit record away, which would be taken for this life's.
    fn write_bundle(&self, spec: &CreateSpec) -> Result<Paths> {
        for dir in [&spec.bundle, &spec.state_dir] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("make folder", dir))?;
        }
        let exit = spec.state_dir.join(folder::EXIT);
        match fs::remove_file(&exit) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", exit)(error)),
            _ => {}
        }
        let cgroup = spec.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
        let cgroup = cgroup.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        if !cgroup.starts_with('/') {
            return Err(Error::Unsupported { field: "linux.cgroupsPath", reason: "must be an absolute path".into() });
        }
        let state_dir = spec.state_dir.to_str().ok_or_else(|| Error::Unsupported {
            field: "state_dir",
            reason: format!("{} is not UTF-8", spec.state_dir.display()),
        })?;
        self.folders.write_note(&spec.id, folder::STATE_DIR, state_dir)?;
        self.folders.write_note(&spec.id, folder::CGROUP, &cgroup)?;
        let config = spec.bundle.join("config.json");
        let text = serde_json::to_vec(&spec.spec).map_err(|error| Error::io("encode", &config)(error.into()))?;
        fs::write(&config, text).map_err(Error::io("write", config))?;
        Ok(self.layout.paths(&cgroup))
    }

    pub(super) async fn prepare_exec(&self, id: &str, exec_id: &str, spec: &ExecSpec) -> Result<()> {
        let process = ProcessRef::Exec { container: id, exec: exec_id };
        self.folders.check(process)?;
        let folder = self.folders.create(process)?;
        let prepared = self.launch_exec(id, exec_id, spec, &folder).await;
        if prepared.is_err() {
            let _ = self.folders.remove(process);
        }
        prepared
    }

    async fn launch_exec(&self, id: &str, exec_id: &str, spec: &ExecSpec, folder: &Path) -> Result<()> {
        let file = folder.join("process.json");
        let text = serde_json::to_vec(&spec.process).map_err(|error| Error::io("encode", &file)(error.into()))?;
        fs::write(&file, text).map_err(Error::io("write", &file))?;
        let mut command = self.shim("exec", folder, id)?;
        command.arg("--process").arg(&file).arg("--exit-file").arg(folder.join(folder::EXIT));
        stdio_args(&mut command, spec.stdio);
        started(command, exec_id, &self.config.shim).await.map(|_| ())
    }

    /// A command that starts a shim with what both kinds need. Its environment is empty but for PATH: neither secrets nor
    /// settings of the daemon live on in a process that outlives it.
    fn shim(&self, mode: &str, folder: &Path, id: &str) -> Result<Command> {
        let errors = folder.join("shim.log");
        let errors = fs::File::create(&errors).map_err(Error::io("create", errors))?;
        let mut command = Command::new(&self.config.shim);
        command.arg(mode).arg("--dir").arg(folder).arg("--id").arg(id);
        command.arg("--runtime").arg(&self.config.runtime).arg("--root").arg(self.folders.runtime_root());
        command.arg("--stall-ms").arg(self.config.stall_ms.to_string());
        for file in &self.shim_cgroups {
            command.arg("--cgroup").arg(file);
        }
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        Ok(command)
    }
}

fn stdio_args(command: &mut Command, stdio: crate::Stdio) {
    if stdio.tty {
        command.arg("--tty");
    }
    if stdio.open_stdin {
        command.arg("--stdin");
    }
    if let Some(size) = stdio.size {
        command.arg("--size").arg(format!("{}x{}", size.width, size.height));
    }
}

/// Starts a shim and waits for its one frame: the pid, or why not. The process started here only forks the shim and ends, so
/// that the shim is no child of the daemon.
async fn started(mut command: Command, id: &str, shim: &Path) -> Result<u32> {
    let mut child = command.spawn().map_err(Error::io("run", shim))?;
    let Some(mut stdout) = child.stdout.take() else { return Err(Error::ShimGone { id: id.to_owned() }) };
    let mut buffer = BytesMut::with_capacity(1024);
    let frame = loop {
        if let Some(frame) = next_frame(&mut buffer)? {
            break Some(frame);
        }
        match stdout.read_buf(&mut buffer).await {
            Ok(n) if n > 0 => {}
            _ => break None,
        }
    };
    child.wait().await.map_err(Error::io("wait for", shim))?;
    match frame {
        Some((wire::OK, payload)) => Ok(wire::u32_at(&payload, 0).unwrap_or(0)),
        Some((wire::ERR, payload)) => Err(client::refusal(id, &payload)),
        Some((kind, _)) => Err(Error::Protocol(format!("frame of kind {kind:#x} from a starting shim"))),
        None => Err(Error::ShimGone { id: id.to_owned() }),
    }
}

/// Refuses a parent cgroup that is not absolute or climbs.
pub(super) fn check_parent(parent: &str) -> Result<()> {
    let good = parent.strip_prefix('/').is_some_and(|rest| {
        !rest.is_empty() && rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    });
    if good {
        return Ok(());
    }
    Err(Error::Unsupported {
        field: "cgroup_parent",
        reason: format!("{parent:?} must be an absolute path of plain names, as /muster/host1"),
    })
}

/// Makes `PARENT/shim` in the hierarchies that service managers kill and limit by, and gives their `cgroup.procs`: the shims
/// must live on when the daemon's own cgroup is emptied, and not count against its memory limit.
pub(super) fn make_shim_cgroups(layout: &Layout, parent: &str) -> Result<Vec<PathBuf>> {
    let paths = layout.paths(&format!("{parent}/shim"));
    let dirs = paths.unified.iter().chain(["name=systemd", "memory"].iter().filter_map(|name| paths.v1.get(*name)));
    dirs.map(|dir| {
        fs::create_dir_all(dir).map_err(Error::io("make cgroup", dir))?;
        Ok(dir.join("cgroup.procs"))
    })
    .collect()
}

/// Removes a cgroup's directories, those below first. What is in use stays.
pub(super) fn remove_cgroup(paths: &Paths) {
    for dir in paths.all() {
        remove_tree(dir);
    }
}

fn remove_tree(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}
