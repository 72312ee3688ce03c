//! Rust source with everything blanked that is not code: comments, literals,
//! test modules. Line numbers stay what they were.

/// Replaces comments and the content of literals by spaces.
pub fn code_of(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut position = 0;
    while position < characters.len() {
        let end = end_of_blank(&characters, position);
        if end == position {
            code.push(characters[position]);
            position += 1;
        } else {
            for &character in &characters[position..end] {
                code.push(if character == '\n' { '\n' } else { ' ' });
            }
            position = end;
        }
    }
    code
}

/// As [`code_of`], without modules and functions under `#[cfg(test)]`.
pub fn product_code_of(text: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut code = code_of(text);
    while let Some(start) = code.find(MARK) {
        let end = end_of_item(&code, start + MARK.len());
        let blank: String = code[start..end]
            .chars()
            .map(|character| if character == '\n' { '\n' } else { ' ' })
            .collect();
        code.replace_range(start..end, &blank);
    }
    code
}

/// Whether a file holds only tests: `tests.rs`, or anything in a `tests` folder.
pub fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("_tests.rs")
}

/// Words (identifiers and keywords) with their line numbers from 1.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(number, line)| {
        line.split(|character: char| !character.is_alphanumeric() && character != '_')
            .filter(|word| !word.is_empty())
            .map(move |word| (number + 1, word))
    })
}

/// Past the end of the braced or `;`-ended item that begins at `start`.
pub fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, character) in code[start..].char_indices() {
        let end = start + offset + 1;
        match character {
            '{' => depth += 1,
            '}' if depth <= 1 => return end,
            '}' => depth -= 1,
            ';' if depth == 0 => return end,
            _ => {}
        }
    }
    code.len()
}

/// Where the comment or literal beginning at `start` ends; `start` if there is
/// none.
fn end_of_blank(characters: &[char], start: usize) -> usize {
    let at = |position: usize| characters.get(position).copied().unwrap_or('\0');
    match (at(start), at(start + 1)) {
        ('/', '/') => find(characters, start, |position| at(position) == '\n'),
        ('/', '*') => end_of_block_comment(characters, start),
        ('"', _) => end_of_string(characters, start + 1),
        ('r', '"' | '#') if !is_word(characters, start) => end_of_raw_string(characters, start),
        ('\'', '\\') => find(characters, start + 3, |position| at(position) == '\'') + 1,
        ('\'', _) if at(start + 2) == '\'' => start + 3,
        _ => start,
    }
}

/// Whether the character before `start` continues a word, as in `var"`.
fn is_word(characters: &[char], start: usize) -> bool {
    let before = start.checked_sub(1).map(|position| characters[position]);
    // A byte string's `br` is fine: its `b` begins the literal.
    before.is_some_and(|before| (before.is_alphanumeric() && before != 'b') || before == '_')
}

fn find(characters: &[char], start: usize, found: impl Fn(usize) -> bool) -> usize {
    (start..characters.len())
        .find(|&position| found(position))
        .unwrap_or(characters.len())
}

fn end_of_block_comment(characters: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut position = start;
    while position < characters.len() {
        match characters[position..] {
            ['/', '*', ..] => {
                depth += 1;
                position += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                position += 2;
                if depth == 0 {
                    return position;
                }
            }
            _ => position += 1,
        }
    }
    position
}

fn end_of_string(characters: &[char], start: usize) -> usize {
    let mut position = start;
    while position < characters.len() {
        match characters[position] {
            '\\' => position += 2,
            '"' => return position + 1,
            _ => position += 1,
        }
    }
    characters.len()
}

fn end_of_raw_string(characters: &[char], start: usize) -> usize {
    let hashes = characters[start + 1..]
        .iter()
        .take_while(|&&character| character == '#')
        .count();
    let open = start + 1 + hashes;
    if characters.get(open) != Some(&'"') {
        return start; // a raw identifier
    }
    let closed = |position: usize| {
        characters[position] == '"'
            && characters[position + 1..]
                .iter()
                .take(hashes)
                .filter(|&&c| c == '#')
                .count()
                == hashes
    };
    (find(characters, open + 1, closed) + 1 + hashes).min(characters.len())
}

#[test]
fn comments_and_literals_are_blanked_and_lines_kept() {
    let text = "a // unsafe\n/* unsafe /* x */ */ b \"un\\\"safe\" c r#\"unsafe\"# d '\"' e 'x' f<'a>\nbr\"unsafe\" g";
    let code = code_of(text);
    assert!(!code.contains("unsafe"), "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
    let words: Vec<&str> = words(&code).map(|(_, word)| word).collect();
    assert_eq!(words, ["a", "b", "c", "d", "e", "f", "a", "b", "g"]);
}

#[test]
fn test_modules_are_no_product_code() {
    let text =
        "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n#[cfg(test)]\nmod more;\nfn c() {}\n";
    let code = product_code_of(text);
    assert!(code.contains("fn a") && code.contains("fn c"));
    assert!(!code.contains("fn b") && !code.contains("more"));
}
