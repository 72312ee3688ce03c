//! Names that must not occur in some places.

use crate::assert_none;
use crate::files::{self, TextFile};
use crate::source::{code_of, is_test_file, product_code_of, words};

/// Folders and files whose code decides and performs nothing: no clock, no
/// thread, no randomness, no I/O, no order that differs between runs.
const PURE: [&str; 5] = [
    "src/sim/",
    "src/raft/",
    "src/store/",
    "src/membership/",
    "src/node/driver",
];

const IMPURE_WORDS: [&str; 9] = [
    "tokio",
    "hyper",
    "rand",
    "getrandom",
    "HashMap",
    "HashSet",
    "SystemTime",
    "Instant",
    "RandomState",
];

const IMPURE_MODULES: [&str; 5] = ["fs", "net", "time", "thread", "env"];

fn impure(file: &TextFile) -> Vec<String> {
    if !PURE.iter().any(|pure| file.path.starts_with(pure)) || is_test_file(&file.path) {
        return Vec::new();
    }
    let code = product_code_of(&file.text);
    let mut violations: Vec<String> = words(&code)
        .filter(|(_, word)| IMPURE_WORDS.contains(word))
        .map(|(line, word)| format!("{}:{line}: {word}", file.path))
        .collect();
    for module in IMPURE_MODULES {
        if names_std_module(&code, module) {
            violations.push(format!("{}: std::{module}", file.path));
        }
    }
    violations
}

/// Whether `std::module` is named, alone or within `use std::{…}`.
fn names_std_module(code: &str, module: &str) -> bool {
    let packed: String = code.split_whitespace().collect();
    let alone = format!("std::{module}");
    let is_end = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    let direct = packed.match_indices(&alone);
    if direct
        .map(|(at, _)| &packed[at + alone.len()..])
        .any(is_end)
    {
        return true;
    }
    packed.match_indices("std::{").any(|(at, open)| {
        let group = &packed[at + open.len()..];
        let group = &group[..group.find(';').unwrap_or(group.len())];
        group
            .split(['{', ',', '}'])
            .any(|item| item.split("::").next() == Some(module))
    })
}

fn unsafe_outside_disk(file: &TextFile) -> Vec<String> {
    if file.path.starts_with("src/disk/") {
        return Vec::new();
    }
    words(&code_of(&file.text))
        .filter(|&(_, word)| word == "unsafe")
        .map(|(line, _)| format!("{}:{line}", file.path))
        .collect()
}

/// Outside `codec`, bincode may only be named to derive its traits.
fn bincode_outside_codec(file: &TextFile) -> Vec<String> {
    const DERIVES: [&str; 5] = [
        "use bincode::{Decode, Encode};",
        "use bincode::{Encode, Decode};",
        "use bincode::Encode;",
        "use bincode::Decode;",
        "use bincode::{BorrowDecode, Decode, Encode};",
    ];
    if file.path.starts_with("src/codec/") {
        return Vec::new();
    }
    let code = code_of(&file.text);
    let named = code.lines().enumerate().filter(|(_, line)| {
        line.contains("bincode")
            && !DERIVES.contains(&line.trim())
            && !line.trim_start().starts_with("#[derive(")
    });
    named
        .map(|(number, line)| format!("{}:{}: {}", file.path, number + 1, line.trim()))
        .collect()
}

fn all(rule: fn(&TextFile) -> Vec<String>) -> Vec<String> {
    files::under("src", ".rs").iter().flat_map(rule).collect()
}

fn planted(path: &str, text: &str) -> TextFile {
    TextFile {
        path: path.into(),
        text: text.into(),
    }
}

#[test]
fn pure_folders_name_nothing_impure() {
    assert_none("impure names in pure folders", &all(impure));
}

#[test]
fn planted_impure_names_are_found() {
    for text in [
        "use std::collections::HashMap;",
        "use std::{collections::BTreeMap, time::Duration};",
        "let now = std::time::Instant::now();",
        "use std::fs;",
        "use tokio::sync::mpsc;",
    ] {
        assert!(
            !impure(&planted("src/raft/x.rs", text)).is_empty(),
            "{text}"
        );
        assert!(impure(&planted("src/http/x.rs", text)).is_empty(), "{text}");
    }
    let fine = "// HashMap\nuse std::timeout;\n#[cfg(test)]\nmod tests { use std::fs; }";
    assert_eq!(
        impure(&planted("src/raft/x.rs", fine)),
        Vec::<String>::new()
    );
}

#[test]
fn unsafe_is_only_in_disk() {
    assert_none("unsafe outside src/disk", &all(unsafe_outside_disk));
}

#[test]
fn planted_unsafe_is_found() {
    let text = "fn a() { unsafe { b() } }";
    assert_eq!(unsafe_outside_disk(&planted("src/wal/x.rs", text)).len(), 1);
    assert!(unsafe_outside_disk(&planted("src/disk/x.rs", text)).is_empty());
    assert!(unsafe_outside_disk(&planted("src/wal/x.rs", "// unsafe\n")).is_empty());
}

#[test]
fn bincode_is_only_in_codec_and_derives() {
    assert_none("bincode outside src/codec", &all(bincode_outside_codec));
}

#[test]
fn planted_bincode_is_found() {
    let derive = "use bincode::{Decode, Encode};\n#[derive(bincode::Encode)]\nstruct A;";
    assert!(bincode_outside_codec(&planted("src/types/x.rs", derive)).is_empty());
    let call = "let bytes = bincode::encode_to_vec(a, c);";
    assert_eq!(
        bincode_outside_codec(&planted("src/types/x.rs", call)).len(),
        1
    );
    assert!(bincode_outside_codec(&planted("src/codec/x.rs", call)).is_empty());
}
