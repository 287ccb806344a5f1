//! What others hold of a container: its newest view, and the inbox of the task that owns it.

use super::actor::Command;
use crate::record::Record;
use muster_calls::{Error, Fit, Found, Result};
use muster_model::engine::Health;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// A container as it was a moment ago. Only its owner makes new ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub record: Arc<Record>,
    pub health: Option<Health>,
    /// How often it has ended; grows with every exit that was seen, so that a wait for the next one misses none.
    pub exits: u64,
    /// Why it ended, where that is more than a code.
    pub exit_error: String,
    /// It is gone: record, files, name.
    pub removed: bool,
}

/// A container to those who are not its owner.
#[derive(Debug)]
pub(crate) struct Handle {
    pub id: String,
    inbox: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    /// The engine's end.
    stop: CancellationToken,
}

impl Handle {
    pub fn new(id: String, inbox: mpsc::Sender<Command>, view: watch::Receiver<View>, stop: CancellationToken) -> Self {
        Self { id, inbox, view, stop }
    }

    /// The newest view.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The newest record.
    pub fn record(&self) -> Arc<Record> {
        self.view.borrow().record.clone()
    }

    /// For waiting on changes.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Asks the owner and waits for its answer. The act goes on when the caller does not.
    ///
    /// # Errors
    /// The owner's; `NotFound` when the container is gone; `Unavailable` when the engine is shutting down; `Internal` when
    /// the act broke off.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        if self.inbox.send(command(reply)).await.is_err() {
            return Err(self.gone());
        }
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> Error {
        if self.view.borrow().removed {
            no_such(&self.id)
        } else if self.stop.is_cancelled() {
            Error::unavailable("the engine is shutting down")
        } else {
            let id = &self.id;
            Error::internal(format!(
                "what was asked of container {id} broke off by an error of the engine: its log says more"
            ))
        }
    }
}

/// Docker's words for a container that is not there.
pub(crate) fn no_such(name: &str) -> Error {
    Error::not_found(format!("No such container: {name}"))
}

/// All containers by id, and who has which name.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Handle>>,
    names: BTreeMap<String, String>,
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes a name for `id`. The lock is held for a look-up only.
    ///
    /// # Errors
    /// `Conflict`, in Docker's words, when another has it.
    pub fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut index = self.lock();
        match index.names.get(name) {
            Some(owner) if owner != id => Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
            ))),
            _ => {
                index.names.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    /// Gives a name back if `id` has it.
    pub fn release(&self, name: &str, id: &str) {
        let mut index = self.lock();
        if index.names.get(name).is_some_and(|owner| owner == id) {
            index.names.remove(name);
        }
    }

    pub fn insert(&self, handle: Arc<Handle>) {
        self.lock().by_id.insert(handle.id.clone(), handle);
    }

    /// Forgets a container and all of its names.
    pub fn remove(&self, id: &str) {
        let mut index = self.lock();
        index.by_id.remove(id);
        index.names.retain(|_, owner| owner != id);
    }

    /// Finds by full id, by name, then by prefix of an id.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a prefix of several.
    pub fn find(&self, name: &str) -> Result<Arc<Handle>> {
        let index = self.lock();
        let plain = name.strip_prefix('/').unwrap_or(name);
        if let Some(handle) = index.by_id.get(plain).or_else(|| index.by_id.get(index.names.get(plain)?)) {
            return Ok(handle.clone());
        }
        if plain.is_empty() {
            return Err(no_such(name));
        }
        let mut fitting = index.by_id.range(plain.to_owned()..).take_while(|(id, _)| id.starts_with(plain));
        match (fitting.next(), fitting.next()) {
            (Some((_, handle)), None) => Ok(handle.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!("multiple IDs found with provided prefix: {plain}"))),
            (None, _) => Err(no_such(name)),
        }
    }

    /// Which container a text fits, and how.
    pub fn fit(&self, name: &str) -> Option<Found> {
        let index = self.lock();
        let plain = name.strip_prefix('/').unwrap_or(name);
        if index.by_id.contains_key(plain) {
            return Some(Found { id: plain.to_owned(), fit: Fit::Id });
        }
        if let Some(id) = index.names.get(plain) {
            return Some(Found { id: id.clone(), fit: Fit::Name });
        }
        if plain.is_empty() {
            return None;
        }
        let mut fitting = index.by_id.range(plain.to_owned()..).take_while(|(id, _)| id.starts_with(plain));
        let (id, _) = fitting.next()?;
        let fit = if fitting.next().is_some() { Fit::Several } else { Fit::Prefix };
        Some(Found { id: id.clone(), fit })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Every container, newest first.
    pub fn all(&self) -> Vec<Arc<Handle>> {
        let mut all: Vec<(_, Arc<Handle>)> =
            self.lock().by_id.values().map(|h| (h.record().created, h.clone())).collect();
        all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
        all.into_iter().map(|(_, handle)| handle).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(id: &str) -> Arc<Handle> {
        // The senders are dropped: these containers are only looked up.
        Arc::new(Handle::new(
            id.to_owned(),
            mpsc::channel(1).0,
            watch::channel(View::default()).1,
            CancellationToken::new(),
        ))
    }

    #[test]
    fn containers_are_found_by_id_name_and_unambiguous_prefix() {
        let containers = Containers::default();
        let (a, b) = ("aa11".repeat(16), "aa22".repeat(16));
        for id in [&a, &b] {
            containers.insert(handle(id));
        }
        containers.reserve("web", &a).expect("free");
        for name in ["web", "/web", &a, "aa11"] {
            assert_eq!(containers.find(name).expect(name).id, a);
        }
        assert_eq!(containers.find("aa").expect_err("two").message, "multiple IDs found with provided prefix: aa");
        assert_eq!(containers.find("nope").expect_err("none").message, "No such container: nope");
        assert_eq!(containers.find("").expect_err("none").kind, muster_calls::Kind::NotFound);
    }

    #[test]
    fn how_a_text_fits_is_told() {
        let containers = Containers::default();
        let (a, b) = ("aa11".repeat(16), "aa22".repeat(16));
        for id in [&a, &b] {
            containers.insert(handle(id));
        }
        containers.reserve("web", &a).expect("free");
        let fit = |name: &str| containers.fit(name).map(|f| (f.id, f.fit));
        assert_eq!(fit("web"), Some((a.clone(), Fit::Name)));
        assert_eq!(fit(&b), Some((b.clone(), Fit::Id)));
        assert_eq!(fit("aa2"), Some((b.clone(), Fit::Prefix)));
        assert_eq!(fit("aa").map(|f| f.1), Some(Fit::Several));
        assert_eq!((fit("nope"), fit("")), (None, None));
    }

    #[test]
    fn a_name_has_one_owner_until_released() {
        let containers = Containers::default();
        containers.reserve("web", "a").expect("free");
        containers.reserve("web", "a").expect("its own");
        let refused = containers.reserve("web", "b").expect_err("taken");
        assert!(
            refused.message.starts_with("Conflict. The container name \"/web\" is already in use by container \"a\".")
        );
        containers.release("web", "b");
        assert!(containers.reserve("web", "b").is_err());
        containers.release("web", "a");
        containers.reserve("web", "b").expect("free again");
    }
}
