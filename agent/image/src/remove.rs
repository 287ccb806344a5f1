//! Removing names and images, with Docker's rules (moby, `ImageDelete`).

use std::collections::BTreeMap;
use std::fmt;

use crate::image::Named;
use crate::index::{View, Writer};
use crate::{Digest, Error, Reference, Result, Store};

/// What a removal did, in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removed {
    /// A name was dropped: `busybox:latest`, `busybox@sha256:...`.
    Untagged(String),
    /// An image was deleted.
    Deleted(Digest),
    /// So was a layer, by its chain id, that nobody else uses. These come last.
    Layer(Digest),
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged(name) => write!(f, "Untagged: {name}"),
            Self::Deleted(digest) | Self::Layer(digest) => write!(f, "Deleted: {digest}"),
        }
    }
}

/// Which images containers use, told by whoever knows the containers: image id to the id of one of them.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// By running containers: never deleted.
    pub running: BTreeMap<Digest, String>,
    /// By stopped containers: deleted by force only.
    pub stopped: BTreeMap<Digest, String>,
}

impl Usage {
    /// A container that uses `image`, and whether it runs.
    pub(crate) fn of(&self, image: &Digest) -> Option<(&str, bool)> {
        let running = self.running.get(image).map(|container| (container.as_str(), true));
        running.or_else(|| self.stopped.get(image).map(|container| (container.as_str(), false)))
    }
}

impl Store {
    /// Removes a name, and the image with its last name, as `docker rmi` does. `prune_parents` also removes unnamed
    /// ancestors that nothing else needs (Docker's `noprune=false`).
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::AmbiguousId`]; [`Error::Conflict`] when a container or another image needs it.
    pub async fn remove(&self, text: &str, force: bool, prune_parents: bool, usage: Usage) -> Result<Vec<Removed>> {
        let text = text.to_owned();
        self.inner
            .index
            .run(move |writer| {
                let mut removal = Removal { writer, usage: &usage, force, prune_parents, done: Vec::new() };
                removal.remove(&text)?;
                let done = removal.done;
                writer.collect_after(done)
            })
            .await
    }

    /// Drops one name; the image stays, unnamed if it was its last.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when there is no such name.
    pub async fn untag(&self, reference: &Reference) -> Result<Removed> {
        let reference = reference.clone();
        self.inner
            .index
            .run(move |writer| {
                if !writer.view().refs.contains_key(&reference) {
                    return Err(Error::NoSuchImage(reference.familiar()));
                }
                writer.drop_ref(&reference)?;
                Ok(Removed::Untagged(reference.familiar()))
            })
            .await
    }
}

/// One removal on the writer's thread.
pub(crate) struct Removal<'a> {
    pub(crate) writer: &'a mut Writer,
    pub(crate) usage: &'a Usage,
    pub(crate) force: bool,
    pub(crate) prune_parents: bool,
    pub(crate) done: Vec<Removed>,
}

impl Removal<'_> {
    fn remove(&mut self, text: &str) -> Result<()> {
        let (id, named) = self.writer.view().find(text)?;
        match named {
            Named::Reference(reference) => self.by_name(&id, &reference),
            Named::Id => self.by_id(&id, text),
        }
    }

    fn by_name(&mut self, id: &Digest, reference: &Reference) -> Result<()> {
        let names = names(&self.writer.view(), id);
        let last = names
            .iter()
            .all(|name| name == reference || name.repository() == reference.repository() && name.tag().is_none());
        if last && !self.force {
            if let Some((container, _)) = self.usage.of(id) {
                return Err(Error::Conflict(format!(
                    "unable to remove repository reference {:?} (must force) - container {} is using its referenced image {}",
                    reference.familiar(),
                    short(container),
                    id.short()
                )));
            }
            self.no_children(id)?;
        }
        self.untag(reference)?;
        let left: Vec<_> = names.iter().filter(|name| *name != reference).collect();
        // Digests of a repository go with its last tag.
        let tag_left = |name: &&&Reference| name.tag().is_some() && name.repository() == reference.repository();
        if !left.iter().any(|name| tag_left(&name)) && reference.tag().is_some() {
            for digest in left.iter().filter(|name| name.repository() == reference.repository()) {
                self.untag(digest)?;
            }
        }
        if !names.is_empty() && names_left(&self.writer.view(), id) {
            return Ok(());
        }
        // Used by a container all the same: by force only the names go.
        if self.usage.of(id).is_some_and(|(_, running)| running || !self.force) || self.has_children(id) {
            return Ok(());
        }
        self.delete(id)
    }

    fn by_id(&mut self, id: &Digest, text: &str) -> Result<()> {
        let names = names(&self.writer.view(), id);
        let mut repositories: Vec<String> = names.iter().map(Reference::repository).collect();
        repositories.dedup();
        let tags = names.iter().filter(|name| name.tag().is_some()).count();
        if !self.force && (repositories.len() > 1 || tags > 1) {
            return Err(self.conflict(id, "must be forced", "image is referenced in multiple repositories", text));
        }
        match self.usage.of(id) {
            Some((container, true)) => {
                let why = format!("image is being used by running container {}", short(container));
                return Err(self.conflict(id, "cannot be forced", &why, text));
            }
            Some((container, false)) if !self.force => {
                let why = format!("image is being used by stopped container {}", short(container));
                return Err(self.conflict(id, "must be forced", &why, text));
            }
            _ => {}
        }
        self.no_children(id)?;
        names.iter().try_for_each(|name| self.untag(name))?;
        self.delete(id)
    }

    fn untag(&mut self, name: &Reference) -> Result<()> {
        self.writer.drop_ref(name)?;
        self.done.push(Removed::Untagged(name.familiar()));
        Ok(())
    }

    /// Deletes an image that has no names, and then its ancestors that have none either.
    pub(crate) fn delete(&mut self, id: &Digest) -> Result<()> {
        let mut next = Some(*id);
        while let Some(id) = next {
            let parent = self.writer.view().images.get(&id).and_then(|stored| stored.parent);
            self.writer.drop_image(&id)?;
            self.done.push(Removed::Deleted(id));
            let view = self.writer.view();
            next = parent.filter(|parent| {
                self.prune_parents
                    && view.images.contains_key(parent)
                    && !names_left(&view, parent)
                    && !self.has_children(parent)
                    && self.usage.of(parent).is_none()
            });
        }
        Ok(())
    }

    fn has_children(&self, id: &Digest) -> bool {
        self.writer.view().images.values().any(|stored| stored.parent == Some(*id))
    }

    fn no_children(&self, id: &Digest) -> Result<()> {
        if !self.has_children(id) {
            return Ok(());
        }
        Err(self.conflict(id, "cannot be forced", "image has dependent child images", &id.short()))
    }

    fn conflict(&self, id: &Digest, how: &str, why: &str, text: &str) -> Error {
        let shown = if text.len() >= 12 || text.is_empty() { id.short() } else { text.to_owned() };
        Error::Conflict(format!("unable to delete {shown} ({how}) - {why}"))
    }
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

pub(crate) fn names(view: &View, id: &Digest) -> Vec<Reference> {
    view.refs.iter().filter(|(_, record)| record.image == *id).map(|(name, _)| name.clone()).collect()
}

pub(crate) fn names_left(view: &View, id: &Digest) -> bool {
    view.refs.values().any(|record| record.image == *id)
}
