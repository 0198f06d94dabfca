//! Durations as Go writes them, and days and weeks.
//!
//! A duration is a sequence of numbers, each with an optional fraction and a unit: `1h30m`,
//! `1.5h`, `300ms`, `7d`. Units are `ns`, `us` (`µs`), `ms`, `s`, `m`, `h`, `d` and `w`; `0` needs
//! none. Whatever `time.ParseDuration` of Go accepts means the same here, except that a duration
//! is never negative. Like there, the longest is 2^63 - 1 nanoseconds, 292 years.

use std::{fmt, time::Duration};

const UNITS: [(&str, u64); 10] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),  // the micro sign
    ("\u{3bc}s", 1_000), // the Greek letter mu
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
    ("d", 24 * 3_600 * SECOND),
    ("w", 7 * 24 * 3_600 * SECOND),
];

const SECOND: u64 = 1_000_000_000;
const LONGEST: u64 = i64::MAX as u64;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// No text at all.
    #[error("it is empty")]
    Empty,
    /// A unit, or nothing, where a number should be.
    #[error("a number is expected before `{0}`")]
    NoNumber(String),
    /// A number without a unit.
    #[error("`{0}` has no unit")]
    NoUnit(String),
    /// A unit that is none.
    #[error("`{0}` is not a unit")]
    UnknownUnit(String),
    /// Less than nothing.
    #[error("it is negative")]
    Negative,
    /// More than 292 years.
    #[error("it is longer than 292 years")]
    TooLong,
}

/// Reads a duration.
///
/// ```
/// # use std::time::Duration;
/// # use evertide_server::settings::parse_duration;
/// assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
/// assert_eq!(parse_duration("1d12h"), Ok(Duration::from_secs(129_600)));
/// assert!(parse_duration("7 days").is_err());
/// ```
///
/// # Errors
///
/// [`DurationError`] says which part is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if rest.is_empty() {
        return Err(DurationError::NoNumber(shortened(text)));
    }
    let mut nanoseconds = 0_u64;
    while !rest.is_empty() {
        let (part, after) = parse_part(rest)?;
        nanoseconds = nanoseconds
            .checked_add(part)
            .ok_or(DurationError::TooLong)?;
        rest = after;
    }
    match nanoseconds {
        1.. if negative => Err(DurationError::Negative),
        0..=LONGEST => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err(DurationError::TooLong),
    }
}

/// One number with its unit, in nanoseconds, and what comes after.
fn parse_part(text: &str) -> Result<(u64, &str), DurationError> {
    let is_digit = |c: char| c.is_ascii_digit();
    let after_whole = text.trim_start_matches(is_digit);
    let whole = before(text, after_whole);
    let after_point = after_whole.strip_prefix('.').unwrap_or(after_whole);
    let has_point = after_point.len() < after_whole.len();
    let after = if has_point {
        after_point.trim_start_matches(is_digit)
    } else {
        after_point
    };
    let fraction = before(after_point, after);
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::NoNumber(shortened(text)));
    }

    let rest = after.trim_start_matches(|c: char| !c.is_ascii_digit() && c != '.');
    let unit = before(after, rest);
    if unit.is_empty() {
        return Err(DurationError::NoUnit(shortened(before(text, after))));
    }
    let known = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, size) = known.ok_or_else(|| DurationError::UnknownUnit(shortened(unit)))?;

    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| DurationError::TooLong)?,
    };
    let nanoseconds = whole.checked_mul(*size).ok_or(DurationError::TooLong)?;
    let part = nanoseconds.checked_add(of_fraction(fraction, *size));
    let part = part
        .filter(|&part| part <= LONGEST)
        .ok_or(DurationError::TooLong)?;
    Ok((part, rest))
}

/// The digits after a point times the unit, in the arithmetic that Go uses, so that `0.3333…h`
/// is the same number of nanoseconds there and here.
fn of_fraction(digits: &str, unit: u64) -> u64 {
    let mut value = 0_u64;
    let mut scale = 1.0_f64;
    for digit in digits.bytes() {
        let next = value
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
        match next {
            Some(next) if next <= LONGEST => value = next,
            _ => break, // too small to matter
        }
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

/// The part of `text` before its end `rest`.
fn before<'t>(text: &'t str, rest: &str) -> &'t str {
    text.get(..text.len() - rest.len()).unwrap_or_default()
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Writes a duration so that [`parse_duration`] reads the same one: `1h30m`, `7d`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    Formatted(duration).to_string()
}

