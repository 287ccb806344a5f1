//! TLS of the registry client: rustls with aws-lc-rs, given explicitly so that no process-wide default is needed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{Error, Result};

fn fail(reason: impl ToString) -> Error {
    Error::Config { field: "ca_files, certs_dir", reason: reason.to_string() }
}

/// What one registry's folder of certificates holds, beside what all trust.
#[derive(Default)]
pub(super) struct Own {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

impl Own {
    /// Reads `dir/host`; `None` when there is no such folder. A `.cert` without its `.key`, or the other way round, is an
    /// error, as it is Docker's.
    pub(super) fn read(dir: &Path, host: &str) -> Result<Option<Self>> {
        let dir = dir.join(host);
        let fail = |path: &Path, reason: String| Error::Config {
            field: "certs_dir",
            reason: format!("{}: {reason}", path.display()),
        };
        let listed = match std::fs::read_dir(&dir) {
            Ok(listed) => listed,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(fail(&dir, error.to_string())),
        };
        let mut paths = listed
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| fail(&dir, error.to_string()))?;
        paths.sort();
        let mut own = Self::default();
        for path in &paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => own.authorities.extend(certificates(path).map_err(|reason| fail(path, reason))?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    let chain = certificates(path).map_err(|reason| fail(path, reason))?;
                    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| fail(&key, error.to_string()))?;
                    own.identity = Some((chain, key));
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(fail(path, "there is no certificate (.cert) of that name".into()));
                }
                _ => {}
            }
        }
        Ok(Some(own))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() { Err("it holds no certificate".into()) } else { Ok(all) }
}

/// The certificates in `ca_files`.
///
/// # Errors
/// [`Error::Config`] naming the file.
pub(super) fn authorities(ca_files: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>> {
    let read = |path: &PathBuf| certificates(path).map_err(|reason| fail(format!("{}: {reason}", path.display())));
    Ok(ca_files.iter().map(read).collect::<Result<Vec<_>>>()?.concat())
}

/// Trusts the system's certificates, those in `extra`, and those of `own`.
pub(super) fn strict(extra: Vec<CertificateDer<'static>>, own: Own) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "system certificates not read");
    }
    roots.add_parsable_certificates(system.certs);
    for certificate in extra.into_iter().chain(own.authorities) {
        roots.add(certificate).map_err(fail)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(fail)?;
    identify(builder.with_root_certificates(roots), own.identity)
}

/// Trusts every certificate: only for hosts that are configured so.
pub(super) fn lax(own: Own) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(fail)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    identify(builder, own.identity)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identify(builder: ConfigBuilder<ClientConfig, WantsClientCert>, identity: Option<Identity>) -> Result<ClientConfig> {
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(fail),
        None => Ok(builder.with_no_client_auth()),
    }
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
        let response = http(config, Arc::default(), Duration::from_secs(5)).request(request).await;
        response.map(|response| response.status().as_u16()).map_err(|error| causes(&error))
    }

    #[tokio::test]
    async fn a_certificate_counts_when_it_is_trusted_or_none_is_asked_for() -> TestResult {
        let (address, pem, task) = server().await?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), &pem)?;
        let refused = get(strict(Vec::new(), Own::default())?, &address).await;
        assert!(refused.as_ref().is_err_and(|text| text.contains("certificate")), "{refused:?}");
        let trusted = authorities(&[file.path().to_owned()])?;
        assert_eq!(get(strict(trusted, Own::default())?, &address).await, Ok(200));
        assert_eq!(get(lax(Own::default())?, &address).await, Ok(200));
        let certs = tempfile::tempdir()?;
        std::fs::create_dir(certs.path().join(&address))?;
        std::fs::write(certs.path().join(&address).join("ca.crt"), &pem)?;
        let own = Own::read(certs.path(), &address)?.ok_or("the folder is there")?;
        assert_eq!(get(strict(Vec::new(), own)?, &address).await, Ok(200));
        task.abort();
        Ok(())
    }

    #[test]
    fn broken_certificate_files_are_named() -> TestResult {
        let error = authorities(&["/nonexistent/ca.pem".into()]).err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("ca_files") && text.contains("/nonexistent/ca.pem")));
        let certs = tempfile::tempdir()?;
        assert!(Own::read(certs.path(), "host:1")?.is_none());
        let own = certs.path().join("host:1");
        std::fs::create_dir(&own)?;
        for (name, content) in [("ca.crt", "nothing"), ("me.cert", "nothing"), ("me.key", "nothing")] {
            std::fs::write(own.join(name), content)?;
            let error = Own::read(certs.path(), "host:1").err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|text| text.contains(name)), "{name}: {error:?}");
            std::fs::remove_file(own.join(name))?;
        }
        Ok(())
    }
}
