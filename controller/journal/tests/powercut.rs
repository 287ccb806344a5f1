//! Power cuts under the real journal and the real checkpoints: what was acknowledged is there, and it always opens.
//!
//! Needs root and /dev/fuse. More lives: `POWERCUT_SEEDS=100 cargo test -p muster-journal --test powercut`.

mod power;

use muster_journal::{DiskError, Error, HardState, Meta, Opened, Options, Position, Record, open};
use power::Rng;
use power::fs::{Content, Event, Faults, Mounted};
use power::replay::{Disk, Mercy};
use std::path::Path;

const OPTIONS: Options = Options { segment_bytes: 8 << 10, checkpoint_cache_bytes: 1 << 20 };

/// What the program was promised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    base: Position,
    records: Vec<Record>,
    hard: HardState,
    /// In force, and how many keys it has.
    checkpoint: Option<Meta>,
}

impl Model {
    fn last(&self) -> Position {
        self.records.last().map_or(self.base, |r| Position { index: r.index, term: r.term })
    }

    fn put(&mut self, records: &[Record]) {
        for record in records {
            self.records.truncate((record.index - self.base.index - 1) as usize);
            self.records.push(record.clone());
        }
    }

    /// What a restart must find.
    fn recovered(&self) -> (Option<Meta>, HardState, Vec<Record>) {
        let at = self.checkpoint.as_ref().map_or(self.base, Meta::position);
        let behind = at.index.checked_sub(self.base.index).map(|n| n as usize);
        let term_there = match behind {
            Some(0) => Some(self.base.term),
            Some(n) => self.records.get(n - 1).map(|r| r.term),
            None => None,
        };
        let mut hard = self.hard;
        if term_there == Some(at.term) {
            hard.commit = hard.commit.max(at.index);
            return (self.checkpoint.clone(), hard, self.records[behind.unwrap_or(0)..].to_vec());
        }
        if hard.term < at.term {
            hard = HardState { term: at.term, vote: 0, commit: 0 };
        }
        hard.commit = at.index;
        (self.checkpoint.clone(), hard, Vec::new())
    }
}

/// The keys and values of the checkpoint at an index.
fn state(index: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..20 + index % 30).map(|k| (k.to_be_bytes().to_vec(), vec![(k ^ index) as u8; 120])).collect()
}

/// A program's life: acts, each noted with the model that holds once it is acknowledged.
struct Life<'a> {
    opened: Opened,
    model: Model,
    acknowledged: Vec<Model>,
    mounted: &'a Mounted,
    rng: Rng,
}

impl Life<'_> {
    fn ack(&mut self) {
        self.acknowledged.push(self.model.clone());
        self.mounted.power.ack(self.acknowledged.len() - 1);
    }

    fn append(&mut self) {
        let (last, commit) = (self.model.last(), self.model.hard.commit.max(self.model.base.index));
        let conflict = last.index > commit && self.rng.percent(15);
        let first = if conflict { commit + 1 + self.rng.below(last.index - commit) } else { last.index + 1 };
        let term = self.model.hard.term.max(1) + u64::from(conflict);
        let count = 1 + self.rng.below(4);
        let records: Vec<_> = (first..first + count)
            .map(|index| {
                // Now and then larger than a sector, a page, a segment.
                let length = [3, 80, 300, 1500, 5000, 12_000][self.rng.below(20).min(5) as usize];
                Record { index, term, data: vec![self.rng.next() as u8 | 1; length] }
            })
            .collect();
        let end = first + count - 1;
        let hard = HardState { term, vote: 1, commit: commit + self.rng.below(end - commit + 1) };
        self.opened.journal.append(&records, hard).expect("written");
        self.model.put(&records);
        self.model.hard = hard;
        self.ack();
    }

    fn checkpoint(&mut self) {
        let commit = self.model.hard.commit;
        if self.model.checkpoint.as_ref().is_some_and(|meta| meta.index >= commit) || commit <= self.model.base.index {
            return;
        }
        let record = &self.model.records[(commit - self.model.base.index - 1) as usize];
        let meta = Meta { index: commit, term: record.term, membership: vec![7; 10] };
        self.opened.checkpoints.write(&meta, state(commit)).expect("written");
        self.model.checkpoint = Some(meta);
        self.ack();
        self.opened.journal.compact(self.opened.checkpoints.floor()).expect("compacted");
        self.rebase();
        self.ack();
    }

    /// Compaction moves the log's base, which a restart does not show behind a checkpoint.
    fn rebase(&mut self) {
        let base = self.opened.journal.base();
        if base.index > self.model.base.index {
            self.model.records.drain(..(base.index - self.model.base.index) as usize);
            self.model.base = base;
        }
    }

    fn install(&mut self) {
        let at = Position { index: self.model.last().index + 10, term: self.model.hard.term + 1 };
        let meta = Meta { index: at.index, term: at.term, membership: vec![8; 10] };
        self.opened.checkpoints.write(&meta, state(at.index)).expect("written");
        self.model.checkpoint = Some(meta);
        self.ack();
        let hard = HardState { term: at.term, vote: 0, commit: at.index };
        self.opened.journal.reset(at, hard).expect("reset");
        self.model = Model { base: at, records: Vec::new(), hard, checkpoint: self.model.checkpoint.clone() };
        self.ack();
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..=89 => self.append(),
            90..=97 => self.checkpoint(),
            _ => self.install(),
        }
    }
}

