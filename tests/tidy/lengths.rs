//! Files and functions that are too long to read, with the exceptions.

use crate::assert_none;
use crate::files::{self, TextFile};
use crate::source::{end_of_item, is_test_file, product_code_of};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// Files over the limit, each with the reason why it is still one subject.
const LONG_FILES: [(&str, &str); 0] = [];

/// Functions over the limit, as `path function`, with the reason.
const LONG_FUNCTIONS: [(&str, &str); 0] = [];

fn long_files(files: &[TextFile], exceptions: &[(&str, &str)]) -> Vec<String> {
    let over = files.iter().filter_map(|file| {
        let lines = file.text.lines().count();
        (FILE_LINES_MAX < lines).then(|| (file.path.clone(), lines))
    });
    against_exceptions(over.collect(), exceptions)
}

fn long_functions(files: &[TextFile], exceptions: &[(&str, &str)]) -> Vec<String> {
    let mut over = Vec::new();
    for file in files.iter().filter(|file| !is_test_file(&file.path)) {
        for (name, lines) in functions(&product_code_of(&file.text)) {
            if FUNCTION_LINES_MAX < lines {
                over.push((format!("{} {name}", file.path), lines));
            }
        }
    }
    against_exceptions(over, exceptions)
}

/// What is over the limit and not listed, and what is listed without need.
fn against_exceptions(over: Vec<(String, usize)>, exceptions: &[(&str, &str)]) -> Vec<String> {
    let listed = |what: &str| exceptions.iter().any(|(exception, _)| *exception == what);
    let mut violations: Vec<String> = over
        .iter()
        .filter(|(what, _)| !listed(what))
        .map(|(what, lines)| format!("{what}: {lines} lines"))
        .collect();
    for (exception, _) in exceptions {
        if !over.iter().any(|(what, _)| what == exception) {
            violations.push(format!("{exception}: listed as an exception without need"));
        }
    }
    violations
}

/// Name and length in lines of every function with a body.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        let begins_a_word =
            code[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        if begins_a_word {
            continue;
        }
        let name: String = code[start + 3..]
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect();
        if name.is_empty() {
            continue; // a type such as `fn (u8)`
        }
        let end = end_of_item(code, start);
        found.push((name, code[start..end].lines().count()));
    }
    found
}

fn sources() -> Vec<TextFile> {
    let mut sources = files::under("src", ".rs");
    sources.extend(files::under("jepsen/src", ".rs"));
    sources.extend(files::under("fuzz", ".rs"));
    sources
}

#[test]
fn files_are_short_or_listed() {
    let mut files = sources();
    files.extend(files::under("tests", ".rs"));
    assert_none("long files", &long_files(&files, &LONG_FILES));
}

#[test]
fn functions_are_short_or_listed() {
    assert_none(
        "long functions",
        &long_functions(&sources(), &LONG_FUNCTIONS),
    );
}

#[test]
fn planted_long_file_and_function_are_found() {
    let planted = TextFile {
        path: "src/x.rs".into(),
        text: format!(
            "fn short() {{}}\nfn long() {{\n{}}}\n",
            "    call();\n".repeat(900)
        ),
    };
    assert_eq!(long_files(&[planted], &[]), ["src/x.rs: 903 lines"]);
    let planted = TextFile {
        path: "src/x.rs".into(),
        text: format!(
            "fn short() {{}}\nfn long() {{\n{}}}\n",
            "    call();\n".repeat(69)
        ),
    };
    assert_eq!(long_functions(&[planted], &[]), ["src/x.rs long: 71 lines"]);
}

#[test]
fn exception_without_need_is_found() {
    let violations = against_exceptions(Vec::new(), &[("src/x.rs", "reason")]);
    assert_eq!(violations.len(), 1);
}
