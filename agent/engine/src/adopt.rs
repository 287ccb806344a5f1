//! Opening an engine where another has run: what still lives is taken up, what ended is recorded, what is nobody's goes.
//!
//! Order: read every record; ask the runtime about each; end what the runtime has and no record wants; remove namespaces and
//! roots that no record owns; then the containers' tasks begin, and restart policies with them.

use crate::{
    clock,
    container::{Begin, Handle, at_daemon_start, bring_down, forget_places, spawn},
    engine::Shared,
    error::OpenError,
    record::{
        Durability, Phase, Record, durable,
        folder::{InFolder as _, Read},
    },
    volume::owner_of_root,
};
use futures_util::{StreamExt, stream};
use muster_runtime::{Adopted, ExitStatus, Status};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Containers asked about at the same time.
const AT_ONCE: usize = 16;
/// How long opening waits for what follows the end of containers that ended meanwhile: its removal, with its last log lines.
const SETTLE: Duration = Duration::from_secs(10);

/// What a container is to be after the start.
pub(crate) struct Found {
    pub record: Record,
    /// It is not what its file says any more.
    changed: bool,
    pub alive: bool,
    /// It ran, and how it has ended since.
    pub ended: Option<ExitStatus>,
    /// Its policy wants it running.
    pub start: bool,
    /// It goes: removal was under way, or it removes itself and has ended.
    remove: bool,
}

/// Takes up the containers whose records were read.
///
/// # Errors
/// When the folder, the runtime or the image store cannot be read. One bad record is logged and left alone.
pub(crate) async fn adopt(shared: &Arc<Shared>, read: Vec<Read<Record>>) -> Result<(), OpenError> {
    let (records, mut keep) = sort_out(read)?;
    let roots: BTreeMap<String, bool> = shared.roots.all().await?.into_iter().collect();
    let looks = stream::iter(records).map(|record| {
        let (id, roots) = (record.id.clone(), &roots);
        async move { (id, look(shared, record, roots).await) }
    });
    let mut found = Vec::new();
    for (id, looked) in looks.buffered(AT_ONCE).collect::<Vec<_>>().await {
        match looked {
            Ok(one) => found.push(one),
            Err(e) => {
                tracing::error!(container.id = %id, error = %e, "the runtime cannot tell of a container, which is left alone");
                keep.push(id);
            }
        }
    }
    keep.extend(found.iter().filter(|f| f.alive).map(|f| f.record.id.clone()));
    let swept = shared.config.runtime.sweep(&keep).await?;
    if !swept.is_empty() {
        tracing::info!(count = swept.len(), "ended containers that no record wants");
    }
    shared.sweep_run_dir(&keep).map_err(OpenError::io("sweep", &shared.config.run_dir))?;
    sweep_roots(shared, &found, &roots).await;
    found.iter().filter(|f| f.alive || f.ended.is_some()).for_each(|f| shared.hold_endpoints(&f.record));
    let known: BTreeSet<&str> = found.iter().map(|f| f.record.id.as_str()).collect();
    let unknown: Vec<String> = keep.iter().filter(|id| !known.contains(id.as_str())).cloned().collect();
    shared.hold_endpoints_of(&unknown);
    shared.make_gateways().await;
    shared.settle_at_start().await;
    let with_execs = shared.containers_with_execs();
    // All of them, before the first that is started again takes addresses and ports.
    found.iter().filter(|f| f.alive && !f.remove).for_each(|f| shared.hold_places(&f.record));
    let mut ended = Vec::new();
    for found in found {
        let has_execs = with_execs.contains(&found.record.id);
        ended.extend(enter(shared, found, has_execs).await);
    }
    // Whoever asks an open engine shall hear how things are, not how they were.
    let settled_by = tokio::time::Instant::now() + SETTLE;
    for handle in ended {
        let goes = handle.record().host.auto_remove;
        let mut watch = handle.watch();
        let settled = watch.wait_for(|view| view.removed || (view.exits > 0 && !goes));
        // Those that cannot be removed now keep nobody waiting.
        let _ = tokio::time::timeout_at(settled_by, settled).await;
    }
    shared.volumes.unmount_unheld().await;
    shared.end_lent(&unknown).await;
    Ok(())
}

