//! All mutants in one build. The body of a function becomes a choice between
//! itself and its mutants, by the number that is awake:
//!
//! ```text
//! { match crate::awake() {
//! 7 => { …the body with < instead of <=… }
//! _ => { …the body… }
//! } }
//! ```
//!
//! An error in the body of a mutant says that it does not compile. Where the
//! choice itself does not, its mutants are left out, to be tried by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::listed::{Mutant, mutated};
use crate::trial::{Build, build};

/// One build that holds many mutants.
pub struct Planted {
    /// The test binary.
    pub binary: PathBuf,
    /// The mutants in it; the number of the one at position `n` is `n + 1`.
    pub numbers: BTreeSet<usize>,
    /// Those that do not compile.
    pub unviable: BTreeSet<usize>,
}

/// A function with mutants, in bytes of its file.
struct Function {
    /// Of the brace that opens its body.
    open: usize,
    /// After the brace that closes it.
    end: usize,
    /// Numbers and mutated bodies.
    bodies: Vec<(usize, String)>,
}

/// Lines of a planted file that belong to a number, or to a whole function.
struct Place {
    file: PathBuf,
    lines: std::ops::RangeInclusive<usize>,
    numbers: Vec<usize>,
    is_mutant: bool,
}

/// Builds the tree with all the mutants that can live together, and puts its
/// files back.
///
/// # Errors
/// A file cannot be read or written; an error of the compiler that lies in no
/// mutant.
pub fn plant(mutants: &[&Mutant], tree: &Path, target: &Path) -> io::Result<Planted> {
    let mut originals = BTreeMap::new();
    for mutant in mutants {
        let text = fs::read_to_string(tree.join(&mutant.file))?;
        originals.insert(mutant.file.clone(), text);
    }
    let mut numbers: BTreeSet<usize> = (1..=mutants.len()).collect();
    let mut unviable = BTreeSet::new();
    let binary = loop {
        let mut places = Vec::new();
        numbers = write_planted(mutants, &numbers, &originals, tree, &mut places)?;
        match build(tree, target)? {
            Build::Done(binary) => break Ok(binary),
            Build::Failed(errors) => {
                let found = culprits(&errors, &places);
                if found.is_empty() {
                    break Err(io::Error::other(format!("{errors:#?}")));
                }
                for place in found {
                    numbers.retain(|number| !place.numbers.contains(number));
                    if place.is_mutant {
                        unviable.extend(&place.numbers);
                    }
                }
            }
        }
    };
    for (file, text) in &originals {
        fs::write(tree.join(file), text)?;
    }
    Ok(Planted {
        binary: binary?,
        numbers,
        unviable,
    })
}

/// Writes the files with these mutants; the numbers that found a place.
fn write_planted(
    mutants: &[&Mutant],
    numbers: &BTreeSet<usize>,
    originals: &BTreeMap<PathBuf, String>,
    tree: &Path,
    places: &mut Vec<Place>,
) -> io::Result<BTreeSet<usize>> {
    let mut planted = BTreeSet::new();
    for (file, original) in originals {
        let mut functions = BTreeMap::<usize, Function>::new();
        for number in numbers {
            let mutant = mutants[number - 1];
            let Some((start, end)) = mutant.function.filter(|_| mutant.file == *file) else {
                continue;
            };
            let (start, end) = (offset(original, start), offset(original, end));
            let Some(open) = body_of(original, start) else {
                continue;
            };
            let text = mutated(original, &mutant.diff)?;
            let body_end = (text.len() + end).checked_sub(original.len());
            let body = body_end.and_then(|body_end| text.get(open..body_end));
            if let Some(body) = body.filter(|_| text[..open] == original[..open]) {
                let function = functions.entry(start).or_insert(Function {
                    open,
                    end,
                    bodies: Vec::new(),
                });
                function.bodies.push((*number, body.to_owned()));
                planted.insert(*number);
            }
        }
        let text = with_choices(original, functions.values(), file, places);
        fs::write(tree.join(file), text)?;
    }
    Ok(planted)
}

fn with_choices<'a>(
    original: &str,
    functions: impl Iterator<Item = &'a Function>,
    file: &Path,
    places: &mut Vec<Place>,
) -> String {
    let mut text = String::new();
    let mut done = 0;
    let line_of = |text: &str| text.matches('\n').count() + 1;
    for function in functions {
        // A function inside another: the outer one has it already.
        if function.open < done {
            continue;
        }
        text += &original[done..function.open];
        let first = line_of(&text);
        text += "{ match crate::awake() {\n";
        for (number, body) in &function.bodies {
            let begins = line_of(&text);
            text += &format!("{number} => {body}\n");
            places.push(Place {
                file: file.to_owned(),
                lines: begins..=line_of(&text) - 1,
                numbers: vec![*number],
                is_mutant: true,
            });
        }
        text += &format!("_ => {}\n}} }}", &original[function.open..function.end]);
        places.push(Place {
            file: file.to_owned(),
            lines: first..=line_of(&text),
            numbers: function.bodies.iter().map(|(number, _)| *number).collect(),
            is_mutant: false,
        });
        done = function.end;
    }
    text + &original[done..]
}

/// Where these errors lie: in a mutant, or in a function with mutants.
fn culprits<'a>(errors: &[Value], places: &'a [Place]) -> Vec<&'a Place> {
    let mut culprits = Vec::new();
    for error in errors {
        let mut spans = Vec::new();
        collect_spans(&error["spans"], &mut spans);
        let found = spans.iter().find_map(|(path, line)| {
            let holds = |place: &&Place| {
                Path::new(path).ends_with(&place.file) && place.lines.contains(line)
            };
            // A mutant stands before its function.
            places.iter().find(holds)
        });
        culprits.extend(found);
    }
    culprits
}

/// Where an error is: primary places first, with those of macros around them.
fn collect_spans(spans: &Value, found: &mut Vec<(String, usize)>) {
    let mut others = Vec::new();
    for span in spans.as_array().into_iter().flatten() {
        let mut span = span;
        let is_primary = span["is_primary"] == true;
        while span.is_object() {
            let path = span["file_name"].as_str().unwrap_or_default().to_owned();
            let line = span["line_start"].as_u64().unwrap_or_default() as usize;
            if is_primary {
                found.push((path, line));
            } else {
                others.push((path, line));
            }
            span = &span["expansion"]["span"];
        }
    }
    found.extend(others);
}

/// The byte at a line and a column, both from 1.
fn offset(text: &str, (line, column): (usize, usize)) -> usize {
    let before: usize = text
        .split_inclusive('\n')
        .take(line - 1)
        .map(str::len)
        .sum();
    let rest = &text[before..];
    let inside: usize = rest.chars().take(column - 1).map(char::len_utf8).sum();
    before + inside
}

/// The brace that opens the body of the function that starts, with its
/// documentation and attributes, at `start`.
fn body_of(text: &str, start: usize) -> Option<usize> {
    let mut at = start;
    for line in text[start..].split_inclusive('\n') {
        let trimmed = line.trim_start();
        if !trimmed.is_empty() && !trimmed.starts_with(['/', '#']) {
            break;
        }
        at += line.len();
    }
    let after_name = at + text[at..].find('(')?;
    let mut depth = 0;
    for (offset, c) in text[after_name..].char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '{' if depth == 0 => return Some(after_name + offset),
            _ => {}
        }
    }
    None
}
