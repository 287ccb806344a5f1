//! What a caller sees while an image moves. The words are Docker's.

use std::fmt;

use tokio::sync::mpsc;

/// One step of a pull, push or load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The layer's short id, or the tag for [`Status::PullingFrom`]; `None` for lines about the whole image.
    pub id: Option<String>,
    /// What happens. `to_string()` gives Docker's `status`.
    pub status: Status,
    /// Bytes done of `total`, for the states that move bytes.
    pub current: Option<u64>,
    /// Bytes to do.
    pub total: Option<u64>,
}

/// What happens to a layer or an image. `Display` gives Docker's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// A pull from this repository began.
    PullingFrom(String),
    /// A layer is waiting for its turn.
    PullingFsLayer,
    /// A layer is being fetched.
    Downloading,
    /// A fetch was cut and goes on where it stopped.
    Retrying,
    /// Its bytes are compared with its digest.
    VerifyingChecksum,
    /// All bytes are here.
    DownloadComplete,
    /// A layer is being unpacked.
    Extracting,
    /// A layer is ready.
    PullComplete,
    /// A layer was here before.
    AlreadyExists,
    /// The digest the registry gave.
    Digest(crate::Digest),
    /// The image named so was fetched.
    Downloaded(String),
    /// The image named so had not changed.
    UpToDate(String),
    /// A push to this repository began.
    PushRefersTo(String),
    /// A layer will be pushed.
    Preparing,
    /// A layer is being sent.
    Pushing,
    /// A layer was sent.
    Pushed,
    /// The registry had the layer.
    LayerExists,
    /// The registry took the layer from this repository of its own.
    MountedFrom(String),
    /// The pushed manifest: tag, digest, size in bytes.
    PushedManifest(String, crate::Digest, u64),
    /// A layer of an archive is being read.
    LoadingLayer,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::PullingFrom(repository) => return write!(f, "Pulling from {repository}"),
            Self::Digest(digest) => return write!(f, "Digest: {digest}"),
            Self::Downloaded(name) => return write!(f, "Status: Downloaded newer image for {name}"),
            Self::UpToDate(name) => return write!(f, "Status: Image is up to date for {name}"),
            Self::PushRefersTo(repository) => return write!(f, "The push refers to repository [{repository}]"),
            Self::MountedFrom(repository) => return write!(f, "Mounted from {repository}"),
            Self::PushedManifest(tag, digest, size) => return write!(f, "{tag}: digest: {digest} size: {size}"),
            Self::PullingFsLayer => "Pulling fs layer",
            Self::Downloading => "Downloading",
            Self::Retrying => "Retrying",
            Self::VerifyingChecksum => "Verifying Checksum",
            Self::DownloadComplete => "Download complete",
            Self::Extracting => "Extracting",
            Self::PullComplete => "Pull complete",
            Self::AlreadyExists => "Already exists",
            Self::Preparing => "Preparing",
            Self::Pushing => "Pushing",
            Self::Pushed => "Pushed",
            Self::LayerExists => "Layer already exists",
            Self::LoadingLayer => "Loading layer",
        };
        f.write_str(words)
    }
}

/// Where progress goes: state changes wait for a slow reader, byte counts are dropped for one.
#[derive(Clone)]
pub(crate) struct Reporter(mpsc::Sender<Progress>);

impl Reporter {
    pub(crate) fn new(sender: mpsc::Sender<Progress>) -> Self {
        Self(sender)
    }

    /// A line about the whole image.
    pub(crate) async fn line(&self, status: Status) {
        self.send(Progress { id: None, status, current: None, total: None }).await;
    }

    /// A state change of the layer or tag `id`.
    pub(crate) async fn state(&self, id: &str, status: Status) {
        self.send(Progress { id: Some(id.into()), status, current: None, total: None }).await;
    }

    /// Bytes moved for `id`; may be lost.
    pub(crate) fn bytes(&self, id: &str, status: Status, current: u64, total: u64) {
        // A reader that is behind, or gone, misses a number and nothing else.
        let _ = self.0.try_send(Progress { id: Some(id.into()), status, current: Some(current), total: Some(total) });
    }

    async fn send(&self, progress: Progress) {
        // A reader that hung up does not stop the work; whoever wants that drops the future.
        let _ = self.0.send(progress).await;
    }
}
