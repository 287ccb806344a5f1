//! How the rooms below say that something failed, in the words of the API.

use muster_calls::{Error, Kind};

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Record(#[from] crate::record::durable::Error),
    #[error("engine configuration, {field}: {reason}")]
    Config { field: &'static str, reason: String },
    #[error("the runtime cannot be asked: {0}")]
    Runtime(#[from] muster_runtime::Error),
    #[error("the image store cannot be asked: {0}")]
    Images(#[from] muster_image::Error),
}

impl OpenError {
    pub(crate) fn io(op: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }
}

/// An error of the runtime for a call that is not a start.
pub(crate) fn runtime(e: muster_runtime::Error) -> Error {
    use muster_runtime::Error as E;
    let kind = match &e {
        E::NotRunning { .. } | E::StillRunning { .. } | E::NotFound { .. } | E::AlreadyExists { .. } => Kind::Conflict,
        E::BadId { .. } | E::NoTty { .. } | E::Spec(_) | E::CommandNotFound { .. } | E::CommandNotExecutable { .. } => {
            Kind::Invalid
        }
        E::Unsupported { .. } => Kind::Unimplemented,
        _ => Kind::Internal,
    };
    Error::new(kind, e.to_string())
}

/// Docker's advice when a file was to be mounted on a folder or the other way round.
const NOT_A_DIRECTORY: &str = ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type";

/// The error of a start: clients read exit codes 126 and 127 out of these words, which are containerd's around runc's.
pub(crate) fn start(e: muster_runtime::Error) -> (Error, i32) {
    use muster_runtime::Error as E;
    let code = e.exit_code();
    let mapped = match &e {
        E::Spec(_) | E::Unsupported { .. } => runtime(e),
        _ => {
            let kind = if code == 128 { Kind::Internal } else { Kind::Invalid };
            let hint = if e.is_not_a_directory() { NOT_A_DIRECTORY } else { "" };
            let text = format!(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: {}: unknown{hint}",
                e.said()
            );
            Error::new(kind, text)
        }
    };
    (mapped, code)
}

/// An error of the image store.
pub(crate) fn image(e: muster_image::Error) -> Error {
    use muster_image::Error as E;
    let kind = match &e {
        E::NoSuchImage(_) | E::ManifestNotFound { .. } | E::NoSuchSnapshot(_) | E::NoMatchingPlatform { .. } => {
            Kind::NotFound
        }
        // dockerd hides a refused pull behind "not found" too: the clients' fallbacks rely on it.
        E::Unauthorized { .. } => Kind::NotFound,
        E::InvalidReference(_) | E::Url { .. } | E::InvalidArchive(_) | E::Malformed { .. } | E::AmbiguousId(_) => {
            Kind::Invalid
        }
        E::LoginFailed { .. } => Kind::Unauthorized,
        E::Conflict(_) | E::SnapshotExists(_) => Kind::Conflict,
        E::Unsupported(_) => Kind::Unimplemented,
        _ => Kind::Internal,
    };
    Error::new(kind, chain(&e))
}

/// An error of the disk.
pub(crate) fn disk(e: crate::record::durable::Error) -> Error {
    Error::internal(e.to_string())
}

/// The texts of an error and of what caused it, each once.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(source) = cause {
        let words = source.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = source.source();
    }
    text
}

/// Runs work that blocks (disk, namespaces) on tokio's blocking threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::internal(format!("a task of the engine ended early: {e}"))))
}
