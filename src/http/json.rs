//! Request bodies as JSON, judged as a Go server judges them: the same inputs
//! are accepted and the refusals carry the same texts, because scripts match
//! them. What differs on purpose: nesting deeper than [`DEPTH_MAX`] is
//! refused, since everything downstream walks values recursively.
//!
//! Of several values the first wins and only the next token is looked at; of
//! equal keys the last wins; ill-formed UTF-8 becomes U+FFFD.

use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::{Map, Number, Value};

/// The deepest nesting accepted. Stored values are read back with a limit of
/// 128 levels and engines add a few of their own.
pub const DEPTH_MAX: usize = 100;

/// A body that is not the JSON object asked for; the text names the offending
/// character, never more of the body than that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to decode JSON input: {0}")]
pub struct JsonError(pub String);

/// Decodes a body that must be an object. Nothing, white space or `null` is
/// `None`.
///
/// # Errors
/// Malformed JSON before the end of the first value or in the token after it;
/// another kind of value; nesting too deep.
pub fn decode_object(bytes: &[u8]) -> Result<Option<Map<String, Value>>, JsonError> {
    let mut parser = Parser { bytes, offset: 0 };
    let Some(first) = parser.skip_space() else {
        return Ok(None);
    };
    let value = parser.value(first, 0)?;
    parser.check_next_token()?;
    match value {
        Value::Object(map) => Ok(Some(map)),
        Value::Null => Ok(None),
        other => Err(JsonError(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            kind(&other)
        ))),
    }
}

/// What Go calls this kind of value.
#[must_use]
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

struct Parser<'a> {
    bytes: &'a [u8],
    offset: usize,
}

