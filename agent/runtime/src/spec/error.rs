//! Why no OCI spec can be made of a request.

/// What is wrong, naming the field as the Docker Engine API calls it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field whose value cannot be.
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    /// A user that the image's `/etc/passwd` does not have.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoUser { name: String },
    /// A group that the image's `/etc/group` does not have.
    #[error("unable to find group {name}: no matching entries in group file")]
    NoGroup { name: String },
    /// A user or group whose number cannot be one.
    #[error("uids and gids must be in range 0-{highest}")]
    IdRange { highest: u32 },
    /// A device of the host that cannot be looked at.
    #[error("error gathering device information while adding custom device \"{path}\": {reason}")]
    Device { path: String, reason: String },
    /// A disk of the host that cannot be looked at.
    #[error("stat {path}: {reason}")]
    Disk { path: String, reason: String },
    /// A capability that Linux does not have.
    #[error("invalid {field}: unknown capability: \"{name}\"")]
    Capability { field: &'static str, name: String },
    /// CPUs or memory nodes that this host does not have.
    #[error("Requested {what} are not available - requested {wanted}, available: {there}")]
    CpuSet { what: &'static str, wanted: String, there: String },
    /// A list of CPUs or memory nodes that is none.
    #[error("Invalid value {value} for cpuset {what}: expected a list as 0-2,4")]
    CpuList { what: &'static str, value: String },
    /// A mount option that a tmpfs does not have.
    #[error("invalid tmpfs option [{option:?}]")]
    TmpfsOption { option: String },
    /// An exec of nothing, in the words of the runtime.
    #[error(
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"\": executable file not found in $PATH: unknown"
    )]
    NoCommand,
    /// A file of the image or of the host cannot be read.
    #[error("{field}: {path}: {source}")]
    Io { field: &'static str, path: String, source: std::io::Error },
}

/// The words of an errno as Docker's users know them: lower case, without the number.
pub(super) fn words(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl Error {
    pub(super) fn field(field: &'static str, reason: impl Into<String>) -> Error {
        Error::Field { field, reason: reason.into() }
    }
}

/// Makes an OCI type of JSON in the spec's own names; a failure is a value out of the type's range.
pub(super) fn oci<T: serde::de::DeserializeOwned>(field: &'static str, value: serde_json::Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::field(field, error.to_string()))
}
