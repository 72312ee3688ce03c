//! The safety argument in DESIGN.md names assertions, properties, transcripts
//! and mutants: all of them are there, and no mutant is left out.

use std::collections::BTreeSet;

use crate::assert_none;
use crate::files;

/// What there is to be named.
struct Evidence {
    assertions: BTreeSet<String>,
    properties: BTreeSet<String>,
    transcripts: BTreeSet<String>,
    mutants: BTreeSet<String>,
}

impl Evidence {
    fn of_the_tree() -> Self {
        let text = |path: &str| {
            let path = files::root().join(path);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
        };
        let names = |folder: &str, extension: &str| {
            let files = files::under(folder, extension);
            let stem = |path: &str| {
                let name = path.rsplit('/').next()?;
                name.strip_suffix(extension).map(str::to_owned)
            };
            files.iter().filter_map(|file| stem(&file.path)).collect()
        };
        let functions = text("src/raft/invariants.rs");
        let properties = text("src/sim/history/violation.rs");
        Self {
            assertions: functions
                .lines()
                .filter_map(|line| line.strip_prefix("fn ")?.split('(').next())
                .map(str::to_owned)
                .collect(),
            properties: properties
                .lines()
                .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(','))
                .filter(|name| name.chars().all(char::is_alphanumeric))
                .map(str::to_owned)
                .collect(),
            transcripts: names("tests/raft/testdata", ".txt"),
            mutants: names("jepsen/mutants", ".patch"),
        }
    }

    /// Everything that rows of the argument name and that does not exist, and
    /// every mutant that they do not name.
    fn missing(&self, argument: &str) -> Vec<String> {
        let mut missing = Vec::new();
        let mut left: BTreeSet<&str> = self.mutants.iter().map(String::as_str).collect();
        for row in argument.lines().filter(|line| line.starts_with("| ")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, rule, asserted, tests, mutants, _] = cells[..] else {
                missing.push(format!("not a row of four cells: {row}"));
                continue;
            };
            if rule.starts_with("rule,") {
                continue;
            }
            let mut complain =
                |what: &str, name: &str| missing.push(format!("{what} {name} ({rule})"));
            for name in quoted(asserted).filter(|name| name.contains('_')) {
                if !self.assertions.contains(name) {
                    complain("no assertion", name);
                }
            }
            for name in properties(asserted) {
                if !self.properties.contains(name) {
                    complain("no property", name);
                }
            }
            for name in quoted(tests).filter(|name| !name.contains(['/', '.'])) {
                let is_there = name.strip_suffix('*').map_or_else(
                    || self.transcripts.contains(name),
                    |start| {
                        self.transcripts
                            .iter()
                            .any(|known| known.starts_with(start))
                    },
                );
                if !is_there {
                    complain("no transcript", name);
                }
            }
            for name in mutants.split(", ").filter(|name| !name.is_empty()) {
                if !self.mutants.contains(name) {
                    complain("no mutant", name);
                }
                left.remove(name);
            }
        }
        missing.extend(
            left.iter()
                .map(|name| format!("no rule names mutant {name}")),
        );
        missing
    }
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Words of two capitals, as the properties are called.
fn properties(cell: &str) -> impl Iterator<Item = &str> {
    let words = cell.split(|character: char| !character.is_alphanumeric() && character != '_');
    words
        .filter(|word| word.chars().filter(char::is_ascii_uppercase).count() == 2 && 2 < word.len())
}

fn argument_of(design: &str) -> &str {
    let start = design.find("## The safety argument").expect("the section");
    let section = &design[start + 3..];
    &section[..section.find("\n## ").unwrap_or(section.len())]
}

#[test]
fn safety_argument_names_what_there_is() {
    let design = std::fs::read_to_string(files::root().join("DESIGN.md")).expect("DESIGN.md");
    let missing = Evidence::of_the_tree().missing(argument_of(&design));
    assert_none("the safety argument", &missing);
}

#[test]
fn planted_names_are_missed() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let evidence = Evidence {
        assertions: set(&["votes_stay"]),
        properties: set(&["VoteOnce"]),
        transcripts: set(&["election"]),
        mutants: set(&["E1", "E2"]),
    };
    let row = |asserted: &str, tests: &str, mutants: &str| {
        evidence
            .missing(&format!("| a rule | {asserted} | {tests} | {mutants} |"))
            .len()
    };
    assert_eq!(
        row("`votes_stay`, VoteOnce", "`elect*`, `tests/raft`", "E1, E2"),
        0
    );
    assert_eq!(row("`votes_go`", "`election`", "E1, E2"), 1);
    assert_eq!(row("VoteTwice", "`election`", "E1, E2"), 1);
    assert_eq!(row("", "`elections`", "E1, E2"), 1);
    assert_eq!(row("", "`election`", "E1, E3"), 2);
}
