//! Reading what a container has logged.

use crate::{
    engine::Shared,
    logging::{Wanted, attributes},
    record::Record,
};
use futures_util::{StreamExt, stream};
use muster_calls::{Error, Kind, LogChunk, LogStream, Logs, Output, Result, StdStream, Stream};
use muster_model::Timestamp;
use muster_runtime::logs::{Entry, ReadOptions, Reader};
use std::sync::Arc;
use tokio::sync::watch;

impl Shared {
    /// The log of a container.
    pub(crate) async fn logs(self: &Arc<Self>, id: &str, options: Logs) -> Result<LogStream> {
        if !options.stdout && !options.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let handle = self.find(id)?;
        let record = handle.record();
        if !Wanted::parse(&record.host.log_config)?.readable {
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
        let attrs = Arc::new(if options.details { attributes(&record, &self.config.name) } else { Vec::new() });
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

/// Whether it runs, or will without anybody's asking.
pub(crate) fn is_live(record: &Record) -> bool {
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
