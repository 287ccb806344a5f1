//! Who may call: checked in each handler, against the certificate of the connection.
//!
//! A manager that passes a call on names the caller in the metadata [`CALLER_KEY`]; from anybody else that key is refused.

use crate::{CertRole, Leaf, Peer, PeerKind, credentials::now};
use muster_model::{NodeId, Timestamp};
use std::{fmt, str::FromStr};
use tonic::{
    Extensions, Request, Status,
    metadata::{MetadataMap, MetadataValue},
};

/// Metadata of a forwarded call: `local`, or `<role>/<node id>`.
pub const CALLER_KEY: &str = "muster-caller";

/// On whose behalf a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub kind: CallerKind,
    /// The manager that passed the call on.
    pub via: Option<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// Somebody with access to a socket of a host (of `via`, when set).
    Local,
    /// The holder of a certificate.
    Certified { role: CertRole, id: NodeId },
}

impl Caller {
    /// What the caller counts as: a local user is an operator.
    pub fn role(&self) -> CertRole {
        match self.kind {
            CallerKind::Local => CertRole::Operator,
            CallerKind::Certified { role, .. } => role,
        }
    }

    /// Puts the caller into a request that is passed on.
    pub fn attach<T>(&self, request: &mut Request<T>) {
        let value = MetadataValue::try_from(self.kind.to_string()).expect("roles and ids are ASCII letters and digits");
        request.metadata_mut().insert(CALLER_KEY, value);
    }
}

impl fmt::Display for CallerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Certified { role, id } => write!(f, "{role}/{id}"),
        }
    }
}

impl FromStr for CallerKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "local" {
            return Ok(Self::Local);
        }
        let (role, id) = text.split_once('/').ok_or(())?;
        Ok(Self::Certified { role: role.parse()?, id: id.parse().map_err(drop)? })
    }
}

/// On whose behalf a request is made.
///
/// # Errors
/// UNAUTHENTICATED without a certificate or with one that ran out or was revoked; PERMISSION_DENIED when somebody else than a manager
/// names another caller; INVALID_ARGUMENT when the name is malformed.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    caller_of(request.extensions(), request.metadata())
}

/// As [`caller`], of the parts of a request.
///
/// # Errors
/// As [`caller`].
pub fn caller_of(extensions: &Extensions, metadata: &MetadataMap) -> Result<Caller, Status> {
    let kind = peer_kind(peer(extensions)?, now())?;
    let Some(named) = metadata.get(CALLER_KEY) else { return Ok(Caller { kind, via: None }) };
    let CallerKind::Certified { role: CertRole::Manager, id: via } = kind else {
        return Err(Status::permission_denied(format!("only managers may pass calls on, this is {kind}")));
    };
    let named = named.to_str().ok().and_then(|text| text.parse().ok());
    let kind =
        named.ok_or_else(|| Status::invalid_argument(format!("metadata {CALLER_KEY}: expected local or ROLE/NODE")))?;
    Ok(Caller { kind, via: Some(via) })
}

/// The caller, if it has one of `roles`.
///
/// # Errors
/// As [`caller`]; PERMISSION_DENIED for another role.
pub fn require<T>(request: &Request<T>, roles: &[CertRole]) -> Result<Caller, Status> {
    require_of(request.extensions(), request.metadata(), roles)
}

/// As [`require`], of the parts of a request.
///
/// # Errors
/// As [`require`].
pub fn require_of(extensions: &Extensions, metadata: &MetadataMap, roles: &[CertRole]) -> Result<Caller, Status> {
    let caller = caller_of(extensions, metadata)?;
    if roles.contains(&caller.role()) {
        return Ok(caller);
    }
    let accepted: Vec<&str> = roles.iter().map(|r| r.as_str()).collect();
    Err(Status::permission_denied(format!(
        "role {} may not do this: expected {}",
        caller.role(),
        accepted.join(" or ")
    )))
}

/// The connection's own peer must be a node; answers which. For what a node says of itself, where nothing is passed on.
///
/// # Errors
/// UNAUTHENTICATED as [`caller`]; PERMISSION_DENIED for everybody else.
pub fn require_peer_node<T>(request: &Request<T>) -> Result<NodeId, Status> {
    match peer_kind(peer(request.extensions())?, now())? {
        CallerKind::Certified { role: CertRole::Worker | CertRole::Manager, id } => Ok(id),
        other => Err(Status::permission_denied(format!("{other} is no node"))),
    }
}

/// The connection's own peer must be the node `node`: nobody speaks for another node.
///
/// # Errors
/// UNAUTHENTICATED as [`caller`]; PERMISSION_DENIED for everybody else.
pub fn require_node<T>(request: &Request<T>, node: NodeId) -> Result<(), Status> {
    match require_peer_node(request)? {
        id if id == node => Ok(()),
        other => Err(Status::permission_denied(format!("node {other} may not act for node {node}"))),
    }
}

/// The connection's own peer must be a manager; answers which. For raft and the like, where nothing is passed on.
///
/// # Errors
/// UNAUTHENTICATED as [`caller`]; PERMISSION_DENIED for everybody else.
pub fn require_peer_manager<T>(request: &Request<T>) -> Result<NodeId, Status> {
    match peer_kind(peer(request.extensions())?, now())? {
        CallerKind::Certified { role: CertRole::Manager, id } => Ok(id),
        other => Err(Status::permission_denied(format!("{other} is no manager"))),
    }
}

/// The certificate of a connection that asks for the next one: ours, though it may have run out. The TLS handshake has
/// proven that its holder has the key. Whether it is still a member is for the authority to check.
///
/// # Errors
/// UNAUTHENTICATED without a certificate, or with one that was revoked.
pub fn require_renewable<T>(request: &Request<T>) -> Result<Leaf, Status> {
    let peer = peer(request.extensions())?;
    match peer.leaf() {
        Some(leaf) if peer.revoked() => Err(revoked(leaf)),
        leaf => leaf.cloned().ok_or_else(no_certificate),
    }
}

fn peer(extensions: &Extensions) -> Result<&Peer, Status> {
    extensions.get::<Peer>().ok_or_else(|| Status::internal("the connection has no known peer"))
}

fn peer_kind(peer: &Peer, now: Timestamp) -> Result<CallerKind, Status> {
    match &peer.kind {
        PeerKind::Local => Ok(CallerKind::Local),
        PeerKind::Anonymous => Err(no_certificate()),
        PeerKind::Certified { leaf, .. } if peer.revoked() => Err(revoked(leaf)),
        PeerKind::Certified { leaf, .. } if peer.expired(now) => {
            let (id, end) = (leaf.identity.node_id, leaf.not_after.to_rfc3339());
            Err(Status::unauthenticated(format!("the certificate of {id} expired at {end}: renew it first")))
        }
        PeerKind::Certified { leaf, .. } => {
            Ok(CallerKind::Certified { role: leaf.identity.role, id: leaf.identity.node_id })
        }
    }
}

fn revoked(leaf: &Leaf) -> Status {
    let Leaf { identity, serial, .. } = leaf;
    Status::unauthenticated(format!("the certificate {serial} of {} {} was revoked", identity.role, identity.node_id))
}

fn no_certificate() -> Status {
    Status::unauthenticated("a client certificate is needed")
}
