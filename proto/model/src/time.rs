//! Wall-clock time as data. Cores receive it, they never read it.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nanoseconds since the Unix epoch, UTC. `0` means "never" where a field is optional on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const ZERO: Timestamp = Timestamp(0);

    /// A time given in whole milliseconds since the epoch, saturating: the latest there is lies in the year 2262.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Whole milliseconds since the epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds within the second, 0..1_000_000_000.
    pub const fn subsec_nanos(self) -> u32 {
        self.0.rem_euclid(1_000_000_000) as u32
    }

    /// How long ago `earlier` was, zero when it lies in the future.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).max(0) as u64)
    }

    /// This time moved forward by `d`, saturating.
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)))
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// RFC 3339 in UTC with nanoseconds, trailing zeros removed as Go's `RFC3339Nano` does; the zero time is
    /// `0001-01-01T00:00:00Z`, which is how the Docker API writes "never".
    pub fn to_rfc3339(self) -> String {
        if self.is_zero() {
            return "0001-01-01T00:00:00Z".to_owned();
        }
        let (y, m, d) = civil_from_days(self.as_secs().div_euclid(86_400));
        let s = self.as_secs().rem_euclid(86_400);
        let mut out = format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
        let nanos = self.subsec_nanos();
        if nanos != 0 {
            let digits = format!("{nanos:09}");
            out.push('.');
            out.push_str(digits.trim_end_matches('0'));
        }
        out.push('Z');
        out
    }

    /// Parses RFC 3339 (any offset, any fraction up to nanoseconds). `None` for anything else.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let b = text.as_bytes();
        let digits = |r: std::ops::Range<usize>| -> Option<i64> {
            let part = text.get(r)?;
            part.bytes().all(|c| c.is_ascii_digit()).then(|| part.parse().ok())?
        };
        let sep = |i: usize, ok: &[u8]| b.get(i).filter(|c| ok.contains(c)).map(|_| ());
        let (y, mo, d) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
        let (h, mi, s) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
        sep(4, b"-")?;
        sep(7, b"-")?;
        sep(10, b"Tt ")?;
        sep(13, b":")?;
        sep(16, b":")?;
        if !(1..=12).contains(&mo) || !(1..=31).contains(&d) || h > 23 || mi > 59 || s > 60 {
            return None;
        }
        let mut at = 19;
        let mut nanos = 0i64;
        if b.get(at) == Some(&b'.') {
            let end = at + 1 + b[at + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
            if end == at + 1 {
                return None;
            }
            let frac: String = text[at + 1..end].chars().chain(std::iter::repeat('0')).take(9).collect();
            nanos = frac.parse().ok()?;
            at = end;
        }
        let offset = match b.get(at)? {
            b'Z' | b'z' if b.len() == at + 1 => 0,
            sign @ (b'+' | b'-') if b.len() == at + 6 && b[at + 3] == b':' => {
                let off = digits(at + 1..at + 3)? * 3600 + digits(at + 4..at + 6)? * 60;
                if *sign == b'+' { off } else { -off }
            }
            _ => return None,
        };
        let secs = days_from_civil(y, mo, d) * 86_400 + h * 3600 + mi * 60 + s - offset;
        if y == 1 {
            return Some(Self::ZERO);
        }
        secs.checked_mul(1_000_000_000)?.checked_add(nanos).map(Self)
    }
}

/// Days since 1970-01-01 to (year, month, day), proleptic Gregorian. Source: Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms".
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let d = doy - (153 * mp + 2) / 5 + 1;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(m <= 2), m, d)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = if m > 2 { m - 3 } else { m + 9 };
    let doy = (153 * mp + 2) / 5 + d - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_round_trips_with_and_without_a_fraction() {
        for t in ["2026-11-30T01:29:51Z", "1999-02-28T23:59:59.5Z", "2024-02-29T00:00:00.000000001Z"] {
            assert_eq!(Timestamp::parse_rfc3339(t).expect("valid").to_rfc3339(), t);
        }
    }

    #[test]
    fn a_time_beyond_the_last_is_the_last() {
        assert_eq!(Timestamp::from_millis(i64::MAX), Timestamp(i64::MAX));
        assert_eq!(Timestamp(i64::MAX).after(Duration::MAX), Timestamp(i64::MAX));
    }

    #[test]
    fn an_offset_is_taken_off() {
        let a = Timestamp::parse_rfc3339("2026-11-30T03:29:51+02:00");
        assert_eq!(a, Timestamp::parse_rfc3339("2026-11-30T01:29:51Z"));
    }

    #[test]
    fn never_is_written_as_docker_writes_it() {
        assert_eq!(Timestamp::ZERO.to_rfc3339(), "0001-01-01T00:00:00Z");
        assert_eq!(Timestamp::parse_rfc3339("0001-01-01T00:00:00Z"), Some(Timestamp::ZERO));
    }

    #[test]
    fn garbage_is_no_time() {
        for t in
            ["", "2026", "2026-13-01T00:00:00Z", "2026-11-30T01:29:51", "2026-11-30T01:29:51.Z", "é026-11-30T01:29:51Z"]
        {
            assert_eq!(Timestamp::parse_rfc3339(t), None, "{t}");
        }
    }
}
