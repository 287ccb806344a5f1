//! Plans as text: each file of `testdata` is a story of commands with what the planner answered, to be read in review.
//!
//! A block is lines of commands, `----`, and the output. `UPDATE_GOLDEN=1` writes the output of this build into the files.

mod story;

use std::{fs, path::PathBuf};

fn replay(text: &str) -> String {
    let mut story = story::Story::new();
    let mut out = String::new();
    for block in text.split("\n\n").map(|b| b.trim_matches('\n')).filter(|b| !b.is_empty()) {
        let commands = block.split("\n----").next().unwrap_or_default();
        let mut answer = String::new();
        for line in commands.lines() {
            answer += &story.command(line);
        }
        out += commands;
        if !answer.is_empty() {
            out += "\n----\n";
            out += answer.trim_end();
        }
        out += "\n\n";
    }
    out.trim_end().to_owned() + "\n"
}

#[test]
fn plans_are_as_they_were_reviewed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("testdata is part of the crate").map(|e| e.expect("readable").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let now = replay(&text);
        if update {
            fs::write(&file, now).expect("writable");
        } else {
            assert!(
                text == now,
                "{} is not what this build plans (UPDATE_GOLDEN=1 rewrites it):\n{now}",
                file.display()
            );
        }
    }
}
