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
        Removed::Deleted(digest) => ImageDeleteItem { deleted: digest.to_string(), ..ImageDeleteItem::default() },
    }
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
        self.announce_removed(&image.id.to_string(), &removed);
        Ok(removed.iter().map(item).collect())
    }

    fn announce_removed(&self, id: &str, removed: &[Removed]) {
        for removed in removed {
            match removed {
                Removed::Untagged(name) => self.image_event("untag", id, name),
                // Layers that go with an image are no news of their own.
                Removed::Deleted(digest) if digest.to_string() == id => self.image_event("delete", id, id),
                Removed::Deleted(_) => {}
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
        let attributes = [("reclaimed".to_owned(), report.reclaimed.to_string())].into();
        self.events.publish("image", "prune", "", attributes);
        Ok(PruneReport {
            images_deleted: Some(report.removed.iter().map(item).collect()),
            space_reclaimed: report.reclaimed,
            ..PruneReport::default()
        })
    }
}
