//! Docker's plugin protocol (docs.docker.com: "Docker Plugin API"): finding plugins that run on this host, and calling them.
//!
//! A plugin named NAME is found, in this order in each folder, as the socket `NAME.sock` or `NAME/NAME.sock`, or by a file
//! `NAME.spec` (one line: `unix:///path` or `tcp://host:port`) or `NAME.json` (`{"Name", "Addr"}`). It is asked once what it
//! implements (`/Plugin.Activate`); one that was restarted is asked again when a call cannot reach it.
//!
//! What it never does: install or start plugins; keep state on disk.

mod http;

use http::Failure;
use muster_calls::{Error, Kind, Result};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// The same where a list must not hang because of one plugin.
const PATIENCE_IN_LISTS: Duration = Duration::from_secs(5);

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// All of the patience that the engine is configured with: mounting a network file system takes its time.
    Long,
    /// A third of it: something ends, and what a plugin did not do then, it is asked again.
    Short,
}

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// A plugin that has said what it implements.
#[derive(Debug)]
pub(crate) struct Plugin {
    name: String,
    address: Address,
    implements: Vec<String>,
}

/// The plugins of this host.
#[derive(Debug)]
pub(crate) struct Plugins {
    folders: Vec<PathBuf>,
    patience: Duration,
    /// Those that have answered, by name.
    known: Mutex<BTreeMap<String, Arc<Plugin>>>,
}

#[derive(Deserialize)]
struct Activated {
    #[serde(rename = "Implements", default)]
    implements: Option<Vec<String>>,
}

impl Plugins {
    pub fn new(folders: Vec<PathBuf>, patience: Duration) -> Self {
        Self { folders, patience, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Plugin>>> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The plugin of a name, if it implements `what` (`VolumeDriver`).
    ///
    /// # Errors
    /// `NotFound`, in Docker's words, when there is none or it does something else; `Unimplemented` for one behind TLS;
    /// `Unavailable` when it does not answer.
    pub async fn find(&self, name: &str, what: &str) -> Result<Arc<Plugin>> {
        let known = self.lock().get(name).cloned();
        let plugin = match known {
            Some(plugin) => plugin,
            None => self.activate(name).await?,
        };
        if plugin.implements(what) {
            return Ok(plugin);
        }
        Err(Error::not_found(format!("plugin {name:?} does not implement {what}")))
    }

    async fn activate(&self, name: &str) -> Result<Arc<Plugin>> {
        let folders = self.folders.clone();
        let owned = name.to_owned();
        let address = crate::error::blocking(move || locate(&folders, &owned)).await?;
        let address = address.ok_or_else(|| Error::not_found(format!("plugin {name:?} not found")))?;
        let answer: Activated =
            ask(&address, name, "Plugin.Activate", &serde_json::json!({}), PATIENCE_IN_LISTS).await?;
        let plugin =
            Arc::new(Plugin { name: name.to_owned(), address, implements: answer.implements.unwrap_or_default() });
        self.lock().insert(name.to_owned(), plugin.clone());
        Ok(plugin)
    }

    /// Calls a method of a plugin, e.g. `VolumeDriver.Mount`, which must implement what is before the dot. One where nobody
    /// listens is looked up once more: it may have been started anew.
    ///
    /// # Errors
    /// Those of [`Plugins::find`]; `Internal` with the plugin's own words; `NotFound` for a method that it does not have;
    /// `Unavailable` when it does not answer in time.
    pub async fn call<T: DeserializeOwned>(
        &self,
        name: &str,
        method: &str,
        request: &serde_json::Value,
        wait: Wait,
    ) -> Result<T> {
        Ok(self.try_call(name, method, request, wait).await?)
    }

    /// As [`Plugins::call`]; the error says whether the plugin may have heard.
    pub async fn try_call<T: DeserializeOwned>(
        &self,
        name: &str,
        method: &str,
        request: &serde_json::Value,
        wait: Wait,
    ) -> std::result::Result<T, Unanswered> {
        let patience = match wait {
            Wait::Long => self.patience,
            Wait::Short => self.patience / 3,
        };
        let what = method.split('.').next().unwrap_or_default();
        // Without having found it, nobody was asked.
        let plugin = self.find(name, what).await.map_err(Unanswered::Away)?;
        match ask(&plugin.address, name, method, request, patience).await {
            Err(Unanswered::Away(_)) => {
                self.forget(name);
                let plugin = self.find(name, what).await.map_err(Unanswered::Away)?;
                ask(&plugin.address, name, method, request, patience).await
            }
            answered => answered,
        }
    }

    /// Those that have said that they implement `what`, by name.
    pub fn activated(&self, what: &str) -> Vec<String> {
        self.lock().values().filter(|p| p.implements(what)).map(|p| p.name.clone()).collect()
    }

    /// Names of all plugins whose files are there and that have not said that they do something else than `what`. Blocks on the
    /// disk.
    pub fn names_for(&self, what: &str) -> BTreeSet<String> {
        let mut names = self.names();
        let known = self.lock();
        names.retain(|name| known.get(name).is_none_or(|plugin| plugin.implements(what)));
        names
    }

    /// Forgets what a plugin has said: it may have been replaced.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Names of all plugins whose files are there. Blocks on the disk.
    pub fn names(&self) -> BTreeSet<String> {
        let entries = self.folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        entries.filter_map(|entry| name_of(&entry.path())).collect()
    }
}

impl Plugin {
    fn implements(&self, what: &str) -> bool {
        self.implements.iter().any(|i| i == what)
    }

    /// Calls a method, e.g. `VolumeDriver.List`, waiting as long as a list may.
    ///
    /// # Errors
    /// As [`Plugins::call`].
    pub async fn call_soon<T: DeserializeOwned>(&self, method: &str, request: &serde_json::Value) -> Result<T> {
        Ok(ask(&self.address, &self.name, method, request, PATIENCE_IN_LISTS).await?)
    }
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// There is no such plugin, or nobody listens at its address.
    Away(Error),
    Failed(Error),
}

impl From<Unanswered> for Error {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Away(e) | Unanswered::Failed(e) => e,
        }
    }
}

