//! Reading what a container has logged, and what its log options mean.

use crate::{engine::Shared, record::Record};
use futures_util::{StreamExt, stream};
use muster_calls::{Error, Kind, LogChunk, LogStream, Logs, Output, Result, StdStream, Stream};
use muster_model::{Timestamp, engine::LogConfig};
use muster_runtime::logs::{Entry, ReadOptions, Reader};
use std::sync::Arc;
use tokio::sync::watch;

/// Docker's defaults of the driver `local`: five files of 20 MB.
const LOCAL_MAX_SIZE: u64 = 20 << 20;
const LOCAL_MAX_FILE: u32 = 5;

/// What a log configuration asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A log is written and can be read.
    pub kept: bool,
    pub max_size: Option<u64>,
    pub max_file: u32,
}

impl Wanted {
    /// Reads driver and options.
    ///
    /// # Errors
    /// `Invalid` for an unknown driver or option, `Unimplemented` for drivers that Docker has and we have not.
    pub fn parse(config: &LogConfig) -> Result<Self> {
        let mut wanted = match config.kind.as_str() {
            "" | "json-file" => Self { kept: true, max_size: None, max_file: 1 },
            "local" => Self { kept: true, max_size: Some(LOCAL_MAX_SIZE), max_file: LOCAL_MAX_FILE },
            "none" => Self { kept: false, max_size: None, max_file: 1 },
            known @ ("syslog" | "journald" | "gelf" | "fluentd" | "awslogs" | "splunk" | "etwlogs" | "gcplogs") => {
                return Err(Error::unimplemented(format!("log driver {known} (json-file, local and none are)")));
            }
            other => return Err(Error::invalid(format!("logger: no log driver named '{other}' is registered"))),
        };
        for (key, value) in &config.config {
            let bad = || Error::invalid(format!("invalid value {value:?} for log opt {key}"));
            match key.as_str() {
                "max-size" if value == "-1" => wanted.max_size = None,
                "max-size" => wanted.max_size = Some(parse_size(value).filter(|n| *n > 0).ok_or_else(bad)?),
                "max-file" => wanted.max_file = value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?,
                // How lines are written, or which attributes go with them: parsed by none of our readers but `attributes`.
                "labels" | "labels-regex" | "env" | "env-regex" | "tag" => {}
                "mode" if value == "blocking" => {}
                "mode" | "max-buffer-size" | "compress" if value != "false" => {
                    return Err(Error::unimplemented(format!("log opt {key}={value}")));
                }
                "compress" => {}
                _ => return Err(Error::invalid(format!("unknown log opt '{key}' for {} log driver", config.kind))),
            }
        }
        Ok(wanted)
    }
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

/// The attributes that `details` shows with each line: labels and variables that the log options name.
fn attributes(record: &Record) -> Vec<(String, String)> {
    let options = &record.host.log_config.config;
    let named = |key: &str| {
        options.get(key).map(|v| v.split(',').map(str::trim).map(str::to_owned).collect::<Vec<_>>()).unwrap_or_default()
    };
    let labels = named("labels").into_iter().filter_map(|key| record.config.labels.get(&key).map(|v| (key, v.clone())));
    let variable = |key: &String| {
        record.config.env.iter().find_map(|e| e.strip_prefix(key.as_str())?.strip_prefix('=').map(str::to_owned))
    };
    let env = named("env").into_iter().filter_map(|key| variable(&key).map(|v| (key, v)));
    labels.chain(env).collect()
}

impl Shared {
    /// The log of a container.
    pub(crate) async fn logs(self: &Arc<Self>, id: &str, options: Logs) -> Result<LogStream> {
        if !options.stdout && !options.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let handle = self.find(id)?;
        let record = handle.record();
        if !Wanted::parse(&record.host.log_config)?.kept {
            return Err(Error::new(Kind::Unimplemented, "configured logging driver does not support reading"));
        }
        let (ended_now, ended) = watch::channel(!is_live(&record));
        let until = options.until;
        let read = ReadOptions {
            tail: options.tail.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            since_ns: Some(options.since.0).filter(|n| *n != 0),
            until_ns: Some(until.0).filter(|n| *n != 0),
            follow: options.follow,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        let reader =
            Reader::open(&self.log_path(&record.id), read, ended).await.map_err(|e| Error::internal(e.to_string()))?;
        let attrs = Arc::new(if options.details { attributes(&record) } else { Vec::new() });
        let lines = entries(reader).map(move |entry| entry.map(|e| chunk(e, &attrs)));
        let lines: Stream<LogChunk> = if options.follow {
            // The reader ends once it is told that the process has, and after `until`, whether or not something is written.
            let told = follow_end(handle.watch(), ended_now, until, self.stop.clone());
            lines.take_until(told).boxed()
        } else {
            lines.boxed()
        };
        Ok(LogStream { tty: record.config.tty, lines })
    }
}

fn is_live(record: &Record) -> bool {
    record.state.is_running()
        || matches!(record.state.phase, crate::record::Phase::Restarting | crate::record::Phase::Starting)
}

/// Tells the reader when the process has ended, and itself ends only when reading shall stop at once.
async fn follow_end(
    mut view: watch::Receiver<super::handle::View>,
    ended: watch::Sender<bool>,
    until: Timestamp,
    stop: tokio_util::sync::CancellationToken,
) {
    let over = async {
        // A view that nobody publishes any more is of a container that is gone, or of an engine that shuts down.
        let _ = view.wait_for(|v| v.removed || !is_live(&v.record)).await;
        let _ = ended.send(true); // The reader may have ended by itself.
        std::future::pending::<()>().await;
    };
    let deadline = async {
        if until.is_zero() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(until.since(crate::clock::now())).await;
    };
    tokio::select! {
        () = over => {}
        () = deadline => {}
        () = stop.cancelled() => {}
    }
}

fn entries(reader: Reader) -> Stream<Entry> {
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next_batch().await {
            Ok(Some(batch)) => Some((batch.into_iter().map(Ok).collect::<Vec<_>>(), Some(reader))),
            Ok(None) => None,
            Err(e) => Some((vec![Err(Error::internal(e.to_string()))], None)),
        }
    })
    .flat_map(stream::iter)
    .boxed()
}

