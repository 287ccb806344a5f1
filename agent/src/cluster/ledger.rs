//! The agent's ledger on disk: what it was given and how far it got, so that it goes on without managers.
//!
//! Assignments and last statuses are one file together, written whole and read once at start: an index would have nothing to
//! spare, unlike over an engine's records (`agent/engine/src/record`).
//!
//! Written by a temporary name, fsync, rename, fsync of the folder: a reader finds the old one or the new one.

use anyhow::Context as _;
use muster_agent_core::Ledger;
use muster_model::{assignment::Assignment, cluster::Task, spec::RegistryAuth};
use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

#[derive(Clone)]
pub struct LedgerFile {
    path: PathBuf,
    /// Whether it may be written; held while it is.
    open: Arc<Mutex<bool>>,
}

impl LedgerFile {
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join("ledger"), open: Arc::new(Mutex::new(true)) }
    }

    /// Waits for a write that is going on, and refuses later ones: the folder can be removed then. Blocks for as long as a
    /// small file takes to be synced.
    pub fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// An empty one where there is none, and where it cannot be read: what runs is found through the engine, and the
    /// leader sends the whole set.
    pub fn load(&self) -> Ledger {
        match fs::read(&self.path) {
            Ok(bytes) => rmp_serde::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(%error, file = %self.path.display(), "the agent's ledger cannot be read; it starts with an empty one");
                Ledger::default()
            }),
            Err(_) => Ledger::default(),
        }
    }

    /// # Errors
    /// When the disk does not take it; the old one stands. A closed one takes nothing, which is no error.
    pub fn save(&self, ledger: &Ledger) -> anyhow::Result<()> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            return Ok(());
        }
        let mut ledger = ledger.clone();
        // Registry credentials rest on managers only: a node that restarts gets them again with its set.
        change_auths(&mut ledger, Some(&RegistryAuth::own()), |_| true);
        let bytes = rmp_serde::to_vec_named(&ledger).context("encode the ledger")?;
        let new = self.path.with_extension("new");
        let mut file = fs::File::create(&new).with_context(|| format!("create {}", new.display()))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &self.path).with_context(|| format!("rename {}", new.display()))?;
        let dir = self.path.parent().context("the ledger has a folder")?;
        fs::File::open(dir).and_then(|d| d.sync_all()).with_context(|| format!("sync {}", dir.display()))
    }
}

/// The images of tasks that have registry credentials.
pub(super) fn private_images(ledger: &Ledger) -> BTreeSet<String> {
    let tasks = ledger.set.items.values().filter_map(|a| match a {
        Assignment::Task(t) => Some(t),
        _ => None,
    });
    let private = tasks.chain(&ledger.leaving).filter(|t| t.spec.container.registry_auth.is_some());
    private.map(|t| t.spec.container.image.clone()).collect()
}

/// Lets the tasks of an image that is here go on without the credentials that the ledger does not hold.
pub(super) fn needs_no_credentials(ledger: &mut Ledger, image: &str) {
    change_auths(ledger, None, |task| task.spec.container.image == image);
}

/// Gives `auth` to those tasks that have registry credentials and are meant.
fn change_auths(ledger: &mut Ledger, auth: Option<&RegistryAuth>, meant: impl Fn(&Task) -> bool) {
    let tasks = ledger.set.items.values_mut().filter_map(|a| match a {
        Assignment::Task(t) => Some(t),
        _ => None,
    });
    for task in tasks.chain(&mut ledger.leaving) {
        if task.spec.container.registry_auth.is_some() && meant(task) {
            let task = Arc::make_mut(task);
            Arc::make_mut(&mut task.spec).container.registry_auth = auth.cloned();
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
        file.close();
        file.save(&Ledger::default()).expect("taken and dropped");
        assert_eq!(file.load(), ledger);
        fs::write(dir.path().join("ledger"), b"\xc1garbage").expect("written");
        assert_eq!(file.load(), Ledger::default());
    }

    #[test]
    fn credentials_are_only_said_to_be_there_and_dropped_where_the_image_is_here() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = LedgerFile::new(dir.path());
        file.save(&Ledger { leaving: vec![private(1, "a"), private(2, "b")], ..Ledger::default() }).expect("saved");
        let mut kept = file.load();
        let auths = |of: &Ledger| of.leaving.iter().map(|t| t.spec.container.registry_auth.clone()).collect::<Vec<_>>();
        assert_eq!(auths(&kept), [Some(RegistryAuth::own()), Some(RegistryAuth::own())]);
        assert_eq!(private_images(&kept), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        needs_no_credentials(&mut kept, "a");
        assert_eq!(auths(&kept), [None, Some(RegistryAuth::own())]);
    }

    fn private(n: u128, image: &str) -> Arc<Task> {
        let mut spec = muster_model::spec::TaskSpec::default();
        spec.container.image = image.to_owned();
        spec.container.registry_auth = Some(RegistryAuth::given("e30=").expect("base64"));
        Arc::new(Task {
            id: muster_model::TaskId::from_u128(n),
            meta: Default::default(),
            service: muster_model::ServiceId::from_u128(7),
            service_name: "web".to_owned(),
            slot: 1,
            node: None,
            spec: Arc::new(spec),
            spec_version: Default::default(),
            desired: muster_model::cluster::TaskState::Running,
            status: Default::default(),
            addresses: vec![],
            host_ports: vec![],
            trace_parent: None,
        })
    }
}
