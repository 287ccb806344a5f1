//! What is known of execs, in the run folder: one small file each, so that a restart of the daemon forgets none.
//!
//! The files are for the next daemon only; one that cannot be written costs that knowledge and nothing else.

use super::{Exec, Progress, REMEMBERED};
use crate::{
    clock,
    engine::Shared,
    error,
    record::{Durability, Record, durable},
};
use muster_model::{Timestamp, engine::ExecConfig};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Below the run folder: a folder per container.
pub(crate) const FOLDER: &str = "execs";

#[derive(Serialize, Deserialize)]
enum KeptProgress {
    Prepared,
    Running { pid: u32 },
    Finished { pid: u32, code: i32, at: Timestamp },
}

#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    config: ExecConfig,
    progress: KeptProgress,
}

/// Writes down how an exec fares. Some microseconds: the folder is memory.
pub(super) fn write(folder: &Path, exec: &Exec) {
    let progress = match *exec.progress() {
        Progress::Prepared => KeptProgress::Prepared,
        Progress::Running { pid } => KeptProgress::Running { pid },
        Progress::Finished { pid, code, .. } => KeptProgress::Finished { pid, code, at: clock::now() },
    };
    let kept = Kept { id: exec.id.clone(), config: exec.config.clone(), progress };
    let written = fs::create_dir_all(folder).map_err(|e| e.to_string()).and_then(|()| {
        let bytes = serde_json::to_vec(&kept).map_err(|e| e.to_string())?;
        durable::write(&folder.join(&exec.id), &bytes, Durability::Process).map_err(|e| e.to_string())
    });
    if let Err(error) = written {
        tracing::debug!(exec.id = %exec.id, %error, "an exec will not be known after a restart");
    }
}

/// Begins the names of files about probes of health.
const PROBE: &str = "probe-";

impl Shared {
    /// Notes that a probe of health is about to run, so that the next daemon ends it if this one cannot.
    pub(crate) fn note_probe(&self, container: &str, exec: &str) {
        let folder = self.execs_folder(container);
        let written = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(format!("{PROBE}{exec}")), ""));
        if let Err(error) = written {
            tracing::debug!(container.id = %container, %error, "a probe will not be known after a restart");
        }
    }

    /// The probe is over.
    pub(crate) fn forget_probe(&self, container: &str, exec: &str) {
        let _ = fs::remove_file(self.execs_folder(container).join(format!("{PROBE}{exec}"))); // At worst it is deleted twice.
    }

    /// Ends what the probes of the daemon before have left running.
    async fn end_probes(&self, container: &str) {
        let entries = fs::read_dir(self.execs_folder(container)).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        for exec in names.iter().filter_map(|name| name.strip_prefix(PROBE)) {
            if let Err(e) = self.config.runtime.exec_delete(container, exec).await {
                tracing::warn!(container.id = %container, error = %e, "a probe of the daemon before may still run");
            }
            self.forget_probe(container, exec);
        }
    }

    /// Takes up the execs of a container that was found running.
    pub(crate) async fn take_up_execs(self: &Arc<Self>, record: &Record) {
        self.end_probes(&record.id).await;
        let folder = self.execs_folder(&record.id);
        let read = error::blocking(move || Ok(read_all(&folder))).await;
        let record = Arc::new(record.clone());
        for kept in read.unwrap_or_default() {
            let progress = match kept.progress {
                KeptProgress::Prepared => Progress::Prepared,
                KeptProgress::Running { pid } => Progress::Running { pid },
                KeptProgress::Finished { pid, code, at } => {
                    let ago = clock::now().since(at);
                    let at = Instant::now().checked_sub(ago.min(REMEMBERED)).unwrap_or_else(Instant::now);
                    Progress::Finished { pid, code, at }
                }
            };
            let (running, started) = (matches!(progress, Progress::Running { .. }), CancellationToken::new());
            if progress != Progress::Prepared {
                started.cancel();
            }
            let exec = Exec {
                id: kept.id.clone(),
                container: record.id.clone(),
                config: kept.config,
                progress: Mutex::new(progress),
                started,
                ended: CancellationToken::new(),
            };
            self.execs.enter(exec);
            if let (true, Ok(exec)) = (running, self.execs.find(&kept.id)) {
                self.watch_exec(exec, record.clone());
            }
        }
    }

    /// The containers of which execs are known from the daemon before.
    pub(crate) fn containers_with_execs(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.config.run_dir.join(FOLDER)).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// Forgets the execs of a container that is gone, or whose processes are.
    pub(crate) async fn forget_execs(&self, container: &str) {
        self.execs.forget_container(container);
        let folder = self.execs_folder(container);
        let removed = error::blocking(move || durable::remove_tree(&folder).map_err(error::disk)).await;
        if let Err(e) = removed {
            tracing::debug!(container.id = %container, error = %e, "notes of execs stay");
        }
    }
}

/// Every exec whose file can be read.
fn read_all(folder: &Path) -> Vec<Kept> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()).collect()
}
