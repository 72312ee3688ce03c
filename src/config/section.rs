//! Typed access to one block, which remembers the keys asked for: what is left
//! over at the end is a mistake, reported with the nearest known name.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::duration;
use super::syntax::{Data, Entry, Node};

/// One block of one file.
pub struct Section<'a> {
    file: PathBuf,
    place: String,
    entries: &'a [Entry],
    known: BTreeSet<&'static str>,
}

/// The body of a nested block, with its label and line.
pub struct Block<'a> {
    /// `"raft"` in `storage "raft" {…}`; empty for blocks without one.
    pub label: String,
    /// Where it begins.
    pub line: usize,
    /// Its body.
    pub entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// `place` names the block in errors, like `listener "tcp"`; empty at the
    /// top of a file.
    pub fn new(file: impl Into<PathBuf>, place: impl Into<String>, entries: &'a [Entry]) -> Self {
        Self {
            file: file.into(),
            place: place.into(),
            entries,
            known: BTreeSet::new(),
        }
    }

    /// A section for a nested block of this one.
    pub fn nested(&self, place: impl Into<String>, block: &Block<'a>) -> Section<'a> {
        Section::new(self.file.clone(), place, block.entries)
    }

    /// The only entry of this name.
    fn find(&mut self, key: &'static str) -> Result<Option<&'a Entry>, ConfigError> {
        self.known.insert(key);
        let mut found = self.entries.iter().filter(|entry| entry.key == key);
        let first = found.next();
        if let Some(second) = found.next() {
            return Err(self.error(second.line, key, "to be given once"));
        }
        Ok(first.filter(|entry| entry.node.data != Data::Null))
    }

    /// A text.
    ///
    /// # Errors
    /// Another kind of value.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let Some(entry) = self.find(key)? else {
            return Ok(None);
        };
        match &entry.node.data {
            Data::Text(text) => Ok(Some(text.clone())),
            _ => Err(self.error(entry.node.line, key, "a text in quotes")),
        }
    }

    /// A text that `read` understands.
    ///
    /// # Errors
    /// Another kind of value, or what `read` did not understand.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match read(&text) {
            Some(value) => Ok(Some(value)),
            None => {
                let shown: String = text.chars().take(CHARACTERS_SHOWN).collect();
                let expected = format!("{expected}, found {shown:?}");
                Err(self.error(self.line_of(key), key, &expected))
            }
        }
    }

    /// `true`, `false`, or the same as text or as 1 and 0.
    ///
    /// # Errors
    /// Anything else.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(entry) = self.find(key)? else {
            return Ok(None);
        };
        let value = match &entry.node.data {
            Data::Bool(value) => Some(*value),
            Data::Text(text) | Data::Number(text) => match text.as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        let wrong = || self.error(entry.node.line, key, "true or false");
        value.map(Some).ok_or_else(wrong)
    }

    /// A whole number in `min..=max`, as number or text.
    ///
    /// # Errors
    /// Anything else.
    pub fn integer(
        &mut self,
        key: &'static str,
        min: u64,
        max: u64,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(entry) = self.find(key)? else {
            return Ok(None);
        };
        let value = match &entry.node.data {
            Data::Number(text) | Data::Text(text) => text.parse().ok(),
            _ => None,
        };
        match value.filter(|value| (min..=max).contains(value)) {
            Some(value) => Ok(Some(value)),
            None => {
                let expected = format!("a whole number from {min} to {max}");
                Err(self.error(entry.node.line, key, &expected))
            }
        }
    }

    /// A duration: `"10s"`, `"1h30m"`, or seconds.
    ///
    /// # Errors
    /// Anything else.
    pub fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        let Some(entry) = self.find(key)? else {
            return Ok(None);
        };
        let value = match &entry.node.data {
            Data::Number(text) | Data::Text(text) => duration::parse(text),
            _ => None,
        };
        let wrong = || {
            self.error(
                entry.node.line,
                key,
                "a duration such as \"10s\" or \"1h30m\"",
            )
        };
        value.map(Some).ok_or_else(wrong)
    }

    /// All blocks of this name: `key "label" {…}`, and the JSON forms
    /// `"key": {"label": {…}}` and lists of either.
    ///
    /// # Errors
    /// A value that is no block.
    pub fn labelled_blocks(&mut self, key: &'static str) -> Result<Vec<Block<'a>>, ConfigError> {
        let mut blocks = Vec::new();
        for plain in self.blocks(key)? {
            if !plain.label.is_empty() {
                blocks.push(plain);
                continue;
            }
            for entry in plain.entries {
                for body in self.bodies(key, &entry.node)? {
                    blocks.push(Block {
                        label: entry.key.clone(),
                        line: entry.line,
                        entries: body,
                    });
                }
            }
        }
        Ok(blocks)
    }

    /// All blocks of this name, with what label they have.
    ///
    /// # Errors
    /// A value that is no block.
    pub fn blocks(&mut self, key: &'static str) -> Result<Vec<Block<'a>>, ConfigError> {
        self.known.insert(key);
        let mut blocks = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.key == key) {
            for body in self.bodies(key, &entry.node)? {
                blocks.push(Block {
                    label: entry.labels.first().cloned().unwrap_or_default(),
                    line: entry.line,
                    entries: body,
                });
            }
        }
        Ok(blocks)
    }

    fn bodies(&self, key: &str, node: &'a Node) -> Result<Vec<&'a [Entry]>, ConfigError> {
        match &node.data {
            Data::Object(entries) => Ok(vec![entries]),
            Data::List(nodes) => {
                let bodies = nodes.iter().map(|node| match &node.data {
                    Data::Object(entries) => Ok(entries.as_slice()),
                    _ => Err(self.error(node.line, key, "a block")),
                });
                bodies.collect()
            }
            _ => Err(self.error(node.line, key, "a block")),
        }
    }

    /// Keys that real servers have and this one does nothing with; those
    /// present are returned.
    pub fn ignored(&mut self, keys: &[&'static str]) -> Vec<&'static str> {
        self.known.extend(keys);
        let present = |key: &&&'static str| self.entries.iter().any(|entry| entry.key == **key);
        keys.iter().filter(present).copied().collect()
    }

    /// Nothing else may be there.
    ///
    /// # Errors
    /// The first unknown key, with the nearest known one.
    pub fn finish(&self) -> Result<(), ConfigError> {
        let unknown = |entry: &&Entry| !self.known.contains(entry.key.as_str());
        let Some(entry) = self.entries.iter().find(unknown) else {
            return Ok(());
        };
        let nearest = self
            .known
            .iter()
            .map(|known| (edit_distance(known, &entry.key), *known))
            .min()
            .filter(|(distance, known)| *distance <= 1 + known.len() / 4);
        let expected = match nearest {
            Some((_, known)) => format!("a known key; did you mean {known:?}?"),
            None => "a known key".to_owned(),
        };
        Err(self.error(entry.line, &entry.key, &expected))
    }

    /// Line of a key that is there; otherwise of the section's first entry.
    pub fn line_of(&self, key: &str) -> usize {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.or(self.entries.first()).map_or(1, |entry| entry.line)
    }

    /// A complaint about one key.
    pub fn error(&self, line: usize, key: &str, expected: &str) -> ConfigError {
        let place = match self.place.as_str() {
            "" => String::new(),
            place => format!(" in {place}"),
        };
        ConfigError::Key {
            file: self.file.clone(),
            line,
            key: key.chars().take(CHARACTERS_SHOWN).collect(),
            place,
            expected: expected.to_owned(),
        }
    }
}

const CHARACTERS_SHOWN: usize = 60;

/// Levenshtein distance, of the first 64 characters.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (position, character) in left.chars().take(64).enumerate() {
        let mut diagonal = position;
        row[0] = position + 1;
        for column in 0..right.len() {
            let substituted = diagonal + usize::from(right[column] != character);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
