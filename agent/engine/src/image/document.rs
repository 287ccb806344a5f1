//! Images in Docker's documents.

use super::remote::platform_document;
use crate::{container::image_config, engine::Shared, error, record::Record};
use muster_calls::Result;
use muster_image::Image;
use muster_model::{
    Timestamp,
    engine::{
        ContentDescriptor, GraphDriver, ImageHistoryItem, ImageInspect, ImageMetadata, ImageSummary, ManifestImage,
        ManifestSize, ManifestSummary, RootFs, UnpackedSize,
    },
};
use serde_json::Value;
use std::sync::Arc;

/// Nanoseconds of a time of the image room; 0 for none.
fn nanos(at: Option<time::OffsetDateTime>) -> Timestamp {
    Timestamp(at.and_then(|t| i64::try_from(t.unix_timestamp_nanos()).ok()).unwrap_or(0))
}

fn bytes(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// One line of `docker images`.
pub(super) fn summary(image: &Image) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        parent_id: image.parent.map(|p| p.to_string()).unwrap_or_default(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        created: nanos(image.created).as_secs(),
        size: bytes(image.size),
        shared_size: -1,
        labels: image.labels().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        containers: -1,
        descriptor: Some(descriptor(image)),
        manifests: None,
    }
}

fn descriptor(image: &Image) -> ContentDescriptor {
    ContentDescriptor {
        media_type: image.manifest_type.clone(),
        digest: image.manifest.to_string(),
        size: bytes(image.manifest_size),
        platform: None,
    }
}

/// An image's one manifest: what else its index held stayed in the registry.
pub(super) fn manifests(image: &Image, records: &[Arc<Record>]) -> Vec<ManifestSummary> {
    let id = image.id.to_string();
    let platform = platform_document(&image.platform);
    let blobs: u64 = image.layers.iter().map(|layer| layer.blob_size).sum();
    let content = blobs + image.raw_config.len() as u64 + image.manifest_size;
    vec![ManifestSummary {
        id: image.manifest.to_string(),
        descriptor: ContentDescriptor { platform: Some(platform.clone()), ..descriptor(image) },
        available: true,
        size: ManifestSize { total: bytes(content.saturating_add(image.size)), content: bytes(content) },
        kind: "image".to_owned(),
        image_data: Some(ManifestImage {
            platform,
            containers: records.iter().filter(|r| r.image_id == id).map(|r| r.id.clone()).collect(),
            size: UnpackedSize { unpacked: bytes(image.size) },
        }),
    }]
}

fn inspect(image: &Image, records: &[Arc<Record>]) -> Result<ImageInspect> {
    let other = |key: &str| image.config.other.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let comment = image.config.history.last().and_then(|h| h.comment.clone()).unwrap_or_default();
    Ok(ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        parent: image.parent.map(|p| p.to_string()).unwrap_or_default(),
        comment,
        created: nanos(image.created).into(),
        docker_version: other("docker_version"),
        author: image.config.author.clone().unwrap_or_default(),
        config: image_config(image)?,
        architecture: image.platform.architecture.clone(),
        variant: image.platform.variant.clone().unwrap_or_default(),
        os: image.platform.os.clone(),
        os_version: image.platform.os_version.clone().unwrap_or_default(),
        size: bytes(image.size),
        graph_driver: GraphDriver { name: "overlay2".to_owned(), ..GraphDriver::default() },
        root_fs: RootFs {
            kind: "layers".to_owned(),
            layers: image.layers.iter().map(|l| l.diff_id.to_string()).collect(),
        },
        metadata: ImageMetadata { last_tag_time: nanos(image.last_tagged).into() },
        descriptor: Some(descriptor(image)),
        manifests: Some(manifests(image, records)),
    })
}

impl Shared {
    pub(crate) fn image_inspect(&self, name: &str) -> Result<ImageInspect> {
        let records: Vec<_> = self.containers.all().iter().map(|h| h.record()).collect();
        inspect(&self.find_image(name)?, &records)
    }

    /// Finds a local image.
    ///
    /// # Errors
    /// `NotFound` as `No such image: name:tag`.
    pub(crate) fn find_image(&self, name: &str) -> Result<Image> {
        self.config.images.resolve(name).map_err(|e| crate::container::no_such_image(name, e))
    }

    pub(crate) fn image_history(&self, name: &str) -> Result<Vec<ImageHistoryItem>> {
        let image = self.find_image(name)?;
        let entries = self.config.images.history(&image).into_iter();
        Ok(entries
            .map(|e| ImageHistoryItem {
                id: e.id.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
                created: e.created,
                created_by: e.created_by,
                tags: e.tags,
                size: bytes(e.size),
                comment: e.comment,
            })
            .collect())
    }

    pub(crate) async fn image_tag(&self, name: &str, repo: &str, tag: &str) -> Result<()> {
        let target = reference(repo, tag)?;
        let image = self.find_image(name)?;
        self.config.images.tag(&image.id.to_string(), &target).await.map_err(error::image)?;
        self.image_event("tag", &image.id.to_string(), &target.familiar());
        Ok(())
    }

    /// The name goes, the image stays.
    pub(crate) async fn image_untag(&self, name: &str) -> Result<()> {
        let (name, image) = (reference(name, "")?, self.find_image(name)?);
        self.config.images.untag(&name).await.map_err(error::image)?;
        self.image_event("untag", &image.id.to_string(), &name.familiar());
        Ok(())
    }

    /// Publishes an event of an image.
    pub(crate) fn image_event(&self, action: &str, id: &str, name: &str) {
        let digest = muster_image::Digest::parse(id).ok();
        let image = digest.and_then(|id| self.config.images.get(&id));
        let mut attributes: muster_model::engine::Strings = image
            .iter()
            .flat_map(|i| i.labels().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<Vec<_>>())
            .collect();
        if !name.is_empty() {
            attributes.insert("name".to_owned(), name.to_owned());
        }
        self.events.publish("image", action, id, attributes);
    }
}

/// A name of repository and tag, as Docker's API gives them apart.
///
/// # Errors
/// `Invalid`, in Docker's words.
pub(super) fn reference(repo: &str, tag: &str) -> Result<muster_image::Reference> {
    let invalid = |e: muster_image::InvalidReference| muster_calls::Error::invalid(e.to_string());
    let named = muster_image::Reference::parse(repo).map_err(invalid)?;
    if named.repository().ends_with("/library/sha256") {
        let text = "refusing to create an ambiguous tag using digest algorithm as name";
        return Err(muster_calls::Error::invalid(text));
    }
    if tag.is_empty() { Ok(named) } else { named.with_tag(tag).map_err(invalid) }
}

impl Shared {
    /// Whether the local image is of the platform that a create asks for; no image at all is told by the create itself.
    ///
    /// # Errors
    /// `NotFound`, as dockerd, so that the client pulls the right one.
    pub(crate) fn check_platform(&self, name: &str, wanted: &str) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let platform: muster_image::Platform =
            wanted.parse().map_err(|e: muster_image::InvalidPlatform| muster_calls::Error::invalid(e.to_string()))?;
        let Ok(image) = self.config.images.resolve(name) else { return Ok(()) };
        if platform.distance(&image.platform).is_some() {
            return Ok(());
        }
        Err(muster_calls::Error::not_found(format!(
            "image with reference {name} was found but its platform ({}) does not match the specified platform ({platform})",
            image.platform
        )))
    }
}
