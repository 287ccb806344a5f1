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
    /// A file of the image or of the host cannot be read.
    #[error("{field}: {path}: {source}")]
    Io { field: &'static str, path: String, source: std::io::Error },
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
