//! The executable specification can be read at one sitting, and judges the
//! core without a line of it.

use crate::assert_none;
use crate::files::{self, TextFile};
use crate::imports::paths_named;

/// Everything that the specification consists of.
const FILES: [&str; 3] = [
    "src/sim/spec/log.rs",
    "src/sim/spec/raft.rs",
    "src/sim/spec/said.rs",
];
const LINES_MAX: usize = 500;
const LINE_CHARS_MAX: usize = 100;

/// What it may name of the crate: numbers, and who a server is.
const VOCABULARY: [&str; 4] = [
    "types::LogIndex",
    "types::NodeId",
    "types::Term",
    "sim::history::Life",
];

fn files() -> Vec<TextFile> {
    let mut files = files::under("src/sim/spec", ".rs");
    files.retain(|file| FILES.contains(&file.path.as_str()));
    files
}

fn foreign(file: &TextFile) -> Vec<String> {
    let own = ["super::log::", "super::raft::", "super::said::"];
    let outside = file.text.lines().filter(|line| {
        line.contains("super::")
            && !line.contains("pub(super)")
            && !own.iter().any(|module| line.contains(module))
    });
    let paths = paths_named(&file.text).into_iter();
    paths
        .filter(|path| !VOCABULARY.contains(&path.as_str()))
        .chain(outside.map(str::to_owned))
        .map(|what| format!("{}: {what}", file.path))
        .collect()
}

#[test]
fn specification_can_be_read_at_one_sitting() {
    let files = files();
    assert_eq!(files.len(), FILES.len(), "the specification moved");
    let lines = || files.iter().flat_map(|file| file.text.lines());
    assert!(lines().all(|line| line.chars().count() <= LINE_CHARS_MAX));
    let count = lines().count();
    assert!(count <= LINES_MAX, "the specification has {count} lines");
}

#[test]
fn specification_shares_no_code_with_the_core() {
    let foreign: Vec<String> = files().iter().flat_map(foreign).collect();
    assert_none("imports of the specification", &foreign);
}

#[test]
fn planted_import_of_the_specification_is_found() {
    for planted in [
        "use crate::raft::Raft;",
        "use crate::types::Membership;",
        "use super::mapping;",
    ] {
        let file = TextFile {
            path: "src/sim/spec/raft.rs".into(),
            text: planted.into(),
        };
        assert_eq!(foreign(&file).len(), 1, "{planted}");
    }
}
