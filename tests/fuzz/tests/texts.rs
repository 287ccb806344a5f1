//! Small texts and records: filters, join tokens, the journal after a crash.

use muster_fuzz::{Counting, Target, fuzz, scratch};
use muster_journal::{HardState, Options, Record};
use muster_model::engine::Filters;
use muster_mtls::JoinToken;

#[global_allocator]
static MEMORY: Counting = Counting;

#[test]
fn filters_are_read_or_refused_and_mean_the_same_when_written() {
    let words =
        &["{\"label\":", "[\"a=b\"]", "{\"true\":true}", "\"dangling\"", "null", "false", "{}", "\"until\":[\"1h\"]"];
    let target = Target { name: "filters", runs: 60_000, words, repair: None, most_memory: 8 << 20 };
    fuzz(&target, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(filters) = Filters::parse(text) else { return };
        assert_eq!(Filters::parse(&filters.to_json()), Ok(filters.clone()));
        let _ = (filters.flag("dangling"), filters.allow(&["label"]));
        filters.matches_prefix("id", "x");
    });
}

#[test]
fn join_tokens_are_read_or_refused_without_repeating_their_secret() {
    let words = &["MSTR", "-", "1", "worker", "manager", "0123456789abcdefghijklmno"];
    let target = Target { name: "token", runs: 60_000, words, repair: None, most_memory: 4 << 20 };
    fuzz(&target, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match text.parse::<JoinToken>() {
            Ok(token) => {
                assert_eq!(token.to_string().parse(), Ok(token.clone()));
                assert!(!format!("{token:?}").contains(&token.secret));
            }
            Err(error) => assert!(error.to_string().len() < 200),
        }
    });
}

/// The corpus says what is written over a journal: pairs of a place and a byte. What comes up again is a beginning of what
/// was written, or a refusal.
#[test]
fn a_damaged_journal_gives_a_beginning_of_what_was_written_or_is_refused() {
    let target = Target { name: "journal", runs: 400, words: &[], repair: None, most_memory: 64 << 20 };
    let records: Vec<_> =
        (1..=20_u64).map(|index| Record { index, term: 1, data: vec![index as u8; 40 * index as usize] }).collect();
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let whole = scratch();
    let mut journal = muster_journal::open(whole.path(), options).expect("a new journal").journal;
    for pair in records.chunks(2) {
        let hard = HardState { term: 1, vote: 1, commit: 0 };
        journal.append(pair, hard).expect("the disk takes it");
    }
    drop(journal);
    let logs = std::fs::read_dir(whole.path().join("log")).expect("a log").map(|entry| entry.expect("a log").path());
    let segment = logs.max_by_key(|path| std::fs::metadata(path).map_or(0, |m| m.len())).expect("a segment");
    let bytes = std::fs::read(&segment).expect("a segment");
    fuzz(&target, |input| {
        let copy = scratch();
        std::fs::create_dir(copy.path().join("log")).expect("a writable folder");
        std::fs::create_dir(copy.path().join("checkpoints")).expect("a writable folder");
        let mut damaged = bytes.clone();
        let used = damaged.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        for change in input.chunks_exact(4) {
            let place = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % used;
            damaged[place] = change[3];
        }
        let name = segment.file_name().expect("a segment has a name");
        std::fs::write(copy.path().join("log").join(name), &damaged).expect("a writable folder");
        if let Ok(opened) = muster_journal::open(copy.path(), options) {
            let found = opened.recovered.records;
            assert!(found.len() <= records.len() && found == records[..found.len()], "other records came up");
        }
    });
}