/// Looks at one container of an engine that is open, as if it had just been opened; `None` when nothing is left of it.
///
/// # Errors
/// When its record or the runtime cannot be read.
pub(crate) async fn again(shared: &Arc<Shared>, id: &str) -> muster_calls::Result<Option<Found>> {
    let read = Record::read(&shared.folder(id)).map_err(|e| muster_calls::Error::internal(e.to_string()))?;
    let Some(record) = read else { return Ok(None) };
    let roots = shared.roots.all().await.map_err(crate::error::image)?.into_iter().collect();
    look(shared, record, &roots).await.map(Some).map_err(|e| muster_calls::Error::internal(e.to_string()))
}

/// The records in order of their making, and the ids of those that cannot be read: what they own is kept.
fn sort_out(read: Vec<Read<Record>>) -> Result<(Vec<Record>, Vec<String>), OpenError> {
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for Read { path, name, record } in read {
        match record {
            Ok(Some(record)) if name == record.id => records.push(record),
            Ok(Some(_)) => {
                tracing::error!(path = %path.display(), "a container record is not of its folder and is left alone");
                unreadable.push(name);
            }
            // Half-made or half-removed: nobody was told that it exists.
            Ok(None) => durable::remove_tree(&path)?,
            Err(e) => {
                tracing::error!(error = %e, "a container record cannot be read and is left alone");
                unreadable.push(name);
            }
        }
    }
    records.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
    Ok((records, unreadable))
}

async fn look(shared: &Arc<Shared>, mut record: Record, roots: &BTreeMap<String, bool>) -> Result<Found, OpenError> {
    let runtime = &shared.config.runtime;
    let ran = matches!(record.state.phase, Phase::Running | Phase::Starting | Phase::Restarting);
    // Of one that was seen to end, and of which the runtime has nothing, there is nothing to ask.
    let adopted = if ran || runtime.has_traces(&record.id) {
        runtime.adopt(&record.id, &shared.folder(&record.id)).await?
    } else {
        Adopted::Unknown
    };
    let half_made =
        record.state.phase == Phase::Creating || (record.state.started_at.is_zero() && !roots.contains_key(&record.id));
    let before = record.clone();
    let mut ended = None;
    let alive = match adopted {
        Adopted::Alive { status: Status::Running | Status::Paused, .. } if ran => take_up(&mut record, &adopted),
        // Created and not let run: its start was never answered.
        Adopted::Alive { .. } => {
            runtime.delete(&record.id, true).await?;
            note_end(&mut record, ran, None);
            false
        }
        // Its owner goes on from there as from every exit.
        Adopted::Exited(status) if record.state.phase == Phase::Running => {
            ended = Some(status);
            false
        }
        Adopted::Exited(status) => {
            runtime.delete(&record.id, true).await?;
            note_end(&mut record, ran, Some(&status));
            false
        }
        Adopted::Unknown => {
            note_end(&mut record, ran, None);
            false
        }
    };
    let state = &record.state;
    let started_before = !state.started_at.is_zero() || ran;
    let gone = !alive && ended.is_none();
    let remove = half_made || state.phase == Phase::Removing || (gone && started_before && record.host.auto_remove);
    let wanted = at_daemon_start(record.restart_policy(), ran, state.stopped_by_user, state.exit_code);
    let start = gone && !remove && started_before && wanted;
    let changed = record != before;
    Ok(Found { record, changed, alive, ended, start, remove })
}

fn take_up(record: &mut Record, adopted: &Adopted) -> bool {
    let Adopted::Alive { status, pid } = adopted else { return false };
    let state = &mut record.state;
    if state.started_at.is_zero() || state.phase == Phase::Starting {
        state.started_at = clock::now();
    }
    state.phase = Phase::Running;
    state.pid = *pid;
    state.paused = *status == Status::Paused;
    true
}

