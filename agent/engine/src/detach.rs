//! The detach keys: a sequence typed by an attached user that ends the connection and not the process.
//!
//! Pure: bytes in, bytes to pass on out.

use muster_calls::{Error, Result};

/// The sequence when the client names none.
pub const DEFAULT_KEYS: &str = "ctrl-p,ctrl-q";

/// Watches one client's input for the sequence. Keys that begin it are held back until it is known whether it goes on.
#[derive(Debug, Clone)]
pub struct Detector {
    sequence: Vec<u8>,
    matched: usize,
}

/// What to do with the bytes that were fed.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass these on (may be empty while a sequence has begun).
    Pass(Vec<u8>),
    /// Pass these on, then detach. Whatever came after the sequence is dropped.
    Detach(Vec<u8>),
}

impl Detector {
    /// A detector for keys as `ctrl-p,ctrl-q` or `a,ctrl-]`; `None` for the default keys. An empty text detects nothing.
    ///
    /// # Errors
    /// `Invalid` naming the key that is none.
    pub fn new(keys: Option<&str>) -> Result<Self> {
        Ok(Self { sequence: parse(keys.unwrap_or(DEFAULT_KEYS))?, matched: 0 })
    }

    /// Takes the next bytes of the client.
    pub fn feed(&mut self, bytes: &[u8]) -> Verdict {
        if self.sequence.is_empty() {
            return Verdict::Pass(bytes.to_vec());
        }
        let mut pass = Vec::with_capacity(bytes.len() + self.matched);
        for &byte in bytes {
            self.step(byte, &mut pass);
            if self.matched == self.sequence.len() {
                self.matched = 0;
                return Verdict::Detach(pass);
            }
        }
        Verdict::Pass(pass)
    }

    /// Keys held back when the input ends.
    pub fn finish(&mut self) -> Vec<u8> {
        let held = self.sequence[..self.matched].to_vec();
        self.matched = 0;
        held
    }

    /// One byte: lengthen the match, or give up the shortest beginning of what was held so that the rest may still match.
    fn step(&mut self, byte: u8, pass: &mut Vec<u8>) {
        while self.matched > 0 && self.sequence[self.matched] != byte {
            let held = &self.sequence[..self.matched];
            let shorter = (1..=held.len()).find(|n| self.sequence.starts_with(&held[*n..])).unwrap_or(held.len());
            pass.extend_from_slice(&held[..shorter]);
            self.matched -= shorter;
        }
        if self.sequence[self.matched] == byte {
            self.matched += 1;
        } else {
            pass.push(byte);
        }
    }
}

fn parse(keys: &str) -> Result<Vec<u8>> {
    keys.split(',').filter(|key| !key.is_empty()).map(parse_key).collect()
}

fn parse_key(key: &str) -> Result<u8> {
    let refuse = || {
        Error::invalid(format!(
            "invalid detach keys ({key}) provided: expected characters or ctrl-<a-z, @, [, \\, ], ^, _>"
        ))
    };
    match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
        ([byte], _) => Ok(*byte),
        (_, Some([b'@'])) => Ok(0),
        (_, Some([letter @ b'a'..=b'z'])) => Ok(letter - b'a' + 1),
        (_, Some([other @ (b'[' | b'\\' | b']' | b'^' | b'_')])) => Ok(other - b'[' + 27),
        _ => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(bytes: &[u8]) -> Verdict {
        Verdict::Pass(bytes.to_vec())
    }

    #[test]
    fn the_sequence_detaches_however_it_is_cut_and_what_came_before_is_passed_on() {
        let mut d = Detector::new(None).expect("default");
        assert_eq!(d.feed(b"ls\x10"), pass(b"ls"));
        assert_eq!(d.feed(b"\x11rest"), Verdict::Detach(vec![]));
        assert_eq!(d.feed(b"x\x10\x11"), Verdict::Detach(b"x".to_vec()));
    }

    #[test]
    fn a_sequence_that_breaks_off_loses_no_byte() {
        let mut d = Detector::new(Some("a,a,b")).expect("valid");
        assert_eq!(d.feed(b"aac"), pass(b"aac"));
        assert_eq!(d.feed(b"aaa"), pass(b"a"));
        assert_eq!(d.feed(b"b"), Verdict::Detach(vec![]));
        assert_eq!(d.feed(b"a"), pass(b""));
        assert_eq!(d.finish(), b"a");
    }

    #[test]
    fn keys_that_are_none_are_refused_by_name() {
        for bad in ["ctrl-", "ctrl-A", "ctrl-1", "xy"] {
            assert!(Detector::new(Some(bad)).expect_err(bad).message.contains(bad));
        }
        assert_eq!(Detector::new(Some("ctrl-@,ctrl-[,ctrl-_")).expect("valid").sequence, [0, 27, 31]);
    }
}
