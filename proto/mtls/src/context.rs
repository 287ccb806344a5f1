//! What an operator takes along: a credential and an address of the cluster that it opens, in one file. `muster context`
//! makes and keeps such files; a worker's host may be given one for its cluster endpoint.

use crate::{CertRole, Credentials, Error};

/// The line before the key that says where the cluster is.
const ADDRESS: &str = "# address: ";

/// A context as it was written.
#[derive(Clone, Debug)]
pub struct OperatorContext {
    /// `HOST:PORT` of a member, as it was known when the context was made.
    pub addr: String,
    pub credentials: Credentials,
}

impl OperatorContext {
    /// Reads what [`OperatorContext::to_text`] gave. A certificate that has run out is read.
    ///
    /// # Errors
    /// [`Error::Certificate`] without an address or for a node's certificate; as [`Credentials::from_pem`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let addr = text.lines().find_map(|l| l.strip_prefix(ADDRESS)).map(str::trim).filter(|a| !a.is_empty());
        let addr = addr.ok_or_else(|| Error::Certificate(format!("there is no line {ADDRESS:?} with an address")))?;
        let credentials = Credentials::from_pem(text.as_bytes())?;
        match credentials.identity().role {
            CertRole::Operator => Ok(Self { addr: addr.to_owned(), credentials }),
            role => Err(Error::Certificate(format!("it is a {role}'s, expected an operator's"))),
        }
    }

    /// The address, then key, certificate and roots as PEM.
    pub fn to_text(&self) -> String {
        format!("{ADDRESS}{}\n{}", self.addr, self.credentials.to_pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ca, KeyRequest, NodeIdentity};
    use muster_model::{ClusterId, NodeId};
    use std::time::Duration;

    fn credentials(role: CertRole) -> Credentials {
        let cluster_id = ClusterId::from_u128(1);
        let ca = Ca::create(cluster_id, crate::now()).expect("an authority");
        let key = KeyRequest::new().expect("a key");
        let identity = NodeIdentity { node_id: NodeId::from_u128(2), cluster_id, role };
        let leaf = ca.sign_csr(key.csr(), identity, Duration::from_secs(60), crate::now()).expect("signed");
        key.complete(leaf.to_vec(), vec![ca.certificate().clone()]).expect("complete")
    }

    #[test]
    fn a_context_is_an_operators_and_says_where_its_cluster_is() {
        let context = OperatorContext { addr: "h:2377".into(), credentials: credentials(CertRole::Operator) };
        let read = OperatorContext::parse(&context.to_text()).expect("reads");
        assert_eq!((read.addr.as_str(), read.credentials.leaf()), ("h:2377", context.credentials.leaf()));
        let bare = OperatorContext::parse(&context.credentials.to_pem()).expect_err("refused").to_string();
        assert!(bare.contains("address"), "{bare}");
        let worker = OperatorContext { addr: "h:2377".into(), credentials: credentials(CertRole::Worker) };
        let refused = OperatorContext::parse(&worker.to_text()).expect_err("refused").to_string();
        assert!(refused.contains("a worker's, expected an operator's"), "{refused}");
    }
}