/// Records that a container which ran does so no more. `None`: nobody knows how it ended, for instance at a reboot.
fn note_end(record: &mut Record, ran: bool, status: Option<&muster_runtime::ExitStatus>) {
    forget_places(record);
    let state = &mut record.state;
    (state.pid, state.paused) = (0, false);
    if !ran || state.phase == Phase::Restarting {
        return;
    }
    let was_starting = state.phase == Phase::Starting;
    state.phase =
        if was_starting && state.started_at.is_zero() && status.is_none() { Phase::Created } else { Phase::Exited };
    match status {
        Some(status) => {
            if state.started_at.is_zero() {
                state.started_at = clock::from_system(status.at);
            }
            state.exit_code = status.code;
            state.oom_killed = status.oom_killed;
            state.finished_at = clock::from_system(status.at);
            state.error = status.error.clone().unwrap_or_default();
        }
        None if state.phase == Phase::Exited => {
            // As Docker after a reboot.
            state.exit_code = 255;
            state.finished_at = clock::now();
        }
        None => {}
    }
}

/// Unmounts the roots of containers that do not run, and removes those that no record owns.
async fn sweep_roots(shared: &Shared, found: &[Found], roots: &BTreeMap<String, bool>) {
    let alive: BTreeMap<&str, bool> = found.iter().map(|f| (f.record.id.as_str(), f.alive)).collect();
    for (id, mounted) in roots {
        let owner = owner_of_root(id);
        match alive.get(owner) {
            Some(true) => {}
            Some(false) if *mounted => shared.roots.unmount(id).await,
            Some(false) => {}
            // Of a record that cannot be read: kept with it.
            None if shared.folder(owner).exists() => {}
            None => {
                if let Err(e) = shared.roots.remove(id).await {
                    tracing::error!(container.id = %id, error = %e, "cannot remove a root that nobody owns");
                }
            }
        }
    }
}

/// Enters a container into the engine; answers with it if it has ended and its owner is still to note that.
async fn enter(shared: &Arc<Shared>, found: Found, has_execs: bool) -> Option<Arc<Handle>> {
    let Found { mut record, mut changed, alive, ended, start, remove } = found;
    if remove {
        bring_down(shared, &record, false).await;
        if let Err(e) = shared.discard_container(&record, record.host.auto_remove).await {
            tracing::error!(container.id = %record.id, error = %e, "cannot remove a container; the next start tries again");
        }
        return None;
    }
    if shared.containers.reserve(&record.name, &record.id).is_err() {
        tracing::error!(container.id = %record.id, name = %record.name, "two records have one name: this one goes by its id");
        record.name = record.id.clone();
        changed = true;
    }
    shared.volumes.hold(&record);
    if alive {
        shared.volumes.hold_mounts(&record);
        if let Err(e) = shared.sync_network(&record).await {
            tracing::error!(container.id = %record.id, error = %e, "the network of a running container cannot be taken up");
        }
    }
    if start {
        record.state.phase = Phase::Restarting;
        changed = true;
        shared.hold_attachments(&record);
    }
    if !alive && !start {
        // What the cluster still keeps for it is given back: nobody says that it is held.
        changed |= record.places.iter().any(|p| p.attachment.is_some());
        record.places.iter_mut().for_each(|p| p.attachment = None);
    }
    // A thousand stopped containers are as they were: nothing is written.
    if changed && let Err(e) = shared.write_record(&record, Durability::Process).await {
        tracing::error!(container.id = %record.id, error = %e, "cannot write a record");
    }
    if alive {
        shared.take_up_execs(&record).await;
    } else if has_execs {
        shared.forget_execs(&record.id).await;
    }
    match ended {
        Some(status) => Some(spawn(shared, record, Begin::Ended(Box::new(status)))),
        None => {
            spawn(shared, record, if alive { Begin::Running } else { Begin::AtRest });
            None
        }
    }
}
