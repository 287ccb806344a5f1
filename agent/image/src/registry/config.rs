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
    /// Hosts (`[http[s]://]host[:port]`) to try before a registry, by the registry's domain (`docker.io`). They get no
    /// credentials. One with `http://` is spoken to in the clear.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`host`, `host:port`, or an IPv4 or IPv6 range as `10.0.0.0/8`) whose certificates are not checked
    /// and that may speak plain HTTP. Loopback addresses and `localhost` always are.
    pub insecure: Vec<String>,
    /// PEM files with certificates to trust besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// Folder with a folder per registry (`host[:port]`), in which `*.crt` are authorities to trust for it and
    /// `NAME.cert` with `NAME.key` what this host shows of itself: Docker's `certs.d`. Read at each use.
    pub certs_dir: Option<PathBuf>,
    /// Proxies on the way to registries.
    pub proxy: ProxyConfig,
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
            certs_dir: None,
            proxy: ProxyConfig::default(),
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
        for text in self.mirrors.values().flatten() {
            if Mirror::parse(text).is_none() {
                return fail("mirrors", &format!("{text:?} is not [http[s]://]host[:port]"));
            }
        }
        self.proxy.validate()?;
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
        let listed = |entry: &String| match address.zip(range(entry)) {
            Some((address, (network, bits))) => contains(network, bits, address),
            None => entry == host || entry == name,
        };
        is_loopback(name) || self.insecure.iter().any(listed)
    }
}

/// Proxies, as the variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them. Loopback registries are always reached
/// without one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// For plain HTTP, as a URL; empty for none.
    pub http: String,
    /// For TLS, as a URL; empty for none.
    pub https: String,
    /// Hosts, domains and address ranges that need none, comma separated; `*` for all.
    pub no_proxy: String,
}

/// Shows no passwords.
impl fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { http, https, no_proxy } = self.shown();
        f.debug_struct("ProxyConfig").field("http", &http).field("https", &https).field("no_proxy", &no_proxy).finish()
    }
}

impl ProxyConfig {
    fn validate(&self) -> Result<()> {
        for (field, text) in [("http_proxy", &self.http), ("https_proxy", &self.https)] {
            let scheme = text.split_once("://").map_or("http", |(scheme, _)| scheme);
            let valid = url::Url::parse(&with_scheme(text)).is_ok_and(|url| url.has_host());
            if !(text.is_empty() || valid && scheme == "http") {
                let reason = format!("{:?} is not http://[user:password@]host[:port]", without_secret(text));
                return Err(Error::Config { field, reason });
            }
        }
        Ok(())
    }

    /// The same without passwords, for showing.
    pub fn shown(&self) -> Self {
        Self { http: without_secret(&self.http), https: without_secret(&self.https), no_proxy: self.no_proxy.clone() }
    }
}

fn with_scheme(text: &str) -> String {
    if text.contains("://") { text.to_owned() } else { format!("http://{text}") }
}

/// Docker's form: user and password both replaced.
fn without_secret(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let Some((_, host)) = rest.rsplit_once('@') else { return text.to_owned() };
    if scheme.is_empty() { format!("xxxxx:xxxxx@{host}") } else { format!("{scheme}://xxxxx:xxxxx@{host}") }
}

/// A mirror as it is configured.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) host: String,
    /// Spoken to without TLS.
    pub(super) plain: bool,
}

impl Mirror {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (plain, host) = match text.split_once("://") {
            Some(("http", host)) => (true, host),
            Some(("https", host)) => (false, host),
            Some(_) => return None,
            None => (false, text),
        };
        let host = host.strip_suffix('/').unwrap_or(host);
        let named = http::uri::Authority::try_from(host).is_ok_and(|authority| !authority.host().is_empty());
        (named && !host.contains('@')).then(|| Self { host: host.to_owned(), plain })
    }
}

/// Whether a host name or address, `[::1]` with or without its brackets, is this machine itself.
pub(super) fn is_loopback(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
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
    fn mirrors_may_have_a_scheme_and_nothing_behind_the_host() {
        let mirror = |text: &str| Mirror::parse(text).map(|mirror| (mirror.host, mirror.plain));
        assert_eq!(mirror("m:5000"), Some(("m:5000".into(), false)));
        assert_eq!(mirror("https://m/"), Some(("m".into(), false)));
        assert_eq!(mirror("http://m:1"), Some(("m:1".into(), true)));
        for bad in ["", "ftp://m", "https://m/path", "me:secret@m", "http://"] {
            assert_eq!(mirror(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_plain_http_proxies_are_taken_and_their_passwords_are_not_shown() {
        let proxy = |http: &str| ProxyConfig { http: http.into(), ..ProxyConfig::default() };
        for good in ["", "http://p:3128", "p:3128", "http://me:hunter2@p"] {
            assert!(proxy(good).validate().is_ok(), "{good}");
        }
        for bad in ["socks5://p", "https://me:hunter2@p", "http://"] {
            let error = proxy(bad).validate().expect_err(bad).to_string();
            assert!(error.contains("http_proxy") && !error.contains("hunter2"), "{error}");
        }
        assert_eq!(proxy("http://me:hunter2@p:1").shown().http, "http://xxxxx:xxxxx@p:1");
        assert!(!format!("{:?}", proxy("me:hunter2@p")).contains("hunter2"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Credentials::Basic { username: "me".into(), password: "hunter2".into() };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
