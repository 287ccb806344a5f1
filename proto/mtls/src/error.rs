//! Why identities, keys and certificates are refused.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("certificate subject {field}: {why}")]
    Subject { field: &'static str, why: String },
    #[error("certificate signing request: {0}")]
    Csr(String),
    #[error("certificate authority: {0}")]
    Ca(String),
    #[error("private key: {0}")]
    Key(String),
    #[error("certificate lifetime of {0:?}: expected between 1 second and 10 years")]
    Lifetime(std::time::Duration),
    #[error("certificate of cluster {found}, expected cluster {expected}")]
    OtherCluster { expected: muster_model::ClusterId, found: muster_model::ClusterId },
    #[error("tls configuration")]
    Tls(#[from] rustls::Error),
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {why}", path.display())]
    Content { path: PathBuf, why: String },
}
