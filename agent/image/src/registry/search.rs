//! Searching a registry that has the old index API (`/v1/search`): Docker Hub, and few others.

use http::{Method, StatusCode};
use serde::Deserialize;

use super::client::{Act, Remote, read_limited};
use super::{Credentials, auth};
use crate::{Error, Result, Store};

/// Where the default registry's index is.
const DEFAULT_INDEX: &str = "index.docker.io";
/// Largest answer, in bytes: a hundred results have some tens of KiB.
const MAX_ANSWER: u64 = 4 << 20;

/// One image that a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its name, with the registry's host unless that is the default one.
    pub name: String,
    /// What its owner says of it.
    pub description: Option<String>,
    /// How many users marked it.
    pub star_count: i64,
    /// Kept by the registry itself.
    pub is_official: bool,
    /// Built by the registry from a repository of sources.
    pub is_automated: bool,
}

impl Store {
    /// Asks a registry for images whose name has `term`: `[host/]words`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the registry has no such search; [`Error::Unreachable`], [`Error::Registry`],
    /// [`Error::Malformed`], [`Error::TooLarge`].
    pub async fn search(&self, term: &str, limit: u32, credentials: Option<Credentials>) -> Result<Vec<Found>> {
        let (host, words) = split(term);
        let remote =
            Remote::new(&self.inner.registries.shared(), host.unwrap_or(DEFAULT_INDEX), None, Act::Pull, None)?;
        let mut url = remote.api("v1/search").await?;
        url.query_pairs_mut().append_pair("q", words).append_pair("n", &limit.to_string());
        let known = match &credentials {
            Some(Credentials::Basic { username, password }) => Some(auth::basic(username, password)),
            _ => None,
        };
        // As what is known of this registry, and no plain header: that would follow a redirect to another host.
        if let Some(known) = known {
            remote.authorize_with(known);
        }
        let response = remote.send(Method::GET, url, &[]).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(Error::Unsupported(format!("searching registry {} (it has no v1 index)", remote.host())));
            }
            _ => return Err(remote.failure(response).await),
        }
        let bytes = read_limited(&remote, response, MAX_ANSWER, "answer to a search").await?;
        #[derive(Deserialize)]
        struct Answer {
            results: Vec<Found>,
        }
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| Error::Registry {
            registry: remote.host().into(),
            status: StatusCode::OK.as_u16(),
            message: format!("its answer to a search cannot be read: {error}"),
        })?;
        let named = |found: Found| match host {
            Some(host) => Found { name: format!("{host}/{}", found.name), ..found },
            None => found,
        };
        Ok(answer.results.into_iter().map(named).collect())
    }
}

/// The host, if the term begins with one, and the words.
fn split(term: &str) -> (Option<&str>, &str) {
    match term.split_once('/') {
        Some((host, words)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), words),
        _ => (None, term),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_begin_with_a_host() {
        assert_eq!(split("r:5000/a/b"), (Some("r:5000"), "a/b"));
        assert_eq!(split("library/busybox"), (None, "library/busybox"));
        assert_eq!(split("busybox"), (None, "busybox"));
    }
}
