//! The log and the checkpoints on a real file system: what a restart finds, and what damage is called.

use muster_journal::{DiskError, Error, HardState, Journal, Meta, Opened, Options, Position, Record, open};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Segments of 8 KiB: a test writes several.
const OPTIONS: Options = Options { segment_bytes: 8 << 10, checkpoint_cache_bytes: 1 << 20 };

fn dir() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn start(dir: &TempDir) -> Opened {
    open(dir.path(), OPTIONS).expect("opens")
}

fn record(index: u64, term: u64) -> Record {
    Record { index, term, data: vec![index as u8; 100 + (index % 7) as usize] }
}

fn hard(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 1, commit }
}

fn fill(journal: &mut Journal, range: std::ops::RangeInclusive<u64>) {
    for index in range {
        journal.append(&[record(index, 1)], hard(1, index - 1)).expect("written");
    }
}

fn meta(index: u64) -> Meta {
    Meta { index, term: 1, membership: vec![1, 2, 3] }
}

fn state(index: u64) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    (0..50u64).map(move |k| (k.to_be_bytes().to_vec(), (k * index).to_be_bytes().to_vec()))
}

fn segments(dir: &TempDir) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(dir.path().join("log")).expect("there").map(|e| e.expect("there").path()).collect();
    paths.sort();
    paths
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("there");
    file.write_all_at(&[byte[0] ^ 0x40], offset).expect("written");
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let dir = dir();
    let mut opened = start(&dir);
    assert!(opened.recovered.is_new());
    fill(&mut opened.journal, 1..=300);
    assert!(opened.journal.segments() > 3);
    drop(opened);
    let opened = start(&dir);
    assert_eq!(opened.recovered.records, (1..=300).map(|i| record(i, 1)).collect::<Vec<_>>());
    assert_eq!(opened.recovered.hard_state, hard(1, 299));
    assert_eq!(opened.recovered.torn, None);
    assert_eq!(opened.journal.last(), Position { index: 300, term: 1 });
}

#[test]
fn restarts_without_writes_make_no_new_files() {
    let dir = dir();
    fill(&mut start(&dir).journal, 1..=5);
    let before = segments(&dir);
    for _ in 0..5 {
        start(&dir);
    }
    assert_eq!(segments(&dir), before);
    fill(&mut start(&dir).journal, 6..=7);
    assert_eq!(segments(&dir), before);
}

#[test]
fn a_conflicting_suffix_is_replaced_also_within_one_write_and_across_segments() {
    let dir = dir();
    let mut opened = start(&dir);
    fill(&mut opened.journal, 1..=100);
    opened.journal.append(&[record(50, 2), record(51, 2), record(51, 3)], hard(3, 49)).expect("written");
    drop(opened);
    let mut opened = start(&dir);
    let records = &opened.recovered.records;
    assert_eq!(records.len(), 51);
    assert_eq!((records[48].term, records[49].term, records[50].term), (1, 2, 3));
    let hole = opened.journal.append(&[record(53, 3)], hard(3, 49)).expect_err("refused");
    assert!(matches!(hole, Error::Hole { index: 53, last: 51 }));
}

#[test]
fn a_write_larger_than_a_segment_gets_one_of_its_own() {
    let dir = dir();
    let mut opened = start(&dir);
    let big = Record { index: 1, term: 1, data: vec![7; 100_000] };
    opened.journal.append(std::slice::from_ref(&big), hard(1, 0)).expect("written");
    fill(&mut opened.journal, 2..=3);
    drop(opened);
    let opened = start(&dir);
    assert_eq!(opened.recovered.records[0], big);
    assert_eq!(opened.recovered.records.len(), 3);
}

