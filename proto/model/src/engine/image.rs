//! Images, and the progress lines of calls that take long.

use super::{
    ContainerConfig, GraphDriver, Strings, Time,
    lenient::{is_zero, null_default, or_null},
};

document! {
    /// One line of `GET /images/json`. API object `ImageSummary`.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageSummary {
        /// `sha256:` and 64 hexadecimal digits.
        pub id: String,
        pub parent_id: String,
        pub repo_tags: Vec<String>,
        pub repo_digests: Vec<String>,
        /// Seconds since the epoch.
        pub created: i64,
        /// Bytes.
        pub size: i64,
        /// Bytes shared with other images; -1: not counted.
        pub shared_size: i64,
        #[serde(serialize_with = "or_null")]
        pub labels: Strings,
        /// Containers that use it; -1: not counted.
        pub containers: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub descriptor: Option<ContentDescriptor>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub manifests: Option<Vec<ManifestSummary>>,
    }

    /// Points at content of a registry. API object `OCIDescriptor`.
    #[serde(rename_all = "camelCase")]
    pub struct ContentDescriptor {
        pub media_type: String,
        pub digest: String,
        /// Bytes.
        pub size: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub platform: Option<ImagePlatform>,
    }

    /// What an image runs on. API object `OCIPlatform`.
    pub struct ImagePlatform {
        /// Go's name of the processor.
        pub architecture: String,
        /// Go's name of the operating system.
        pub os: String,
        #[serde(rename = "os.version", skip_serializing_if = "is_zero")]
        pub os_version: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub variant: String,
    }

    /// One manifest of an image. API object `ImageManifestSummary`.
    #[serde(rename_all = "PascalCase")]
    pub struct ManifestSummary {
        #[serde(rename = "ID")]
        pub id: String,
        pub descriptor: ContentDescriptor,
        /// Whether all of it is here.
        pub available: bool,
        pub size: ManifestSize,
        /// `image`, `attestation` or `unknown`.
        pub kind: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub image_data: Option<ManifestImage>,
    }

    /// Bytes of a manifest and what it names.
    #[serde(rename_all = "PascalCase")]
    pub struct ManifestSize {
        /// With what was unpacked of it.
        pub total: i64,
        /// As a registry has it.
        pub content: i64,
    }

    /// What only manifests of images have.
    #[serde(rename_all = "PascalCase")]
    pub struct ManifestImage {
        pub platform: ImagePlatform,
        /// Ids of the containers that use it.
        pub containers: Vec<String>,
        pub size: UnpackedSize,
    }

    /// Bytes of the unpacked layers.
    #[serde(rename_all = "PascalCase")]
    pub struct UnpackedSize {
        pub unpacked: i64,
    }

    /// What `GET /distribution/{name}/json` tells. API object `DistributionInspect`.
    #[serde(rename_all = "PascalCase")]
    pub struct DistributionInspect {
        pub descriptor: ContentDescriptor,
        pub platforms: Vec<ImagePlatform>,
    }

    /// One line of `GET /images/search`. API object `ImageSearchResponseItem`.
    pub struct SearchResult {
        pub star_count: i64,
        pub is_official: bool,
        pub name: String,
        pub is_automated: bool,
        pub description: String,
    }

    /// What `GET /images/{name}/json` tells. API object `ImageInspect`.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageInspect {
        pub id: String,
        pub repo_tags: Vec<String>,
        pub repo_digests: Vec<String>,
        pub parent: String,
        pub comment: String,
        pub created: Time,
        pub docker_version: String,
        pub author: String,
        pub config: ContainerConfig,
        pub architecture: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub variant: String,
        pub os: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub os_version: String,
        /// Bytes.
        pub size: i64,
        pub graph_driver: GraphDriver,
        #[serde(rename = "RootFS")]
        pub root_fs: RootFs,
        pub metadata: ImageMetadata,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub descriptor: Option<ContentDescriptor>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub manifests: Option<Vec<ManifestSummary>>,
    }

    /// The layers of an image.
    #[serde(rename_all = "PascalCase")]
    pub struct RootFs {
        /// `layers`.
        #[serde(rename = "Type")]
        pub kind: String,
        /// Digests of the unpacked layers (diff ids), lowest first.
        #[serde(skip_serializing_if = "is_zero")]
        pub layers: Vec<String>,
    }

    /// What this host remembers of an image.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageMetadata {
        pub last_tag_time: Time,
    }

    /// One line of `GET /images/{name}/history`. API object `ImageHistoryResponseItem`.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageHistoryItem {
        /// `<missing>` where the layer has no image of its own.
        pub id: String,
        /// Seconds since the epoch.
        pub created: i64,
        pub created_by: String,
        #[serde(serialize_with = "or_null")]
        pub tags: Vec<String>,
        /// Bytes.
        pub size: i64,
        pub comment: String,
    }

    /// What an image removal did: one of the two is given. API object `ImageDeleteResponseItem`.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageDeleteItem {
        #[serde(skip_serializing_if = "is_zero")]
        pub untagged: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub deleted: String,
    }

    /// One line of a long answer (pull, push, load, build). API objects `CreateImageInfo`, `PushImageInfo`, `BuildInfo`.
    #[serde(rename_all = "camelCase")]
    pub struct ProgressLine {
        #[serde(skip_serializing_if = "is_zero")]
        pub stream: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub status: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub progress_detail: Option<ProgressDetail>,
        /// The bar for people, e.g. `[==>   ] 1MB/3MB`.
        #[serde(skip_serializing_if = "is_zero")]
        pub progress: String,
        /// What the line is about: a layer, a tag.
        #[serde(skip_serializing_if = "is_zero")]
        pub id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub error_detail: Option<ErrorDetail>,
        #[serde(skip_serializing_if = "is_zero")]
        pub error: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub aux: Option<serde_json::Value>,
    }

    /// How far something is. API object `ProgressDetail`.
    #[serde(rename_all = "camelCase")]
    pub struct ProgressDetail {
        /// Bytes, or as `units` says.
        #[serde(skip_serializing_if = "is_zero")]
        pub current: i64,
        /// 0: unknown.
        #[serde(skip_serializing_if = "is_zero")]
        pub total: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub units: String,
        #[serde(rename = "hidecounts", skip_serializing_if = "is_zero")]
        pub hide_counts: bool,
    }

    /// Why a long call failed. API object `ErrorDetail`.
    #[serde(rename_all = "camelCase")]
    pub struct ErrorDetail {
        #[serde(skip_serializing_if = "is_zero")]
        pub code: i64,
        pub message: String,
    }
}

/// Credentials for a registry. API object `AuthConfig`.
#[derive(Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct AuthConfig {
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub username: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub password: String,
    /// Base64 of `username:password`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub auth: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub email: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub serveraddress: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub identitytoken: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub registrytoken: String,
}

/// Shows whose credentials these are, never the secret parts.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

impl ProgressLine {
    /// A line that says what is going on.
    pub fn status(text: impl Into<String>) -> Self {
        Self { status: text.into(), ..Self::default() }
    }

    /// A line about one part (a layer), with how far it is; zero bytes give an empty detail as dockerd writes it.
    pub fn about(id: impl Into<String>, text: impl Into<String>, current: i64, total: i64) -> Self {
        let detail = ProgressDetail { current, total, ..ProgressDetail::default() };
        Self { id: id.into(), status: text.into(), progress_detail: Some(detail), ..Self::default() }
    }

    /// A line of plain output.
    pub fn stream(text: impl Into<String>) -> Self {
        Self { stream: text.into(), ..Self::default() }
    }

    /// The line that ends a failed call.
    pub fn error(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { error: message.clone(), error_detail: Some(ErrorDetail { code: 0, message }), ..Self::default() }
    }
}