async fn ask<T: DeserializeOwned>(
    address: &Address,
    name: &str,
    method: &str,
    request: &serde_json::Value,
    patience: Duration,
) -> std::result::Result<T, Unanswered> {
    let unavailable = |e: String| Error::new(Kind::Unavailable, format!("plugin {name}: {method}: {e}"));
    let body =
        serde_json::to_vec(request).map_err(|e| Unanswered::Failed(Error::internal(format!("{method}: {e}"))))?;
    let answer = match tokio::time::timeout(patience, http::post(address, method, body)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(Failure::Connect(e))) => return Err(Unanswered::Away(unavailable(e))),
        Ok(Err(Failure::Exchange(e))) => return Err(Unanswered::Failed(unavailable(e))),
        Err(_) => {
            let text = format!("no answer within {patience:?}");
            return Err(Unanswered::Failed(unavailable(text)));
        }
    };
    read(name, method, &answer).map_err(Unanswered::Failed)
}

/// What an answer says. A plugin says what failed as `Err`, with whatever status.
fn read<T: DeserializeOwned>(name: &str, method: &str, answer: &http::Answer) -> Result<T> {
    let failed = |e: String| Error::internal(format!("plugin {name}: {method}: {e}"));
    let parsed = serde_json::from_slice::<serde_json::Value>(&answer.body);
    let words = parsed.as_ref().ok().and_then(|v| v.get("Err")?.as_str()).filter(|e| !e.is_empty());
    match (parsed.as_ref(), words) {
        (_, Some(text)) => return Err(Error::internal(format!("{method}: {text}"))),
        _ if answer.status == 404 => return Err(Error::not_found(format!("plugin {name} does not know {method}"))),
        _ if !answer.ok => return Err(failed(format!("HTTP {}", answer.status))),
        (Err(_), _) if answer.body.is_empty() => {}
        (Err(e), _) => return Err(failed(format!("its answer is no JSON: {e}"))),
        (Ok(_), None) => {}
    }
    let value = parsed.ok().filter(|v| !v.is_null()).unwrap_or_else(|| serde_json::json!({}));
    serde_json::from_value(value).map_err(|e| failed(e.to_string()))
}

