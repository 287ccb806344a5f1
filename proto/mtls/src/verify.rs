//! The two checks that webpki does not offer as they are needed: clients whose leaf ran out, and a root known by its digest.

use crate::{Error, Leaf};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::{Arc, OnceLock};

pub(crate) fn store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    Ok(Arc::new(store))
}

/// Anonymous clients may connect, and so may holders of a certificate of ours that is valid in all but time. What either
/// may call is decided by the guards.
#[derive(Debug)]
pub(crate) struct Members(Arc<dyn ClientCertVerifier>);

impl Members {
    pub(crate) fn new(roots: &[CertificateDer<'static>]) -> Result<Self, Error> {
        let inner = WebPkiClientVerifier::builder_with_provider(store(roots)?, crate::provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| Error::Ca(e.to_string()))?;
        Ok(Self(inner))
    }
}

impl ClientCertVerifier for Members {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let refused = match self.0.verify_client_cert(leaf, intermediates, now) {
            Err(rustls::Error::InvalidCertificate(
                e @ (CertificateError::Expired | CertificateError::ExpiredContext { .. }),
            )) => rustls::Error::InvalidCertificate(e),
            other => return other,
        };
        // Everything but the time is checked again as of the leaf's last valid second.
        let last = Leaf::from_certificate(leaf).map_err(|_| refused)?.not_after.as_secs();
        let last = u64::try_from(last).map_err(|_| rustls::Error::InvalidCertificate(CertificateError::Expired))?;
        self.0.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(std::time::Duration::from_secs(last)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Trusts the one root that has the digest of a join token, which the server sends after its leaf, and through it a
/// manager of that root's cluster. The root that was found is left in `found`.
#[derive(Debug)]
pub(crate) struct Pinned {
    digest: String,
    pub(crate) found: OnceLock<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    pub(crate) fn new(digest: String) -> Self {
        Self { digest, found: OnceLock::new(), provider: crate::provider() }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let wrong = |why: String| rustls::Error::General(why);
        let root = intermediates
            .iter()
            .find(|c| crate::same_secret(&crate::sha256_hex(c), &self.digest))
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?
            .clone()
            .into_owned();
        if *self.found.get_or_init(|| root.clone()) != root {
            return Err(wrong("another root than at the first connection".to_owned()));
        }
        let cluster = crate::identity::cluster_of_root(&root).map_err(|e| wrong(e.to_string()))?;
        let name = crate::Expect::Manager.server_name(cluster);
        let roots = store(std::slice::from_ref(&root)).map_err(|e| wrong(e.to_string()))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|e| wrong(e.to_string()))?;
        verifier.verify_server_cert(leaf, &[], &name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
