//! Checking credentials against a registry, as `docker login` has the engine do.

use http::{Method, StatusCode};

use super::client::{Act, Remote, response_text};
use super::{Credentials, Registries, api_host};
use crate::{Error, Result, Store};

/// Names of the default registry in clients' configuration files.
const DEFAULT_NAMES: [&str; 4] = ["", "docker.io", "index.docker.io", "registry-1.docker.io"];

impl Store {
    /// Checks credentials against the registry at `address`: `host[:port]`, or a URL of which only that counts; empty for
    /// the default registry. Answers with an identity token where its token server gave one, else an empty text.
    ///
    /// # Errors
    /// [`Error::LoginFailed`] when they are refused; [`Error::Unreachable`], [`Error::Stalled`], [`Error::Config`].
    pub async fn login(&self, address: &str, credentials: Credentials) -> Result<String> {
        self.inner.registries.login(address, credentials).await
    }
}

impl Registries {
    async fn login(&self, address: &str, credentials: Credentials) -> Result<String> {
        let host = host_of(address);
        let host = if DEFAULT_NAMES.contains(&host) { "docker.io" } else { host };
        if http::uri::Authority::try_from(host).is_err() {
            let reason = format!("{address:?} is not the address of a registry");
            return Err(Error::LoginFailed { registry: host.into(), reason });
        }
        let remote = Remote::new(&self.shared(), api_host(host), None, Act::Login, Some(credentials))?;
        let url = remote.api("v2/").await?;
        let response = remote.send(Method::GET, url.clone(), &[]).await?;
        let status = response.status();
        match status {
            StatusCode::OK => Ok(remote.identity()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let reason = format!("login attempt to {url} failed with status: {status}");
                Err(Error::LoginFailed { registry: remote.host().into(), reason })
            }
            _ => {
                let message = response_text(&remote, response).await;
                Err(Error::Registry { registry: remote.host().into(), status: status.as_u16(), message })
            }
        }
    }
}

/// The host of an address: without scheme and path.
fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_of_an_address_counts() {
        assert_eq!(host_of("https://index.docker.io/v1/"), "index.docker.io");
        assert_eq!(host_of("127.0.0.1:5000"), "127.0.0.1:5000");
        assert_eq!(host_of("r/x"), "r");
    }
}
