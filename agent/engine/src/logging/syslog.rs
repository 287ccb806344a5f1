//! syslog: RFC 3164 and RFC 5424 messages over a unix socket, UDP or TCP.
//!
//! As Docker sends them: the tag as program or APP-NAME, the daemon's pid, severity `info` for standard output and `err` for
//! standard error. Times are UTC. Over streams a newline ends a message (RFC 6587 section 3.4.2), which a message therefore
//! never has in it; control characters are escaped as octal numbers (RFC 5424 section 6.4 forbids them), so that no line of a
//! container can begin another message.

use super::{
    sink::{Sink, Stopped},
    tag,
};
use crate::record::Record;
use async_trait::async_trait;
use muster_calls::{Error, Result as CallResult};
use muster_model::engine::Strings;
use muster_runtime::logs::{Entry, Stream};
use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use time::{OffsetDateTime, macros::format_description};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket, UnixDatagram, UnixStream},
};

/// A receiver that takes nothing for so long is given up, and connected to anew.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where a host's own syslog listens (syslog(3) and older ways).
const LOCAL: &[&str] = &["/dev/log", "/var/run/syslog", "/var/run/log"];
const PORT: &str = "514";
const FACILITIES: &[&str] = &[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "",
    "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const DAEMON: u8 = 3;

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    /// The host's own.
    Local,
    Unix(PathBuf),
    UnixDatagram(PathBuf),
    /// `host:port`.
    Udp(String),
    Tcp(String),
}

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// As RFC 3164, without the host: what local daemons expect.
    Unix,
    Rfc3164,
    Rfc5424,
    /// With microseconds.
    Rfc5424Micro,
}

/// The options of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    address: Address,
    facility: u8,
    format: Format,
}

impl Settings {
    /// Reads `syslog-address`, `syslog-facility` and `syslog-format`.
    ///
    /// # Errors
    /// `Invalid` naming the option and what would be accepted; `Unimplemented` for TLS.
    pub fn parse(options: &Strings) -> CallResult<Self> {
        let address = options.get("syslog-address").map_or(Ok(Address::Local), |text| address(text))?;
        let facility = options.get("syslog-facility").map_or(Ok(DAEMON), |text| facility(text))?;
        let format = match options.get("syslog-format").map(String::as_str) {
            None | Some("") => Format::Unix,
            Some("rfc3164") => Format::Rfc3164,
            Some("rfc5424") => Format::Rfc5424,
            Some("rfc5424micro") => Format::Rfc5424Micro,
            Some(other) => {
                let text = format!("invalid syslog format {other:?}: expected rfc3164, rfc5424 or rfc5424micro");
                return Err(Error::invalid(text));
            }
        };
        Ok(Self { address, facility, format })
    }
}

fn address(text: &str) -> CallResult<Address> {
    let bad = || {
        let accepted = "unix:///path, unixgram:///path, udp://host[:port] or tcp://host[:port]";
        Error::invalid(format!("invalid syslog-address {text:?}: expected {accepted}"))
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
    let with_port = || {
        let host = rest.trim_end_matches('/');
        let bare = host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err());
        let host = if bare { format!("{host}:{PORT}") } else { host.to_owned() };
        (!host.starts_with(':') && !host.contains('/')).then_some(host).ok_or_else(bad)
    };
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Address::Unix(rest.into())),
        "unixgram" if rest.starts_with('/') => Ok(Address::UnixDatagram(rest.into())),
        "udp" => Ok(Address::Udp(with_port()?)),
        "tcp" => Ok(Address::Tcp(with_port()?)),
        "tcp+tls" => Err(Error::unimplemented("syslog over TLS (syslog-address tcp+tls://)")),
        _ => Err(bad()),
    }
}

fn facility(text: &str) -> CallResult<u8> {
    let by_name = FACILITIES.iter().position(|name| !name.is_empty() && *name == text);
    let number = by_name.or_else(|| text.parse::<usize>().ok()).filter(|n| *n < FACILITIES.len());
    number.and_then(|n| u8::try_from(n).ok()).ok_or_else(|| Error::invalid(format!("invalid syslog facility {text:?}")))
}

enum Connection {
    Stream(Box<dyn tokio::io::AsyncWrite + Send + Unpin>),
    Datagram(UnixDatagram),
    Udp(UdpSocket),
}

/// Sends to a syslog receiver.
pub(super) struct Syslog {
    settings: Settings,
    tag: String,
    host: String,
    connection: Option<Connection>,
}

impl Syslog {
    pub fn new(settings: Settings, record: &Record, host: &str) -> Self {
        let tag = clean(tag::of(record, host).as_bytes()).replace(char::is_whitespace, "_");
        Self { settings, tag, host: host.to_owned(), connection: None }
    }

    fn message(&self, entry: &Entry) -> String {
        let severity = if entry.stream == Stream::Stderr { 3 } else { 6 };
        let priority = u16::from(self.settings.facility) * 8 + severity;
        let (tag, host, pid) = (&self.tag, &self.host, std::process::id());
        let text = clean(entry.line.strip_suffix(b"\n").unwrap_or(&entry.line));
        let text = cut(&text);
        let time =
            OffsetDateTime::from_unix_timestamp_nanos(entry.time_ns.into()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        match self.settings.format {
            Format::Unix => format!("<{priority}>{} {tag}[{pid}]: {text}", stamp(time)),
            Format::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: {text}", stamp(time)),
            Format::Rfc5424 => format!("<{priority}>1 {} {host} {tag} {pid} {tag} - {text}", rfc3339(time, false)),
            Format::Rfc5424Micro => format!("<{priority}>1 {} {host} {tag} {pid} {tag} - {text}", rfc3339(time, true)),
        }
    }

    async fn write(&mut self, message: &str) -> io::Result<()> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.settings.address).await?);
        }
        match &mut self.connection {
            Some(Connection::Stream(stream)) => {
                stream.write_all(format!("{message}\n").as_bytes()).await?;
                stream.flush().await
            }
            Some(Connection::Datagram(socket)) => socket.send(message.as_bytes()).await.map(drop),
            Some(Connection::Udp(socket)) => socket.send(message.as_bytes()).await.map(drop),
            None => Ok(()),
        }
    }
}

