//! A log configuration: driver and options, each honoured or refused by name.

use super::{syslog, tag};
use muster_calls::{Error, Result};
use muster_model::engine::LogConfig;

/// Docker's defaults of the driver `local`, and of the file beside a driver that sends: five files of 20 MB.
const LOCAL_MAX_SIZE: u64 = 20 << 20;
const LOCAL_MAX_FILE: u32 = 5;
/// Docker's default of `max-buffer-size`.
const BUFFER: u64 = 1 << 20;

const FILE: &[&str] = &["max-size", "max-file", "compress"];
const CACHE: &[&str] = &["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
const ATTRIBUTES: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
const SYSLOG: &[&str] = &["syslog-address", "syslog-facility", "syslog-format"];
const MODE: &[&str] = &["mode", "max-buffer-size"];

/// What a log configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// A file is written.
    pub kept: bool,
    /// `docker logs` may read it.
    pub readable: bool,
    /// Bytes.
    pub max_size: Option<u64>,
    pub max_file: u32,
    /// What was rotated away is compressed.
    pub compress: bool,
    /// Whereto it is sent as well.
    pub forward: Option<Forward>,
    /// Bytes that may wait in memory; `None`: the file is the buffer.
    pub non_blocking: Option<u64>,
}

/// A driver that sends lines away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    Syslog(syslog::Settings),
    Journald,
    /// `None`: the daemon's own endpoint.
    Otlp(Option<String>),
}

impl Wanted {
    /// Reads driver and options.
    ///
    /// # Errors
    /// `Invalid` for an unknown driver, option or value; `Unimplemented` for those that Docker has and we have not.
    pub fn parse(config: &LogConfig) -> Result<Self> {
        let (known, mut wanted) = driver(config)?;
        for (key, value) in &config.config {
            if !known.iter().any(|list| list.contains(&key.as_str())) {
                return Err(unknown(key, &config.kind));
            }
            wanted.apply(key, value)?;
        }
        let asked = config.config.get("compress").is_some_and(|value| value == "true");
        if asked && (wanted.max_size.is_none() || wanted.max_file < 2) {
            return Err(Error::invalid("compress cannot be true when max-file is less than 2 or max-size is not set"));
        }
        if config.config.contains_key("max-buffer-size") && wanted.non_blocking.is_none() {
            return Err(Error::invalid("logger: max-buffer-size option is only supported with mode=non-blocking"));
        }
        if let Some(size) = config.config.get("max-buffer-size") {
            wanted.non_blocking =
                Some(parse_size(size).filter(|n| *n > 0).ok_or_else(|| bad("max-buffer-size", size))?);
        }
        Ok(wanted)
    }

    fn apply(&mut self, key: &str, value: &str) -> Result<()> {
        let bad = || bad(key, value);
        match key {
            "max-size" | "cache-max-size" if value == "-1" => self.max_size = None,
            "max-size" | "cache-max-size" => {
                self.max_size = Some(parse_size(value).filter(|n| *n > 0).ok_or_else(bad)?)
            }
            "max-file" | "cache-max-file" => self.max_file = value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?,
            "compress" | "cache-compress" => self.compress = value.parse().map_err(|_| bad())?,
            "cache-disabled" => self.readable = !value.parse::<bool>().map_err(|_| bad())?,
            "mode" => match value {
                "blocking" => {}
                "non-blocking" => self.non_blocking = Some(BUFFER),
                _ => return Err(Error::invalid(format!("logger: logging mode not supported: {value}"))),
            },
            "labels-regex" | "env-regex" => drop(regex::Regex::new(value).map_err(|_| bad())?),
            "tag" => tag::check(value).map_err(Error::invalid)?,
            "otlp-endpoint" => self.forward = Some(Forward::Otlp(Some(endpoint(value)?))),
            _ => {} // Lists of names, which need no check; options of syslog and max-buffer-size are read as a whole.
        }
        Ok(())
    }
}