/// The name of the plugin whose file or folder this is.
fn name_of(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("sock" | "spec" | "json") => Some(stem.to_owned()),
        None if path.join(format!("{stem}.sock")).exists() => Some(stem.to_owned()),
        _ => None,
    }
}

fn locate(folders: &[PathBuf], name: &str) -> Result<Option<Address>> {
    if !crate::names::is_valid_object(name) {
        return Err(Error::invalid(format!("invalid plugin name {name:?}")));
    }
    for folder in folders {
        for socket in [folder.join(format!("{name}.sock")), folder.join(name).join(format!("{name}.sock"))] {
            if socket.exists() {
                return Ok(Some(Address::Unix(socket)));
            }
        }
        for file in [folder.join(format!("{name}.spec")), folder.join(name).join(format!("{name}.spec"))] {
            if let Ok(text) = fs::read_to_string(&file) {
                return address(text.trim(), &file).map(Some);
            }
        }
        let file = folder.join(format!("{name}.json"));
        if let Ok(text) = fs::read_to_string(&file) {
            return described(&text, &file).map(Some);
        }
    }
    Ok(None)
}

fn described(text: &str, file: &Path) -> Result<Address> {
    #[derive(Deserialize)]
    struct Described {
        #[serde(rename = "Addr")]
        addr: String,
        #[serde(rename = "TLSConfig", default)]
        tls: Option<serde_json::Value>,
    }
    let described: Described =
        serde_json::from_str(text).map_err(|e| Error::invalid(format!("{}: {e}", file.display())))?;
    if described.tls.is_some_and(|tls| !tls.is_null()) {
        return Err(Error::unimplemented(format!("a plugin behind TLS ({}, TLSConfig)", file.display())));
    }
    address(&described.addr, file)
}

fn address(text: &str, file: &Path) -> Result<Address> {
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", rest)) if rest.contains(':') => Ok(Address::Tcp(rest.trim_end_matches('/').to_owned())),
        _ => {
            let text = format!("{}: address {text:?}: expected unix:///path or tcp://host:port", file.display());
            Err(Error::invalid(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found_by_socket_and_by_description() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("plain.sock"), "").expect("file");
        fs::create_dir(at("inner")).expect("folder");
        fs::write(at("inner/inner.sock"), "").expect("file");
        fs::write(at("far.spec"), "tcp://127.0.0.1:9\n").expect("file");
        fs::write(at("doc.json"), r#"{"Name": "doc", "Addr": "unix:///run/doc.sock"}"#).expect("file");
        fs::write(at("safe.json"), r#"{"Name": "safe", "Addr": "tcp://h:1", "TLSConfig": {}}"#).expect("file");
        let folders = [dir.path().to_owned()];
        let found = |name: &str| locate(&folders, name);
        assert_eq!(found("plain").expect("read"), Some(Address::Unix(at("plain.sock"))));
        assert_eq!(found("inner").expect("read"), Some(Address::Unix(at("inner/inner.sock"))));
        assert_eq!(found("far").expect("read"), Some(Address::Tcp("127.0.0.1:9".into())));
        assert_eq!(found("doc").expect("read"), Some(Address::Unix("/run/doc.sock".into())));
        assert_eq!(found("none").expect("read"), None);
        assert!(found("safe").expect_err("TLS").message.contains("TLS"));
        assert!(found("../plain").is_err());
        let names: Vec<_> = Plugins::new(folders.to_vec(), Duration::from_secs(1)).names().into_iter().collect();
        assert_eq!(names, ["doc", "far", "inner", "plain", "safe"]);
    }
}
