//! What a certificate says of its holder.

use crate::Error;
use muster_model::{ClusterId, NodeId, Timestamp, spec::Role};
use std::{fmt, str::FromStr};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The role a certificate was issued for: the two of nodes, and people with `muster` on a machine of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertRole {
    Worker,
    Manager,
    Operator,
}

impl CertRole {
    /// As it stands in OU, in join tokens and in forwarded identities.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
            Self::Operator => "operator",
        }
    }

    /// The role as a node's; `None` for operators.
    pub const fn node_role(self) -> Option<Role> {
        match self {
            Self::Worker => Some(Role::Worker),
            Self::Manager => Some(Role::Manager),
            Self::Operator => None,
        }
    }
}

impl From<Role> for CertRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Worker => Self::Worker,
            Role::Manager => Self::Manager,
        }
    }
}

impl fmt::Display for CertRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CertRole {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Worker, Self::Manager, Self::Operator].into_iter().find(|r| r.as_str() == text).ok_or(())
    }
}

/// Who somebody is: the subject of a certificate. For operators `node_id` is the id of the certificate's holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeIdentity {
    pub node_id: NodeId,
    pub cluster_id: ClusterId,
    pub role: CertRole,
}

impl NodeIdentity {
    /// The subject of a certificate, whoever signed it and whether or not it is valid now: TLS has checked that.
    ///
    /// # Errors
    /// [`Error::Certificate`] when the bytes are no certificate, [`Error::Subject`] naming the part that is missing,
    /// doubled or malformed.
    pub fn from_certificate(der: &[u8]) -> Result<Self, Error> {
        Ok(Leaf::from_certificate(der)?.identity)
    }
}

/// A certificate's holder together with how long it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub identity: NodeIdentity,
    /// Hexadecimal, for logs.
    pub serial: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Leaf {
    /// # Errors
    /// As [`NodeIdentity::from_certificate`].
    pub fn from_certificate(der: &[u8]) -> Result<Self, Error> {
        let cert = parse(der)?;
        let subject = cert.subject();
        let node = one("CN", subject.iter_common_name())?;
        let cluster = one("O", subject.iter_organization())?;
        let role = one("OU", subject.iter_organizational_unit())?;
        let wrong = |field, why: String| Error::Subject { field, why };
        let identity = NodeIdentity {
            node_id: node.parse().map_err(|e: muster_model::IdParseError| wrong("CN", e.to_string()))?,
            cluster_id: cluster.parse().map_err(|e: muster_model::IdParseError| wrong("O", e.to_string()))?,
            role: role.parse().map_err(|()| wrong("OU", format!("{role:?}: expected worker, manager or operator")))?,
        };
        let secs = |t: x509_parser::time::ASN1Time| Timestamp(t.timestamp().saturating_mul(1_000_000_000));
        Ok(Self {
            identity,
            serial: hex::encode(cert.raw_serial()),
            not_before: secs(cert.validity().not_before),
            not_after: secs(cert.validity().not_after),
        })
    }

    pub fn expired(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// When to ask for the next certificate: at two thirds of this one's life, moved forward or back by `jitter` of a
    /// tenth of it. `jitter` is the caller's draw from -1.0..=1.0, so that nodes made together do not renew together.
    pub fn renew_at(&self, jitter: f64) -> Timestamp {
        let life = self.not_after.0.saturating_sub(self.not_before.0).max(0) as f64;
        let share = 2.0 / 3.0 + jitter.clamp(-1.0, 1.0) * 0.1;
        Timestamp(self.not_before.0.saturating_add((life * share) as i64))
    }
}

/// The SHA-256 of some bytes as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

/// The cluster that a root certificate belongs to: its O.
pub(crate) fn cluster_of_root(der: &[u8]) -> Result<ClusterId, Error> {
    let cert = parse(der)?;
    let text = one("O", cert.subject().iter_organization())?;
    text.parse().map_err(|e: muster_model::IdParseError| Error::Subject { field: "O", why: e.to_string() })
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|e| Error::Certificate(e.to_string()))?;
    if !rest.is_empty() {
        return Err(Error::Certificate(format!("{} bytes follow it", rest.len())));
    }
    Ok(cert)
}

/// Exactly one attribute: a second one might mean somebody else to another reader.
fn one<'a>(
    field: &'static str,
    mut found: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Result<String, Error> {
    let wrong = |why: &str| Error::Subject { field, why: why.to_owned() };
    let first = found.next().ok_or_else(|| wrong("is missing"))?;
    if found.next().is_some() {
        return Err(wrong("stands there twice"));
    }
    Ok(first.as_str().map_err(|_| wrong("is no text"))?.to_owned())
}