/// The options a driver knows, and what it asks for without any.
fn driver(config: &LogConfig) -> Result<(Vec<&'static [&'static str]>, Wanted)> {
    let file = Wanted {
        kept: true,
        readable: true,
        max_size: None,
        max_file: 1,
        compress: false,
        forward: None,
        non_blocking: None,
    };
    let rotated = Wanted { max_size: Some(LOCAL_MAX_SIZE), max_file: LOCAL_MAX_FILE, compress: true, ..file.clone() };
    let sent = |forward| Wanted { forward: Some(forward), ..rotated.clone() };
    Ok(match config.kind.as_str() {
        "" | "json-file" => (vec![FILE, ATTRIBUTES, MODE], file),
        "local" => (vec![FILE, MODE], rotated),
        "none" => (vec![MODE], Wanted { kept: false, readable: false, ..file }),
        "syslog" => {
            if let Some(key) = config.config.keys().find(|key| key.starts_with("syslog-tls-")) {
                return Err(Error::unimplemented(format!("log opt {key}")));
            }
            let settings = syslog::Settings::parse(&config.config)?;
            (vec![SYSLOG, ATTRIBUTES, CACHE, MODE], sent(Forward::Syslog(settings)))
        }
        "journald" => (vec![ATTRIBUTES, CACHE, MODE], sent(Forward::Journald)),
        "otlp" => (vec![&["otlp-endpoint"], ATTRIBUTES, CACHE, MODE], sent(Forward::Otlp(None))),
        known @ ("gelf" | "fluentd" | "awslogs" | "splunk" | "etwlogs" | "gcplogs") => {
            let there = "json-file, local, none, syslog, journald and otlp are";
            return Err(Error::unimplemented(format!("log driver {known} ({there})")));
        }
        other => {
            let text = format!("error looking up logging plugin {other}: plugin \"{other}\" not found");
            return Err(Error::invalid(text));
        }
    })
}

fn unknown(key: &str, driver: &str) -> Error {
    let driver = if driver.is_empty() { "json-file" } else { driver };
    Error::invalid(format!("unknown log opt '{key}' for {driver} log driver"))
}

fn bad(key: &str, value: &str) -> Error {
    Error::invalid(format!("invalid value {value:?} for log opt {key}"))
}

/// An OTLP endpoint over gRPC.
fn endpoint(text: &str) -> Result<String> {
    let rest = text.strip_prefix("http://").unwrap_or_default();
    if rest.is_empty() || rest.starts_with('/') {
        let text = format!("invalid value {text:?} for log opt otlp-endpoint: expected http://HOST:PORT");
        return Err(Error::invalid(text));
    }
    Ok(text.to_owned())
}

/// Bytes of a text as `10m`.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let trimmed = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, factor) = match trimmed.as_bytes().last()? {
        b'k' => (&trimmed[..trimmed.len() - 1], 1 << 10),
        b'm' => (&trimmed[..trimmed.len() - 1], 1 << 20),
        b'g' => (&trimmed[..trimmed.len() - 1], 1 << 30),
        _ => (trimmed, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, options: &[(&str, &str)]) -> Result<Wanted> {
        let config = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Wanted::parse(&LogConfig { kind: kind.to_owned(), config })
    }

    #[test]
    fn log_options_are_read_or_refused_by_name() {
        let file = of("json-file", &[("max-size", "10m"), ("max-file", "3")]).expect("valid");
        assert_eq!((file.max_size, file.max_file, file.forward), (Some(10 << 20), 3, None));
        assert!(!of("none", &[]).expect("valid").kept);
        assert_eq!(
            of("bogus", &[]).expect_err("unknown").message,
            "error looking up logging plugin bogus: plugin \"bogus\" not found"
        );
        for (kind, key, value) in [
            ("json-file", "max-size", "x"),
            ("json-file", "max-file", "0"),
            ("json-file", "bogus", "1"),
            ("json-file", "compress", "maybe"),
            ("json-file", "env-regex", "("),
            ("json-file", "tag", "{{.Nonesuch}}"),
            ("json-file", "max-buffer-size", "1m"),
            ("local", "labels", "x"),
            ("syslog", "max-size", "1m"),
            ("syslog", "syslog-address", "ftp://x"),
            ("syslog", "syslog-tls-cert", "/x"),
            ("otlp", "otlp-endpoint", "here"),
            ("gelf", "gelf-address", "udp://x:1"),
        ] {
            assert!(of(kind, &[(key, value)]).is_err(), "{kind} {key}={value}");
        }
    }

    #[test]
    fn what_is_sent_is_kept_in_a_bounded_file_that_can_be_read_unless_that_is_refused() {
        let journald = of("journald", &[("tag", "{{.Name}}"), ("labels", "a,b")]).expect("valid");
        assert_eq!((journald.kept, journald.readable, journald.max_size), (true, true, Some(20 << 20)));
        let hidden = of("otlp", &[("cache-disabled", "true"), ("otlp-endpoint", "http://c:4317")]).expect("valid");
        assert_eq!((hidden.kept, hidden.readable), (true, false));
        assert_eq!(hidden.forward, Some(Forward::Otlp(Some("http://c:4317".into()))));
        let lossy = of("journald", &[("mode", "non-blocking"), ("max-buffer-size", "4k")]).expect("valid");
        assert_eq!(lossy.non_blocking, Some(4096));
        assert_eq!(of("syslog", &[("mode", "non-blocking")]).expect("valid").non_blocking, Some(1 << 20));
    }
}
