//! Running the OCI runtime binary, and understanding what it says when it refuses.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::Command;

use crate::error::{Error, Result};

/// The path of the runtime binary: as given when it has a slash, else looked up in PATH.
pub(super) fn locate(runtime: &Path) -> Result<PathBuf> {
    let missing = || Error::Unsupported {
        field: "runtime",
        reason: format!("no executable {} (in PATH or at that path)", runtime.display()),
    };
    if runtime.components().count() > 1 {
        return runtime.canonicalize().map_err(|_| missing());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(runtime)).find(|path| path.is_file()).ok_or_else(missing)
}

/// What `--version` says, for instance `runc` and `1.1.5`.
pub(super) async fn version(runtime: &Path) -> Result<(String, String)> {
    let output = Command::new(runtime).arg("--version").stdin(Stdio::null()).output().await;
    let output = output.map_err(Error::io("run", runtime))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().and_then(|line| Some((line.split(' ').next()?, line.rsplit(' ').next()?)));
    let words = line.filter(|(_, version)| !version.is_empty());
    words.map(|(program, version)| (program.to_owned(), version.to_owned())).ok_or_else(|| Error::Runtime {
        op: "version",
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Runs the runtime binary to its end. `log` is the file for its messages.
pub(super) async fn run(runtime: &Path, root: &Path, op: &'static str, args: &[&str]) -> Result<()> {
    run_with_input(runtime, root, op, args, &[]).await
}

/// As [`run`], with bytes on standard input.
pub(super) async fn run_with_input(
    runtime: &Path,
    root: &Path,
    op: &'static str,
    args: &[&str],
    input: &[u8],
) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut child = Command::new(runtime)
        .args(["--log-format", "json", "--root"])
        .arg(root)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("run", runtime))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A runtime that fails before it reads closes the pipe: its own message says more than EPIPE.
        let _ = stdin.write_all(input).await;
    }
    let output = child.wait_with_output().await.map_err(Error::io("run", runtime))?;
    if output.status.success() {
        return Ok(());
    }
    let said = last_error(&String::from_utf8_lossy(&output.stderr));
    Err(classify(op, &said.unwrap_or_else(|| format!("{}", output.status))))
}

/// The last error in a runtime's log: JSON lines with `level` and `msg`, plain lines in between.
pub(super) fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let of_line = |line: &str| match serde_json::from_str::<Line>(line) {
        Ok(line) => matches!(line.level.as_str(), "error" | "fatal" | "panic").then_some(line.msg),
        Err(_) => Some(line.trim().to_owned()).filter(|line| !line.is_empty()),
    };
    log.lines().rev().find_map(of_line)
}

/// Turns a runtime's message into a typed error. The phrases are those of Go's os/exec (runc), of crun and of youki.
pub(super) fn classify(op: &'static str, text: &str) -> Error {
    let message = last_error(text).unwrap_or_else(|| text.to_owned());
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    // Only what concerns the command itself: a missing mount source says "no such file" too.
    if has(&["exec: ", "executable file", "exec format error", "open executable"]) {
        if has(&["executable file not found", "no such file or directory"]) {
            return Error::CommandNotFound { message };
        }
        if has(&["permission denied", "is a directory", "exec format error"]) {
            return Error::CommandNotExecutable { message };
        }
    }
    Error::Runtime { op, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runc_says_of_a_command_becomes_dockers_exit_codes() {
        let say = |cause: &str| {
            format!(
                "{{\"level\":\"error\",\"msg\":\"runc create failed: unable to start container process: {cause}\",\"time\":\"2026-01-01T00:00:00Z\"}}\n"
            )
        };
        let code = |cause: &str| classify("create", &say(cause)).exit_code();
        assert_eq!(code("exec: \\\"nope\\\": executable file not found in $PATH"), 127);
        assert_eq!(code("exec: \\\"/nope\\\": stat /nope: no such file or directory"), 127);
        assert_eq!(code("exec: \\\"/etc/passwd\\\": permission denied"), 126);
        assert_eq!(code("exec: \\\"/etc\\\": is a directory"), 126);
        assert_eq!(code("error during container init: error mounting \\\"/x\\\": no such file or directory"), 128);
    }

    #[test]
    fn the_last_error_is_found_among_warnings_and_plain_lines() {
        let log = "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"second\"}\n{\"level\":\"warning\",\"msg\":\"third\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("second"));
        assert_eq!(last_error("plain words\n\n").as_deref(), Some("plain words"));
        assert_eq!(last_error(""), None);
    }
}
