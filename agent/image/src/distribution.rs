//! What a registry has, without fetching it: the document behind `docker service create`'s pinned digests, and all tags of
//! a repository.

use http::header::LINK;
use http::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::commit::descriptor;
use crate::manifest::{self, Descriptor, Parsed};
use crate::pull::{ask_config, first_manifest, once_more};
use crate::registry::{Credentials, Remote, read_limited};
use crate::{Error, Platform, Reference, Result, Store, index};

/// Most tags of one repository: registries answer with a few hundred at a time.
const MAX_TAGS: usize = 10_000;
/// Largest page of tags, in bytes.
const MAX_PAGE: u64 = 4 << 20;

/// What a registry has under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The manifest or index that the name points at.
    pub descriptor: Descriptor,
    /// What it runs on; empty for what is no image.
    pub platforms: Vec<Platform>,
}

impl Store {
    /// Asks the registry what `reference` is.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub async fn distribution(&self, reference: &Reference, auth: Option<Credentials>) -> Result<Distribution> {
        let remotes = self.inner.registries.pull_from(reference, auth)?;
        let (remotes, found) = first_manifest(&remotes, reference).await?;
        let (kind, platforms) = match &found.parsed {
            Parsed::Index(index) => {
                let platforms = index.manifests.iter().filter_map(|entry| entry.platform.clone()).collect();
                (index.media_type.clone().unwrap_or_else(|| manifest::OCI_INDEX.into()), platforms)
            }
            Parsed::Manifest(one) => {
                let platforms = self.platform_of(&remotes[0], &one.config).await?.into_iter().collect();
                (one.media_type.clone().unwrap_or_else(|| manifest::OCI_MANIFEST.into()), platforms)
            }
        };
        Ok(Distribution { descriptor: descriptor(&kind, found.digest, found.bytes.len() as u64), platforms })
    }

    async fn platform_of(&self, remote: &Remote, config: &Descriptor) -> Result<Option<Platform>> {
        if !matches!(config.media_type.as_str(), manifest::OCI_CONFIG | manifest::DOCKER_CONFIG) {
            return Ok(None);
        }
        let limit = self.inner.registries.config().max_config_bytes;
        if config.size > limit {
            return Err(Error::TooLarge { what: format!("image config {}", config.digest), limit });
        }
        let raw = once_more(remote, || ask_config(remote, config)).await?;
        Ok(Some(index::parse_config(&raw, &config.digest)?.platform()))
    }

    /// All tags that the registry has in the repository of `reference`, or the first of its mirrors that tells.
    ///
    /// # Errors
    /// [`Error::ManifestNotFound`] when there is no such repository; [`Error::TooLarge`]; else as [`Store::pull`].
    pub async fn remote_tags(&self, reference: &Reference, auth: Option<Credentials>) -> Result<Vec<String>> {
        let mut last = Error::ManifestNotFound { reference: reference.familiar_repository() };
        for remote in self.inner.registries.pull_from(reference, auth)? {
            match all_pages(&remote, reference).await {
                Ok(tags) => return Ok(tags),
                Err(error) => {
                    tracing::debug!(registry = remote.host(), %error, "no list of tags from this host");
                    last = error;
                }
            }
        }
        Err(last)
    }
}

async fn all_pages(remote: &Remote, reference: &Reference) -> Result<Vec<String>> {
    let mut tags = Vec::new();
    let mut next = Some(remote.url("tags/list").await?);
    while let Some(url) = next {
        let (page, after) = once_more(remote, || ask_tags(remote, reference, url.clone())).await?;
        tags.extend(page);
        if tags.len() > MAX_TAGS {
            let what = format!("the list of tags of {}", reference.familiar_repository());
            return Err(Error::TooLarge { what, limit: MAX_TAGS as u64 });
        }
        // A page that names itself as the next would never end.
        next = after.filter(|after| *after != url);
    }
    Ok(tags)
}

/// One page of tags, and where the next is (OCI distribution-spec, "Listing Tags").
async fn ask_tags(remote: &Remote, reference: &Reference, url: Url) -> Result<(Vec<String>, Option<Url>)> {
    let response = remote.send(Method::GET, url.clone(), &[]).await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(Error::ManifestNotFound { reference: reference.familiar_repository() });
        }
        _ => return Err(remote.failure(response).await),
    }
    let link = response.headers().get(LINK).and_then(|link| next_link(link.to_str().ok()?)).map(str::to_owned);
    let bytes = read_limited(remote, response, MAX_PAGE, "list of tags").await?;
    #[derive(Deserialize)]
    struct Page {
        tags: Option<Vec<String>>,
    }
    let page: Page = serde_json::from_slice(&bytes).map_err(|error| Error::Registry {
        registry: remote.host().into(),
        status: StatusCode::OK.as_u16(),
        message: format!("its list of tags cannot be read: {error}"),
    })?;
    let next = link.map(|link| remote.join(&url, &link)).transpose()?;
    Ok((page.tags.unwrap_or_default(), next))
}

/// The target of a `Link: <...>; rel="next"` (RFC 8288).
fn next_link(header: &str) -> Option<&str> {
    let (target, rest) = header.strip_prefix('<')?.split_once('>')?;
    rest.contains("rel=\"next\"").then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_read_from_the_link() {
        assert_eq!(next_link(r#"</v2/x/tags/list?last=b&n=2>; rel="next""#), Some("/v2/x/tags/list?last=b&n=2"));
        assert_eq!(next_link(r#"</v2/x>; rel="prev""#), None);
        assert_eq!(next_link("nonsense"), None);
    }
}