/// What fits into one datagram with its header (65,507 bytes of UDP over IPv4): a longer one would be refused for ever.
fn cut(text: &str) -> &str {
    const MOST: usize = 64_000;
    match text.len() > MOST {
        true => &text[..text.floor_char_boundary(MOST)],
        false => text,
    }
}

#[async_trait]
impl Sink for Syslog {
    async fn send(&mut self, lines: &[Entry]) -> Result<(), Stopped> {
        for (sent, line) in lines.iter().enumerate() {
            let message = self.message(line);
            let written = tokio::time::timeout(PATIENCE, self.write(&message)).await;
            let written = written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            if let Err(e) = written {
                self.connection = None;
                return Err(Stopped { sent, reason: format!("syslog {:?}: {e}", self.settings.address) });
            }
        }
        Ok(())
    }
}

async fn connect(address: &Address) -> io::Result<Connection> {
    match address {
        Address::Local => {
            let path = LOCAL.iter().map(Path::new).find(|path| path.exists()).unwrap_or(Path::new(LOCAL[0]));
            unix(path).await
        }
        Address::Unix(path) => unix(path).await,
        Address::UnixDatagram(path) => datagram(path).map(Connection::Datagram),
        Address::Tcp(addr) => Ok(Connection::Stream(Box::new(TcpStream::connect(addr).await?))),
        Address::Udp(addr) => {
            let to = tokio::net::lookup_host(addr).await?.next().ok_or(io::ErrorKind::NotFound)?;
            let any: std::net::IpAddr = if to.is_ipv4() {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(to).await?;
            Ok(Connection::Udp(socket))
        }
    }
}

/// A unix socket takes datagrams or a stream: which, only trying tells.
async fn unix(path: &Path) -> io::Result<Connection> {
    match datagram(path) {
        Ok(socket) => Ok(Connection::Datagram(socket)),
        Err(_) => Ok(Connection::Stream(Box::new(UnixStream::connect(path).await?))),
    }
}

fn datagram(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

/// Text without control characters: they come as `#ooo`.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !text.chars().any(|c| c.is_control() && c != '\t') {
        return text.into_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            let _ = write!(out, "#{:03o}", c as u32); // Writing to a String does not fail.
        } else {
            out.push(c);
        }
    }
    out
}

/// `Jan  2 15:04:05` (RFC 3164 section 4.1.2).
fn stamp(time: OffsetDateTime) -> String {
    let format = format_description!("[month repr:short] [day padding:space] [hour]:[minute]:[second]");
    time.format(format).unwrap_or_default()
}

/// RFC 5424 section 6.2.3.
fn rfc3339(time: OffsetDateTime, micros: bool) -> String {
    let whole = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let fine = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    if micros { time.format(fine) } else { time.format(whole) }.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &[(&str, &str)]) -> CallResult<Settings> {
        Settings::parse(&options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn written(format: &str, line: &str, stream: Stream) -> String {
        let options = [("syslog-format", format), ("syslog-facility", "local0")];
        let record = Record { id: "ab".repeat(32), ..Record::default() };
        let sink = Syslog::new(settings(&options).expect("valid"), &record, "host");
        let entry = Entry { time_ns: 1_700_000_000_123_456_000, stream, line: line.to_owned().into() };
        sink.message(&entry).replace(&std::process::id().to_string(), "PID")
    }

    #[test]
    fn a_line_that_no_datagram_holds_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(40_000);
        assert!(cut(&long).len() <= 64_000 && long.starts_with(cut(&long)));
        assert!(cut(&"x".repeat(70_000)).len() == 64_000);
    }

    #[test]
    fn messages_have_the_forms_of_the_rfcs() {
        assert_eq!(written("", "hi\n", Stream::Stdout), "<134>Nov 14 22:13:20 abababababab[PID]: hi");
        assert_eq!(written("rfc3164", "hi\n", Stream::Stderr), "<131>Nov 14 22:13:20 host abababababab[PID]: hi");
        assert_eq!(
            written("rfc5424micro", "hi\n", Stream::Stdout),
            "<134>1 2023-11-14T22:13:20.123456Z host abababababab PID abababababab - hi"
        );
    }

    #[test]
    fn no_line_can_begin_another_message() {
        let message = written("rfc5424", "a\r<0>1 forged\0\u{1b}[2J\tb\n", Stream::Stdout);
        assert!(message.ends_with(" - a#015<0>1 forged#000#033[2J\tb"), "{message}");
    }

    #[test]
    fn addresses_and_facilities_are_read_or_refused_by_name() {
        let at = |text: &str| settings(&[("syslog-address", text)]).map(|s| s.address);
        assert_eq!(at("udp://h").expect("valid"), Address::Udp("h:514".into()));
        assert_eq!(at("tcp://h:601").expect("valid"), Address::Tcp("h:601".into()));
        assert_eq!(at("unixgram:///dev/log").expect("valid"), Address::UnixDatagram("/dev/log".into()));
        for bad in ["h:514", "unix://x", "tcp://", "tcp+tls://h:1", "tcp://h/x"] {
            assert!(at(bad).is_err(), "{bad}");
        }
        assert!(settings(&[("syslog-facility", "nope")]).is_err());
        assert_eq!(settings(&[("syslog-facility", "23")]).expect("local7").facility, 23);
    }
}
