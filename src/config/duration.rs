//! Durations as Go writes them.

use std::time::Duration;

/// `1h30m`, `500ms`, `2d`; a bare number is seconds. `None` for anything else,
/// negative ones and those beyond a hundred years.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    const MAX: f64 = 100.0 * 366.0 * 86_400.0;
    let text = text.trim();
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.');
        let (number, tail) = rest.split_at(digits.unwrap_or(rest.len()));
        let unit_end = tail.find(|character: char| character.is_ascii_digit() || character == '.');
        let (unit, tail) = tail.split_at(unit_end.unwrap_or(tail.len()));
        let scale = match unit {
            "" if number.len() == text.len() => 1.0,
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    (!text.is_empty() && seconds <= MAX).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_as_go_does() {
        for (text, milliseconds) in [
            ("10s", Some(10_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1500)),
            ("500ms", Some(500)),
            ("2d", Some(172_800_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("90", Some(90_000)),
            ("", None),
            ("s", None),
            ("10x", None),
            ("1h30", None),
            ("-5s", None),
            ("1e9h", None),
            ("99999999999h", None),
        ] {
            assert_eq!(
                parse(text).map(|value| value.as_millis()),
                milliseconds,
                "{text}"
            );
        }
    }
}
