//! Fields of a logical request, converted as leniently as real servers do:
//! numbers may come as text, text as numbers, durations as seconds or as Go
//! writes them. Errors are in their words.

use serde_json::{Map, Value};

use super::VaultError;
use crate::membership::GoDuration;

/// The fields of one request.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    body: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// Of a body; without one every field is absent.
    pub(super) fn of(body: Option<&'a Map<String, Value>>) -> Self {
        Self { body }
    }

    fn raw(self, name: &str) -> Option<&'a Value> {
        self.body?.get(name)
    }

    /// Text; empty when absent.
    ///
    /// # Errors
    /// `BadRequest`, as of all below.
    pub(super) fn text(self, name: &str) -> Result<String, VaultError> {
        match self.raw(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(Value::Bool(value)) => Ok(u8::from(*value).to_string()),
            Some(other) => Err(unconvertible(name, "string", other)),
        }
    }

    /// A boolean; `None` when absent.
    pub(super) fn boolean(self, name: &str) -> Result<Option<bool>, VaultError> {
        let text = match self.raw(name) {
            None => return Ok(None),
            Some(Value::Null) => return Ok(Some(false)),
            Some(Value::Bool(value)) => return Ok(Some(*value)),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => return Err(unconvertible(name, "bool", other)),
        };
        match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(invalid(
                name,
                "'' cannot parse value as 'bool': strconv.ParseBool: invalid syntax",
            )),
        }
    }

    /// A count; 0 when absent.
    pub(super) fn count(self, name: &str) -> Result<u64, VaultError> {
        let text = match self.raw(name) {
            None | Some(Value::Null) => return Ok(0),
            Some(Value::Bool(value)) => return Ok(u64::from(*value)),
            Some(Value::String(text)) if text.is_empty() => return Ok(0),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => return Err(unconvertible(name, "int", other)),
        };
        let parsed = integer(&text).map_err(|reason| {
            let text = format!("'' cannot parse value as 'int': strconv.ParseInt: {reason}");
            invalid(name, &text)
        })?;
        u64::try_from(parsed).map_err(|_| negative(name, parsed))
    }

    /// Whole seconds; 0 when absent.
    pub(super) fn seconds(self, name: &str) -> Result<u64, VaultError> {
        let text = match self.raw(name) {
            None | Some(Value::Null) => return Ok(0),
            Some(Value::String(text)) if text.is_empty() => return Ok(0),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return Err(invalid(name, "could not parse duration from input")),
        };
        let seconds = seconds(&text).map_err(|reason| invalid(name, &reason))?;
        u64::try_from(seconds).map_err(|_| negative(name, seconds))
    }
}

/// As Go's `ParseInt` with base 0.
fn integer(text: &str) -> Result<i64, &'static str> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err("invalid syntax");
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| "value out of range")
}

/// Seconds, days (`1d`), or a duration as Go writes it, cut to whole seconds.
fn seconds(text: &str) -> Result<i64, String> {
    const OVERFLOW: &str =
        "multiplication of durations resulted in overflow, one operand may be too large";
    const SECONDS_MAX: u64 = i64::MAX as u64 / 1_000_000_000;
    let bounded = |seconds: i64| {
        if SECONDS_MAX < seconds.unsigned_abs() {
            return Err(OVERFLOW.to_owned());
        }
        Ok(seconds)
    };
    if let Ok(seconds) = text.parse::<i64>() {
        return bounded(seconds);
    }
    if let Some(days) = text
        .strip_suffix('d')
        .and_then(|days| days.parse::<i64>().ok())
    {
        return bounded(days.saturating_mul(86_400));
    }
    let duration = GoDuration::parse(text).map_err(|error| error.to_string())?;
    Ok(duration.nanoseconds / 1_000_000_000)
}

fn negative(name: &str, value: i64) -> VaultError {
    invalid(name, &format!("cannot provide negative value '{value}'"))
}

fn unconvertible(name: &str, wanted: &str, given: &Value) -> VaultError {
    let kind = match given {
        Value::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    };
    let text = format!("'' expected type '{wanted}', got unconvertible type '{kind}'");
    invalid(name, &text)
}