#[test]
fn a_torn_last_write_is_the_end_of_the_log_and_is_never_written_over() {
    let dir = dir();
    let mut opened = start(&dir);
    fill(&mut opened.journal, 1..=10);
    drop(opened);
    let path = segments(&dir).pop().expect("one");
    // The tenth frame's last bytes never reached the disk.
    let used = fs::read(&path).expect("readable").iter().rposition(|b| *b != 0).expect("used") as u64;
    let file = fs::File::options().write(true).open(&path).expect("opens");
    file.write_all_at(&[0; 40], used - 39).expect("written");
    let mut opened = start(&dir);
    assert_eq!(opened.recovered.records.len(), 9);
    assert_eq!(opened.recovered.torn.as_ref().expect("noticed").path, path);
    assert_eq!(segments(&dir).len(), 2, "goes on in a new file");
    fill(&mut opened.journal, 10..=12);
    drop(opened);
    let opened = start(&dir);
    assert_eq!(opened.recovered.records.len(), 12);
    assert_eq!(opened.recovered.torn, None);
}

#[test]
fn damage_in_the_middle_is_an_error_that_names_file_and_offset() {
    let dir = dir();
    fill(&mut start(&dir).journal, 1..=10);
    let path = segments(&dir).pop().expect("one");
    flip(&path, 96 + 60);
    let error = open(dir.path(), OPTIONS).expect_err("refused");
    assert!(matches!(&error, Error::Disk(DiskError::Damaged { path: p, offset: 96, .. }) if *p == path), "{error}");
}

#[test]
fn damage_in_an_older_segment_is_an_error() {
    let dir = dir();
    fill(&mut start(&dir).journal, 1..=300);
    let paths = segments(&dir);
    let newest = paths.last().expect("several");
    fs::rename(newest, newest.with_extension("away")).expect("moved");
    assert!(matches!(open(dir.path(), OPTIONS), Err(Error::MissingSegment { path }) if path == *newest));
    fs::rename(newest.with_extension("away"), newest).expect("moved");
    let last_used = fs::metadata(&paths[1]).expect("there").len();
    flip(&paths[1], last_used - 20);
    assert!(matches!(open(dir.path(), OPTIONS), Err(Error::Disk(DiskError::Damaged { path, .. })) if path == paths[1]));
    flip(&paths[1], last_used - 20);
    fs::File::options().write(true).open(&paths[1]).expect("opens").set_len(last_used - 8).expect("cut");
    assert!(matches!(open(dir.path(), OPTIONS), Err(Error::Disk(DiskError::Damaged { path, .. })) if path == paths[1]));
    fs::remove_file(&paths[1]).expect("removed");
    assert!(matches!(open(dir.path(), OPTIONS), Err(Error::MissingSegment { path }) if path == paths[1]));
}

#[test]
fn bytes_of_an_earlier_life_of_the_file_are_never_records() {
    let (one, two) = (dir(), dir());
    fill(&mut start(&one).journal, 1..=20);
    fill(&mut start(&two).journal, 1..=3);
    // The same blocks, as a file system might hand them out again: whole frames of another journal behind our own.
    let (from, to) = (segments(&one).pop().expect("one"), segments(&two).pop().expect("one"));
    let old = fs::read(&from).expect("readable");
    let mut new = fs::read(&to).expect("readable");
    let end = new.iter().rposition(|b| *b != 0).expect("used").next_multiple_of(8);
    new[end..].copy_from_slice(&old[end..]);
    fs::write(&to, new).expect("written");
    let opened = start(&two);
    assert_eq!(opened.recovered.records.len(), 3);
    assert!(opened.recovered.torn.is_some());
}

#[test]
fn two_daemons_cannot_share_a_folder() {
    let dir = dir();
    let first = start(&dir);
    assert!(matches!(open(dir.path(), OPTIONS), Err(Error::Locked { .. })));
    drop(first);
    start(&dir);
}

