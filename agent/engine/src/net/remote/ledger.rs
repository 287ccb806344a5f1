//! The endpoints that plugins may know of: each is a file from before a plugin is asked to make it until the plugin has
//! forgotten it. What is written here and held by no container is owed to the plugin.

use crate::{
    error::{self, OpenError},
    record::{Durability, durable},
};
use muster_calls::Result;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

/// One endpoint, and all that it takes to end it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Entry {
    pub endpoint: String,
    pub container: String,
    pub network: String,
    /// The plugin that has the endpoint; empty on a bridge whose addresses alone are a plugin's.
    pub driver: String,
    /// It was asked to make the endpoint.
    pub created: bool,
    /// It was asked to have it joined.
    pub joined: bool,
    /// The interface that was put into the container: its name there, and on the host.
    pub interface: Option<(String, String)>,
    /// It was asked to publish ports.
    pub programmed: bool,
    pub ipam_driver: String,
    /// What that gave: the pool, and the address.
    pub addresses: Vec<(String, IpAddr)>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Ledger {
    folder: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    /// Those that somebody has in hand.
    held: BTreeSet<String>,
}

impl Ledger {
    /// Reads what is there. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]; an entry that cannot be read is logged and left alone.
    pub fn open(folder: &Path) -> std::result::Result<Self, OpenError> {
        fs::create_dir_all(folder).map_err(OpenError::io("create", folder))?;
        durable::sweep(folder)?;
        let mut inner = Inner::default();
        for found in fs::read_dir(folder).map_err(OpenError::io("read", folder))? {
            let path = found.map_err(OpenError::io("read", folder))?.path();
            let Some(bytes) = durable::read(&path)? else { continue };
            match serde_json::from_slice::<Entry>(&bytes) {
                Ok(entry) => drop(inner.entries.insert(entry.endpoint.clone(), entry)),
                Err(e) => {
                    tracing::error!(path = %path.display(), error = %e, "a note of an endpoint cannot be read and is left alone")
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn path(&self, endpoint: &str) -> PathBuf {
        self.folder.join(format!("{endpoint}.json"))
    }

    /// Writes down how far an endpoint has got; it is in the caller's hand then.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn note(&self, entry: &Entry) -> Result<()> {
        let (path, entry) = (self.path(&entry.endpoint), entry.clone());
        {
            let mut inner = self.lock();
            inner.held.insert(entry.endpoint.clone());
            inner.entries.insert(entry.endpoint.clone(), entry.clone());
        }
        error::blocking(move || {
            let bytes = serde_json::to_vec(&entry).map_err(|e| muster_calls::Error::internal(e.to_string()))?;
            durable::write(&path, &bytes, Durability::Power).map_err(error::disk)
        })
        .await
    }

    /// An endpoint as it was noted last.
    pub fn get(&self, endpoint: &str) -> Option<Entry> {
        self.lock().entries.get(endpoint).cloned()
    }

    /// Whether somebody has another endpoint in hand that fits.
    pub fn has_another(&self, endpoint: &str, fits: impl Fn(&Entry) -> bool) -> bool {
        let inner = self.lock();
        inner.entries.values().any(|e| e.endpoint != endpoint && inner.held.contains(&e.endpoint) && fits(e))
    }

    /// A container has this endpoint: it was made before the daemon was started.
    pub fn hold(&self, endpoint: &str) {
        self.lock().held.insert(endpoint.to_owned());
    }

    /// As [`Ledger::hold`], of all endpoints of containers.
    pub fn hold_of(&self, containers: &[String]) {
        let mut inner = self.lock();
        let Inner { entries, held } = &mut *inner;
        held.extend(entries.values().filter(|e| containers.contains(&e.container)).map(|e| e.endpoint.clone()));
    }

    /// Lets go of an endpoint that could not be ended now.
    pub fn owe(&self, endpoint: &str) {
        self.lock().held.remove(endpoint);
    }

    /// Takes in hand what is owed and fits.
    pub fn take_owed(&self, fits: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut inner = self.lock();
        let Inner { entries, held } = &mut *inner;
        let owed: Vec<Entry> = entries.values().filter(|e| !held.contains(&e.endpoint) && fits(e)).cloned().collect();
        held.extend(owed.iter().map(|e| e.endpoint.clone()));
        owed
    }

    /// Forgets an endpoint. What the disk says against it is logged: it is asked again then, and does no harm.
    pub async fn strike(&self, endpoint: &str) {
        {
            let mut inner = self.lock();
            inner.held.remove(endpoint);
            inner.entries.remove(endpoint);
        }
        let path = self.path(endpoint);
        if let Err(e) = error::blocking(move || durable::remove_file(&path).map_err(error::disk)).await {
            tracing::warn!(endpoint, error = %e, "the note of an endpoint stays");
        }
    }

    /// Forgets what is owed to a network that is gone.
    pub async fn strike_network(&self, network: &str) {
        let all: Vec<String> =
            self.lock().entries.values().filter(|e| e.network == network).map(|e| e.endpoint.clone()).collect();
        for endpoint in all {
            self.strike(&endpoint).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(endpoint: &str) -> Entry {
        Entry {
            endpoint: endpoint.into(),
            container: "c".into(),
            network: "n".into(),
            driver: "d".into(),
            ..Entry::default()
        }
    }

    #[tokio::test]
    async fn what_is_noted_outlives_the_daemon_and_is_owed_unless_somebody_holds_it() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let ledger = Ledger::open(dir.path()).expect("opened");
        ledger.note(&entry("a")).await.expect("written");
        ledger.note(&Entry { joined: true, ..entry("b") }).await.expect("written");
        assert!(ledger.take_owed(|_| true).is_empty(), "both are in hand");
        ledger.strike("a").await;
        let again = Ledger::open(dir.path()).expect("opened");
        let owed = again.take_owed(|e| e.driver == "d");
        assert_eq!(owed, [Entry { joined: true, ..entry("b") }]);
        assert!(again.take_owed(|_| true).is_empty(), "it is in hand now");
        again.owe("b");
        again.hold("b");
        assert!(again.take_owed(|_| true).is_empty());
        again.owe("b");
        again.hold_of(&["c".to_owned()]);
        assert!(again.take_owed(|_| true).is_empty(), "its container may be alive");
        again.strike_network("n").await;
        assert_eq!(fs::read_dir(dir.path()).expect("folder").count(), 0);
    }
}
