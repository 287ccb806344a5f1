//! The shim: one small process that holds a container's (or an exec's) standard streams and exit code, so that the daemon
//! may be killed, restarted or replaced without the container noticing.
//!
//! It is single-threaded, links no async runtime, and waits in one `poll`. In the order of a container's life it: forks away
//! from the daemon into a session and cgroup of its own; makes the pipes or takes the pseudo terminal; runs the OCI runtime as
//! its child and, being a subreaper, inherits the container's init; writes the log; serves its socket (`muster_shim::wire`);
//! records the exit on disk; ends. It keeps no record of its own and never touches the container's cgroup.
//!
//! If it is itself killed, the container loses its streams; the daemon sees the socket close and kills the container.
//!
//! `muster-shim container|exec FLAGS` (see [`args`]), `muster-shim init -- COMMAND`, or under the name `docker-init`:
//! the init of `--init`; `muster-shim compress FILE`: see [`compress`]. Read first: [`monitor::Monitor`].

mod args;
mod client;
mod compress;
mod init;
mod lines;
mod log;
mod monitor;
mod oci;
mod requests;
mod stdio;
mod sys;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use args::{Mode, Options};
use muster_shim::wire;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().collect();
    let name = words.first().and_then(|name| name.rsplit('/').next()).unwrap_or("").to_owned();
    if name == "docker-init" || words.get(1).is_some_and(|mode| mode == "init") {
        let skip = if name == "docker-init" { 1 } else { 2 };
        return init::run(words.split_off(skip.min(words.len())));
    }
    if words.get(1).is_some_and(|mode| mode == "compress") {
        return compress::run(words.into_iter().nth(2));
    }
    match args::parse(words.into_iter().skip(1)) {
        Ok(options) => start(options),
        Err(error) => {
            eprintln!("muster-shim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Leaves the process that the daemon waits for, and becomes the monitor.
fn start(options: Options) -> ExitCode {
    match sys::detach() {
        Ok(sys::Side::Launcher) => return ExitCode::SUCCESS,
        Ok(sys::Side::Shim) => {}
        Err(error) => {
            answer(&mut sys::take_stdout(), Err(format!("fork: {error}")));
            return ExitCode::FAILURE;
        }
    }
    let mut status = sys::take_stdout();
    let exec = options.mode == Mode::Exec;
    match monitor::Monitor::new(options) {
        Ok(mut monitor) => {
            if exec {
                answer(&mut status, Ok(0));
            } else {
                monitor.report_to(status);
            }
            monitor.run()
        }
        Err(error) => {
            answer(&mut status, Err(error));
            ExitCode::FAILURE
        }
    }
}

/// The one frame that whoever started the shim waits for.
fn answer(status: &mut File, result: Result<u32, String>) {
    let mut frame = Vec::new();
    match result {
        Ok(pid) => wire::put(&mut frame, wire::OK, &pid.to_le_bytes()),
        Err(error) => wire::put_error(&mut frame, wire::ErrorCode::System, &error),
    }
    // Nobody there to hear it: the daemon died meanwhile.
    let _ = status.write_all(&frame);
}