const VALUE: &str = "looking for beginning of value";
const AFTER_KEY: &str = "after object key";
const AFTER_PAIR: &str = "after object key:value pair";
const AFTER_ELEMENT: &str = "after array element";
const IN_NUMBER: &str = "in numeric literal";

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.offset).copied()
    }

    /// The next byte that is not white space, not consumed.
    fn skip_space(&mut self) -> Option<u8> {
        while let Some(byte) = self.peek() {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(byte);
            }
            self.offset += 1;
        }
        None
    }

    fn expect_token(&mut self) -> Result<u8, JsonError> {
        self.skip_space().ok_or_else(unexpected_end)
    }

    fn value(&mut self, first: u8, depth: usize) -> Result<Value, JsonError> {
        match first {
            b'{' | b'[' if depth >= DEPTH_MAX => Err(JsonError("exceeded max depth".into())),
            b'{' => self.object(depth + 1).map(Value::Object),
            b'[' => self.array(depth + 1).map(Value::Array),
            b'"' => self.string().map(Value::String),
            b't' => self.literal("true").map(|()| Value::Bool(true)),
            b'f' => self.literal("false").map(|()| Value::Bool(false)),
            b'n' => self.literal("null").map(|()| Value::Null),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(self.invalid(self.offset, VALUE)),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Map<String, Value>, JsonError> {
        self.offset += 1;
        let mut map = Map::new();
        let mut comma = None;
        loop {
            let byte = self.expect_token()?;
            if byte == b'}' {
                // A comma before the end is blamed, not the bracket.
                return match comma {
                    Some(at) => Err(self.invalid(at, VALUE)),
                    None => {
                        self.offset += 1;
                        Ok(map)
                    }
                };
            }
            if byte != b'"' {
                self.value(byte, depth)?;
                return Err(JsonError("object member name must be a string".into()));
            }
            let key = self.string()?;
            if self.expect_token()? != b':' {
                return Err(self.invalid(self.offset, AFTER_KEY));
            }
            self.offset += 1;
            let byte = self.expect_token()?;
            if matches!(byte, b'}' | b']') {
                return Err(JsonError("missing value after object key".into()));
            }
            let value = self.value(byte, depth)?;
            map.insert(key, value);
            match self.expect_token()? {
                b'}' => {
                    self.offset += 1;
                    return Ok(map);
                }
                b',' => {
                    comma = Some(self.offset);
                    self.offset += 1;
                }
                _ => return Err(self.invalid(self.offset, AFTER_PAIR)),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, JsonError> {
        self.offset += 1;
        let mut elements = Vec::new();
        if self.expect_token()? == b']' {
            self.offset += 1;
            return Ok(elements);
        }
        loop {
            let byte = self.expect_token()?;
            elements.push(self.value(byte, depth)?);
            match self.expect_token()? {
                b']' => {
                    self.offset += 1;
                    return Ok(elements);
                }
                b',' => {
                    let comma = self.offset;
                    self.offset += 1;
                    if matches!(self.expect_token()?, b']' | b'}') {
                        return Err(self.invalid(comma, VALUE));
                    }
                }
                _ => return Err(self.invalid(self.offset, AFTER_ELEMENT)),
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), JsonError> {
        for expected in word.bytes() {
            match self.peek() {
                None => return Err(unexpected_end()),
                Some(byte) if byte == expected => self.offset += 1,
                Some(_) => {
                    let place = format!("in literal {word} (expecting {})", quote(expected.into()));
                    return Err(self.invalid(self.offset, &place));
                }
            }
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.offset;
        if self.peek() == Some(b'-') {
            self.offset += 1;
        }
        if self.peek() == Some(b'0') {
            self.offset += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.offset += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.offset += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.offset += 1;
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.offset])
            .expect("a number is made of ASCII characters");
        if !text.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(JsonError(format!(
                "json: cannot unmarshal number {text} into Go value of type float64"
            )));
        }
        Number::from_str(text)
            .map(Value::Number)
            .map_err(|error| JsonError(error.to_string()))
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.offset;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.offset += 1;
        }
        if self.offset > start {
            return Ok(());
        }
        match self.peek() {
            None => Err(unexpected_end()),
            Some(_) => Err(self.invalid(self.offset, IN_NUMBER)),
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.offset += 1;
        let mut text = String::new();
        loop {
            let start = self.offset;
            while self.peek().is_some_and(is_plain) {
                self.offset += 1;
            }
            text.push_str(&String::from_utf8_lossy(&self.bytes[start..self.offset]));
            match self.peek() {
                None => return Err(unexpected_end()),
                Some(b'"') => {
                    self.offset += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return Err(self.invalid(self.offset, "in string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.offset;
        let byte = *self.bytes.get(start + 1).ok_or_else(unexpected_end)?;
        let plain = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return Err(self.bad_escape(start, 2)),
        };
        self.offset += 2;
        Ok(plain)
    }

    /// `\uXXXX`, or two of them that form one character; half of a pair is
    /// U+FFFD.
    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let high = self.hex_unit(self.offset)?;
        self.offset += 6;
        if let Some(character) = char::from_u32(high) {
            return Ok(character);
        }
        if high < 0xDC00 && self.bytes[self.offset..].starts_with(b"\\u") {
            let low = self.hex_unit(self.offset)?;
            if (0xDC00..0xE000).contains(&low) {
                self.offset += 6;
                let joined = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex_unit(&self, start: usize) -> Result<u32, JsonError> {
        let digits = self
            .bytes
            .get(start + 2..start + 6)
            .ok_or_else(unexpected_end)?;
        digits.iter().try_fold(0, |unit, &digit| {
            let value = char::from(digit).to_digit(16);
            let value = value.ok_or_else(|| self.bad_escape(start, 6))?;
            Ok(unit * 16 + value)
        })
    }

    /// After the first value a real server's scanner has read one token more.
    fn check_next_token(&mut self) -> Result<(), JsonError> {
        match self.skip_space() {
            None | Some(b'{' | b'[') => Ok(()),
            Some(byte) => self.value(byte, 0).map(drop),
        }
    }

    fn invalid(&self, at: usize, place: &str) -> JsonError {
        let rest = &self.bytes[at..self.bytes.len().min(at + 4)];
        let character = match rest.utf8_chunks().next() {
            Some(chunk) if !chunk.valid().is_empty() => chunk.valid().chars().next(),
            _ => None,
        };
        let quoted = match character {
            Some(character) => quote(character),
            None => format!("'\\x{:02x}'", rest.first().copied().unwrap_or_default()),
        };
        JsonError(format!("invalid character {quoted} {place}"))
    }

    fn bad_escape(&self, start: usize, length: usize) -> JsonError {
        let end = self.bytes.len().min(start + length);
        let text = String::from_utf8_lossy(&self.bytes[start..end]);
        JsonError(format!("invalid escape sequence `{text}` in string"))
    }
}

fn is_plain(byte: u8) -> bool {
    byte >= b' ' && byte != b'"' && byte != b'\\'
}

fn unexpected_end() -> JsonError {
    JsonError("unexpected EOF".into())
}

/// A character in single quotes as Go's `%q` writes it.
fn quote(character: char) -> String {
    let mut quoted = String::from("'");
    match character {
        '\'' => quoted.push_str("\\'"),
        '\\' => quoted.push_str("\\\\"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\u{7}' => quoted.push_str("\\a"),
        '\u{8}' => quoted.push_str("\\b"),
        '\u{b}' => quoted.push_str("\\v"),
        '\u{c}' => quoted.push_str("\\f"),
        '\u{0}'..='\u{1f}' | '\u{7f}' => {
            let _ = write!(quoted, "\\x{:02x}", u32::from(character));
        }
        '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{feff}' => {
            let _ = write!(quoted, "\\u{:04x}", u32::from(character));
        }
        _ => quoted.push(character),
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
