//! The systemd journal, by its native protocol (systemd.io: "Native Journal Protocol"): one datagram of fields per line.

use super::{
    attributes,
    sink::{Sink, Stopped},
    tag,
};
use crate::{names, record::Record};
use async_trait::async_trait;
use muster_runtime::logs::{Entry, Stream, format_time};
use std::path::{Path, PathBuf};
use tokio::net::UnixDatagram;

/// syslog severities, which the journal uses.
const INFO: &str = "6";
const ERROR: &str = "3";

/// Sends to the journal's socket.
pub(super) struct Journald {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// The fields that every line has.
    fixed: Vec<u8>,
}

impl Journald {
    pub fn new(path: &Path, record: &Record, daemon: &str) -> Self {
        let mut fixed = Vec::new();
        for (key, value) in attributes(record, daemon).iter().filter(|(key, _)| key != "tag") {
            // The journal takes upper-case names; what it uses itself begins with an underscore.
            let name: String = key
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
                .skip_while(|c| *c == '_' || c.is_ascii_digit())
                .take(64)
                .collect();
            if !name.is_empty() && !RESERVED.contains(&name.as_str()) {
                field(&mut fixed, &name, value.as_bytes());
            }
        }
        let tag = tag::of(record, daemon);
        for (name, value) in [
            ("CONTAINER_ID", names::short(&record.id)),
            ("CONTAINER_ID_FULL", &record.id),
            ("CONTAINER_NAME", &record.name),
            ("CONTAINER_TAG", &tag),
            ("IMAGE_NAME", &record.image),
            ("SYSLOG_IDENTIFIER", &tag),
        ] {
            field(&mut fixed, name, value.as_bytes());
        }
        Self { path: path.to_owned(), socket: None, fixed }
    }

    fn datagram(&self, entry: &Entry) -> Vec<u8> {
        let mut fields = self.fixed.clone();
        let partial = entry.is_partial();
        let message = if partial { &entry.line[..] } else { &entry.line[..entry.line.len() - 1] };
        field(&mut fields, "PRIORITY", if entry.stream == Stream::Stderr { ERROR } else { INFO }.as_bytes());
        field(&mut fields, "SYSLOG_TIMESTAMP", &format_time(entry.time_ns));
        if partial {
            field(&mut fields, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        field(&mut fields, "MESSAGE", message);
        fields
    }

    async fn send_one(&mut self, datagram: &[u8]) -> std::io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            empty => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.path)?;
                empty.insert(socket)
            }
        };
        socket.send(datagram).await.map(drop)
    }
}

/// Fields that are ours to say: a label of the container must not take their place.
const RESERVED: &[&str] = &[
    "MESSAGE",
    "PRIORITY",
    "CONTAINER_ID",
    "CONTAINER_ID_FULL",
    "CONTAINER_NAME",
    "CONTAINER_TAG",
    "IMAGE_NAME",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_TIMESTAMP",
    "CONTAINER_PARTIAL_MESSAGE",
];

/// `NAME=value` and a newline; a value that has a newline comes with its length, so that it cannot begin another field.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[async_trait]
impl Sink for Journald {
    async fn send(&mut self, lines: &[Entry]) -> Result<(), Stopped> {
        for (sent, line) in lines.iter().enumerate() {
            let datagram = self.datagram(line);
            if let Err(e) = self.send_one(&datagram).await {
                self.socket = None;
                return Err(Stopped { sent, reason: format!("journal {}: {e}", self.path.display()) });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_bring_fields_of_its_own() {
        let mut record = Record { id: "ab".repeat(32), name: "web".into(), ..Record::default() };
        record.config.labels =
            [("message".to_owned(), "x".to_owned()), ("a.b".to_owned(), "1\nPRIORITY=0".to_owned())].into();
        record.host.log_config.config.insert("labels-regex".into(), ".".into());
        let journal = Journald::new(Path::new("/none"), &record, "");
        let entry = Entry { time_ns: 0, stream: Stream::Stderr, line: "text\n".into() };
        let datagram = journal.datagram(&entry);
        let text = String::from_utf8_lossy(&datagram);
        assert!(text.starts_with("A_B\n\u{c}\0\0\0\0\0\0\x001\nPRIORITY=0\n"), "{text:?}");
        assert!(text.contains("\nCONTAINER_NAME=web\n") && text.contains("\nPRIORITY=3\n"), "{text:?}");
        assert!(text.ends_with("\nMESSAGE=text\n"), "{text:?}");
        assert_eq!(text.matches("MESSAGE=").count(), 1);
    }
}
