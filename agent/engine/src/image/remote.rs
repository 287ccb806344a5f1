//! Asking registries: credentials, login, what they have under a name, search.

use crate::{engine::Shared, error};
use muster_calls::{Error, Filters, Result};
use muster_image::{Credentials, Reference};
use muster_model::engine::{AuthConfig, ContentDescriptor, DistributionInspect, ImagePlatform, SearchResult};

/// Filters of a search.
const SEARCH_KEYS: &[&str] = &["is-automated", "is-official", "stars"];

/// What a client's credentials come to; `None`: nothing in them.
pub(super) fn credentials(auth: Option<AuthConfig>) -> Option<Credentials> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let auth = auth?;
    if !auth.registrytoken.is_empty() {
        return Some(Credentials::RegistryToken(auth.registrytoken));
    }
    if !auth.identitytoken.is_empty() {
        return Some(Credentials::IdentityToken(auth.identitytoken));
    }
    let packed = BASE64_STANDARD.decode(&auth.auth).ok().and_then(|b| String::from_utf8(b).ok());
    let packed = packed.as_deref().and_then(|pair| pair.split_once(':')).filter(|(user, _)| !user.is_empty());
    let (username, password) = packed.map_or((auth.username, auth.password), |(u, p)| (u.to_owned(), p.to_owned()));
    (!username.is_empty()).then_some(Credentials::Basic { username, password })
}

/// A platform in the documents' words.
pub(super) fn platform_document(platform: &muster_image::Platform) -> ImagePlatform {
    ImagePlatform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone().unwrap_or_default(),
        variant: platform.variant.clone().unwrap_or_default(),
    }
}

impl Shared {
    /// `docker login`: checks credentials; an identity token or an empty text.
    pub(crate) async fn login(&self, auth: AuthConfig) -> Result<String> {
        let address = auth.serveraddress.clone();
        let credentials = credentials(Some(auth)).ok_or_else(|| Error::invalid("username: must not be empty"))?;
        self.config.images.login(&address, credentials).await.map_err(error::image)
    }

    pub(crate) async fn distribution(&self, name: &str, auth: Option<AuthConfig>) -> Result<DistributionInspect> {
        let reference = Reference::parse(name).map_err(|e| Error::invalid(e.to_string()))?;
        let found = self.config.images.distribution(&reference, credentials(auth)).await.map_err(|e| match e {
            // Nothing is hidden here as it is in a pull.
            refused @ muster_image::Error::Unauthorized { .. } => Error::unauthorized(refused.to_string()),
            other => error::image(other),
        })?;
        Ok(DistributionInspect {
            descriptor: ContentDescriptor {
                media_type: found.descriptor.media_type,
                digest: found.descriptor.digest.to_string(),
                size: i64::try_from(found.descriptor.size).unwrap_or(i64::MAX),
                platform: None,
            },
            platforms: found.platforms.iter().map(platform_document).collect(),
        })
    }

    pub(crate) async fn image_search(
        &self,
        term: &str,
        limit: u32,
        filters: &Filters,
        auth: Option<AuthConfig>,
    ) -> Result<Vec<SearchResult>> {
        let invalid = |e: muster_model::engine::FilterError| Error::invalid(e.to_string());
        filters.allow(SEARCH_KEYS).map_err(invalid)?;
        let official = filters.flag("is-official").map_err(invalid)?;
        let automated = filters.flag("is-automated").map_err(invalid)?;
        let stars = filters
            .values("stars")
            .map(|text| text.parse::<i64>().map_err(|_| Error::invalid(format!("invalid filter 'stars={text}'"))));
        let stars = stars.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
        let found = self.config.images.search(term, limit, credentials(auth)).await.map_err(error::image)?;
        let fits = |f: &muster_image::Found| {
            official.is_none_or(|wanted| f.is_official == wanted)
                && automated.is_none_or(|wanted| f.is_automated == wanted)
                && f.star_count >= stars
        };
        let line = |f: muster_image::Found| SearchResult {
            star_count: f.star_count,
            is_official: f.is_official,
            name: f.name,
            is_automated: f.is_automated,
            description: f.description.unwrap_or_default(),
        };
        Ok(found.into_iter().filter(fits).map(line).take(limit as usize).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_whichever_field_has_them() {
        let auth = |change: fn(&mut AuthConfig)| {
            let mut auth = AuthConfig::default();
            change(&mut auth);
            credentials(Some(auth))
        };
        let basic = |u: &str, p: &str| Some(Credentials::Basic { username: u.into(), password: p.into() });
        assert_eq!(auth(|_| {}), None);
        assert_eq!(auth(|a| a.username = "me".into()), basic("me", ""));
        // "me:a:b"
        assert_eq!(auth(|a| a.auth = "bWU6YTpi".into()), basic("me", "a:b"));
        assert_eq!(auth(|a| a.identitytoken = "t".into()), Some(Credentials::IdentityToken("t".into())));
        let both = auth(|a| (a.registrytoken, a.identitytoken) = ("r".into(), "t".into()));
        assert_eq!(both, Some(Credentials::RegistryToken("r".into())));
    }
}
