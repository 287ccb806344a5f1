//! Names of images, read as Docker reads them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Digest;

/// The registry meant when a name has none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The older name of the same registry.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where one-word names of the default registry live.
const OFFICIAL: &str = "library/";
/// The tag meant when neither tag nor digest is given.
const DEFAULT_TAG: &str = "latest";
/// Longest repository name with its domain (distribution reference grammar).
const MAX_NAME: usize = 255;
/// Longest tag (OCI distribution-spec, "Pulling manifests").
const MAX_TAG: usize = 128;

/// The name of an image in a registry: domain, repository path, and a tag or a digest or both.
///
/// A name without tag and digest means the tag `latest`. When both are given the digest decides and the tag is only
/// kept for show.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A string that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// The text does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The name is so long that no registry takes it.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The name would be mistaken for an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// The part after `@` is not a supported digest.
    #[error("invalid reference format: {0}")]
    Digest(#[from] crate::InvalidDigest),
}

impl Reference {
    /// Parses a name as Docker does: `busybox` is `docker.io/library/busybox:latest`, `127.0.0.1:5000/x` has its own
    /// registry, `name:tag@sha256:...` is allowed.
    ///
    /// # Errors
    /// [`InvalidReference`], with Docker's words.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        if Digest::from_hex(rest).is_some() {
            return Err(InvalidReference::LooksLikeId(rest.into()));
        }
        let (domain, remainder) = split_domain(rest);
        let (path, tag) = match remainder.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder, None),
        };
        let official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        check_path(&path)?;
        if !is_domain(domain) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(InvalidReference::Format);
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(InvalidReference::TooLong);
        }
        let tag = tag.or_else(|| digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }

    /// The registry: `docker.io`, `127.0.0.1:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside of its registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if the name has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The full repository name: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it: `busybox`, `127.0.0.1:5000/x`. It is read as the same repository again: what would
    /// be taken for another registry's keeps its own.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN || split_domain(&self.path).0 != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole name as people write it: `busybox:latest`, `busybox@sha256:...`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_repository())
    }

    /// The whole name with nothing left out: `docker.io/library/busybox:latest`.
    pub fn canonical(&self) -> String {
        self.with_suffix(self.repository())
    }

    /// What a registry is asked for: the digest if there is one, else the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// [`InvalidReference::Format`] when the tag does not follow the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidReference> {
        if !is_tag(tag) {
            return Err(InvalidReference::Format);
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// The first component is a registry when it could not be part of a repository name of the default one.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if is_host_like(first) => {
            (if first == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_host_like(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
            _ => return false,
        },
        None => match domain.split_once(':') {
            Some((host, _)) => (Some(host), &domain[host.len()..]),
            None => (Some(domain), ""),
        },
    };
    let label = |label: &str| {
        let alnum = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        alnum(bytes.first()) && alnum(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    let port_ok = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    port_ok && host.is_none_or(|host| host.split('.').all(label))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= MAX_TAG
        && bytes.first().is_some_and(word)
        && bytes.iter().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn check_path(path: &str) -> Result<(), InvalidReference> {
    if path.split('/').all(is_component) {
        return Ok(());
    }
    let lower = path.to_ascii_lowercase();
    let only_case = lower != path && lower.split('/').all(is_component);
    Err(if only_case { InvalidReference::Uppercase(path.to_owned()) } else { InvalidReference::Format })
}

/// Lower-case words joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut at = 0;
    loop {
        let start = at;
        while at < bytes.len() && word(bytes[at]) {
            at += 1;
        }
        if at == start {
            return false;
        }
        if at == bytes.len() {
            return true;
        }
        let start = at;
        while at < bytes.len() && !word(bytes[at]) {
            at += 1;
        }
        let separator = &bytes[start..at];
        if !(separator == b"." || separator == b"_" || separator == b"__" || separator.iter().all(|b| *b == b'-')) {
            return false;
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        Self::parse(text)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.canonical())
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_docker_completes_them() {
        let pinned = format!("busybox:1@sha256:{HEX}");
        for (text, canonical, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000/x:latest"),
            ("localhost/x/y:t", "localhost/x/y:t", "localhost/x/y:t"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("a--b/c__d", "docker.io/a--b/c__d:latest", "a--b/c__d:latest"),
            (&pinned, &format!("docker.io/library/{pinned}"), &pinned),
        ] {
            let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((reference.canonical().as_str(), reference.familiar().as_str()), (canonical, familiar));
            assert_eq!(Reference::parse(&reference.canonical()).as_ref(), Ok(&reference));
        }
    }

    #[test]
    fn a_path_that_looks_like_a_registry_keeps_the_real_one() {
        let reference = Reference::parse("docker.io/evil.example/x").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(reference.familiar(), "docker.io/evil.example/x:latest");
        assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
    }

    #[test]
    fn a_digest_alone_gets_no_tag() {
        let reference = Reference::parse(&format!("x/y@sha256:{HEX}")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((reference.tag(), reference.target()), (None, format!("sha256:{HEX}")));
    }

    #[test]
    fn bad_names_are_refused_with_dockers_words() {
        for bad in ["", ":", "a:", "a/", "/a", "a//b", "a:b c", "-a", "a_-b", "x:5000000/a", "a@b", "../a", "a..b", "é"]
        {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
        let upper = Reference::parse("Busybox").map_err(|error| error.to_string());
        assert_eq!(
            upper,
            Err("invalid reference format: repository name (library/Busybox) must be lowercase".to_owned())
        );
        assert!(matches!(Reference::parse(HEX), Err(InvalidReference::LooksLikeId(_))));
        assert_eq!(Reference::parse(&format!("a:{}", "t".repeat(129))), Err(InvalidReference::Format));
        assert_eq!(Reference::parse(&"a".repeat(250)), Err(InvalidReference::TooLong));
    }
}