fn std_stream(entry: &Entry) -> StdStream {
    match entry.stream {
        muster_runtime::logs::Stream::Stdout => StdStream::Stdout,
        muster_runtime::logs::Stream::Stderr => StdStream::Stderr,
    }
}

fn chunk(entry: Entry, attrs: &[(String, String)]) -> LogChunk {
    LogChunk { stream: std_stream(&entry), time: Timestamp(entry.time_ns), data: entry.line, attrs: attrs.to_vec() }
}

/// What was logged so far, as output for an attach with `logs`.
pub(super) async fn past(shared: &Shared, record: &Record, stdout: bool, stderr: bool) -> Result<Stream<Output>> {
    let options = ReadOptions { stdout, stderr, ..ReadOptions::default() };
    let (_, ended) = watch::channel(true);
    let reader =
        Reader::open(&shared.log_path(&record.id), options, ended).await.map_err(|e| Error::internal(e.to_string()))?;
    Ok(entries(reader).map(|entry| entry.map(|e| Output { stream: std_stream(&e), data: e.line })).boxed())
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
        assert_eq!(
            of("json-file", &[("max-size", "10m"), ("max-file", "3")]).expect("valid"),
            Wanted { kept: true, max_size: Some(10 << 20), max_file: 3 }
        );
        assert!(!of("none", &[]).expect("valid").kept);
        assert_eq!(of("bogus", &[]).expect_err("unknown").message, "logger: no log driver named 'bogus' is registered");
        for (kind, key, value) in [
            ("json-file", "max-size", "x"),
            ("json-file", "max-file", "0"),
            ("json-file", "bogus", "1"),
            ("syslog", "tag", "x"),
        ] {
            assert!(of(kind, &[(key, value)]).is_err(), "{kind} {key}={value}");
        }
    }
}
