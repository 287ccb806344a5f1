//! What a member holds: its key, its certificate and the roots it trusts. One file, so that they never disagree.

use crate::{Error, Leaf, NodeIdentity, identity::cluster_of_root};
use muster_model::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
    pem::{PemObject, SectionKind},
};
use std::{fmt, path::Path, sync::Arc};

/// A key with its certificate and the trusted roots, consistent with each other. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    leaf: Leaf,
    key_der: Vec<u8>,
    /// The leaf, then the root that signed it: a node that joins finds the root its token names in the handshake.
    certified: Arc<CertifiedKey>,
    roots: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("leaf", &self.0.leaf)
            .field("roots", &self.0.roots.len())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// `key_der`: PKCS#8.
    ///
    /// # Errors
    /// [`Error::Certificate`], [`Error::Subject`] when the leaf cannot be read, [`Error::Key`] when the key is not the
    /// leaf's, [`Error::Ca`] without a root of the leaf's cluster.
    pub fn new(
        leaf_der: CertificateDer<'static>,
        key_der: Vec<u8>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let leaf = Leaf::from_certificate(&leaf_der)?;
        for root in &roots {
            let found = cluster_of_root(root)?;
            if found != leaf.identity.cluster_id {
                return Err(Error::OtherCluster { expected: leaf.identity.cluster_id, found });
            }
        }
        let issuer = issuer_of(&leaf_der, &roots)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key_der.clone()));
        let certified = CertifiedKey::from_der(vec![leaf_der, issuer], key, &crate::provider())
            .map_err(|e| Error::Key(e.to_string()))?;
        Ok(Self(Arc::new(Inner { leaf, key_der, certified: Arc::new(certified), roots })))
    }

    pub fn leaf(&self) -> &Leaf {
        &self.0.leaf
    }

    pub fn identity(&self) -> NodeIdentity {
        self.0.leaf.identity
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.0.roots
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.0.certified.clone()
    }

    /// The same key and leaf with other roots, the leaf's own among them.
    ///
    /// # Errors
    /// As [`Credentials::new`].
    pub fn with_roots(&self, roots: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        Self::new(self.0.certified.cert[0].clone(), self.0.key_der.clone(), roots)
    }

    /// Key, leaf and roots as PEM, in this order: also what `muster context import` takes.
    pub fn to_pem(&self) -> String {
        let mut out = pem("PRIVATE KEY", &self.0.key_der);
        out.push_str(&pem("CERTIFICATE", &self.0.certified.cert[0]));
        for root in &self.0.roots {
            out.push_str(&pem("CERTIFICATE", root));
        }
        out
    }

    /// Reads what [`Credentials::to_pem`] gave.
    ///
    /// # Errors
    /// As [`Credentials::new`], and [`Error::Key`], [`Error::Certificate`] when a part is missing.
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let (mut key, mut certs) = (None, Vec::new());
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            match section.map_err(|e| Error::Certificate(e.to_string()))? {
                (SectionKind::PrivateKey, der) if key.is_none() => key = Some(der),
                (SectionKind::Certificate, der) => certs.push(CertificateDer::from(der)),
                (kind, _) => return Err(Error::Certificate(format!("a {kind:?} does not belong here"))),
            }
        }
        let key = key.ok_or_else(|| Error::Key("there is no PRIVATE KEY".to_owned()))?;
        if certs.is_empty() {
            return Err(Error::Certificate("there is none".to_owned()));
        }
        let leaf = certs.remove(0);
        Self::new(leaf, key, certs)
    }

    /// Writes the file, mode 0600, as a whole.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        crate::write_private(path, self.to_pem().as_bytes())
    }

    /// Reads the file; `None` when there is none. An expired certificate loads: see [`Leaf::expired`].
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Content`].
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let text = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| Error::File { path: path.to_owned(), source })?,
        };
        Self::from_pem(&text).map(Some).map_err(|e| Error::Content { path: path.to_owned(), why: e.to_string() })
    }
}

/// The one certificate in a PEM text, as DER.
///
/// # Errors
/// [`Error::Certificate`].
pub fn certificate_from_pem(text: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(|e| Error::Certificate(e.to_string()))
}

/// The host's clock.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::ZERO.after(since)
}

/// The root whose key signed the leaf.
fn issuer_of(leaf_der: &[u8], roots: &[CertificateDer<'static>]) -> Result<CertificateDer<'static>, Error> {
    let leaf = crate::identity::parse(leaf_der)?;
    for root in roots {
        let parsed = crate::identity::parse(root)?;
        if leaf.verify_signature(Some(parsed.public_key())).is_ok() {
            return Ok(root.clone());
        }
    }
    Err(Error::Ca("none of the roots signed the certificate".to_owned()))
}

/// RFC 7468: base64 in lines of 64.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let bits = chunk.iter().fold(0u32, |acc, b| acc << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let sextet = bits >> (18 - 6 * i) & 63;
            text.push(if i <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|b| char::from(*b)));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
