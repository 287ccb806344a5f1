//! Talking to registries (OCI distribution-spec 1.1): which hosts, over which scheme, with which trust and time-outs.

mod auth;
mod client;
mod config;
mod connect;
mod download;
mod login;
mod search;
mod tls;

use client::empty_body;
pub(crate) use client::{Act, Activity, Body, Remote, full_body, read_limited};
pub use config::{Credentials, ProxyConfig, RegistryConfig};
pub use search::Found;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use client::Http;
use config::Mirror;
use connect::Proxies;

use crate::{Error, Reference, Result};

/// Where the registry API of the default domain is.
const DEFAULT_API: &str = "registry-1.docker.io";

/// The HTTP clients of a store and what was learned about hosts. A changed configuration counts for what begins after it.
pub(crate) struct Registries {
    shared: Mutex<Arc<Shared>>,
}

struct Shared {
    config: Arc<RegistryConfig>,
    proxies: Arc<Proxies>,
    /// Certificates of [`RegistryConfig::ca_files`].
    authorities: Vec<rustls_pki_types::CertificateDer<'static>>,
    /// Checks certificates. Made when first needed: the system's certificates take memory.
    strict: OnceLock<Http>,
    /// Takes any certificate: for hosts that are configured as insecure.
    lax: OnceLock<Http>,
    /// Scheme of insecure hosts, once found out.
    schemes: Mutex<HashMap<String, &'static str>>,
}

impl Registries {
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn new(config: RegistryConfig) -> Result<Self> {
        Ok(Self { shared: Mutex::new(Arc::new(Shared::new(config)?)) })
    }

    /// Takes another configuration; the old one stands when it is refused.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn reload(&self, config: RegistryConfig) -> Result<()> {
        let new = Arc::new(Shared::new(config)?);
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    fn shared(&self) -> Arc<Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn config(&self) -> Arc<RegistryConfig> {
        self.shared().config.clone()
    }

    /// The hosts to pull `reference` from: mirrors first, then the registry itself. Credentials go to the latter only.
    pub(crate) fn pull_from(&self, reference: &Reference, credentials: Option<Credentials>) -> Result<Vec<Remote>> {
        let shared = self.shared();
        let mirrors = shared.config.mirrors.get(reference.domain()).into_iter().flatten();
        let mirror = |mirror: Mirror| {
            let remote = Remote::new(&shared, &mirror.host, Some(reference), Act::Pull, None)?;
            Ok(if mirror.plain { remote.plain() } else { remote })
        };
        let mirrors = mirrors.filter_map(|text| Mirror::parse(text)).map(mirror);
        mirrors.chain([self.origin(reference, Act::Pull, credentials)]).collect()
    }

    /// The host that `reference` names.
    pub(crate) fn origin(&self, reference: &Reference, act: Act, credentials: Option<Credentials>) -> Result<Remote> {
        Remote::new(&self.shared(), api_host(reference.domain()), Some(reference), act, credentials)
    }
}

/// Where the API of a domain is.
fn api_host(domain: &str) -> &str {
    if domain == "docker.io" { DEFAULT_API } else { domain }
}

impl Shared {
    fn new(config: RegistryConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            authorities: tls::authorities(&config.ca_files)?,
            proxies: Arc::new(Proxies::new(&config.proxy)),
            config: Arc::new(config),
            strict: OnceLock::new(),
            lax: OnceLock::new(),
            schemes: Mutex::default(),
        })
    }

    /// The client for a host: a shared one, or one of its own where it has certificates of its own.
    fn client(&self, host: &str) -> Result<Http> {
        let own = match &self.config.certs_dir {
            Some(dir) => tls::Own::read(dir, host)?,
            None => None,
        };
        let insecure = self.config.is_insecure(host);
        let make = |own: tls::Own| {
            let tls = if insecure { tls::lax(own)? } else { tls::strict(self.authorities.clone(), own)? };
            Ok(client::http(tls, self.proxies.clone(), self.config.connect_timeout))
        };
        if let Some(own) = own {
            return make(own);
        }
        let shared = if insecure { &self.lax } else { &self.strict };
        if let Some(client) = shared.get() {
            return Ok(client.clone());
        }
        let client = make(tls::Own::default())?;
        Ok(shared.get_or_init(|| client).clone())
    }

    /// The scheme for a host. Insecure ones are asked over TLS first, so that those who have it use it.
    async fn scheme(&self, client: &Http, host: &str) -> Result<&'static str> {
        if !self.config.is_insecure(host) {
            return Ok("https");
        }
        let known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        if let Some(scheme) = known {
            return Ok(scheme);
        }
        let mut reasons = Vec::new();
        for scheme in ["https", "http"] {
            match self.probe(client, scheme, host).await {
                Ok(()) => {
                    self.schemes.lock().unwrap_or_else(PoisonError::into_inner).insert(host.into(), scheme);
                    return Ok(scheme);
                }
                Err(error) => reasons.push(format!("by {scheme}: {error}")),
            }
        }
        Err(Error::Unreachable { registry: host.into(), reason: reasons.join("; ") })
    }

    async fn probe(&self, client: &Http, scheme: &str, host: &str) -> Result<(), String> {
        let mut request = http::Request::get(format!("{scheme}://{host}/v2/"));
        if let Ok(url) = format!("{scheme}://{host}/v2/").parse()
            && let Some(authorization) = self.proxies.authorization(&url)
        {
            request = request.header(http::header::PROXY_AUTHORIZATION, authorization);
        }
        let request = request.body(empty_body()).map_err(|error| error.to_string())?;
        match tokio::time::timeout(self.config.connect_timeout, client.request(request)).await {
            // What a server of TLS answers to plain HTTP.
            Ok(Ok(response)) if scheme == "http" && response.status() == http::StatusCode::BAD_REQUEST => {
                Err("400 Bad Request".into())
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(client::causes(&error)),
            Err(_) => Err(format!("no answer in {} s", self.config.connect_timeout.as_secs())),
        }
    }
}
