//! Who is who: node identity, certificates, join tokens, and mutual TLS that changes keys while it runs.
//!
//! rustls with aws-lc-rs, TLS 1.3 only, the provider always passed explicitly. tonic's own TLS cannot change a
//! certificate at run time, so connections are accepted ([`incoming`]) and dialled ([`Tls::channel`]) here, with the
//! configuration that is current at each handshake. Nothing here knows a wire message or the cluster's state: whether a
//! certificate's holder is still a member is asked by the services.
//!
//! What a certificate says: CN = node id, OU = role, O = cluster id. What a server is checked against is a DNS name that
//! the authority alone puts in ([`Expect`]). A leaf that ran out is let in and marked ([`Peer::expired`]): every guard
//! refuses it but [`require_renewable`], so that a node which was off for long can renew without being joined anew.
//!
//! Read first: [`Ca`], [`Credentials`], then [`Tls`], [`Peer`] and the guards ([`require`]).

#![forbid(unsafe_code)]

mod accept;
mod bootstrap;
mod ca;
mod connections;
mod context;
mod credentials;
mod dial;
mod error;
mod files;
mod guard;
mod identity;
mod outgoing;
mod peer;
mod revoked;
mod tls;
mod token;
mod verify;

pub use accept::{Incoming, PeerIo, incoming};
pub use bootstrap::{Bootstrap, bootstrap};
pub use ca::{Ca, KeyRequest};
pub use connections::{ConnectionInfo, Connections};
pub use context::OperatorContext;
pub use credentials::{Credentials, certificate_from_pem, now};
pub use dial::{CONNECTION_WINDOW, DialError, Expect, Refusal, STREAM_WINDOW, refused_by_peer};
pub use error::Error;
pub use files::write_private;
pub use guard::{
    CALLER_KEY, Caller, CallerKind, caller, caller_of, require, require_node, require_of, require_peer_manager,
    require_peer_node, require_renewable,
};
pub use identity::{CertRole, Leaf, NodeIdentity, sha256_hex};
pub use peer::{LocalIo, Peer, PeerKind};
pub use revoked::Revoked;
pub use rustls_pki_types::CertificateDer;
pub use tls::Tls;
pub use token::{JoinToken, TokenError, new_secret, same_secret};

/// The one cryptography provider of Muster.
pub fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
