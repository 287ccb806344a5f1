//! Matching a path to its operation.
//!
//! A pattern is literal segments around at most one `{name}`, which takes one segment or more: names of images, plugins and
//! registries hold slashes, so what follows `{name}` is matched from the end.

use crate::{call::Call, fault::Outcome};
use futures_core::future::BoxFuture;
use http::Method;

pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Outcome>;

/// One operation of the API.
pub(crate) struct Route {
    pub method: Method,
    /// As the API text writes it, e.g. `/containers/{name}/json`.
    pub pattern: &'static str,
    pub handler: Handler,
}

/// The first route that fits, and what `{name}` stands for (empty if the pattern has none).
///
/// `path` is without version prefix and decoded. Routes are tried in order: literal ones must come first.
pub(crate) fn find<'r, 'p>(routes: &'r [Route], method: &Method, path: &'p str) -> Option<(&'r Route, &'p str)> {
    let path = path.strip_suffix('/').unwrap_or(path);
    routes.iter().filter(|r| r.method == *method).find_map(|r| Some((r, matches(r.pattern, path)?)))
}

fn matches<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, after)) = pattern.split_once("{name}") else {
        return (pattern == path).then_some("");
    };
    let name = path.strip_prefix(before)?.strip_suffix(after)?.trim_start_matches('/');
    (!name.is_empty()).then_some(name)
}

/// Undoes `%XX`. `None` when the result is not UTF-8 or an escape is broken.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            // from_str_radix would take a sign.
            if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_slashes_and_a_suffix_ends_them() {
        let m = |pattern, path| matches(pattern, path);
        assert_eq!(
            m("/images/{name}/json", "/images/127.0.0.1:5000/a/b@sha256:00/json"),
            Some("127.0.0.1:5000/a/b@sha256:00")
        );
        assert_eq!(m("/images/{name}/json", "/images/json"), None);
        assert_eq!(m("/containers/{name}/json", "/containers//web/json"), Some("web"));
        assert_eq!(m("/images/{name}", "/images/a/b"), Some("a/b"));
        assert_eq!(m("/images/{name}/json", "/images//json"), None);
        assert_eq!(m("/info", "/info"), Some(""));
        assert_eq!(m("/info", "/infos"), None);
    }

    #[test]
    fn escapes_are_undone_or_refused() {
        assert_eq!(percent_decode("a%2Fb%20c").as_deref(), Some("a/b c"));
        assert_eq!(percent_decode("é").as_deref(), Some("é"));
        for bad in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
    }
}
