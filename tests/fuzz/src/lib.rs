//! Strangers' bytes thrown at the parsers that meet them: inputs of a corpus, changed at random by a seed, so that a run
//! repeats exactly. No instrumented compiler is needed.
//!
//! A target is a test that calls [`fuzz`]. It fails when its check panics, takes far too long, or takes far more memory than
//! its input is worth; the input is then kept in a file whose path is printed. Mended, the input goes into
//! `corpus/<target>`, and is tried first in every later run.
//!
//! `MUSTER_FUZZ_RUNS=n` tries n changed inputs for each target instead of a few thousand, `MUSTER_FUZZ_SEED=k` other ones.

mod memory;
mod mutate;
mod random;
mod run;

pub use memory::Counting;
pub use mutate::{repair_http, repair_tar};
pub use random::Random;
pub use run::{Target, fuzz, scratch};
