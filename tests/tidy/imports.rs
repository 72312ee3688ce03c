//! Who may import whom: the table of the architecture.

use crate::assert_none;
use crate::files::{self, TextFile};
use crate::source::{is_test_file, product_code_of};

/// Module → what it may name of this crate. A target with `::` allows only
/// that submodule. `cli` and `config` may use anything and are not listed.
const TABLE: [(&str, &[&str]); 18] = [
    ("types", &[]),
    ("sync", &[]),
    ("codec", &["types"]),
    ("raft", &["types", "codec"]),
    ("store", &["types", "codec"]),
    ("membership", &["types", "codec"]),
    ("disk", &["types"]),
    ("wal", &["types", "sync", "codec", "disk"]),
    ("snapshot", &["types", "sync", "codec", "disk"]),
    ("peer", &["types", "codec", "raft::message", "membership"]),
    (
        "discovery",
        &["types", "codec", "raft::message", "membership"],
    ),
    (
        "node",
        &[
            "types",
            "sync",
            "codec",
            "raft",
            "store",
            "membership",
            "disk",
            "wal",
            "snapshot",
            "peer",
            "discovery",
            // The node implements the trait that the vault calls.
            "physical",
        ],
    ),
    ("seal", &["types", "codec"]),
    ("barrier", &["types", "codec"]),
    // The policy's settings and pictures are part of what storage is asked.
    ("physical", &["types", "node", "membership"]),
    (
        "vault",
        &[
            "types",
            "barrier",
            "seal",
            "physical",
            "membership",
            // The format in which a snapshot leaves and enters (D-009).
            "snapshot::archive",
            // Joining is the vault's decision; where peers may be is not.
            "discovery",
        ],
    ),
    // `physical` is how the vault's errors and futures name the node below.
    ("http", &["vault", "node", "physical"]),
    (
        "sim",
        &[
            "types",
            "codec",
            "raft",
            "store",
            "membership",
            "disk",
            "wal",
            "snapshot",
            "node",
            // The rule of greetings, and what streams snapshots, on a network
            // of the simulator's own.
            "peer",
        ],
    ),
];

/// Imports beyond the table: (file, import, reason).
const EXCEPTIONS: [(&str, &str, &str); 5] = [
    (
        "src/membership/autopilot.rs",
        "raft::Role",
        "the policy judges what the core reports; it never calls the core",
    ),
    (
        "src/membership/autopilot.rs",
        "raft::Status",
        "the policy judges what the core reports; it never calls the core",
    ),
    (
        "src/membership/autopilot.rs",
        "raft::PeerStatus",
        "the policy judges what the core reports; it never calls the core",
    ),
    (
        "src/membership/forecast.rs",
        "raft::Status",
        "the policy judges what the core reports; it never calls the core",
    ),
    (
        "src/membership/picture.rs",
        "raft::Status",
        "the policy judges what the core reports; it never calls the core",
    ),
];

/// Every path in the crate that the code names, e.g. `raft::message::Message`,
/// with groups spelt out.
pub fn paths_named(code: &str) -> Vec<String> {
    let packed: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let packed = packed
        .replace(":: ", "::")
        .replace(" ::", "::")
        .replace("{ ", "{");
    let mut paths = Vec::new();
    for (start, mark) in packed.match_indices("crate::") {
        let rest = &packed[start + mark.len()..];
        if packed[..start].ends_with('$') {
            continue; // a macro's own crate
        }
        spell_out("", rest, &mut paths);
    }
    paths
}

/// Appends the paths of one `use` tree, or of one plain path.
fn spell_out(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let end = tree.find(|next: char| !next.is_alphanumeric() && next != '_' && next != ':');
    let path = &tree[..end.unwrap_or(tree.len())];
    let Some(group) = tree[path.len()..].strip_prefix('{') else {
        paths.push(format!("{prefix}{path}"));
        return;
    };
    let mut depth = 0_usize;
    let mut item = 0;
    for (position, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let part = group[item..position].trim();
                if !part.is_empty() {
                    spell_out(&format!("{prefix}{path}"), part, paths);
                }
                item = position + 1;
                if character == '}' {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn forbidden(file: &TextFile) -> Vec<String> {
    let module = file
        .path
        .trim_start_matches("src/")
        .split(['/', '.'])
        .next();
    let Some((module, allowed)) = TABLE.iter().find(|(name, _)| Some(*name) == module) else {
        return Vec::new();
    };
    if is_test_file(&file.path) {
        return Vec::new();
    }
    let is_allowed = |path: &String| {
        let inside = |target: &&str| path == *target || path.starts_with(&format!("{target}::"));
        let excepted = |(where_, what, _): &&(&str, &str, &str)| {
            file.path == *where_ && (path == what || path.starts_with(&format!("{what}::")))
        };
        inside(module)
            || allowed.iter().any(inside)
            || EXCEPTIONS.iter().any(|exception| excepted(&exception))
    };
    let mut violations: Vec<String> = paths_named(&product_code_of(&file.text))
        .into_iter()
        .filter(|path| !is_allowed(path))
        .map(|path| format!("{}: crate::{path}", file.path))
        .collect();
    violations.dedup();
    violations
}

#[test]
fn imports_follow_the_architecture() {
    let files = files::under("src", ".rs");
    let violations: Vec<String> = files.iter().flat_map(forbidden).collect();
    assert_none("imports against the architecture", &violations);
}

#[test]
fn exceptions_are_needed() {
    let unneeded = EXCEPTIONS.iter().filter(|(path, import, _)| {
        let files = files::under("src", ".rs");
        let file = files.iter().find(|file| file.path == *path);
        !file.is_some_and(|file| {
            let paths = paths_named(&product_code_of(&file.text));
            paths.iter().any(|path| path.starts_with(import))
        })
    });
    let unneeded: Vec<String> = unneeded
        .map(|(path, import, _)| format!("{path} {import}"))
        .collect();
    assert_none("exceptions without need", &unneeded);
}

#[test]
fn planted_imports_are_found() {
    let check = |path: &str, text: &str| {
        forbidden(&TextFile {
            path: path.into(),
            text: text.into(),
        })
    };
    let found = check("src/raft/x.rs", "use crate::store::Store;");
    assert_eq!(found, ["src/raft/x.rs: crate::store::Store"]);
    let grouped = "use crate::{\n    types::{Term, LogIndex},\n    wal::{Wal, reader::{A, B}},\n};";
    let found = check("src/store/mod.rs", grouped);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(check("src/peer/x.rs", "use crate::raft::Raft;").len(), 1);
    assert_eq!(
        check("src/http/x.rs", "fn a() { crate::wal::open() }").len(),
        1
    );
    for fine in [
        ("src/peer/x.rs", "use crate::raft::message::Message;"),
        (
            "src/raft/x.rs",
            "use crate::types::Term; use crate::raft::api::Input;",
        ),
        ("src/raft/x.rs", "// use crate::wal::Wal;"),
        (
            "src/raft/x.rs",
            "#[cfg(test)] mod tests { use crate::wal::Wal; }",
        ),
        ("src/cli/x.rs", "use crate::wal::Wal;"),
    ] {
        assert_eq!(check(fine.0, fine.1), Vec::<String>::new(), "{fine:?}");
    }
}
