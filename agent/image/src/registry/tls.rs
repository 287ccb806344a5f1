//! TLS of the registry client: rustls with aws-lc-rs, given explicitly so that no process-wide default is needed.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{Error, Result};

fn fail(reason: impl ToString) -> Error {
    Error::Config { field: "ca_files", reason: reason.to_string() }
}

/// Trusts the system's certificates and those in `ca_files`.
pub(super) fn strict(ca_files: &[PathBuf]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "system certificates not read");
    }
    roots.add_parsable_certificates(system.certs);
    for path in ca_files {
        let shown = |error: rustls_pki_types::pem::Error| fail(format!("{}: {error}", path.display()));
        for certificate in CertificateDer::pem_file_iter(path).map_err(shown)? {
            roots.add(certificate.map_err(shown)?).map_err(|error| fail(format!("{}: {error}", path.display())))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(fail)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Trusts every certificate: only for hosts that are configured so.
pub(super) fn lax() -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(fail)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::registry::client::{causes, empty_body, http};

    type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

    /// A TLS server with a certificate of its own; its address and the certificate as PEM.
    async fn server() -> std::result::Result<(String, String, tokio::task::JoinHandle<()>), Box<dyn std::error::Error>>
    {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = rustls_pki_types::PrivateKeyDer::try_from(signing_key.serialize_der())?;
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        Ok((address, cert.pem(), task))
    }

    async fn get(config: ClientConfig, address: &str) -> std::result::Result<u16, String> {
        let request =
            ::http::Request::get(format!("https://{address}/v2/")).body(empty_body()).map_err(|e| e.to_string())?;
        let response = http(config, Duration::from_secs(5)).request(request).await;
        response.map(|response| response.status().as_u16()).map_err(|error| causes(&error))
    }

    #[tokio::test]
    async fn a_certificate_counts_when_it_is_trusted_or_none_is_asked_for() -> TestResult {
        let (address, pem, task) = server().await?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), pem)?;
        let refused = get(strict(&[])?, &address).await;
        assert!(refused.as_ref().is_err_and(|text| text.contains("certificate")), "{refused:?}");
        assert_eq!(get(strict(&[file.path().to_owned()])?, &address).await, Ok(200));
        assert_eq!(get(lax()?, &address).await, Ok(200));
        task.abort();
        Ok(())
    }

    #[test]
    fn a_broken_certificate_file_is_named() -> TestResult {
        let error = strict(&["/nonexistent/ca.pem".into()]).err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("ca_files") && text.contains("/nonexistent/ca.pem")));
        Ok(())
    }
}
