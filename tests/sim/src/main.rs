//! `muster-sim [--seeds N] [--from N] [--seed N]`: runs seeds outside of the tests. A failing seed prints its trace.

use muster_sim::{Options, Report, run, run_with_trace_on_failure};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok((0, Some(seed))) => one(seed),
        Ok((seeds, from)) => many(from.unwrap_or(1), seeds),
        Err(e) => {
            eprintln!("{e}\nusage: muster-sim [--seeds N] [--from N] [--seed N]");
            ExitCode::from(2)
        }
    }
}

/// How many seeds, and from which; no number of seeds and one seed: that one, with its trace.
fn parse(mut args: impl Iterator<Item = String>) -> Result<(u64, Option<u64>), String> {
    let (mut seeds, mut from) = (2000, None);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg}: a number is missing"))?;
        let number = value.parse().map_err(|_| format!("{arg}: {value:?} is no number"))?;
        match arg.as_str() {
            "--seeds" => seeds = number,
            "--from" => from = Some(number),
            "--seed" => (seeds, from) = (0, Some(number)),
            _ => return Err(format!("unknown flag {arg}")),
        }
    }
    Ok((seeds, from))
}

fn one(seed: u64) -> ExitCode {
    let traced = run(seed, Options { trace: true, ..Options::default() });
    match traced {
        Ok(report) => {
            println!("seed {seed} keeps all promises: {report:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn many(from: u64, seeds: u64) -> ExitCode {
    let begin = Instant::now();
    let mut sum = Report::default();
    for seed in from..from.saturating_add(seeds) {
        match run_with_trace_on_failure(seed, Options::default()) {
            Ok(report) => add(&mut sum, report),
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{seeds} seeds from {from}: all promises kept; {sum:?}; {:.1} s", begin.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn add(sum: &mut Report, one: Report) {
    sum.virtual_us += one.virtual_us;
    sum.events += one.events;
    sum.commits += one.commits;
    sum.elections += one.elections;
    sum.crashes += one.crashes;
    sum.places += one.places;
    sum.settled_us = sum.settled_us.max(one.settled_us);
}
