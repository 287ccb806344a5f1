//! `muster`: the operator's client of the cluster API.
//!
//! Speaks `muster.v1` to one host: over its own socket without any set-up, over mutual TLS with a context's certificate from
//! elsewhere. It follows the habits of `docker`: tables, `--format`, exit codes.
//!
//! Exit codes: 0; the command's own for `exec` and `run`; 1 for a refused or failed call; 125 when the host cannot be asked
//! at all; 2 for a wrong command line; 141, as SIGPIPE, when nobody reads its output any more.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod connect;
mod context;
mod out;
mod render;
mod template;
mod terminal;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            complain!("muster: the runtime cannot be started: {e}");
            return ExitCode::from(125);
        }
    };
    let outcome = runtime.block_on(commands::run(args));
    // Reading the terminal blocks a thread that nobody can wake: it ends with the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            complain!("Error: {e:#}");
            ExitCode::from(if e.is::<connect::Unreachable>() { 125 } else { 1 })
        }
    }
}
