//! Removing images: what containers use is told to the store, which knows Docker's rules.

use crate::{
    container::{labels_pass, until},
    engine::Shared,
    error,
};
use muster_calls::{Error, Filters, Result};
use muster_image::{Digest, Removed, Usage};
use muster_model::engine::{ImageDeleteItem, PruneReport};

fn item(removed: &Removed) -> ImageDeleteItem {
    match removed {
        Removed::Untagged(name) => ImageDeleteItem { untagged: name.clone(), ..ImageDeleteItem::default() },
        Removed::Deleted(digest) | Removed::Layer(digest) => {
            ImageDeleteItem { deleted: digest.to_string(), ..ImageDeleteItem::default() }
        }
    }
}

fn deleted_next(removed: &[Removed]) -> Option<Digest> {
    removed.iter().find_map(|r| if let Removed::Deleted(id) = r { Some(*id) } else { None })
}

impl Shared {
    /// Which images containers use.
    fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for record in self.containers.all().iter().map(|h| h.record()) {
            let Ok(image) = Digest::parse(&record.image_id) else { continue };
            let map = if record.state.is_running() { &mut usage.running } else { &mut usage.stopped };
            map.insert(image, record.id.clone());
        }
        usage
    }

    pub(crate) async fn image_remove(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<ImageDeleteItem>> {
        let image = self.find_image(name)?;
        let removed = self.config.images.remove(name, force, !no_prune, self.usage()).await.map_err(error::image)?;
        self.announce_removed(Some(image.id), &removed);
        Ok(removed.iter().map(item).collect())
    }

    /// Tells of names and images that went: names of `image`, or else of the image that went after them. Layers, and the digests
    /// of a repository whose tag went, are no news of their own.
    fn announce_removed(&self, image: Option<Digest>, removed: &[Removed]) {
        let mut repository = "";
        for (n, what) in removed.iter().enumerate() {
            match what {
                Removed::Untagged(name) => {
                    if name.split_once('@').is_some_and(|(of, _)| of == repository) {
                        continue;
                    }
                    repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
                    if let Some(id) = image.or_else(|| deleted_next(&removed[n..])) {
                        self.image_event("untag", &id.to_string(), name);
                    }
                }
                Removed::Deleted(id) => self.image_event("delete", &id.to_string(), &id.to_string()),
                Removed::Layer(_) => {}
            }
        }
    }

    pub(crate) async fn image_prune(&self, filters: &Filters) -> Result<PruneReport> {
        let invalid = |e: muster_model::engine::FilterError| Error::invalid(e.to_string());
        filters.allow(&["dangling", "label", "label!", "until"]).map_err(invalid)?;
        let all = filters.flag("dangling").map_err(invalid)? == Some(false);
        let until = until(filters)?;
        let filters = filters.clone();
        let chosen = move |image: &muster_image::Image| {
            let labels = image.labels().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            let created = image.created.map_or(0, time::OffsetDateTime::unix_timestamp);
            labels_pass(&filters, &labels) && until.is_none_or(|t| created < t.as_secs())
        };
        let report = self.config.images.prune(all, self.usage(), chosen).await.map_err(error::image)?;
        self.announce_removed(None, &report.removed);
        let attributes = [("reclaimed".to_owned(), report.reclaimed.to_string())].into();
        self.events.publish("image", "prune", "", attributes);
        Ok(PruneReport {
            images_deleted: Some(report.removed.iter().map(item).collect()),
            space_reclaimed: report.reclaimed,
            ..PruneReport::default()
        })
    }
}
