//! The cluster's certificate authority.

use crate::{
    CertRole, Error, NodeIdentity,
    identity::{cluster_of_root, parse},
};
use muster_model::{ClusterId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use std::{fmt, time::Duration};
use time::OffsetDateTime;

/// Clocks of hosts differ: a certificate is valid from this long before it was made.
const BACKDATE: Duration = Duration::from_secs(3600);
/// How long the authority itself is valid.
const ROOT_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A request holds one P-256 key and a signature: 300 bytes. What is much longer is not worth parsing.
const MAX_CSR_BYTES: usize = 4096;

/// The authority: the root certificate and its key.
pub struct Ca {
    cert: CertificateDer<'static>,
    cluster_id: ClusterId,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}

impl Ca {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// [`Error::Ca`] when no key can be made.
    pub fn create(cluster_id: ClusterId, now: Timestamp) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| Error::Ca(e.to_string()))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, cluster_id.to_string());
        params.distinguished_name.push(DnType::CommonName, "muster-ca");
        (params.not_before, params.not_after) = validity(now, ROOT_LIFETIME)?;
        let cert = params.self_signed(&key).map_err(|e| Error::Ca(e.to_string()))?.der().clone();
        Ok(Self { cert, cluster_id, issuer: Issuer::new(params, key) })
    }

    /// An authority from its certificate (DER) and its key (PKCS#8 DER).
    ///
    /// # Errors
    /// [`Error::Ca`] when either cannot be read or the key is another certificate's.
    pub fn load(cert_der: &[u8], key_pkcs8_der: &[u8]) -> Result<Self, Error> {
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key_pkcs8_der);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|e| Error::Ca(format!("key: {e}")))?;
        let parsed = parse(cert_der).map_err(|e| Error::Ca(e.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(Error::Ca("the key does not belong to the certificate".to_owned()));
        }
        let cluster_id = cluster_of_root(cert_der)?;
        let cert = CertificateDer::from(cert_der.to_vec());
        let issuer = Issuer::from_ca_cert_der(&cert, key).map_err(|e| Error::Ca(e.to_string()))?;
        Ok(Self { cert, cluster_id, issuer })
    }

    /// The root certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.cert
    }

    /// The root certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        crate::credentials::pem("CERTIFICATE", &self.cert)
    }

    /// The key as PKCS#8 DER. To be sealed before it rests anywhere.
    pub fn key_der(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// What join tokens carry: the SHA-256 of the root certificate, hexadecimal.
    pub fn digest(&self) -> String {
        crate::sha256_hex(&self.cert)
    }

    /// Signs the key of a request, and nothing else of it: subject, names, uses and lifetime are the authority's.
    ///
    /// # Errors
    /// [`Error::Csr`] for a request that is malformed, not signed by its own key or not P-256, [`Error::OtherCluster`],
    /// [`Error::Lifetime`].
    pub fn sign_csr(
        &self,
        csr_der: &[u8],
        identity: NodeIdentity,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<CertificateDer<'static>, Error> {
        if identity.cluster_id != self.cluster_id {
            return Err(Error::OtherCluster { expected: self.cluster_id, found: identity.cluster_id });
        }
        if csr_der.len() > MAX_CSR_BYTES {
            return Err(Error::Csr(format!("{} bytes, at most {MAX_CSR_BYTES} are read", csr_der.len())));
        }
        let mut csr =
            CertificateSigningRequestParams::from_der(&csr_der.into()).map_err(|e| Error::Csr(e.to_string()))?;
        if *csr.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 || csr.public_key.der_bytes().len() != 65 {
            return Err(Error::Csr("expected an ECDSA key on P-256, signed with SHA-256".to_owned()));
        }
        csr.params = leaf_params(identity, lifetime, now)?;
        Ok(csr.signed_by(&self.issuer).map_err(|e| Error::Csr(e.to_string()))?.der().clone())
    }
}

fn leaf_params(identity: NodeIdentity, lifetime: Duration, now: Timestamp) -> Result<CertificateParams, Error> {
    let names = crate::Expect::names_of(identity);
    let mut params = CertificateParams::new(names).map_err(|e| Error::Certificate(e.to_string()))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, identity.cluster_id.to_string());
    params.distinguished_name.push(DnType::OrganizationalUnitName, identity.role.as_str());
    params.distinguished_name.push(DnType::CommonName, identity.node_id.to_string());
    params.extended_key_usages = match identity.role {
        CertRole::Operator => vec![ExtendedKeyUsagePurpose::ClientAuth],
        CertRole::Worker | CertRole::Manager => {
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]
        }
    };
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = validity(now, lifetime)?;
    Ok(params)
}

fn validity(now: Timestamp, lifetime: Duration) -> Result<(OffsetDateTime, OffsetDateTime), Error> {
    let root = lifetime == ROOT_LIFETIME;
    if lifetime < Duration::from_secs(1) || (lifetime > MAX_LIFETIME && !root) {
        return Err(Error::Lifetime(lifetime));
    }
    let at = OffsetDateTime::from_unix_timestamp(now.as_secs())
        .map_err(|_| Error::Certificate(format!("the time {} s", now.as_secs())))?;
    // A certificate for a second must not look two thirds used up when it is made.
    let back = BACKDATE.min(lifetime / 10);
    Ok((at - back, at + lifetime))
}

/// A new key and the request that asks for its certificate.
pub struct KeyRequest {
    key: KeyPair,
    csr: Vec<u8>,
}

impl KeyRequest {
    /// # Errors
    /// [`Error::Key`] when no key can be made.
    pub fn new() -> Result<Self, Error> {
        let wrong = |e: rcgen::Error| Error::Key(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(wrong)?;
        let csr = CertificateParams::default().serialize_request(&key).map_err(wrong)?.der().to_vec();
        Ok(Self { key, csr })
    }

    /// The request, PKCS#10 DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Joins the key with the certificate that was issued for it.
    ///
    /// # Errors
    /// [`Error::Certificate`], [`Error::Subject`] for bytes that are no certificate of a node; [`Error::Key`] when it is
    /// another key's.
    pub fn complete(self, leaf_der: Vec<u8>, roots: Vec<CertificateDer<'static>>) -> Result<crate::Credentials, Error> {
        crate::Credentials::new(leaf_der.into(), self.key.serialize_der(), roots)
    }
}
