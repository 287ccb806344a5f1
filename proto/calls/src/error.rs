//! The one error of the API: a kind that every face maps to its own codes, and a message for people.

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of refusal this is. HTTP and gRPC codes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong (400, INVALID_ARGUMENT).
    Invalid,
    /// No or wrong credentials (401, UNAUTHENTICATED).
    Unauthorized,
    /// Not allowed, whoever asks (403, PERMISSION_DENIED).
    Forbidden,
    /// There is no such object (404, NOT_FOUND).
    NotFound,
    /// The object's state or name does not allow it (409, FAILED_PRECONDITION).
    Conflict,
    /// It is so already (304, ALREADY_EXISTS): the call changed nothing.
    NotModified,
    /// Muster does not do this (501, UNIMPLEMENTED).
    Unimplemented,
    /// Not now: no leader, node away, not a swarm manager (503, UNAVAILABLE).
    Unavailable,
    /// The update was made from an older version of the object (500 in Docker's API, ABORTED).
    OutOfSequence,
    /// Our fault, or the machine's (500, INTERNAL).
    Internal,
}

/// A refused or failed call.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: Kind,
    /// Lower case, names the object or field and what would be accepted; shown to users as it is.
    pub message: String,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }
    pub fn not_modified(message: impl Into<String>) -> Self {
        Self::new(Kind::NotModified, message)
    }
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, message)
    }
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(Kind::Unauthorized, message)
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
    /// `what` names the operation or option as the user knows it.
    pub fn unimplemented(what: impl std::fmt::Display) -> Self {
        Self::new(Kind::Unimplemented, format!("{what} is not supported by muster yet"))
    }
}

impl From<muster_model::spec::Invalid> for Error {
    fn from(e: muster_model::spec::Invalid) -> Self {
        Self::invalid(e.to_string())
    }
}