fn invalid(name: &str, reason: &str) -> VaultError {
    VaultError::BadRequest(format!(
        "Field validation failed: error converting input for field \"{name}\": {reason}"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: &Value) -> Fields<'_> {
        Fields::of(value.as_object())
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, VaultError>) -> String {
        let text = result.expect_err("must be refused").to_string();
        let prefix = "Field validation failed: error converting input for field \"x\": ";
        text.strip_prefix(prefix).expect(&text).to_owned()
    }

    // As a real OpenBao 2.7.2 was seen to take them.
    #[test]
    fn booleans() {
        for (given, expected) in [
            (json!({}), None),
            (json!({"x": null}), Some(false)),
            (json!({"x": true}), Some(true)),
            (json!({"x": "true"}), Some(true)),
            (json!({"x": 1}), Some(true)),
            (json!({"x": "1"}), Some(true)),
            (json!({"x": 0}), Some(false)),
            (json!({"x": ""}), Some(false)),
        ] {
            assert_eq!(fields(&given).boolean("x").unwrap(), expected, "{given}");
        }
        for (given, reason) in [
            (
                json!({"x": "maybe"}),
                "'' cannot parse value as 'bool': strconv.ParseBool: invalid syntax",
            ),
            (
                json!({"x": [1]}),
                "'' expected type 'bool', got unconvertible type '[]interface {}'",
            ),
            (
                json!({"x": {}}),
                "'' expected type 'bool', got unconvertible type 'map[string]interface {}'",
            ),
        ] {
            assert_eq!(refusal(fields(&given).boolean("x")), reason);
        }
    }

    #[test]
    fn counts() {
        for (given, expected) in [
            (json!({}), 0),
            (json!({"x": null}), 0),
            (json!({"x": ""}), 0),
            (json!({"x": 12}), 12),
            (json!({"x": "12"}), 12),
            (json!({"x": "0x10"}), 16),
            (json!({"x": true}), 1),
        ] {
            assert_eq!(fields(&given).count("x").unwrap(), expected, "{given}");
        }
        for (given, reason) in [
            (
                json!({"x": "abc"}),
                "'' cannot parse value as 'int': strconv.ParseInt: invalid syntax",
            ),
            (
                json!({"x": " 7"}),
                "'' cannot parse value as 'int': strconv.ParseInt: invalid syntax",
            ),
            (
                json!({"x": 1.5}),
                "'' cannot parse value as 'int': strconv.ParseInt: invalid syntax",
            ),
            (
                json!({"x": "99999999999999999999"}),
                "'' cannot parse value as 'int': strconv.ParseInt: value out of range",
            ),
            (
                json!({"x": []}),
                "'' expected type 'int', got unconvertible type '[]interface {}'",
            ),
            // A real server takes it for 2^64 - 5.
            (json!({"x": -5}), "cannot provide negative value '-5'"),
        ] {
            assert_eq!(refusal(fields(&given).count("x")), reason);
        }
    }

    #[test]
    fn durations_in_seconds() {
        for (given, expected) in [
            (json!({}), 0),
            (json!({"x": ""}), 0),
            (json!({"x": 5}), 5),
            (json!({"x": "5"}), 5),
            (json!({"x": "2m3s"}), 123),
            (json!({"x": "1d"}), 86_400),
            (json!({"x": "500ms"}), 0),
            (json!({"x": "1500ms"}), 1),
        ] {
            assert_eq!(fields(&given).seconds("x").unwrap(), expected, "{given}");
        }
        for (given, reason) in [
            (json!({"x": "bogus"}), "time: invalid duration \"bogus\""),
            (
                json!({"x": "1w"}),
                "time: unknown unit \"w\" in duration \"1w\"",
            ),
            (json!({"x": 1.5}), "time: missing unit in duration \"1.5\""),
            (json!({"x": -5}), "cannot provide negative value '-5'"),
            (json!({"x": "-5s"}), "cannot provide negative value '-5'"),
            (json!({"x": true}), "could not parse duration from input"),
            (json!({"x": {}}), "could not parse duration from input"),
            (
                json!({"x": "99999999999999999999"}),
                "time: invalid duration \"99999999999999999999\"",
            ),
            (
                json!({"x": 99_999_999_999_u64}),
                "multiplication of durations resulted in overflow, one operand may be too large",
            ),
        ] {
            assert_eq!(refusal(fields(&given).seconds("x")), reason);
        }
    }

    #[test]
    fn texts() {
        for (given, expected) in [
            (json!({}), ""),
            (json!({"x": null}), ""),
            (json!({"x": "a"}), "a"),
            (json!({"x": 5}), "5"),
            (json!({"x": 1.5}), "1.5"),
            (json!({"x": true}), "1"),
        ] {
            assert_eq!(fields(&given).text("x").unwrap(), expected, "{given}");
        }
        assert_eq!(
            refusal(fields(&json!({"x": ["a"]})).text("x")),
            "'' expected type 'string', got unconvertible type '[]interface {}'"
        );
    }
}