struct Formatted(Duration);

impl fmt::Display for Formatted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        let (seconds, nanoseconds) = (self.0.as_secs(), self.0.subsec_nanos());
        let parts = [
            (seconds / 86_400, "d"),
            (seconds / 3_600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(nanoseconds / 1_000_000), "ms"),
            (u64::from(nanoseconds / 1_000 % 1_000), "us"),
            (u64::from(nanoseconds % 1_000), "ns"),
        ];
        parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;

    fn nanoseconds(text: &str) -> u64 {
        let duration = parse_duration(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        u64::try_from(duration.as_nanos()).unwrap()
    }

    #[test]
    fn durations_mean_what_they_mean_in_go() {
        // The cases of Go's own tests for what is not negative.
        let cases = [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("-0s", 0),
            ("5s", 5 * SECOND),
            ("30s", 30 * SECOND),
            ("1478s", 1_478 * SECOND),
            ("+5s", 5 * SECOND),
            ("5.0s", 5 * SECOND),
            ("5.6s", 5_600_000_000),
            ("5.s", 5 * SECOND),
            (".5s", 500_000_000),
            ("1.0s", SECOND),
            ("1.004s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("13ms", 13_000_000),
            ("15m", 15 * MINUTE),
            ("16h", 16 * HOUR),
            ("3h30m", 3 * HOUR + 30 * MINUTE),
            ("10.5s4m", 4 * MINUTE + 10_500_000_000),
            (
                "1h2m3s4ms5us6ns",
                HOUR + 2 * MINUTE + 3 * SECOND + 4_005_006,
            ),
            ("39h9m14.425s", 39 * HOUR + 9 * MINUTE + 14_425_000_000),
            ("52763797000ns", 52_763_797_000),
            ("0.3333333333333333333h", 20 * MINUTE),
            ("0.18446744073709551616h", 11 * MINUTE + 4_082_786_653),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("9223372036854775807ns", LONGEST),
            ("9223372036854775.807us", LONGEST),
            ("9223372036s854ms775us807ns", LONGEST),
            ("0.100000000000000000000h", 6 * MINUTE),
            ("0.830103483285477580700h", 49 * MINUTE + 48_372_539_827),
        ];
        for (text, expected) in cases {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn days_and_weeks_are_known_beyond_go() {
        assert_eq!(nanoseconds("7d"), 7 * DAY);
        assert_eq!(nanoseconds("2w"), 14 * DAY);
        assert_eq!(nanoseconds("1d12h"), 36 * HOUR);
        assert_eq!(nanoseconds("1.5d"), 36 * HOUR);
        assert_eq!(nanoseconds("1w1d1h"), 8 * DAY + HOUR);
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_part_that_is_wrong() {
        use DurationError::*;
        let cases = [
            ("", Empty),
            ("3", NoUnit("3".into())),
            ("1h3", NoUnit("3".into())),
            ("-", NoNumber("-".into())),
            ("+", NoNumber("+".into())),
            ("s", NoNumber("s".into())),
            (".", NoNumber(".".into())),
            ("-.", NoNumber(".".into())),
            (".s", NoNumber(".s".into())),
            ("+.s", NoNumber(".s".into())),
            ("1..5s", NoUnit("1.".into())),
            ("7 days", UnknownUnit(" days".into())),
            ("7D", UnknownUnit("D".into())),
            ("1y", UnknownUnit("y".into())),
            (" 1s", NoNumber(" 1s".into())),
            ("1s ", UnknownUnit("s ".into())),
            ("--1s", NoNumber("-1s".into())),
            ("-1s", Negative),
            ("-1m-30s", UnknownUnit("m-".into())),
            ("9223372036854775808ns", TooLong),
            ("9223372036854775.808us", TooLong),
            ("9223372036854ms775us808ns", TooLong),
            ("18446744073709551616s", TooLong),
            ("3000000h", TooLong),
            ("\u{ff11}s", NoNumber("\u{ff11}s".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn printed_durations_are_short() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500_000, "1ms500us"),
            (SECOND, "1s"),
            (90 * MINUTE, "1h30m"),
            (DAY, "1d"),
            (7 * DAY, "7d"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(format_duration(Duration::from_nanos(nanoseconds)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanoseconds in 0..=LONGEST) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn nearly_a_duration_never_panics(
            text in "[-+]?([0-9]{0,22}[.]?[0-9]{0,25}(ns|us|µs|ms|s|m|h|d|w|x)?){0,4}"
        ) {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            }
        }
    }
}
