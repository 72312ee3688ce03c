//! Durations as Go reads and writes them (`10s`, `24h0m0s`, `516ms`): what the
//! autopilot configuration holds.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A signed span of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    /// The span.
    pub nanoseconds: i64,
}

/// Text Go's `time.ParseDuration` refuses, in its words: clients print them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a sequence of numbers with units, or out of range.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit Go does not know.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

impl GoDuration {
    /// A whole number of seconds.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self {
            nanoseconds: seconds.saturating_mul(SECOND as i64),
        }
    }

    /// A whole number of milliseconds.
    #[must_use]
    pub const fn from_milliseconds(milliseconds: i64) -> Self {
        Self {
            nanoseconds: milliseconds.saturating_mul(MILLISECOND as i64),
        }
    }

    /// Whole milliseconds, rounded down; a negative span is 0.
    #[must_use]
    pub fn as_milliseconds(self) -> u64 {
        u64::try_from(self.nanoseconds).unwrap_or(0) / MILLISECOND
    }

    /// Parses as Go does: an optional sign, then numbers (with fractions) each
    /// followed by a unit of `ns us µs ms s m h`; a bare `0` is allowed.
    ///
    /// # Errors
    /// Anything else, or more than about 292 years.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (span, after) = leading_span(rest, text)?;
            total = total.checked_add(span).ok_or_else(invalid)?;
            rest = after;
        }
        let signed = if negative {
            0_i64.checked_sub_unsigned(total)
        } else {
            i64::try_from(total).ok()
        };
        signed
            .map(|nanoseconds| Self { nanoseconds })
            .ok_or_else(invalid)
    }
}

/// One number and its unit off the front of `rest`: nanoseconds, what follows.
fn leading_span<'a>(rest: &'a str, text: &str) -> Result<(u64, &'a str), DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (whole, after_whole) = split_digits(rest);
    let (fraction, after_number) = match after_whole.strip_prefix('.') {
        Some(tail) => split_digits(tail),
        None => ("", after_whole),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| invalid())?
    };
    let unit_end = after_number
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(after_number.len());
    let (unit_name, after) = after_number.split_at(unit_end);
    let unit = match unit_name {
        "" => return Err(DurationError::MissingUnit(text.to_owned())),
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        unknown => {
            return Err(DurationError::UnknownUnit {
                unit: unknown.to_owned(),
                text: text.to_owned(),
            });
        }
    };
    whole
        .checked_mul(unit)
        .and_then(|span| span.checked_add(fraction_of(fraction, unit)))
        .map(|span| (span, after))
        .ok_or_else(invalid)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// `0.digits` of `unit`; digits beyond the twelfth are below a nanosecond of
/// any unit but cannot overflow.
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let mut scale: u128 = 1;
    let mut value: u128 = 0;
    for digit in digits.bytes().take(15) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    u64::try_from(value * u128::from(unit) / scale).unwrap_or(0)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.nanoseconds.unsigned_abs();
        if total == 0 {
            return f.write_str("0s");
        }
        if self.nanoseconds < 0 {
            f.write_str("-")?;
        }
        match total {
            1..MICROSECOND => write!(f, "{total}ns"),
            MICROSECOND..MILLISECOND => write_fraction(f, total, MICROSECOND, "µs"),
            MILLISECOND..SECOND => write_fraction(f, total, MILLISECOND, "ms"),
            _ => {
                let (hours, minutes) = (total / HOUR, total / MINUTE % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                write_fraction(f, total % MINUTE, SECOND, "s")
            }
        }
    }
}

fn write_fraction(f: &mut fmt::Formatter<'_>, span: u64, unit: u64, name: &str) -> fmt::Result {
    write!(f, "{}", span / unit)?;
    let fraction = span % unit;
    if fraction != 0 {
        let width = unit.ilog10() as usize;
        let digits = format!("{fraction:0width$}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    f.write_str(name)
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, nanoseconds: i64, printed: &str) {
        let duration = GoDuration::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(duration.nanoseconds, nanoseconds, "{text}");
        assert_eq!(duration.to_string(), printed, "{text}");
    }

    #[test]
    fn known_durations_parse_and_print_as_in_go() {
        check("10s", 10_000_000_000, "10s");
        check("24h", 86_400_000_000_000, "24h0m0s");
        check("60s", 60_000_000_000, "1m0s");
        check("1h30m", 5_400_000_000_000, "1h30m0s");
        check("1.5s", 1_500_000_000, "1.5s");
        check(".5s", 500_000_000, "500ms");
        check("516ms", 516_000_000, "516ms");
        check("4.706773923s", 4_706_773_923, "4.706773923s");
        check("1us", 1_000, "1µs");
        check("1.5µs", 1_500, "1.5µs");
        check("7ns", 7, "7ns");
        check("-1m1s", -61_000_000_000, "-1m1s");
        check("+5s", 5_000_000_000, "5s");
        check("0", 0, "0s");
        check(
            "-9223372036854775808ns",
            i64::MIN,
            "-2562047h47m16.854775808s",
        );
    }

    #[test]
    fn malformed_durations_are_refused_in_gos_words() {
        for (text, message) in [
            ("bogus", "time: invalid duration \"bogus\""),
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("10", "time: missing unit in duration \"10\""),
            (
                "99999999999999999999",
                "time: invalid duration \"99999999999999999999\"",
            ),
            ("10x", "time: unknown unit \"x\" in duration \"10x\""),
            ("1s 2s", "time: unknown unit \"s \" in duration \"1s 2s\""),
            (
                "9223372036854775808ns",
                "time: invalid duration \"9223372036854775808ns\"",
            ),
            (
                "99999999999999999999h",
                "time: invalid duration \"99999999999999999999h\"",
            ),
        ] {
            let error = GoDuration::parse(text).expect_err(text);
            assert_eq!(error.to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn every_duration_survives_the_round_trip(nanoseconds in any::<i64>()) {
            let duration = GoDuration { nanoseconds };
            prop_assert_eq!(GoDuration::parse(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,20}") {
            let _ = GoDuration::parse(&text);
        }
    }
}
