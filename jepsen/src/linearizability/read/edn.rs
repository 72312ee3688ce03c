//! As much of EDN as recorded histories use: maps, vectors, lists, keywords,
//! symbols, strings, integers, `nil`, booleans, comments. Read into JSON
//! values; keywords lose their colon.

use anyhow::{Context, bail};
use serde_json::{Map, Value as Json};

use super::events::Event;

/// Nesting beyond this is no history.
const DEPTH_MAX: usize = 32;

/// One vector or list of event maps.
pub(super) fn document(text: &str) -> anyhow::Result<Vec<Event>> {
    let value = value(text)?;
    let events = value
        .as_array()
        .context("expected a vector or list of maps")?;
    events.iter().filter_map(event).collect()
}

/// One event map a line.
pub(super) fn lines(text: &str) -> anyhow::Result<Vec<Event>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .filter_map(|(number, line)| match value(line) {
            Ok(value) => event(&value),
            Err(error) => Some(Err(error.context(format!("line {}", number + 1)))),
        })
        .collect()
}

/// A client's event; those of a nemesis have no numeric process.
fn event(value: &Json) -> Option<anyhow::Result<Event>> {
    let is_client = value.get("process").is_some_and(Json::is_u64);
    is_client.then(|| Event::from_object(value))
}

/// One value; what follows it is ignored.
pub(super) fn value(text: &str) -> anyhow::Result<Json> {
    let mut reader = Reader { text, at: 0 };
    reader
        .value(0)
        .with_context(|| format!("EDN at byte {}", reader.at))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = &self.text[self.at..];
            let next = rest.chars().next()?;
            if next == ';' {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if next.is_whitespace() || next == ',' {
                self.at += next.len_utf8();
            } else {
                return Some(next);
            }
        }
    }

    fn value(&mut self, depth: usize) -> anyhow::Result<Json> {
        if DEPTH_MAX < depth {
            bail!("nested deeper than {DEPTH_MAX}");
        }
        match self.peek().context("unexpected end")? {
            '[' => self.sequence(']', depth),
            '(' => self.sequence(')', depth),
            '{' => self.map(depth),
            '"' => self.string(),
            '#' => {
                // A tagged value or a set: the tag says nothing to us.
                self.at += 1;
                if self.peek() == Some('{') {
                    return self.sequence('}', depth);
                }
                self.atom();
                self.value(depth + 1)
            }
            _ => Ok(self.atom()),
        }
    }

    fn sequence(&mut self, close: char, depth: usize) -> anyhow::Result<Json> {
        self.at += 1;
        let mut items = Vec::new();
        while self.peek().with_context(|| format!("no {close:?}"))? != close {
            items.push(self.value(depth + 1)?);
        }
        self.at += 1;
        Ok(Json::Array(items))
    }

    fn map(&mut self, depth: usize) -> anyhow::Result<Json> {
        self.at += 1;
        let mut map = Map::new();
        while self.peek().context("no '}'")? != '}' {
            let key = match self.value(depth + 1)? {
                Json::String(key) => key,
                other => other.to_string(),
            };
            let value = self.value(depth + 1)?;
            map.insert(key, value);
        }
        self.at += 1;
        Ok(Json::Object(map))
    }

    fn string(&mut self) -> anyhow::Result<Json> {
        let rest = &self.text[self.at + 1..];
        let mut text = String::new();
        let mut characters = rest.char_indices();
        while let Some((offset, character)) = characters.next() {
            match character {
                '"' => {
                    self.at += 1 + offset + 1;
                    return Ok(Json::String(text));
                }
                '\\' => match characters.next().context("string ends in a backslash")?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    other => text.push(other),
                },
                other => text.push(other),
            }
        }
        bail!("string without an end")
    }

    fn atom(&mut self) -> Json {
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| c.is_whitespace() || ",;()[]{}\"".contains(c))
            .unwrap_or(rest.len())
            // A stray closing bracket is consumed, so that reading moves on.
            .max(rest.chars().next().map_or(0, char::len_utf8));
        let word = &rest[..end];
        self.at += end;
        match word {
            "nil" => Json::Null,
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            _ => match word.parse::<i64>() {
                Ok(number) => Json::from(number),
                Err(_) => Json::String(word.trim_start_matches(':').to_owned()),
            },
        }
    }
}
