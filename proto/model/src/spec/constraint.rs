//! What placement asks of a node: constraints, `ATTRIBUTE==VALUE` and `ATTRIBUTE!=VALUE`, and platforms (Docker API,
//! `TaskTemplate.Placement`).

use super::Invalid;
use serde::{Deserialize, Serialize};

/// One parsed placement constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    pub attribute: Attribute,
    pub equal: bool,
    pub value: String,
}

/// What of a node a constraint or a spread preference looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    Id,
    Hostname,
    Role,
    Ip,
    Os,
    Arch,
    Label(String),
    EngineLabel(String),
}

impl Attribute {
    /// # Errors
    /// `TaskTemplate.Placement` with the attributes that exist.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "node.id" => return Ok(Self::Id),
            "node.hostname" => return Ok(Self::Hostname),
            "node.role" => return Ok(Self::Role),
            "node.ip" => return Ok(Self::Ip),
            "node.platform.os" => return Ok(Self::Os),
            "node.platform.arch" => return Ok(Self::Arch),
            _ => {}
        }
        for (prefix, make) in [
            ("node.labels.", Self::Label as fn(String) -> Self),
            ("engine.labels.", Self::EngineLabel as fn(String) -> Self),
        ] {
            if lower.starts_with(prefix) && text.len() > prefix.len() {
                return Ok(make(text[prefix.len()..].to_owned()));
            }
        }
        Err(Invalid::new(
            "TaskTemplate.Placement",
            format!(
                "{text:?}: expected node.id, node.hostname, node.role, node.ip, node.platform.os, node.platform.arch, \
                 node.labels.KEY or engine.labels.KEY"
            ),
        ))
    }
}

impl Constraint {
    /// # Errors
    /// `TaskTemplate.Placement.Constraints` with the form that is expected.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let form = || {
            let shown: String = text.chars().take(80).collect();
            Invalid::new(
                "TaskTemplate.Placement.Constraints",
                format!("{shown:?}: expected ATTRIBUTE==VALUE or ATTRIBUTE!=VALUE"),
            )
        };
        let (left, equal, right) = match (text.split_once("=="), text.split_once("!=")) {
            (Some((l, r)), None) => (l, true, r),
            (None, Some((l, r))) => (l, false, r),
            _ => return Err(form()),
        };
        let value = right.trim();
        if value.is_empty() {
            return Err(form());
        }
        Ok(Self { attribute: Attribute::parse(left.trim())?, equal, value: value.to_owned() })
    }
}

/// An operating system and an architecture, in Go's words; an empty one is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
}

impl Platform {
    /// Whether a node of this system and architecture can run it. `x86_64` and `aarch64` are taken for `amd64` and `arm64`.
    pub fn suits(&self, os: &str, arch: &str) -> bool {
        let go = |arch: &str| match arch {
            "x86_64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_ascii_lowercase(),
        };
        (self.os.is_empty() || self.os.eq_ignore_ascii_case(os))
            && (self.architecture.is_empty() || go(&self.architecture) == go(arch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_parse_or_say_what_is_expected() {
        let c = Constraint::parse("node.labels.zone != a").expect("valid");
        assert_eq!(c, Constraint { attribute: Attribute::Label("zone".into()), equal: false, value: "a".into() });
        for bad in ["", "node.role", "node.role=manager", "node.colour==red", "node.labels.==x", "node.role=="] {
            assert!(Constraint::parse(bad).is_err(), "{bad}");
        }
    }
}
