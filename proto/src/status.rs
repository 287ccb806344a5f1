//! The API's error and gRPC's status, one to one, so that nothing is lost on the way through a proxying node.

use muster_calls::{Error, Kind};
use tonic::{Code, Status};

/// What a server sends for an error.
pub fn to_status(e: Error) -> Status {
    let code = match e.kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::Unauthorized => Code::Unauthenticated,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::NotFound => Code::NotFound,
        Kind::Conflict => Code::FailedPrecondition,
        Kind::NotModified => Code::AlreadyExists,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Unavailable => Code::Unavailable,
        Kind::OutOfSequence => Code::Aborted,
        Kind::Internal => Code::Internal,
    };
    Status::new(code, e.message)
}

/// What a client makes of a status. Codes that no server of ours sends come from the transport: the peer is away.
pub fn from_status(s: Status) -> Error {
    let kind = match s.code() {
        Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
        Code::Unauthenticated => Kind::Unauthorized,
        Code::PermissionDenied => Kind::Forbidden,
        Code::NotFound => Kind::NotFound,
        Code::FailedPrecondition => Kind::Conflict,
        Code::AlreadyExists => Kind::NotModified,
        Code::Unimplemented => Kind::Unimplemented,
        Code::Aborted => Kind::OutOfSequence,
        // Nothing from the wire has a source: the connection broke in the middle of an answer.
        Code::Internal if std::error::Error::source(&s).is_some() => {
            return Error::unavailable(format!("the connection was lost: {}", s.message()));
        }
        Code::Internal | Code::DataLoss | Code::ResourceExhausted => Kind::Internal,
        _ => Kind::Unavailable,
    };
    Error::new(kind, s.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_breaks_in_an_answer_is_no_fault_of_the_node() {
        let mut broken = Status::internal("error reading a body from connection");
        broken.set_source(std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert_eq!(from_status(broken).kind, Kind::Unavailable);
        assert_eq!(from_status(Status::internal("a fault")).kind, Kind::Internal);
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in [
            Kind::Invalid,
            Kind::Unauthorized,
            Kind::Forbidden,
            Kind::NotFound,
            Kind::Conflict,
            Kind::NotModified,
            Kind::Unimplemented,
            Kind::Unavailable,
            Kind::OutOfSequence,
            Kind::Internal,
        ] {
            let back = from_status(to_status(Error::new(kind, "why")));
            assert_eq!((back.kind, back.message.as_str()), (kind, "why"));
        }
    }
}
