//! The query part of a request, read as dockerd reads it.

use crate::fault::Fault;
use muster_model::{Timestamp, engine::Filters};

/// Decoded `name=value` pairs, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of that name; empty when there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// The first value of that name, if it is given and not empty.
    pub fn text(&self, name: &str) -> Option<String> {
        Some(self.get(name)).filter(|v| !v.is_empty()).map(str::to_owned)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    /// Anything but the empty text, `0`, `no`, `false` and `none` is true.
    pub fn flag(&self, name: &str) -> bool {
        !matches!(self.get(name).trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A flag that counts as `default` when it is not given.
    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        if self.has(name) { self.flag(name) } else { default }
    }

    /// A number, if given.
    ///
    /// # Errors
    /// 400, naming the parameter.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Fault> {
        match self.get(name) {
            "" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| Fault::bad(format!("invalid {name} {text:?}: expected a number")))
            }
        }
    }

    /// `seconds`, `seconds.fraction` or RFC 3339; not given and `0` are zero.
    ///
    /// # Errors
    /// 400, naming the parameter.
    pub fn time(&self, name: &str) -> Result<Timestamp, Fault> {
        let text = self.get(name);
        parse_time(text)
            .ok_or_else(|| Fault::bad(format!("invalid {name} {text:?}: expected seconds[.nanoseconds] or RFC 3339")))
    }

    /// The `filters`, whose keys must be among those allowed.
    ///
    /// # Errors
    /// 400 with dockerd's texts.
    pub fn filters(&self, allowed: &[&str]) -> Result<Filters, Fault> {
        let filters = Filters::parse(self.get("filters"))?;
        filters.allow(allowed)?;
        Ok(filters)
    }
}

fn parse_time(text: &str) -> Option<Timestamp> {
    if text.is_empty() {
        return Some(Timestamp::ZERO);
    }
    let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
    let Ok(secs) = secs.parse::<i64>() else { return Timestamp::parse_rfc3339(text) };
    if !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let nanos: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    secs.checked_mul(1_000_000_000)?.checked_add(nanos.parse().ok()?).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_dockerd_reads_them() {
        let q = Query::parse("a=1&b=0&c=False&d=none&e=&f=yes&g");
        let set: Vec<bool> = ["a", "b", "c", "d", "e", "f", "g", "h"].iter().map(|n| q.flag(n)).collect();
        assert_eq!(set, [true, false, false, false, false, true, false, false]);
        assert!(q.flag_or("h", true) && !q.flag_or("b", true));
    }

    #[test]
    fn values_are_decoded_and_may_repeat() {
        let q = Query::parse("names=a%2Fb%3A1&names=c+d");
        assert_eq!(q.all("names"), ["a/b:1", "c d"]);
    }

    #[test]
    fn times_are_seconds_with_a_fraction_or_rfc_3339() {
        let at = |text: &str| parse_time(text).map(|t| t.0);
        assert_eq!(at(""), Some(0));
        assert_eq!(at("5"), Some(5_000_000_000));
        assert_eq!(at("5.5"), Some(5_500_000_000));
        assert_eq!(at("5.000000001"), Some(5_000_000_001));
        assert_eq!(at("1970-01-01T00:00:05Z"), Some(5_000_000_000));
        for bad in ["x", "5.x", "5.-1", "99999999999999999999", "9223372036854775807"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
