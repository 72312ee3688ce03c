//! Configuration text to a tree that knows its lines. One grammar takes both
//! HCL as servers of this kind use it (attributes, labelled blocks, lists,
//! objects, heredocs) and JSON, which is the same with other punctuation.
//!
//! Hostile text gives an error: size and nesting are bounded.

/// The largest file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// The deepest nesting of blocks, lists and objects.
const DEPTH_MAX: usize = 16;

/// A value and the line it begins on, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Line in the file.
    pub line: usize,
    /// The value.
    pub data: Data,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// `"text"` or a heredoc.
    Text(String),
    /// A number as written.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// `[…]`.
    List(Vec<Node>),
    /// `{…}`: a block's body or an object.
    Object(Vec<Entry>),
}

/// `key = value`, `"key": value` or `key "label" { … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Line in the file.
    pub line: usize,
    /// The key.
    pub key: String,
    /// Labels of a block.
    pub labels: Vec<String>,
    /// The value or body.
    pub node: Node,
}

/// Text that is neither HCL nor JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line in the file.
    pub line: usize,
    /// What was expected.
    pub reason: String,
}

/// Parses a whole file.
///
/// # Errors
/// See [`SyntaxError`].
pub fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut parser = Parser {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
    };
    parser.skip_blank();
    if parser.take('{') {
        let entries = parser.entries(Some('}'), 1)?;
        parser.skip_blank();
        return match parser.peek() {
            None => Ok(entries),
            Some(other) => Err(parser.expected("the end of the file", Some(other))),
        };
    }
    parser.entries(None, 0)
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn advance(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.rest = &self.rest[character.len_utf8()..];
        self.line += usize::from(character == '\n');
        Some(character)
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.advance();
        }
        found
    }

    /// White space, line ends and comments.
    fn skip_blank(&mut self) {
        loop {
            if self.rest.starts_with("/*") {
                let comment = self.rest.find("*/").map_or(self.rest.len(), |end| end + 2);
                self.line += self.rest[..comment].matches('\n').count();
                self.rest = &self.rest[comment..];
            } else if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
            } else if self.peek().is_some_and(char::is_whitespace) {
                self.advance();
            } else {
                return;
            }
        }
    }

    fn expected(&self, what: &str, found: Option<char>) -> SyntaxError {
        let found = match found {
            None => "the end of the file".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(character) => format!("{character:?}"),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    fn error(&self, reason: String) -> SyntaxError {
        SyntaxError {
            line: self.line,
            reason,
        }
    }

    /// Entries up to `close`, or to the end of the file.
    fn entries(&mut self, close: Option<char>, depth: usize) -> Result<Vec<Entry>, SyntaxError> {
        self.check_depth(depth)?;
        let mut entries = Vec::new();
        loop {
            self.skip_blank();
            match (self.peek(), close) {
                (None, None) => return Ok(entries),
                (Some(found), Some(close)) if found == close => {
                    self.advance();
                    return Ok(entries);
                }
                (None, Some(_)) => return Err(self.expected("\"}\"", None)),
                _ => entries.push(self.entry(depth)?),
            }
            self.skip_blank();
            self.take(',');
        }
    }

    fn entry(&mut self, depth: usize) -> Result<Entry, SyntaxError> {
        let line = self.line;
        let key = self.key()?;
        let mut labels = Vec::new();
        loop {
            self.skip_blank();
            let node = match self.peek() {
                Some('=' | ':') => {
                    if !labels.is_empty() {
                        return Err(self.expected("\"{\" after a block's label", self.peek()));
                    }
                    self.advance();
                    self.skip_blank();
                    self.value(depth)?
                }
                Some('{') => self.value(depth)?,
                Some('"') => {
                    labels.push(self.text()?);
                    continue;
                }
                other => {
                    let shown: String = key.chars().take(60).collect();
                    let what = format!("\"=\" or \"{{\" after {shown:?}");
                    return Err(self.expected(&what, other));
                }
            };
            return Ok(Entry {
                line,
                key,
                labels,
                node,
            });
        }
    }

    fn key(&mut self) -> Result<String, SyntaxError> {
        match self.peek() {
            Some('"') => self.text(),
            Some(first) if first.is_alphabetic() || first == '_' => Ok(self.word()),
            other => Err(self.expected("a key", other)),
        }
    }

    fn word(&mut self) -> String {
        let part = |character: char| character.is_alphanumeric() || "_-.+".contains(character);
        let end = self.rest.find(|character| !part(character));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word.to_owned()
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let line = self.line;
        let data = match self.peek() {
            Some('"') => Data::Text(self.text()?),
            Some('<') => Data::Text(self.heredoc()?),
            Some('{') => {
                self.advance();
                Data::Object(self.entries(Some('}'), depth + 1)?)
            }
            Some('[') => {
                self.advance();
                Data::List(self.list(depth + 1)?)
            }
            Some(first) if first.is_ascii_digit() || first == '-' => self.number()?,
            Some(first) if first.is_alphabetic() => {
                let word = self.word();
                match word.as_str() {
                    "true" => Data::Bool(true),
                    "false" => Data::Bool(false),
                    "null" => Data::Null,
                    _ => {
                        let reason = format!("expected a value, found {word}: texts need quotes");
                        return Err(self.error(reason));
                    }
                }
            }
            other => return Err(self.expected("a value", other)),
        };
        Ok(Node { line, data })
    }

    fn number(&mut self) -> Result<Data, SyntaxError> {
        let negative = self.take('-');
        let word = self.word();
        if word.parse::<f64>().is_ok_and(f64::is_finite) {
            let sign = if negative { "-" } else { "" };
            return Ok(Data::Number(format!("{sign}{word}")));
        }
        Err(self.error(format!("{word} is no number: texts need quotes")))
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, SyntaxError> {
        self.check_depth(depth)?;
        let mut elements = Vec::new();
        loop {
            self.skip_blank();
            if self.take(']') {
                return Ok(elements);
            }
            elements.push(self.value(depth)?);
            self.skip_blank();
            if !self.take(',') && self.peek() != Some(']') {
                return Err(self.expected("\",\" or \"]\"", self.peek()));
            }
        }
    }

    /// A quoted text on one line.
    fn text(&mut self) -> Result<String, SyntaxError> {
        self.advance();
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return Err(self.expected("a closing quote", self.peek())),
                Some('"') => {
                    self.advance();
                    return Ok(text);
                }
                Some('\\') => {
                    self.advance();
                    text.push(self.escape()?);
                }
                Some(character) => {
                    self.advance();
                    text.push(character);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let character = self.advance();
        let digits = match character {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(plain @ ('"' | '\\' | '/')) => return Ok(plain),
            Some('u') => 4,
            Some('U') => 8,
            other => return Err(self.expected("an escape sequence", other)),
        };
        let code = self.rest.get(..digits);
        let character = code
            .and_then(|code| u32::from_str_radix(code, 16).ok())
            .and_then(char::from_u32);
        let Some(character) = character else {
            return Err(self.error("expected a character code after \\u".into()));
        };
        self.rest = &self.rest[digits..];
        Ok(character)
    }

    /// `<<WORD` … `WORD`; with `<<-` the common indentation is cut.
    fn heredoc(&mut self) -> Result<String, SyntaxError> {
        self.advance();
        if !self.take('<') {
            return Err(self.expected("a value", Some('<')));
        }
        let indented = self.take('-');
        let marker = self.word();
        self.take('\r');
        if marker.is_empty() || !self.take('\n') {
            return Err(self.expected("a heredoc's end word and line end", self.peek()));
        }
        let mut lines = Vec::new();
        loop {
            if self.rest.is_empty() {
                return Err(self.error(format!("the heredoc is not ended by {marker}")));
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            let line = self.rest[..end].trim_end_matches('\r');
            let ended = line.trim() == marker;
            if !ended {
                lines.push(line);
            }
            self.rest = &self.rest[end..];
            if ended {
                break;
            }
            self.take('\n');
        }
        if indented {
            let margin = |line: &&str| line.len() - line.trim_start().len();
            let filled = lines.iter().filter(|line| !line.trim().is_empty());
            let common = filled.map(margin).min().unwrap_or(0);
            for line in &mut lines {
                *line = line.get(common..).unwrap_or_default();
            }
        }
        let mut text = lines.join("\n");
        text.push('\n');
        Ok(text)
    }

    fn check_depth(&self, depth: usize) -> Result<(), SyntaxError> {
        if depth > DEPTH_MAX {
            return Err(self.error(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_hcl_and_json_alike() {
        let hcl = "# comment\nstorage \"raft\" {\n  path = \"/d\" // why\n  n = 5\n}\n/* a\nb */ ui = true\nlist = [\"a\", \"b\",]\n";
        let json =
            r#"{"storage": {"raft": {"path": "/d", "n": 5}}, "ui": true, "list": ["a", "b"]}"#;
        let hcl = parse(hcl).expect("HCL");
        assert_eq!(hcl[0].labels, ["raft"]);
        assert_eq!(
            hcl.iter().map(|entry| entry.line).collect::<Vec<_>>(),
            [2, 7, 8]
        );
        let json = parse(json).expect("JSON");
        let keys = |entries: &[Entry]| -> Vec<String> {
            entries.iter().map(|entry| entry.key.clone()).collect()
        };
        assert_eq!(keys(&hcl), keys(&json));
        let Data::Object(block) = &hcl[0].node.data else {
            panic!("a block")
        };
        assert_eq!(block[0].node.data, Data::Text("/d".into()));
        assert_eq!(
            (block[1].line, &block[1].node.data),
            (4, &Data::Number("5".into()))
        );
    }

    #[test]
    fn parse_texts() {
        let check = |text: &str, expected: &str| {
            let entries = parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(entries[0].node.data, Data::Text(expected.into()), "{text}");
        };
        check(r#"a = "x\ty\"\\\u0041\U0001F600""#, "x\ty\"\\A\u{1f600}");
        check("a = <<EOF\none\n  two\nEOF\n", "one\n  two\n");
        check("a = <<-EOF\n    one\n      two\n    EOF\n", "one\n  two\n");
        check("\u{feff}a = \"b\"", "b");
    }

    #[test]
    fn parse_errors_name_the_line() {
        for (text, line, reason) in [
            (
                "a",
                1,
                "expected \"=\" or \"{\" after \"a\", found the end of the file",
            ),
            (
                "a = 1\nb = \"x\nc = 2",
                2,
                "expected a closing quote, found the end of the line",
            ),
            (
                "a = raft",
                1,
                "expected a value, found raft: texts need quotes",
            ),
            ("a = 10s", 1, "10s is no number: texts need quotes"),
            (
                "storage \"raft\" {\n path = \"x\"\n",
                3,
                "expected \"}\", found the end of the file",
            ),
            ("a = [1 2]", 1, "expected \",\" or \"]\", found '2'"),
            ("= 5", 1, "expected a key, found '='"),
            ("{\"a\": 1} x", 1, "expected the end of the file, found 'x'"),
            ("a = <<EOF\nx\n", 3, "the heredoc is not ended by EOF"),
            (
                "a \"b\" = 1",
                1,
                "expected \"{\" after a block's label, found '='",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(
                (error.line, error.reason.as_str()),
                (line, reason),
                "{text}"
            );
        }
    }

    #[test]
    fn parse_hostile_texts_end_in_errors() {
        for text in [
            "a = ".to_owned() + &"[".repeat(500_000),
            "a {".repeat(200_000),
            "{\"a\":".repeat(200_000),
            "\0\u{1}\u{2}".to_owned(),
            "/*".to_owned() + &"x\n".repeat(100_000),
            "a = \"".to_owned() + &"\\u00".repeat(1000),
            "a \"b\" ".to_owned() + &"\"c\" ".repeat(100_000),
            "-".repeat(100_000),
            "a = -".to_owned(),
            "a = <<".to_owned(),
            "a = <<-".to_owned(),
        ] {
            let shown: String = text.chars().take(12).collect();
            let parsed = parse(&text);
            assert!(parsed.is_err() || shown.starts_with("/*"), "{shown}");
        }
    }
}
