//! The driver: corpus first, then changed inputs; what fails is kept.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Random, memory, mutate};

/// Longest time for one input: a thousand times what the slowest takes on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// One target at a time in a test program, as memory is counted for the whole of it.
static ALONE: Mutex<()> = Mutex::new(());

/// What is fuzzed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Folder of the corpus.
    pub name: &'static str,
    /// Changed inputs to try, unless `MUSTER_FUZZ_RUNS` says otherwise.
    pub runs: u64,
    /// Words that mean something to the parser.
    pub words: &'static [&'static str],
    /// Makes a changed input whole enough to get past the first check; not applied to one in eight.
    pub repair: Option<fn(&mut Vec<u8>)>,
    /// Most bytes of memory that one check may take.
    pub most_memory: usize,
}

/// Runs `check` on the corpus of `target` and on what is made of it. `check` panics when it finds something.
///
/// # Panics
/// With the path of the input that failed.
pub fn fuzz(target: &Target, check: impl Fn(&[u8])) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let corpus = corpus(target.name);
    for input in &corpus {
        let mut input = input.clone();
        try_one(target, &check, &input);
        if let Some(repair) = target.repair {
            repair(&mut input);
            try_one(target, &check, &input);
        }
    }
    let seed = number("MUSTER_FUZZ_SEED").unwrap_or(1);
    for run in 0..number("MUSTER_FUZZ_RUNS").unwrap_or(target.runs) {
        let mut random = Random::new(seed.wrapping_mul(0x1_0000_0000).wrapping_add(run));
        let mut input = random.pick(&corpus).clone();
        mutate::mutate(&mut input, &corpus, target.words, &mut random);
        if let Some(repair) = target.repair
            && !random.once_in(8)
        {
            repair(&mut input);
        }
        try_one(target, &check, &input);
    }
}

fn try_one(target: &Target, check: &impl Fn(&[u8]), input: &[u8]) {
    let (before, began) = (memory::begin(), Instant::now());
    let outcome = catch_unwind(AssertUnwindSafe(|| check(input)));
    let (peak, took) = (memory::peak(before), began.elapsed());
    let why = if outcome.is_err() {
        "it panicked".to_owned()
    } else if took > PATIENCE {
        format!("it took {took:?}")
    } else if peak > target.most_memory {
        format!("it took {peak} bytes of memory, {} are allowed", target.most_memory)
    } else {
        return;
    };
    panic!("{}: {why}; the input is in {}", target.name, keep(target.name, input).display());
}

/// A folder for one test, in memory where the machine has such: thousands of small files need no disk.
///
/// # Panics
/// When none can be made.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder for temporary files")
}

/// Keeps an input outside of the sources.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = std::env::temp_dir().join(format!("muster-fuzz-{name}-{:016x}", hasher.finish()));
    std::fs::write(&path, input).expect("the folder for temporary files takes the input");
    path
}

/// The inputs in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let listed = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = listed.map(|entry| entry.expect("the corpus can be listed").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: no inputs", folder.display());
    paths.iter().map(|path| std::fs::read(path).expect("the corpus can be read")).collect()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}
