//! Query strings and form bodies.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::path::{Plus, percent_decode};

/// Query parameters; a repeated one is joined with commas, as list fields
/// expect. Pairs that do not decode are dropped, as real servers drop them.
#[must_use]
pub fn query(text: &str) -> BTreeMap<String, String> {
    let mut parameters: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in pairs(text).flatten() {
        parameters
            .entry(name)
            .and_modify(|values| {
                values.push(',');
                values.push_str(&value);
            })
            .or_insert(value);
    }
    parameters
}

/// A form body as the JSON object it stands for: all values are strings.
///
/// # Errors
/// A pair that does not decode.
pub fn form(body: &[u8]) -> Result<Map<String, Value>, &'static str> {
    const MALFORMED: &str = "error parsing form data";
    let text = std::str::from_utf8(body).map_err(|_| MALFORMED)?;
    let mut fields = Map::new();
    for pair in pairs(text) {
        let (name, value) = pair.map_err(|_| MALFORMED)?;
        match fields.get_mut(&name) {
            Some(Value::String(values)) => {
                values.push(',');
                values.push_str(&value);
            }
            _ => {
                fields.insert(name, Value::String(value));
            }
        }
    }
    Ok(fields)
}

/// Go's boolean words, in queries.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn pairs(text: &str) -> impl Iterator<Item = Result<(String, String), &'static str>> + '_ {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((
            percent_decode(name, Plus::IsSpace)?,
            percent_decode(value, Plus::IsSpace)?,
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn form_as_a_real_server_reads_it() {
        let fields = form(b"a=b&c=d&c=e&f=%20x+y&g").expect("well formed");
        assert_eq!(
            Value::Object(fields),
            json!({"a": "b", "c": "d,e", "f": " x y", "g": ""})
        );
        assert_eq!(form(b"%zz=1"), Err("error parsing form data"));
        assert_eq!(form(b"a=%ff"), Err("error parsing form data"));
    }

    #[test]
    fn query_drops_what_does_not_decode() {
        let parameters = query("list=true&x=1&x=2&%zz=3&empty");
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(parameters, [("empty", ""), ("list", "true"), ("x", "1,2")]);
    }
}
