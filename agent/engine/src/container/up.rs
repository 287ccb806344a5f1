//! Bringing a container up, and down again: the order of things, each step undone by [`bring_down`] whatever came of it.
//!
//! What does not depend on each other happens at the same time: mounting the root and making the network namespace; then
//! the runtime's create, the data plane and the flush of the record.

use super::{actor::Waiting, etc, joined::Joined, links, shm, spec};
use crate::{
    clock,
    engine::Shared,
    error,
    net::netns,
    record::{Durability, Phase, Record},
};
use muster_calls::Error;
use muster_runtime::{CreateSpec, LogConfig, LogDriver, ProcessRef, Stdio, TtySize};

/// A start that failed, and the exit code Docker would record for it.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub exit_code: i32,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // Docker's code for "the engine could not".
        Self { error, exit_code: 128 }
    }
}
use tracing::Instrument as _;

/// Starts a container whose record says what it is. After an error nothing of it runs, is mounted or taken.
pub(super) async fn bring_up(
    shared: &Shared,
    record: &mut Record,
    waiting: &mut Vec<Waiting>,
    leased: bool,
) -> Result<(), Failure> {
    let up = try_up(shared, record, waiting).await;
    if up.is_err() {
        bring_down(shared, record, leased).await;
        forget_places(record);
    }
    up
}

async fn try_up(shared: &Shared, record: &mut Record, waiting: &mut Vec<Waiting>) -> Result<(), Failure> {
    let joined = Joined::find(shared, record)?;
    links::require(shared, record)?;
    shared.take_places(record).await?;
    record.state.phase = Phase::Starting;
    let (root, netns) = tokio::join!(shared.roots.mount(&record.id), make_netns(shared, record));
    let (root, ()) = (root?, netns?);
    shared.join_places(record).await?;
    // Held until the runtime has made its mounts.
    let acquired = shared.acquire_mounts(record).await?;
    shm::make(shared, record, &joined).await?;
    etc::write(shared, record, &joined).await?;
    let input = spec::input(shared, record, root, acquired.requests.clone(), &joined)?;
    let host = shared.spec_host.clone();
    let built =
        error::blocking(move || muster_runtime::spec::build(&input, &host).map_err(|e| error::runtime(e.into())))
            .await?;
    // Whoever made it was told.
    for warning in &built.warnings {
        tracing::debug!(container.id = %record.id, %warning, "not honoured to the letter");
    }
    let create = CreateSpec {
        id: record.id.clone(),
        bundle: shared.folder(&record.id),
        state_dir: shared.folder(&record.id),
        spec: built.spec,
        stdio: stdio(record),
        log: log_config(shared, record)?,
    };
    let runtime = &shared.config.runtime;
    let (created, attached, written) = tokio::join!(
        runtime.create(&create).instrument(tracing::info_span!("runtime.create")),
        shared.sync_network(record).instrument(tracing::info_span!("network.attach")),
        shared.write_record(record, Durability::Power),
    );
    drop(acquired);
    let created = created.map_err(failure)?;
    attached?;
    written?;
    for client in waiting.drain(..).filter(|w| !w.slot.is_closed()) {
        let attachment =
            runtime.attach(ProcessRef::Container(&record.id), client.options).await.map_err(error::runtime)?;
        let _ = client.slot.send(attachment); // It may have hung up just now.
    }
    runtime.start(&record.id).instrument(tracing::info_span!("runtime.start")).await.map_err(failure)?;
    let state = &mut record.state;
    state.phase = Phase::Running;
    state.pid = created.pid;
    state.started_at = clock::now();
    (state.paused, state.oom_killed, state.stopped_by_user) = (false, false, false);
    state.exit_code = 0;
    state.error.clear();
    // What a power cut takes with it is the container too: the flushed "starting" is enough to start it again.
    shared.write_record(record, Durability::Process).await?;
    Ok(())
}

fn failure(e: muster_runtime::Error) -> Failure {
    let (error, exit_code) = error::start(e);
    Failure { error, exit_code }
}

async fn make_netns(shared: &Shared, record: &Record) -> Result<(), Error> {
    if record.places.is_empty() {
        return Ok(());
    }
    let path = shared.netns(&record.id);
    error::blocking(move || {
        netns::remove(&path);
        netns::create(&path).map_err(|e| Error::internal(e.to_string()))
    })
    .await
}

fn stdio(record: &Record) -> Stdio {
    let [height, width] = record.host.console_size;
    let size = |n: u32| u16::try_from(n).ok().filter(|n| *n > 0);
    let size = size(width).zip(size(height)).map(|(width, height)| TtySize { width, height });
    Stdio { tty: record.config.tty, open_stdin: record.config.open_stdin, size }
}

fn log_config(shared: &Shared, record: &Record) -> Result<LogConfig, Error> {
    let wanted = crate::logging::Wanted::parse(&record.host.log_config)?;
    if !wanted.kept {
        return Ok(LogConfig::none());
    }
    Ok(LogConfig {
        driver: LogDriver::JsonFile,
        path: shared.log_path(&record.id),
        max_size: wanted.max_size,
        max_file: wanted.max_file,
        compress: wanted.compress,
    })
}

/// Removes what a container has in the kernel. Never fails: what cannot be undone now is swept at the next start, and is
/// said in the log.
pub(crate) async fn bring_down(shared: &Shared, record: &Record, leased: bool) {
    let id = &record.id;
    // One that has left all of its networks has its namespace still.
    let netns = Some(shared.netns(id)).filter(|path| !record.places.is_empty() || path.exists());
    let detach = async { if netns.is_some() { shared.config.network.detach(id).await } else { Ok(()) } };
    let (deleted, detached) = tokio::join!(shared.config.runtime.delete(id, true), detach);
    if let Err(e) = deleted {
        tracing::error!(container.id = %id, error = %e, "the runtime cannot delete a container");
    }
    if let Err(e) = detached {
        tracing::error!(container.id = %id, error = %e, "the network cannot forget a container");
    }
    shared.release_places(record).await;
    shared.release_mounts(record).await;
    let memory = (record.host.ipc_mode == "shareable").then(|| shared.shm(id));
    if netns.is_some() || memory.is_some() {
        let removed = error::blocking(move || {
            netns.iter().for_each(|path| netns::remove(path));
            memory.iter().for_each(|path| shm::remove(path));
            Ok(())
        });
        if let Err(e) = removed.await {
            tracing::error!(container.id = %id, error = %e, "a namespace stays until the next start");
        }
    }
    if !leased {
        shared.roots.unmount(id).await;
    }
}

/// Takes addresses and ports out of a record that does not run any more.
pub(crate) fn forget_places(record: &mut Record) {
    record.ports.clear();
    record.places.retain(|place| !place.way_out);
    for place in &mut record.places {
        place.got = None;
    }
}
