//! The agent's ledger on disk: what it was given and how far it got, so that it goes on without managers.
//!
//! Written by a temporary name, fsync, rename, fsync of the folder: a reader finds the old one or the new one.

use anyhow::Context as _;
use muster_agent_core::Ledger;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

#[derive(Clone)]
pub struct LedgerFile(PathBuf);

impl LedgerFile {
    pub fn new(dir: &Path) -> Self {
        Self(dir.join("ledger"))
    }

    /// An empty one where there is none, and where it cannot be read: what runs is found through the engine, and the
    /// leader sends the whole set.
    pub fn load(&self) -> Ledger {
        match fs::read(&self.0) {
            Ok(bytes) => rmp_serde::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(%error, file = %self.0.display(), "the agent's ledger cannot be read; it starts with an empty one");
                Ledger::default()
            }),
            Err(_) => Ledger::default(),
        }
    }

    /// # Errors
    /// When the disk does not take it; the old one stands.
    pub fn save(&self, ledger: &Ledger) -> anyhow::Result<()> {
        let mut ledger = ledger.clone();
        forget_secrets(&mut ledger);
        let bytes = rmp_serde::to_vec_named(&ledger).context("encode the ledger")?;
        let new = self.0.with_extension("new");
        let mut file = fs::File::create(&new).with_context(|| format!("create {}", new.display()))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &self.0).with_context(|| format!("rename {}", new.display()))?;
        let dir = self.0.parent().context("the ledger has a folder")?;
        fs::File::open(dir).and_then(|d| d.sync_all()).with_context(|| format!("sync {}", dir.display()))
    }
}

/// Registry credentials rest on managers only; a node that restarts gets them again with its set.
fn forget_secrets(ledger: &mut Ledger) {
    use muster_model::assignment::Assignment;
    use std::sync::Arc;
    let tasks = ledger.set.items.values_mut().filter_map(|a| match a {
        Assignment::Task(t) => Some(t),
        _ => None,
    });
    for task in tasks.chain(&mut ledger.leaving) {
        if task.spec.container.registry_auth.is_some() {
            let task = Arc::make_mut(task);
            Arc::make_mut(&mut task.spec).container.registry_auth = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_round_trips_and_garbage_is_an_empty_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = LedgerFile::new(dir.path());
        assert_eq!(file.load(), Ledger::default());
        let ledger = Ledger {
            set: muster_model::assignment::AssignmentSet { generation: 7, ..Default::default() },
            ..Default::default()
        };
        file.save(&ledger).expect("saved");
        assert_eq!(file.load(), ledger);
        fs::write(dir.path().join("ledger"), b"\xc1garbage").expect("written");
        assert_eq!(file.load(), Ledger::default());
    }
}
