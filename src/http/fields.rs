//! Bodies of the few endpoints that a real server decodes into structs: names
//! match whatever their case, and a value of another kind is refused with Go's
//! words.

use serde_json::{Map, Value};

use super::json::{JsonError, kind};

/// The fields of one body.
pub struct Fields {
    structure: &'static str,
    map: Map<String, Value>,
}

impl Fields {
    /// Fields of `structure`, named as in Go's error texts.
    #[must_use]
    pub fn new(structure: &'static str, map: Option<Map<String, Value>>) -> Self {
        Self {
            structure,
            map: map.unwrap_or_default(),
        }
    }

    /// A string; absent and `null` are empty.
    ///
    /// # Errors
    /// Another kind of value.
    pub fn string(&self, name: &str) -> Result<String, JsonError> {
        match self.find(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.mismatch(name, kind(other), "string")),
        }
    }

    /// A boolean; absent and `null` are false.
    ///
    /// # Errors
    /// Another kind of value.
    pub fn boolean(&self, name: &str) -> Result<bool, JsonError> {
        match self.find(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.mismatch(name, kind(other), "bool")),
        }
    }

    /// An integer; absent and `null` are 0.
    ///
    /// # Errors
    /// Another kind of value, a fraction, or out of range.
    pub fn integer(&self, name: &str) -> Result<i64, JsonError> {
        match self.find(name) {
            None => Ok(0),
            Some(Value::Number(number)) => number
                .as_i64()
                .ok_or_else(|| self.mismatch(name, &format!("number {number}"), "int")),
            Some(other) => Err(self.mismatch(name, kind(other), "int")),
        }
    }

    /// A whole number that is not negative; absent is 0.
    ///
    /// # Errors
    /// Another kind of value.
    pub fn unsigned(&self, name: &str) -> Result<u64, JsonError> {
        match self.find(name) {
            None => Ok(0),
            Some(Value::Number(number)) => number
                .as_u64()
                .ok_or_else(|| self.mismatch(name, &format!("number {number}"), "uint")),
            Some(other) => Err(self.mismatch(name, kind(other), "uint")),
        }
    }

    /// A list of strings; absent and `null` are empty.
    ///
    /// # Errors
    /// Another kind of value, or an element that is no string.
    pub fn strings(&self, name: &str) -> Result<Vec<String>, JsonError> {
        let elements = match self.find(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(elements)) => elements,
            Some(other) => return Err(self.mismatch(name, kind(other), "[]string")),
        };
        let texts = elements.iter().enumerate().map(|(position, element)| {
            element.as_str().map(str::to_owned).ok_or_else(|| {
                JsonError(format!(
                    "json: cannot unmarshal {} into {}.{name}.{position} of type string",
                    kind(element),
                    self.structure
                ))
            })
        });
        texts.collect()
    }

    fn find(&self, name: &str) -> Option<&Value> {
        let value = self.map.get(name).or_else(|| {
            let same = |(key, _): &(&String, &Value)| key.eq_ignore_ascii_case(name);
            self.map.iter().find(same).map(|(_, value)| value)
        });
        value.filter(|value| !value.is_null())
    }

    fn mismatch(&self, name: &str, found: &str, expected: &str) -> JsonError {
        JsonError(format!(
            "json: cannot unmarshal {found} into Go struct field {}.{name} of type {expected}",
            self.structure
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::decode_object;

    fn fields(body: &str) -> Fields {
        Fields::new("S", decode_object(body.as_bytes()).expect("valid"))
    }

    #[test]
    fn fields_absent_are_zero_and_names_ignore_case() {
        let empty = fields("");
        assert_eq!(empty.string("a").unwrap(), "");
        assert!(!empty.boolean("a").unwrap());
        assert_eq!(empty.integer("a").unwrap(), 0);
        assert!(empty.strings("a").unwrap().is_empty());
        assert_eq!(fields(r#"{"KEY":"x"}"#).string("key").unwrap(), "x");
        assert_eq!(fields(r#"{"key":null}"#).string("key").unwrap(), "");
        assert_eq!(fields(r#"{"n":-1}"#).integer("n").unwrap(), -1);
    }

    #[test]
    fn fields_of_another_kind_have_the_real_texts() {
        let check = |error: JsonError, text: &str| {
            assert_eq!(error.0, format!("json: cannot unmarshal {text}"));
        };
        check(
            fields(r#"{"key":5}"#).string("key").unwrap_err(),
            "number into Go struct field S.key of type string",
        );
        check(
            fields(r#"{"reset":"x"}"#).boolean("reset").unwrap_err(),
            "string into Go struct field S.reset of type bool",
        );
        check(
            fields(r#"{"n":5.5}"#).integer("n").unwrap_err(),
            "number 5.5 into Go struct field S.n of type int",
        );
        check(
            fields(r#"{"n":99999999999999999999}"#)
                .integer("n")
                .unwrap_err(),
            "number 99999999999999999999 into Go struct field S.n of type int",
        );
        check(
            fields(r#"{"p":"x"}"#).strings("p").unwrap_err(),
            "string into Go struct field S.p of type []string",
        );
        check(
            fields(r#"{"p":[1]}"#).strings("p").unwrap_err(),
            "number into S.p.0 of type string",
        );
    }
}
