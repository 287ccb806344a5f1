//! The first connection of a host that has nothing but a join token.

use crate::{CertificateDer, DialError, Error, JoinToken, dial, identity::cluster_of_root, verify::Pinned};
use muster_model::ClusterId;
use rustls::{ClientConfig, client::Resumption};
use std::sync::Arc;
use tonic::transport::Channel;

/// An anonymous channel to a manager of the right cluster.
#[derive(Debug)]
pub struct Bootstrap {
    /// For `Ca.Issue`.
    pub channel: Channel,
    /// The root whose digest the token carries.
    pub root: CertificateDer<'static>,
    pub cluster_id: ClusterId,
}

/// Dials a manager at `addr` (`host:port`). Nothing is sent before the handshake has shown the root that the token names
/// and a manager's certificate signed by it, so the secret cannot reach a stranger.
///
/// # Errors
/// [`DialError::OtherAuthority`] when the server does not show that root; else [`DialError::Connect`].
pub async fn bootstrap(addr: &str, token: &JoinToken) -> Result<Bootstrap, DialError> {
    let pinned = Arc::new(Pinned::new(token.ca_digest.clone()));
    let failed = |e: String| DialError::Connect { addr: addr.to_owned(), why: e, refusal: None };
    let config = Arc::new(config(pinned.clone()).map_err(|e| failed(e.to_string()))?);
    // The name is not known yet; the verifier takes it from the root.
    let name = crate::Expect::Manager.server_name(ClusterId::from_u128(0));
    let target = move || dial::Target { config: config.clone(), name: name.clone(), entry: None };
    let channel = match dial::connect(addr, target).await {
        Err(DialError::Connect { refusal: Some(dial::Refusal::TheirCertificate), .. })
            if pinned.found.get().is_none() =>
        {
            return Err(DialError::OtherAuthority { addr: addr.to_owned(), expected: token.ca_digest.clone() });
        }
        other => other?,
    };
    let root = pinned.found.get().cloned().ok_or_else(|| failed("no certificate was checked".to_owned()))?;
    let cluster_id = cluster_of_root(&root).map_err(|e| failed(e.to_string()))?;
    Ok(Bootstrap { channel, root, cluster_id })
}

fn config(verifier: Arc<Pinned>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
