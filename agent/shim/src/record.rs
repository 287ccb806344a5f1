//! The exit record: the file named `exit` in a container's durable folder, and the payload of the `EXIT` frame.
//!
//! Lines of `key=value`, first `muster-exit=1` (the version), last `end` (so that a cut file is known as such). Unknown keys
//! are passed over: a newer shim may say more.

/// How a process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Exit code as Docker shows it: the process's own, or 128 + signal.
    pub code: i32,
    /// Signal that ended it; 0 for none.
    pub signal: i32,
    /// When, in nanoseconds since 1970 (wall clock).
    pub at_ns: i64,
    /// Whether the OOM killer killed in its cgroup.
    pub oom_killed: bool,
    /// Set when the end was concluded and not seen. One line.
    pub error: String,
}

impl Record {
    /// The record's text.
    pub fn encode(&self) -> String {
        let error: String = self.error.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!(
            "muster-exit=1\ncode={}\nsignal={}\nat_ns={}\noom_killed={}\nerror={}\nend\n",
            self.code, self.signal, self.at_ns, self.oom_killed as u8, error
        )
    }

    /// Reads a record; `None` when it is not whole or not of a known version.
    pub fn decode(text: &str) -> Option<Record> {
        let body = text.strip_prefix("muster-exit=1\n")?.strip_suffix("end\n")?;
        let mut record = Record::default();
        for (key, value) in body.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "code" => record.code = value.parse().ok()?,
                "signal" => record.signal = value.parse().ok()?,
                "at_ns" => record.at_ns = value.parse().ok()?,
                "oom_killed" => record.oom_killed = value == "1",
                "error" => record.error = value.to_owned(),
                _ => {}
            }
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_written_and_a_cut_one_does_not() {
        let record =
            Record { code: 137, signal: 9, at_ns: 1_700_000_000_123_456_789, oom_killed: true, error: "a\nb".into() };
        let text = record.encode();
        assert_eq!(Record::decode(&text), Some(Record { error: "a b".into(), ..record }));
        for cut in 0..text.len() {
            assert_eq!(Record::decode(&text[..cut]), None);
        }
    }
}
