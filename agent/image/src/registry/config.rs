//! Configuration of registries, and credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Error, Result};

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Hosts (`host[:port]`) to try before a registry, by the registry's domain (`docker.io`). They get no credentials.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`host`, `host:port`, or an IPv4 or IPv6 range as `10.0.0.0/8`) whose certificates are not checked
    /// and that may speak plain HTTP. Loopback addresses and `localhost` always are.
    pub insecure: Vec<String>,
    /// PEM files with certificates to trust besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// Longest time for a connection to stand.
    pub connect_timeout: Duration,
    /// Longest time without a byte moving, in any state of a request.
    pub idle_timeout: Duration,
    /// How often in a row a transfer may fail without having moved a byte before it is given up.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for each further one.
    pub retry_pause: Duration,
    /// Largest manifest, in bytes.
    pub max_manifest_bytes: u64,
    /// Largest image configuration, in bytes.
    pub max_config_bytes: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            insecure: Vec::new(),
            ca_files: Vec::new(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            attempts: 5,
            retry_pause: Duration::from_millis(500),
            // The largest that registries must accept (OCI distribution-spec, "Pushing manifests").
            max_manifest_bytes: 4 << 20,
            max_config_bytes: 8 << 20,
        }
    }
}

impl RegistryConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let fail = |field, reason: &str| Err(Error::Config { field, reason: reason.to_owned() });
        if self.attempts == 0 {
            return fail("attempts", "must be at least 1");
        }
        if self.idle_timeout.is_zero() || self.connect_timeout.is_zero() {
            return fail("idle_timeout, connect_timeout", "must be longer than 0");
        }
        for host in self.mirrors.values().flatten() {
            if http::uri::Authority::try_from(host.as_str()).is_err() {
                return fail("mirrors", &format!("{host:?} is not host[:port]"));
            }
        }
        for entry in self.insecure.iter().filter(|entry| entry.contains('/')) {
            if range(entry).is_none() {
                return fail("insecure", &format!("{entry:?} is not an address range"));
            }
        }
        Ok(())
    }

    /// Whether `host[:port]` needs no valid certificate.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        let name = without_port(host);
        let address: Option<IpAddr> = name.parse().ok();
        let local = name == "localhost" || address.is_some_and(|address| address.is_loopback());
        let listed = |entry: &String| match address.zip(range(entry)) {
            Some((address, (network, bits))) => contains(network, bits, address),
            None => entry == host || entry == name,
        };
        local || self.insecure.iter().any(listed)
    }
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    }
}

fn range(text: &str) -> Option<(IpAddr, u32)> {
    let (network, bits) = text.split_once('/')?;
    let network: IpAddr = network.parse().ok()?;
    let bits = bits.parse().ok()?;
    (bits <= if network.is_ipv4() { 32 } else { 128 }).then_some((network, bits))
}

fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// How to log in to a registry. `Debug` hides the secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User name and password (or access token in its place).
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token, Docker's `identitytoken`.
    IdentityToken(String),
    /// A bearer token that is sent as it is, Docker's `registrytoken`.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, ...)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(...)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(...)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_listed_hosts_are_insecure() {
        let insecure = vec!["10.0.0.0/8".into(), "my.host:5000".into(), "other".into()];
        let config = RegistryConfig { insecure, ..RegistryConfig::default() };
        for host in
            ["127.0.0.1:5000", "127.9.9.9", "localhost:1", "[::1]:5", "10.1.2.3:5000", "my.host:5000", "other:9"]
        {
            assert!(config.is_insecure(host), "{host}");
        }
        for host in ["11.0.0.1", "my.host", "docker.io", "localhost.example", "[fe80::1]:5"] {
            assert!(!config.is_insecure(host), "{host}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Credentials::Basic { username: "me".into(), password: "hunter2".into() };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