#[test]
fn a_checkpoint_and_the_log_behind_it_come_back_and_the_log_shrinks() {
    let dir = dir();
    let mut opened = start(&dir);
    fill(&mut opened.journal, 1..=200);
    opened.checkpoints.write(&meta(100), state(100)).expect("written");
    opened.checkpoints.write(&meta(180), state(180)).expect("written");
    assert_eq!(opened.checkpoints.floor().index(), 100, "the one before the last must stay usable");
    let before = opened.journal.segments();
    opened.journal.compact(opened.checkpoints.floor()).expect("compacted");
    assert!(opened.journal.segments() < before);
    assert!(opened.journal.base().index <= 100);
    drop(opened);

    let opened = start(&dir);
    let checkpoint = opened.recovered.checkpoint.expect("there");
    assert_eq!(checkpoint.meta(), &meta(180));
    let pairs: Vec<_> = checkpoint.pairs().expect("readable").collect::<Result<_, _>>().expect("readable");
    assert_eq!(pairs, state(180).collect::<Vec<_>>());
    assert_eq!(opened.recovered.records.first().expect("there").index, 181);
    assert_eq!(opened.recovered.records.len(), 20);
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before_and_is_put_aside() {
    let dir = dir();
    let mut opened = start(&dir);
    fill(&mut opened.journal, 1..=200);
    for index in [50, 100, 180] {
        opened.checkpoints.write(&meta(index), state(index)).expect("written");
        opened.journal.compact(opened.checkpoints.floor()).expect("compacted");
    }
    drop(opened);
    let newest = dir.path().join("checkpoints/gen-0000000000000003");
    flip(&newest.join("db/db"), 1000);
    let mut opened = start(&dir);
    assert_eq!(opened.recovered.checkpoint.as_ref().expect("there").meta(), &meta(100));
    assert_eq!(opened.recovered.records.len(), 100);
    assert_eq!(opened.checkpoints.floor().index(), 100);
    assert!(!newest.exists() && dir.path().join("checkpoints/damaged-0000000000000003").exists());
    opened.checkpoints.write(&meta(190), state(190)).expect("goes on");
    drop(opened);
    assert_eq!(start(&dir).recovered.checkpoint.expect("there").meta(), &meta(190));
}

#[test]
fn two_damaged_checkpoints_are_an_error_that_says_what_is_wrong() {
    let dir = dir();
    let mut opened = start(&dir);
    fill(&mut opened.journal, 1..=200);
    for index in [100, 180] {
        opened.checkpoints.write(&meta(index), state(index)).expect("written");
    }
    opened.journal.compact(opened.checkpoints.floor()).expect("compacted");
    drop(opened);
    for number in [1, 2] {
        flip(&dir.path().join(format!("checkpoints/gen-000000000000000{number}/MANIFEST")), 30);
    }
    let error = open(dir.path(), OPTIONS).expect_err("refused");
    assert!(matches!(error, Error::Uncovered { .. }), "{error}");
    assert!(dir.path().join("checkpoints/gen-0000000000000002").exists(), "nothing is thrown away");
}

#[test]
fn a_damaged_current_file_is_survived() {
    let dir = dir();
    let mut opened = start(&dir);
    fill(&mut opened.journal, 1..=20);
    opened.checkpoints.write(&meta(10), state(10)).expect("written");
    opened.checkpoints.write(&meta(20), state(20)).expect("written");
    drop(opened);
    flip(&dir.path().join("checkpoints/CURRENT"), 3);
    assert_eq!(start(&dir).recovered.checkpoint.expect("there").meta(), &meta(20));
}

#[test]
fn an_interrupted_checkpoint_is_swept() {
    let dir = dir();
    let mut opened = start(&dir);
    opened.checkpoints.write(&meta(1), state(1)).expect("written");
    drop(opened);
    let half = dir.path().join("checkpoints/gen-0000000000000002/db");
    fs::create_dir_all(&half).expect("made");
    fs::write(half.join("db"), b"half").expect("written");
    let mut opened = start(&dir);
    assert!(!half.exists());
    assert_eq!(opened.recovered.checkpoint.as_ref().expect("there").meta(), &meta(1));
    let again = opened.checkpoints.write(&meta(1), state(1)).expect_err("refused");
    assert!(matches!(again, Error::NotNewer { index: 1, last: 1 }));
    let twice = [(vec![1], vec![1]), (vec![1], vec![2])];
    let again = opened.checkpoints.write(&meta(2), twice).expect_err("refused");
    assert!(matches!(again, Error::Disk(DiskError::KeyCount { expected: 2, found: 1, .. })));
    opened.checkpoints.write(&meta(2), state(2)).expect("goes on");
}

#[test]
fn a_reset_drops_the_log_and_a_crash_before_it_is_made_good() {
    let dir = dir();
    let mut opened = start(&dir);
    fill(&mut opened.journal, 1..=20);
    let at = Position { index: 500, term: 7 };
    opened.checkpoints.write(&Meta { index: 500, term: 7, membership: vec![] }, state(500)).expect("written");
    // The crash: the received snapshot is a checkpoint, the log is still the old one.
    drop(opened);
    let mut opened = start(&dir);
    assert_eq!(opened.recovered.records, []);
    assert_eq!(opened.recovered.hard_state, HardState { term: 7, vote: 0, commit: 500 });
    assert_eq!((opened.journal.base(), opened.journal.last()), (at, at));
    opened.journal.append(&[Record { index: 501, term: 7, data: vec![] }], hard(7, 500)).expect("written");
    let below = opened.journal.append(&[record(500, 7)], hard(7, 500)).expect_err("refused");
    assert!(matches!(below, Error::BelowBase { index: 500, base: 500 }));
    drop(opened);
    let opened = start(&dir);
    assert_eq!(opened.recovered.records.len(), 1);
    assert_eq!(segments(&dir).len(), 1);
}

#[test]
fn a_log_that_ends_before_its_own_commit_is_refused() {
    let dir = dir();
    let mut opened = start(&dir);
    opened.journal.append(&[record(1, 1)], hard(1, 5)).expect("written");
    drop(opened);
    assert!(matches!(open(dir.path(), OPTIONS), Err(Error::Truncated { last: 1, commit: 5, .. })));
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let dir = dir();
    drop(start(&dir));
    let path = segments(&dir).pop().expect("one");
    let mut bytes = fs::read(&path).expect("readable");
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..92]);
    bytes[92..96].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).expect("written");
    assert!(matches!(open(dir.path(), OPTIONS), Err(Error::Disk(DiskError::Format { found: 9, known: 1, .. }))));
}

