//! `docker images` and `docker system df`: which images, and how much space they take.

use super::document::{manifests, summary};
use crate::{clock, container::until, engine::Shared, error, record::Record};
use muster_calls::{Error, Filters, Result};
use muster_image::Image;
use muster_model::engine::{DiskUsage, ImageSummary};
use std::{collections::BTreeMap, sync::Arc};

const KEYS: &[&str] = &["before", "dangling", "label", "label!", "reference", "since", "until"];

impl Shared {
    pub(crate) fn image_list(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>> {
        filters.allow(KEYS).map_err(|e| Error::invalid(e.to_string()))?;
        let dangling = filters.flag("dangling").map_err(|e| Error::invalid(e.to_string()))?;
        let created = |key: &str| {
            filters.values(key).map(|name| self.find_image(name).map(|i| i.created)).collect::<Result<Vec<_>>>()
        };
        let (before, since, until) = (created("before")?, created("since")?, until(filters)?);
        let images = self.config.images.list();
        let parents: std::collections::BTreeSet<_> = images.iter().filter_map(|i| i.parent).collect();
        let takes = |image: &Image| {
            let untagged = image.repo_tags.is_empty() && image.repo_digests.is_empty();
            // Layers on the way of a build: shown with `-a` only.
            let intermediate = untagged && parents.contains(&image.id);
            let labels = image.labels().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            (all || !intermediate)
                && dangling.is_none_or(|wanted| untagged == wanted)
                && crate::container::labels_pass(filters, &labels)
                && before.iter().all(|t| image.created < *t)
                && since.iter().all(|t| image.created > *t)
                && until.is_none_or(|t| summary(image).created < t.as_secs())
        };
        let records: Vec<_> = self.containers.all().iter().map(|h| h.record()).collect();
        let lines = counted(&images, &records);
        let lines = images.iter().zip(lines).filter(|(image, _)| takes(image));
        Ok(lines.filter_map(|(_, line)| by_reference(filters, line)).collect())
    }

    /// `docker system df`.
    pub(crate) async fn disk_usage(&self) -> Result<DiskUsage> {
        let layers = self.config.images.disk_usage().await.map_err(error::image)?.layers;
        let views: Vec<_> = self.containers.all().iter().map(|h| h.view()).collect();
        let now = clock::now();
        let mut containers = Vec::new();
        for view in &views {
            let mut line = self.summary(view, now);
            let (rw, root) = self.sizes(&view.record).await?;
            (line.size_rw, line.size_root_fs) = (Some(rw), Some(root));
            containers.push(line);
        }
        let records: Vec<_> = views.into_iter().map(|v| v.record).collect();
        Ok(DiskUsage {
            layers_size: i64::try_from(layers).unwrap_or(i64::MAX),
            images: counted(&self.config.images.list(), &records),
            containers,
            volumes: self.volumes.usage(&self.containers).await?,
            build_cache: Vec::new(),
            warnings: Vec::new(),
        })
    }
}

/// Every image with its containers and the bytes it shares with others.
fn counted(images: &[Image], records: &[Arc<Record>]) -> Vec<ImageSummary> {
    let mut uses: BTreeMap<_, u32> = BTreeMap::new();
    for layer in images.iter().flat_map(|i| &i.layers) {
        *uses.entry(layer.chain_id).or_default() += 1;
    }
    let line = |image: &Image| {
        let shared: u64 =
            image.layers.iter().filter(|l| uses.get(&l.chain_id).is_some_and(|n| *n > 1)).map(|l| l.size).sum();
        let id = image.id.to_string();
        let containers = records.iter().filter(|r| r.image_id == id).count() as i64;
        ImageSummary {
            shared_size: i64::try_from(shared).unwrap_or(i64::MAX),
            containers,
            manifests: Some(manifests(image, records)),
            ..summary(image)
        }
    };
    images.iter().map(line).collect()
}

/// With `reference` only the names that match are shown, and only images that have such.
fn by_reference(filters: &Filters, mut line: ImageSummary) -> Option<ImageSummary> {
    if !filters.contains("reference") {
        return Some(line);
    }
    let matches = |name: &String| filters.values("reference").any(|pattern| name_matches(pattern, name));
    line.repo_tags.retain(&matches);
    line.repo_digests.retain(&matches);
    (!line.repo_tags.is_empty() || !line.repo_digests.is_empty()).then_some(line)
}

/// Docker's `path.Match` over a name with or without its tag, and over the last parts of it.
fn name_matches(pattern: &str, name: &str) -> bool {
    let bare = name.split_once('@').map(|(n, _)| n).or_else(|| name.rsplit_once(':').map(|(n, _)| n)).unwrap_or(name);
    [name, bare].into_iter().any(|text| glob(pattern.as_bytes(), text.as_bytes()))
}

/// `*` is any run and `?` any one of bytes other than `/`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            let reach = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=reach).any(|n| glob(rest, &text[n..]))
        }
        ([b'?', rest @ ..], [b, tail @ ..]) if *b != b'/' => glob(rest, tail),
        ([p, rest @ ..], [b, tail @ ..]) if p == b && *p != b'?' => glob(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_match_with_and_without_a_tag_and_stars_stop_at_slashes() {
        assert!(name_matches("busybox", "busybox:latest"));
        assert!(name_matches("busy*:late*", "busybox:latest"));
        assert!(name_matches("127.0.0.1:5000/*", "127.0.0.1:5000/q:1"));
        assert!(!name_matches("*", "a/b:1"));
        assert!(!name_matches("busybo?:x", "busybox:latest"));
    }
}
