//! Times as the log lines carry them: RFC 3339 in UTC with nine digits of a second, as Docker's `json-file` writes them
//! (Docker cuts trailing zeros off; readers take both).

const NS: i64 = 1_000_000_000;

/// Length of a formatted time.
pub const TEXT_LEN: usize = 30;

/// `2006-01-02T15:04:05.000000000Z` of nanoseconds since 1970. Years outside of 0 to 9999 are clamped.
pub fn format(ns: i64) -> [u8; TEXT_LEN] {
    let (seconds, nanos) = (ns.div_euclid(NS), ns.rem_euclid(NS));
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut out[0..4], year.clamp(0, 9999));
    digits(&mut out[5..7], month);
    digits(&mut out[8..10], day);
    digits(&mut out[11..13], of_day / 3600);
    digits(&mut out[14..16], of_day / 60 % 60);
    digits(&mut out[17..19], of_day % 60);
    digits(&mut out[20..29], nanos);
    out
}

/// Gives out times of which no two are the same, but for a clock that is set back: then times come again, and readers of the
/// files go by the place of a line.
#[derive(Debug, Clone)]
pub struct Unique {
    ns: i64,
    text: [u8; TEXT_LEN],
}

impl Unique {
    /// A clock that was set back by more than this is followed.
    const SLACK: i64 = NS;

    pub fn new() -> Self {
        Self { ns: i64::MIN, text: format(0) }
    }

    /// `now_ns`, or where that was given out already the next nanosecond.
    pub fn at(&mut self, now_ns: i64) -> &[u8; TEXT_LEN] {
        let next = self.ns.saturating_add(1);
        if now_ns >= next || next.saturating_sub(now_ns) > Self::SLACK {
            (self.ns, self.text) = (now_ns, format(now_ns));
        } else {
            self.ns = next;
            match next.rem_euclid(NS) {
                0 => self.text = format(next),
                nanos => digits(&mut self.text[20..29], nanos),
            }
        }
        &self.text
    }
}

impl Default for Unique {
    fn default() -> Self {
        Self::new()
    }
}

/// Nanoseconds since 1970 of an RFC 3339 time with any number of fraction digits and any offset.
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let field = |from: usize, to: usize| number(bytes.get(from..to)?);
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if bytes.len() < 20 || separators.iter().any(|(at, byte)| bytes[*at] != *byte) {
        return None;
    }
    let (month, day) = (field(5, 7)?, field(8, 10)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days_of(field(0, 4)?, month, day);
    let seconds = days * 86_400 + field(11, 13)? * 3600 + field(14, 16)? * 60 + field(17, 19)?;
    let (nanos, rest) = fraction(&bytes[19..])?;
    (seconds - offset(rest)?).checked_mul(NS)?.checked_add(nanos)
}

fn digits(out: &mut [u8], mut value: i64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn number(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

/// Nanoseconds of `.123` in front of `bytes`, and what follows.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = bytes.strip_prefix(b".") else { return Some((0, bytes)) };
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (text, rest) = rest.split_at(len);
    let mut nanos = number(&text[..len.min(9)])?;
    for _ in len..9 {
        nanos *= 10;
    }
    Some((nanos, rest))
}

/// Seconds east of UTC of `Z`, `+01:00` and so on.
fn offset(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), rest @ ..] if rest.len() == 5 && rest[2] == b':' => {
            let seconds = number(&rest[..2])? * 3600 + number(&rest[3..])? * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Days since 1970 of a date of the Gregorian calendar: years are counted from March, so that the leap day is their last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day since 1970; the inverse of [`days_of`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ns: i64) -> String {
        String::from_utf8(format(ns).to_vec()).expect("ASCII")
    }

    #[test]
    fn known_moments_are_written_as_the_calendar_has_them() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400 * NS + 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(text(1_700_000_000 * NS + 120_000_000), "2023-11-14T22:13:20.120000000Z");
    }

    #[test]
    fn every_day_of_five_centuries_reads_back() {
        for day in -100_000..100_000_i64 {
            let ns = day * 86_400 * NS + 86_399 * NS + 1;
            assert_eq!(parse(&text(ns)), Some(ns));
        }
    }

    #[test]
    fn no_two_lines_of_a_log_have_the_same_time_and_a_clock_that_was_set_back_is_followed() {
        let start = 1_700_000_000 * NS - 2;
        let mut unique = Unique::new();
        let mut at = |now: i64| String::from_utf8(unique.at(now).to_vec()).expect("ASCII");
        let given: Vec<_> = (0..4).map(|_| at(start)).collect();
        assert_eq!(given, (0..4).map(|n| text(start + n)).collect::<Vec<_>>());
        assert_eq!(at(start + 1), text(start + 4));
        assert_eq!(at(start + 9), text(start + 9));
        assert_eq!(at(start - 3600 * NS), text(start - 3600 * NS));
    }

    #[test]
    fn fractions_and_offsets_of_others_are_read_and_nonsense_is_not() {
        assert_eq!(parse("1970-01-01T00:00:01Z"), Some(NS));
        assert_eq!(parse("1970-01-01T01:00:00.5+01:00"), Some(NS / 2));
        for bad in ["", "1970-01-01", "1970-13-01T00:00:00Z", "1970-01-01T00:00:00", "x970-01-01T00:00:00Z"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
