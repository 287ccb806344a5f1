//! What a refused or failed request is answered: a status and `{"message": "..."}`.

use crate::reply::{self, Reply};
use http::StatusCode;
use muster_calls::{Error, Kind};
use muster_model::engine::FilterError;

/// The outcome of a handler.
pub(crate) type Outcome = Result<Reply, Fault>;

/// A status and a message for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    pub status: StatusCode,
    pub message: String,
}

impl Fault {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// `what` names the operation as the user knows it.
    pub fn unsupported(what: &str) -> Self {
        Error::unimplemented(what).into()
    }

    /// What dockerd answers to swarm calls on a host outside of any swarm.
    pub fn no_swarm() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
             swarm and try again.",
        )
    }

    pub fn into_reply(self) -> Reply {
        if self.status == StatusCode::NOT_MODIFIED {
            return reply::empty(self.status);
        }
        reply::json(self.status, &serde_json::json!({ "message": self.message }))
    }
}

const fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::OutOfSequence | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::new(status_of(e.kind), e.message)
    }
}

impl From<FilterError> for Fault {
    fn from(e: FilterError) -> Self {
        Self::bad(e.to_string())
    }
}

impl From<muster_model::spec::Invalid> for Fault {
    fn from(e: muster_model::spec::Invalid) -> Self {
        Self::bad(e.to_string())
    }
}