/// Lives from `content` on; returns the trace and the models that were acknowledged, the first being the start's.
fn live(content: &Content, start: Model, seed: u64, acts: usize) -> (Vec<Event>, Vec<Model>) {
    let mounted = Mounted::new(content);
    let opened = open(&mounted.path.join("data"), OPTIONS).expect("opens on a sound disk");
    // What lies before the checkpoint is of no interest any more, and opening may have started the log anew.
    let (checkpoint, hard, records) = start.recovered();
    let base = checkpoint.as_ref().map_or(start.base, Meta::position);
    let model = Model { base, records, hard, checkpoint };
    let mut life = Life { opened, model, acknowledged: Vec::new(), mounted: &mounted, rng: Rng(seed) };
    life.ack();
    for _ in 0..acts {
        life.act();
    }
    let models = std::mem::take(&mut life.acknowledged);
    drop(life);
    (mounted.power.trace(), models)
}

fn write_out(content: &Content, dir: &Path) {
    for path in &content.dirs {
        std::fs::create_dir_all(dir.join(path)).expect("made");
    }
    for (path, data) in &content.files {
        std::fs::write(dir.join(path), data).expect("written");
    }
}

/// In memory: these images need no durability of their own.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    dir.expect("a temporary folder")
}

/// Opens an image. The model found must be the last acknowledged one or the one under way.
fn check(content: &Content, models: &[Model], acked: Option<usize>, read_pairs: bool) -> Result<Model, String> {
    let dir = scratch();
    write_out(content, dir.path());
    let opened = open(&dir.path().join("data"), OPTIONS).map_err(|e| format!("does not open: {e}"))?;
    let found = opened.recovered;
    let from = acked.unwrap_or(0);
    let candidates = &models[from..(from + 2).min(models.len())];
    let meta = found.checkpoint.as_ref().map(|c| c.meta().clone());
    let mine = (meta, found.hard_state, found.records);
    let Some(model) = candidates.iter().find(|model| model.recovered() == mine) else {
        let short = |(meta, hard, records): &(Option<Meta>, HardState, Vec<Record>)| {
            let ends = records.first().map(|r| r.index).zip(records.last().map(|r| r.index));
            format!("checkpoint {:?}, {hard:?}, records {ends:?}", meta.as_ref().map(|m| m.index))
        };
        let wanted: Vec<_> = candidates.iter().map(|m| short(&m.recovered())).collect();
        return Err(format!("found {}; acknowledged or under way: {wanted:?}", short(&mine)));
    };
    if let Some(checkpoint) = found.checkpoint.filter(|_| read_pairs) {
        let pairs: Result<Vec<_>, _> = checkpoint.pairs().and_then(Iterator::collect);
        if pairs.map_err(|e| e.to_string())? != state(checkpoint.meta().index) {
            return Err("the checkpoint holds something else".into());
        }
    }
    Ok(model.clone())
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_that_was_acknowledged() {
    let lives: u64 = std::env::var("POWERCUT_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let mut cuts = 0;
    for seed in 1..=lives {
        let (mut content, mut model) = (Content::default(), Model::default());
        // Each life starts on the disk that a cut of the one before has left.
        for generation in 0..3 {
            let (trace, models) = live(&content, model.clone(), seed * 100 + generation, 60);
            let mut rng = Rng(seed * 1000 + generation);
            let mut at: Vec<usize> = (0..40).map(|_| rng.below(trace.len() as u64 + 1) as usize).collect();
            at.sort_unstable();
            let mut next = None;
            let mut disk = Disk::new(&content);
            let mut acked = None;
            let mut done = 0;
            for point in at {
                for event in &trace[done..point] {
                    disk.take(event);
                    if let Event::Ack(n) = event {
                        acked = Some(*n);
                    }
                }
                done = point;
                let mercy = Mercy::draw(&mut rng);
                let image = disk.cut(mercy, &mut rng);
                let found = check(&image, &models, acked, cuts % 5 == 0);
                let found = found.unwrap_or_else(|e| {
                    panic!("seed {seed}, life {generation}, cut at call {point} of {}, {mercy:?}: {e}", trace.len())
                });
                cuts += 1;
                next = Some((image, found));
            }
            (content, model) = next.expect("there were cuts");
        }
    }
    println!("{cuts} cuts, {lives} seeds, nothing lost");
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_half_done() {
    let mounted = Mounted::new(&Content::default());
    let data = mounted.path.join("data");
    let mut opened = open(&data, OPTIONS).expect("opens");
    let record = |index| Record { index, term: 1, data: vec![5; 700] };
    let hard = HardState { term: 1, vote: 1, commit: 0 };
    mounted.power.set_faults(Faults { capacity: Some(mounted.power.used() + 10_000), fail_fsync: false });
    let mut written = 0;
    let error = loop {
        match opened.journal.append(&[record(written + 1)], hard) {
            Ok(()) => written += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(error, Error::Disk(DiskError::DiskFull { .. })), "{error}");
    assert!(written > 15, "two segments fit");
    assert!(matches!(
        opened.journal.append(&[record(written + 1)], hard),
        Err(Error::Disk(DiskError::DiskFull { .. }))
    ));
    let meta = Meta { index: 1, term: 1, membership: vec![] };
    let error = opened.checkpoints.write(&meta, state(1)).expect_err("no room for sled");
    assert!(matches!(error, Error::Disk(_)), "{error}");
    drop(opened);
    let mut opened = open(&data, OPTIONS).expect("opens on the full disk");
    assert_eq!(opened.recovered.records.len() as u64, written);
    assert!(opened.recovered.checkpoint.is_none());

    mounted.power.set_faults(Faults::default());
    opened.journal.append(&[record(written + 1)], hard).expect("there is room again");
    opened.checkpoints.write(&meta, state(1)).expect("there is room again");
    drop(opened);
    let opened = open(&data, OPTIONS).expect("opens");
    assert_eq!(opened.recovered.records.len() as u64, written);
    assert_eq!(opened.journal.last().index, written + 1);
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let mounted = Mounted::new(&Content::default());
    let data = mounted.path.join("data");
    let mut opened = open(&data, OPTIONS).expect("opens");
    let record = |index| Record { index, term: 1, data: vec![5; 70] };
    let hard = HardState { term: 1, vote: 1, commit: 0 };
    opened.journal.append(&[record(1)], hard).expect("written");
    mounted.power.set_faults(Faults { capacity: None, fail_fsync: true });
    assert!(matches!(opened.journal.append(&[record(2)], hard), Err(Error::Disk(DiskError::Io { .. }))));
    mounted.power.set_faults(Faults::default());
    assert!(matches!(opened.journal.append(&[record(2)], hard), Err(Error::Poisoned { .. })));
    drop(opened);
    let opened = open(&data, OPTIONS).expect("opens");
    assert!(!opened.recovered.records.is_empty());
}
