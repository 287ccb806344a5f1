//! A whole cluster in one thread and virtual time: the real cores under a shell made of chance.
//!
//! Managers ([`muster_controller_core::Manager`] over [`muster_consensus::Consensus`]), agents
//! ([`muster_agent_core::Worker`]), disks that lose what was not synced, a network that loses, doubles, delays, reorders
//! and parts, clocks that are wrong, daemons that crash and hosts that lose power: all of it drawn from one seed. After each
//! event the promises of [`check`] must hold, and some time after the faults end the cluster must have settled
//! ([`settle`]). The same seed gives the same run, event by event; a failing one is run again with its trace.
//!
//! Nothing here sleeps, reads a clock, or talks to anything. Read first: [`run`], [`world::World`], [`check::Checker`].

#![forbid(unsafe_code)]

pub mod agents;
pub mod check;
pub mod disk;
pub mod doors;
pub mod faults;
pub mod loss;
pub mod managers;
pub mod net;
pub mod places;
pub mod rng;
pub mod runtime;
pub mod script;
pub mod settle;
pub mod storage;
pub mod time;
pub mod world;

use std::fmt;
use world::World;

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep every line of what happens.
    pub trace: bool,
    /// A fault of the shell, to show that it is found: messages that must wait for the disk do not.
    pub acknowledge_before_disk: bool,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Virtual time that passed, in microseconds.
    pub virtual_us: u64,
    pub events: u64,
    /// Entries committed.
    pub commits: u64,
    pub elections: u64,
    pub crashes: u64,
    /// Containers of no service that were given a place on a network.
    pub places: u64,
    /// From the end of the faults until the cluster had settled.
    pub settled_us: u64,
}

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// Virtual time of the break, in microseconds.
    pub at_us: u64,
    pub broken: check::Broken,
    /// One line per thing that happened, if asked for.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        let at = self.at_us as f64 / 1e6;
        writeln!(f, "seed {} broke a promise at {at:.6} s: {}", self.seed, self.broken)?;
        write!(f, "replay: MUSTER_SIM_SEED={} cargo test -p muster-sim", self.seed)
    }
}

/// Runs one seed to its end.
///
/// # Errors
/// [`Failure`] names the promise that was broken.
pub fn run(seed: u64, options: Options) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, options);
    match world.run() {
        Ok(report) => Ok(report),
        Err(broken) => Err(Box::new(Failure { seed, at_us: world.now, broken, trace: world.take_trace() })),
    }
}

/// Runs one seed of a cluster whose leader's host is lost for good, and that nothing else happens to.
///
/// # Errors
/// As [`run`].
pub fn lose_leader(seed: u64, options: Options) -> Result<loss::Loss, Box<Failure>> {
    let mut world = World::new(seed, options);
    match world.lose_leader() {
        Ok(loss) => Ok(loss),
        Err(broken) => Err(Box::new(Failure { seed, at_us: world.now, broken, trace: world.take_trace() })),
    }
}

/// Runs one seed, and a failing one once more with its trace.
///
/// # Errors
/// As [`run`].
pub fn run_with_trace_on_failure(seed: u64, options: Options) -> Result<Report, Box<Failure>> {
    run(seed, options).or_else(|_| run(seed, Options { trace: true, ..options }))
}
