//! Talking to registries (OCI distribution-spec 1.1): which hosts, over which scheme, with which trust and time-outs.

mod auth;
mod client;
mod config;
mod tls;

use client::empty_body;
pub(crate) use client::{Activity, Body, Remote, full_body, read_limited};
pub use config::{Credentials, RegistryConfig};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use client::Http;

use crate::{Error, Reference, Result};

/// Where the registry API of the default domain is.
const DEFAULT_API: &str = "registry-1.docker.io";

/// The HTTP clients of a store and what was learned about hosts.
pub(crate) struct Registries {
    shared: Arc<Shared>,
}

struct Shared {
    config: RegistryConfig,
    /// Checks certificates.
    strict: Http,
    /// Takes any certificate: for hosts that are configured as insecure.
    lax: Http,
    /// Scheme of insecure hosts, once found out.
    schemes: Mutex<HashMap<String, &'static str>>,
}

impl Registries {
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn new(config: RegistryConfig) -> Result<Self> {
        config.validate()?;
        let strict = client::http(tls::strict(&config.ca_files)?, config.connect_timeout);
        let lax = client::http(tls::lax()?, config.connect_timeout);
        Ok(Self { shared: Arc::new(Shared { config, strict, lax, schemes: Mutex::default() }) })
    }

    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.shared.config
    }

    /// The hosts to pull `reference` from: mirrors first, then the registry itself. Credentials go to the latter only.
    pub(crate) fn pull_from(&self, reference: &Reference, credentials: Option<Credentials>) -> Vec<Remote> {
        let mirrors = self.shared.config.mirrors.get(reference.domain());
        let mirrors =
            mirrors.into_iter().flatten().map(|host| Remote::new(&self.shared, host, reference, "pull", None));
        mirrors.chain([self.origin(reference, "pull", credentials)]).collect()
    }

    /// The host to push `reference` to.
    pub(crate) fn push_to(&self, reference: &Reference, credentials: Option<Credentials>) -> Remote {
        self.origin(reference, "push", credentials)
    }

    fn origin(&self, reference: &Reference, act: &'static str, credentials: Option<Credentials>) -> Remote {
        let domain = reference.domain();
        let host = if domain == "docker.io" { DEFAULT_API } else { domain };
        Remote::new(&self.shared, host, reference, act, credentials)
    }
}

impl Shared {
    /// The client and scheme for a host. Insecure ones are asked over TLS first, so that those who have it use it.
    async fn scheme(&self, host: &str) -> Result<(&Http, &'static str)> {
        if !self.config.is_insecure(host) {
            return Ok((&self.strict, "https"));
        }
        let known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        if let Some(scheme) = known {
            return Ok((&self.lax, scheme));
        }
        let mut reason = String::new();
        for scheme in ["https", "http"] {
            match self.probe(scheme, host).await {
                Ok(()) => {
                    self.schemes.lock().unwrap_or_else(PoisonError::into_inner).insert(host.into(), scheme);
                    return Ok((&self.lax, scheme));
                }
                Err(error) => reason = error,
            }
        }
        Err(Error::Unreachable { registry: host.into(), reason })
    }

    async fn probe(&self, scheme: &str, host: &str) -> Result<(), String> {
        let request = http::Request::get(format!("{scheme}://{host}/v2/")).body(empty_body());
        let request = request.map_err(|error| error.to_string())?;
        match tokio::time::timeout(self.config.connect_timeout, self.lax.request(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(client::causes(&error)),
            Err(_) => Err(format!("no answer in {} s", self.config.connect_timeout.as_secs())),
        }
    }
}
