//! Manifests and indexes, OCI's and Docker's spelling of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Platform, Result};

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Most layers an image may have: overlayfs stops at 500 (kernel 6.18, `lowerdir+`), one of them is ours.
pub const MAX_LAYERS: usize = 499;

/// Points at content (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The platform an index entry is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`OCI_MANIFEST`] or [`DOCKER_MANIFEST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layer blobs, lowest first.
    pub layers: Vec<Descriptor>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An image index or manifest list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`OCI_INDEX`] or [`DOCKER_LIST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The entries.
    pub manifests: Vec<Descriptor>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What a tag may point at.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// One image.
    Manifest(Manifest),
    /// Several, for different platforms.
    Index(Index),
}

/// Reads a manifest or an index, told apart by the fields they must have and not by a header that may lie. `digest` is for
/// the error.
///
/// # Errors
/// [`Error::Malformed`].
pub fn parse(bytes: &[u8], digest: &Digest) -> Result<Parsed> {
    let malformed = |reason: String| Error::Malformed { what: "manifest", digest: *digest, reason };
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: Option<u32>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    match (shape.schema_version, shape.manifests, shape.layers) {
        (Some(1), ..) => Err(malformed("Docker image manifest version 2, schema 1 is not supported".into())),
        (Some(2), Some(_), Some(_)) => Err(malformed("it has both manifests and layers".into())),
        (Some(2), Some(_), None) => {
            serde_json::from_slice(bytes).map(Parsed::Index).map_err(|error| malformed(error.to_string()))
        }
        (Some(2), None, Some(_)) => {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
            if manifest.layers.len() > MAX_LAYERS {
                return Err(malformed(format!("{} layers, at most {MAX_LAYERS} can run", manifest.layers.len())));
            }
            Ok(Parsed::Manifest(manifest))
        }
        (version, ..) => Err(malformed(format!("schemaVersion {version:?} without manifests or layers"))),
    }
}

impl Index {
    /// The entry that suits `platform` best; the first of equals. Entries that are no images (attestations) never do.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let scored = self.manifests.iter().enumerate().filter_map(|(position, entry)| {
            let distance = match &entry.platform {
                Some(offered) => platform.distance(offered)?,
                None => u32::MAX,
            };
            is_image(entry).then_some((distance, position, entry))
        });
        scored.min_by_key(|(distance, position, _)| (*distance, *position)).map(|(.., entry)| entry)
    }

    /// The platforms on offer, for an error text.
    pub fn available(&self) -> String {
        let known = |platform: &&Platform| platform.os != "unknown";
        let names: Vec<String> =
            self.manifests.iter().filter_map(|e| e.platform.as_ref()).filter(known).map(ToString::to_string).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

fn is_image(entry: &Descriptor) -> bool {
    let attestation = entry.annotations.as_ref().is_some_and(|all| all.contains_key("vnd.docker.reference.type"));
    !attestation && entry.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Index {
        let entry = |(n, text): (usize, &&str)| Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(&[n as u8]),
            size: 1,
            platform: text.parse().ok(),
            annotations: None,
        };
        let manifests = platforms.iter().enumerate().map(entry).collect();
        Index { schema_version: 2, media_type: None, manifests, annotations: None }
    }

    #[test]
    fn the_best_platform_of_an_index_is_chosen() {
        let index = index(&["unknown/unknown", "linux/arm/v6", "linux/arm/v7", "linux/amd64"]);
        let chosen = |text: &str| index.choose(&text.parse().ok()?).map(|entry| entry.digest);
        assert_eq!(chosen("linux/amd64"), Some(Digest::of(&[3])));
        assert_eq!(chosen("linux/arm/v7"), Some(Digest::of(&[2])));
        assert_eq!(chosen("linux/s390x"), None);
        assert_eq!(index.available(), "linux/arm/v6, linux/arm/v7, linux/amd64");
    }

    #[test]
    fn a_document_that_is_both_or_neither_is_refused() {
        let digest = Digest::of(b"");
        for bad in ["{}", "[]", r#"{"schemaVersion":1}"#, r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#] {
            assert!(parse(bad.as_bytes(), &digest).is_err(), "{bad}");
        }
    }
}
