//! `muster`: the operator's client of the cluster API.
//!
//! Speaks `muster.v1` to one host: over its own socket without any set-up, over mutual TLS with a context's certificate from
//! elsewhere. It follows the habits of `docker`: tables, `--format`, exit codes.
//!
//! Exit codes: 0; the command's own for `exec` and `run`; 1 for a refused or failed call; 125 when the host cannot be asked
//! at all; 2 for a wrong command line.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod connect;
mod context;
mod render;
mod terminal;

use clap::Parser as _;
use std::process::ExitCode;

/// What a command ends with that the signal SIGPIPE has ended.
const NO_READER: i32 = 128 + 13;

/// A reader that has seen enough, as in `muster info | head`, ends the command without a word, as it ends others.
fn end_quietly_without_a_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(NO_READER);
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    end_quietly_without_a_reader();
    let args = args::Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("muster: the runtime cannot be started: {e}");
            return ExitCode::from(125);
        }
    };
    let outcome = runtime.block_on(commands::run(args));
    // Reading the terminal blocks a thread that nobody can wake: it ends with the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("Error: {e:#}");
            ExitCode::from(if e.is::<connect::Unreachable>() { 125 } else { 1 })
        }
    }
}
