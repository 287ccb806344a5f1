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
        Code::Internal | Code::DataLoss | Code::ResourceExhausted => Kind::Internal,
        _ => Kind::Unavailable,
    };
    Error::new(kind, s.message())
}

#[cfg(test)]
mod tests {
    use super::*;

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
