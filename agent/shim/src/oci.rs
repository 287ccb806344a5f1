//! Running the OCI runtime: `create` of a container, `exec` in one, and the start of a created one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::args::{Mode, Options};
use crate::stdio::Far;

/// Most bytes of the runtime's log that are passed on as its reason.
const MAX_REASON: u64 = 16 * 1024;

impl Options {
    fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    fn runtime_log(&self) -> PathBuf {
        self.dir.join("rt.log")
    }

    /// The command that creates the container or runs the exec. `console` is the path of the console socket.
    pub fn launch(&self, far: Far, console: Option<&str>) -> io::Result<u32> {
        let mut command = self.runtime_command();
        match self.mode {
            Mode::Container => command.arg("create").arg("--bundle").arg(&self.bundle),
            Mode::Exec => command.arg("exec").arg("--detach").arg("--process").arg(&self.process),
        };
        command.arg("--pid-file").arg(self.pid_file());
        if let Some(console) = console {
            command.arg("--console-socket").arg(console);
        }
        command.arg(&self.id).stdin(far.stdin).stdout(far.stdout).stderr(far.stderr);
        command.spawn().map(|child| child.id())
    }

    /// The command that starts a created container, for runtimes without the fifo.
    pub fn launch_start(&self) -> io::Result<u32> {
        let mut command = self.runtime_command();
        command.arg("start").arg(&self.id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(|child| child.id())
    }

    fn runtime_command(&self) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.root).arg("--log").arg(self.runtime_log()).args(["--log-format", "json"]);
        command
    }

    /// The pid that the runtime wrote.
    pub fn read_pid(&self) -> Option<i32> {
        fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// The runtime's own words, as lines of its log.
    pub fn reason(&self, code: i32) -> String {
        use std::io::Read;
        let mut text = String::new();
        if let Ok(file) = File::open(self.runtime_log()) {
            // Not UTF-8, or not readable: the code below is all there is to say.
            let _ = file.take(MAX_REASON).read_to_string(&mut text);
        }
        if text.trim().is_empty() { format!("the runtime ended with code {code} and no message") } else { text }
    }

    /// The fifo at which the init of a created container waits in runc and crun: opening it to read lets it go on, which is
    /// all that their `start` does. `None` for a runtime that has no such file.
    pub fn exec_fifo(&self) -> Option<(PathBuf, File)> {
        let path = self.root.join(&self.id).join("exec.fifo");
        fs::symlink_metadata(&path).ok().filter(|meta| meta.file_type().is_fifo())?;
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path).ok()?;
        Some((path, file))
    }
}
