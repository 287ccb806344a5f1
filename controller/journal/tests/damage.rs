//! Random damage: an error or a shorter log, never a panic, and never a record that was not written.

use muster_journal::{HardState, Meta, Options, Record, open};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

const OPTIONS: Options = Options { segment_bytes: 4 << 10, checkpoint_cache_bytes: 1 << 20 };

fn record(index: u64) -> Record {
    Record { index, term: 1, data: vec![index as u8; (index * 13 % 200) as usize] }
}

fn hard(index: u64) -> HardState {
    HardState { term: 1, vote: 2, commit: index.saturating_sub(3) }
}

/// A folder with a log of 60 records and two checkpoints.
fn build(dir: &Path) {
    let mut opened = open(dir, OPTIONS).expect("opens");
    for index in 1..=60 {
        opened.journal.append(&[record(index)], hard(index)).expect("written");
    }
    for index in [20, 40] {
        let pairs = (0..20u8).map(|k| (vec![k], vec![index as u8; 50]));
        opened.checkpoints.write(&Meta { index, term: 1, membership: vec![9; 20] }, pairs).expect("written");
    }
    opened.journal.compact(opened.checkpoints.floor()).expect("compacted");
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("there") {
        let path = entry.expect("there").path();
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
    out.sort();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("there") {
        let path = entry.expect("there").path();
        let target = to.join(path.file_name().expect("named"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}

/// In memory: these folders need no durability.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    dir.expect("a temporary folder")
}

#[derive(Clone, Debug)]
enum Damage {
    Flip { at: prop::sample::Index, bit: u8 },
    Zero { at: prop::sample::Index, length: usize },
    Cut { at: prop::sample::Index },
    Noise { at: prop::sample::Index, bytes: Vec<u8> },
    Remove,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        2 => (any::<prop::sample::Index>(), 1..600usize).prop_map(|(at, length)| Damage::Zero { at, length }),
        1 => any::<prop::sample::Index>().prop_map(|at| Damage::Cut { at }),
        2 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Damage::Noise { at, bytes }),
        1 => Just(Damage::Remove),
    ]
}

fn apply(path: &Path, damage: &Damage) {
    let mut bytes = fs::read(path).expect("readable");
    if bytes.is_empty() {
        return;
    }
    match damage {
        Damage::Flip { at, bit } => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Zero { at, length } => {
            let from = at.index(bytes.len());
            let to = (from + length).min(bytes.len());
            bytes[from..to].fill(0);
        }
        Damage::Cut { at } => bytes.truncate(at.index(bytes.len())),
        Damage::Noise { at, bytes: noise } => {
            let from = at.index(bytes.len());
            let to = (from + noise.len()).min(bytes.len());
            bytes[from..to].copy_from_slice(&noise[..to - from]);
        }
        Damage::Remove => return fs::remove_file(path).expect("removed"),
    }
    fs::write(path, bytes).expect("written");
}

#[test]
fn random_damage_never_panics_and_never_invents_a_record() {
    let whole = tempfile::tempdir().expect("a temporary folder");
    build(whole.path());
    let mut names = Vec::new();
    files(whole.path(), &mut names);
    let config = ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() };
    proptest!(config, |(hits in prop::collection::vec((any::<prop::sample::Index>(), damage()), 1..4))| {
        let dir = scratch();
        copy(whole.path(), dir.path());
        for (which, damage) in &hits {
            let name = names[which.index(names.len())].strip_prefix(whole.path()).expect("below");
            let path = dir.path().join(name);
            if path.exists() {
                apply(&path, damage);
            }
        }
        if let Ok(opened) = open(dir.path(), OPTIONS) {
            for found in &opened.recovered.records {
                prop_assert_eq!(found, &record(found.index));
            }
            if let Some(checkpoint) = opened.recovered.checkpoint {
                let index = checkpoint.meta().index;
                prop_assert!([20, 40].contains(&index));
                for pair in checkpoint.pairs().expect("was checked") {
                    prop_assert_eq!(pair.expect("was checked").1, vec![index as u8; 50]);
                }
            }
        }
    });
}