#[test]
fn compaction_keeps_what_a_later_segment_replaced_records_of() {
    let dir = dir();
    let mut opened = start(&dir);
    fill(&mut opened.journal, 1..=50);
    // Record 50 is replaced by a write that needs a segment of its own, and only then committed.
    let big = Record { index: 50, term: 2, data: vec![1; 9000] };
    opened.journal.append(&[big], hard(2, 50)).expect("written");
    opened.checkpoints.write(&Meta { term: 2, ..meta(50) }, state(50)).expect("written");
    opened.journal.compact(opened.checkpoints.floor()).expect("compacted");
    drop(opened);
    let mut opened = start(&dir);
    assert_eq!(opened.recovered.records, []);
    opened.journal.append(&[record(51, 2)], hard(2, 51)).expect("goes on");
}

#[test]
fn a_crash_between_a_reset_and_the_records_behind_it_leaves_a_log_that_opens() {
    let dir = dir();
    let mut opened = start(&dir);
    opened.checkpoints.write(&Meta { index: 500, term: 7, membership: vec![] }, state(500)).expect("written");
    // The leader has said that more is committed, in the same work order.
    opened.journal.reset(Position { index: 500, term: 7 }, hard(7, 503)).expect("reset");
    drop(opened);
    let opened = start(&dir);
    assert_eq!(opened.recovered.hard_state, hard(7, 500));
}
