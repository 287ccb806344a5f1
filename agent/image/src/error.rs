//! What can go wrong in the image room.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Digest, InvalidReference, Platform, archive};

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An act on images that failed. The texts of the variants that users see are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's file system refused.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On which path of this host.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has this store open.
    #[error("image store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The store is closing.
    #[error("the image store is closed")]
    Closed,
    /// The name is not a name.
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// No local image has this name or id.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// An id prefix fits several images.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousId(String),
    /// The registry has no such manifest.
    #[error("manifest for {reference} not found: manifest unknown: manifest unknown")]
    ManifestNotFound {
        /// As the user wrote it.
        reference: String,
    },
    /// The registry wants other credentials, or hides that the repository does not exist.
    #[error("{act} access denied for {repository}, repository does not exist or may require 'docker login': {reason}")]
    Unauthorized {
        /// `pull` or `push`.
        act: &'static str,
        /// The repository.
        repository: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry does not take the credentials of a login.
    #[error("{reason}")]
    LoginFailed {
        /// Host and port.
        registry: String,
        /// What was asked and what was answered.
        reason: String,
    },
    /// Nothing can be fetched from there.
    #[error("{url:?} is no URL of a file: expected http://HOST/PATH or https://HOST/PATH, without user and password")]
    Url {
        /// As it was given.
        url: String,
    },
    /// No answer from the registry: name, route, port, TLS or time-out.
    #[error("registry {registry} is unreachable: {reason}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The registry stopped sending or taking bytes.
    #[error("registry {registry} stalled: no byte moved for {} s", idle.as_secs())]
    Stalled {
        /// Host and port.
        registry: String,
        /// How long nothing moved.
        idle: Duration,
    },
    /// The registry answered something unexpected.
    #[error("registry {registry} answered {status}: {message}")]
    Registry {
        /// Host and port.
        registry: String,
        /// HTTP status.
        status: u16,
        /// Its error text, shortened.
        message: String,
    },
    /// The bytes are not those that the digest names.
    #[error("corrupt blob {digest}: {reason}")]
    CorruptBlob {
        /// What was asked for.
        digest: Digest,
        /// What came.
        reason: String,
    },
    /// A document of an image cannot be read.
    #[error("invalid {what} {digest}: {reason}")]
    Malformed {
        /// `manifest` or `image config`.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// The image does not exist for the wanted platform.
    #[error("no matching manifest for {wanted} in {reference}: available: {available}")]
    NoMatchingPlatform {
        /// What was asked for.
        wanted: Box<Platform>,
        /// Of which image.
        reference: String,
        /// What it has.
        available: String,
    },
    /// Something is larger than this store allows.
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge {
        /// What.
        what: String,
        /// The limit: bytes, or what the text names.
        limit: u64,
    },
    /// The content is valid and not supported.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A layer or an archive could not be unpacked or packed.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The bytes given to `load` are no image archive.
    #[error("invalid image archive: {0}")]
    InvalidArchive(String),
    /// Something uses the image.
    #[error("conflict: {0}")]
    Conflict(String),
    /// No snapshot has this id.
    #[error("no such snapshot: {0}")]
    NoSuchSnapshot(String),
    /// A snapshot of this id exists for another image.
    #[error("snapshot {0} exists already and is of another image")]
    SnapshotExists(String),
    /// The id cannot name a snapshot.
    #[error("invalid snapshot id {0:?}: expected letters, digits, '_', '.' and '-'")]
    InvalidSnapshotId(String),
    /// The overlay could not be mounted.
    #[error("cannot mount the overlay of {layers} layers on {}: {reason}", target.display())]
    Mount {
        /// Where.
        target: PathBuf,
        /// Of how many lower layers.
        layers: usize,
        /// The kernel's words.
        reason: String,
    },
    /// The configuration of registries is wrong.
    #[error("registry configuration, {field}: {reason}")]
    Config {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A task of this crate died.
    #[error("a task of the image store ended early: {0}")]
    Task(String),
}

/// Adds what was tried, and on which path, to an I/O error.
pub(crate) trait At<T> {
    fn at(self, act: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, act: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { act, path: path.to_owned(), source: source.into() })
    }
}

/// Runs blocking work on tokio's blocking threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Task(error.to_string()))?
}
