//! Join tokens: `MSTR-1-<role>-<SHA-256 of the CA's certificate>-<secret>`.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use muster_model::spec::Role;
use std::{fmt, str::FromStr};

/// What a new host needs to know to become a member, and to know that it met the right cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub role: Role,
    /// 64 lower-case hexadecimal digits.
    pub ca_digest: String,
    /// 25 characters of 0-9 and a-z: 128 random bits.
    pub secret: String,
}

/// What is wrong with a text that should be a join token. The secret is never repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("malformed join token: expected MSTR-1-ROLE-DIGEST-SECRET, found {parts} of 5 parts")]
    Parts { parts: usize },
    #[error("malformed join token: it does not start with MSTR")]
    Prefix,
    #[error("malformed join token: version {0:?} is not known here, expected 1")]
    Version(String),
    #[error("malformed join token: role {0:?}, expected worker or manager")]
    Role(String),
    #[error("malformed join token: the CA digest has {0} characters or others than 0-9 and a-f, expected 64 of them")]
    Digest(usize),
    #[error("malformed join token: the secret has {0} characters or others than 0-9 and a-z, expected 25 of them")]
    Secret(usize),
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MSTR-1-{}-{}-{}", self.role.as_str(), self.ca_digest, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MSTR-1-{}-{}-<secret>", self.role.as_str(), self.ca_digest)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let &[prefix, version, role, digest, secret] = &parts[..] else {
            return Err(TokenError::Parts { parts: parts.len() });
        };
        if prefix != "MSTR" {
            return Err(TokenError::Prefix);
        }
        if version != "1" {
            return Err(TokenError::Version(shown(version)));
        }
        let role = match role {
            "worker" => Role::Worker,
            "manager" => Role::Manager,
            other => return Err(TokenError::Role(shown(other))),
        };
        if digest.len() != 64 || !digest.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(TokenError::Digest(digest.chars().count()));
        }
        if secret.len() != 25 || !secret.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'z')) {
            return Err(TokenError::Secret(secret.chars().count()));
        }
        Ok(Self { role, ca_digest: digest.to_owned(), secret: secret.to_owned() })
    }
}

fn shown(text: &str) -> String {
    text.chars().take(20).collect()
}

/// A fresh secret: 128 bits from the system's generator, written like an id.
///
/// # Errors
/// [`crate::Error::Key`] when the system gives no random bytes.
pub fn new_secret() -> Result<String, crate::Error> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| crate::Error::Key("no random bytes".to_owned()))?;
    Ok(muster_model::ClusterId::from_u128(u128::from_le_bytes(bytes)).to_string())
}

/// Compares in a time that does not tell where they differ. An empty secret equals nothing.
pub fn same_secret(given: &str, expected: &str) -> bool {
    !expected.is_empty() && verify_slices_are_equal(given.as_bytes(), expected.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken { role: Role::Worker, ca_digest: "ab".repeat(32), secret: new_secret().expect("random bytes") }
    }

    #[test]
    fn a_token_round_trips_and_its_debug_text_hides_the_secret() {
        let t = token();
        assert_eq!(t.to_string().parse(), Ok(t.clone()));
        assert!(!format!("{t:?}").contains(&t.secret));
    }

    #[test]
    fn a_malformed_token_is_refused_by_the_part_that_is_wrong() {
        let good = token();
        let with = |at: usize, text: &str| {
            let all = good.to_string();
            let mut parts: Vec<&str> = all.split('-').collect();
            parts[at] = text;
            parts.join("-").parse::<JoinToken>().expect_err("refused")
        };
        assert_eq!("".parse::<JoinToken>(), Err(TokenError::Parts { parts: 1 }));
        assert_eq!("SWMTKN-1-a-b".parse::<JoinToken>(), Err(TokenError::Parts { parts: 4 }));
        assert_eq!(with(0, "SWMTKN"), TokenError::Prefix);
        assert_eq!(with(1, "2"), TokenError::Version("2".into()));
        assert_eq!(with(2, "boss"), TokenError::Role("boss".into()));
        assert_eq!(with(3, "zz"), TokenError::Digest(2));
        assert_eq!(with(3, &"g".repeat(64)), TokenError::Digest(64));
        assert_eq!(with(4, "short"), TokenError::Secret(5));
    }

    #[test]
    fn secrets_are_compared_whole_and_an_empty_one_opens_nothing() {
        assert!(same_secret("abc", "abc"));
        assert!(!same_secret("abd", "abc") && !same_secret("ab", "abc") && !same_secret("", ""));
    }
}
