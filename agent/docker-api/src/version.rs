//! API versions: the prefix of a path, and which of them are served.

use crate::fault::Fault;
use std::fmt;

/// `major.minor` of the Docker Engine API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion(pub u32, pub u32);

impl ApiVersion {
    pub const MAX: ApiVersion = ApiVersion(1, 50);
    pub const MIN: ApiVersion = ApiVersion(1, 24);
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Takes a `/v1.45` off the front of a path. No prefix: the version as a client wrote it is `None`.
pub(crate) fn split_prefix(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/v") else { return (None, path) };
    let end = rest.find('/').unwrap_or(rest.len());
    let version = &rest[..end];
    let is_version = !version.is_empty() && version.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    if is_version { (Some(version), &rest[end..]) } else { (None, path) }
}

/// The version that a request is served as; without a prefix the newest.
///
/// # Errors
/// 400 with dockerd's texts when it is outside of what is served.
pub(crate) fn negotiate(asked: Option<&str>) -> Result<ApiVersion, Fault> {
    let Some(text) = asked else { return Ok(ApiVersion::MAX) };
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
    let version = ApiVersion(parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version > ApiVersion::MAX {
        return Err(Fault::bad(format!(
            "client version {text} is too new. Maximum supported API version is {}",
            ApiVersion::MAX
        )));
    }
    if version < ApiVersion::MIN {
        return Err(Fault::bad(format!(
            "client version {text} is too old. Minimum supported API version is {}, please upgrade your client to a newer \
             version",
            ApiVersion::MIN
        )));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_off_only_when_it_is_a_version() {
        assert_eq!(split_prefix("/v1.45/info"), (Some("1.45"), "/info"));
        assert_eq!(split_prefix("/info"), (None, "/info"));
        assert_eq!(split_prefix("/volumes/v1.2"), (None, "/volumes/v1.2"));
        assert_eq!(split_prefix("/version"), (None, "/version"));
        assert_eq!(split_prefix("/v1.45"), (Some("1.45"), ""));
    }

    #[test]
    fn versions_outside_of_the_window_are_refused_as_dockerd_does() {
        assert_eq!(negotiate(None), Ok(ApiVersion(1, 50)));
        assert_eq!(negotiate(Some("1.24")), Ok(ApiVersion(1, 24)));
        for (text, expected) in [
            ("9.99", "too new"),
            ("1.51", "too new"),
            ("1.12", "too old"),
            ("1", "too old"),
            ("1.99999999999", "too new"),
        ] {
            let message = negotiate(Some(text)).expect_err("refused").message;
            assert!(message.contains(expected) && message.contains(text), "{message}");
        }
    }
}
