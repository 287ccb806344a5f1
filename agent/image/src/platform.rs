//! What machine an image runs on, and which entry of an image index suits one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Operating system and processor of an image (OCI image-spec, image-index.md, `platform`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name of the processor: `amd64`, `arm64`, `arm`, ...
    #[serde(default)]
    pub architecture: String,
    /// Go's name of the operating system: `linux`.
    #[serde(default)]
    pub os: String,
    /// Processor variant: `v7`, `v8`; absent for most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Version of the operating system; only Windows images have one.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

/// A string that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: unknown operating system or architecture: invalid argument (expected os/architecture[/variant])")]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// A platform without a variant.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self { architecture: architecture.into(), os: os.into(), variant: None, os_version: None }.normalized()
    }

    /// The platform this process runs on.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH)
    }

    /// How well an image of platform `offered` runs where `self` is wanted: lower is better, `None` not at all.
    ///
    /// 32-bit ARM runs older variants too; a wanted platform without a variant accepts any, plain first.
    pub fn distance(&self, offered: &Platform) -> Option<u32> {
        let (want, have) = (self.clone().normalized(), offered.clone().normalized());
        if want.os != have.os || want.architecture != have.architecture {
            return None;
        }
        match (want.variant.as_deref(), have.variant.as_deref()) {
            (None, None) => Some(0),
            (None, Some(variant)) => Some(10_u32.saturating_sub(level(variant).unwrap_or(0))),
            (Some(want), Some(have)) if want == have => Some(0),
            (Some(_), None) => Some(20),
            (Some(want), Some(have)) => level(want)?.checked_sub(level(have)?),
        }
    }

    /// The same platform with the usual names: `x86_64` is `amd64`, `aarch64` is `arm64`, and `arm64/v8` has no variant.
    pub fn normalized(mut self) -> Self {
        self.os = self.os.to_ascii_lowercase();
        self.architecture = match self.architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".into(),
            "aarch64" => "arm64".into(),
            "x86" | "i386" | "i686" => "386".into(),
            "riscv64gc" => "riscv64".into(),
            "powerpc64" => "ppc64le".into(),
            "armhf" => "arm".into(),
            other => other.into(),
        };
        let plain = matches!(
            (self.architecture.as_str(), self.variant.as_deref()),
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) | (_, Some(""))
        );
        if plain {
            self.variant = None;
        }
        self
    }
}

/// The number of a variant such as `v7`.
fn level(variant: &str) -> Option<u32> {
    variant.trim_start_matches('v').parse().ok()
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 64
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(word) {
            return Err(InvalidPlatform(text.chars().take(200).collect()));
        }
        let variant = parts.get(2).map(|part| part.to_ascii_lowercase());
        Ok(Self { variant, ..Self::new(parts[0], parts[1]) }.normalized())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn names_of_the_same_processor_are_equal() {
        assert_eq!(platform("linux/x86_64"), platform("Linux/amd64"));
        assert_eq!(platform("linux/aarch64"), platform("linux/arm64/v8"));
        assert!("linux".parse::<Platform>().is_err() && "linux/".parse::<Platform>().is_err());
    }

    #[test]
    fn a_newer_arm_takes_the_best_older_variant() {
        let want = platform("linux/arm/v7");
        assert_eq!(want.distance(&platform("linux/arm/v7")), Some(0));
        assert_eq!(want.distance(&platform("linux/arm/v6")), Some(1));
        assert_eq!(platform("linux/arm/v6").distance(&platform("linux/arm/v7")), None);
        assert_eq!(want.distance(&platform("linux/arm64")), None);
    }
}
