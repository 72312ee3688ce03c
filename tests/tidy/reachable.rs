//! Files that nobody includes: a forgotten test file never fails.

use std::collections::BTreeSet;

use crate::assert_none;
use crate::files::{self, TextFile};
use crate::source::code_of;

/// Rust files under `folder` that no `mod` line leads to from `roots`.
fn unreachable(files: &[TextFile], roots: &[String]) -> Vec<String> {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut pending: Vec<String> = roots.to_vec();
    while let Some(path) = pending.pop() {
        let Some(file) = files.iter().find(|file| file.path == path) else {
            continue;
        };
        if !reached.insert(path.clone()) {
            continue;
        }
        let folder = folder_of_submodules(&path);
        for module in modules_declared(&code_of(&file.text)) {
            pending.push(format!("{folder}{module}.rs"));
            pending.push(format!("{folder}{module}/mod.rs"));
        }
        let own_folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for named in paths_given(&file.text) {
            pending.push(format!("{own_folder}/{named}"));
        }
    }
    let paths = files.iter().map(|file| file.path.clone());
    paths.filter(|path| !reached.contains(path)).collect()
}

fn folder_of_submodules(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "mod.rs" | "main.rs" | "lib.rs" => format!("{folder}/"),
        _ => format!("{}/", path.trim_end_matches(".rs")),
    }
}

fn modules_declared(code: &str) -> Vec<String> {
    let lines = code.lines().filter_map(|line| {
        let (before, name) = line.split_once("mod ")?;
        let is_declaration = before.is_empty() || before.ends_with([' ', '\t']);
        let name = name.trim().strip_suffix(';')?;
        is_declaration.then(|| name.to_owned())
    });
    lines.collect()
}

/// Files that `#[path = "…"]` names.
fn paths_given(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let path = line.trim().strip_prefix("#[path = \"")?;
        path.strip_suffix("\"]")
    })
}

/// Python files that are neither tests by name nor imported by one.
fn forgotten_scripts(files: &[TextFile]) -> Vec<String> {
    let is_forgotten = |file: &&TextFile| {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if name == "conftest.py" || name.starts_with("test_") {
            return false;
        }
        let import = format!("from {} import", name.trim_end_matches(".py"));
        !files.iter().any(|other| other.text.contains(&import))
    };
    let forgotten = files.iter().filter(is_forgotten);
    forgotten.map(|file| file.path.clone()).collect()
}

#[test]
fn every_source_file_is_reachable() {
    for (folder, roots) in [
        ("src", ["src/lib.rs", "src/main.rs"].as_slice()),
        ("jepsen/src", &["jepsen/src/main.rs", "jepsen/src/lib.rs"]),
    ] {
        let roots: Vec<String> = roots.iter().map(|root| (*root).to_owned()).collect();
        let violations = unreachable(&files::under(folder, ".rs"), &roots);
        assert_none("unreachable sources", &violations);
    }
}

#[test]
fn every_test_file_is_reachable() {
    let files = files::under("tests", ".rs");
    // Cargo finds `tests/x.rs` and `tests/x/main.rs`, and in a package of its
    // own its library and its binaries; nothing else.
    let is_root = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        matches!(
            parts[..],
            [_, _]
                | [_, _, "main.rs"]
                | [_, _, "src", "main.rs" | "lib.rs"]
                | [_, _, "src", "bin", _]
                | [_, _, "src", "bin", _, "main.rs"]
        )
    };
    let roots = files
        .iter()
        .map(|file| file.path.clone())
        .filter(|path| is_root(path));
    let roots: Vec<String> = roots.collect();
    assert_none("forgotten test files", &unreachable(&files, &roots));
}

#[test]
fn every_client_script_is_run_or_imported() {
    let files = files::under("tests/clients", ".py");
    assert_none("forgotten scripts", &forgotten_scripts(&files));
}

#[test]
fn planted_forgotten_files_are_found() {
    let file = |path: &str, text: &str| TextFile {
        path: path.into(),
        text: text.into(),
    };
    let files = [
        file(
            "tests/wal/main.rs",
            "mod a;\n// mod lost;\n#[path = \"odd.rs\"]\nmod b;\n",
        ),
        file("tests/wal/odd.rs", ""),
        file("tests/wal/a.rs", "mod deep;"),
        file("tests/wal/a/deep.rs", ""),
        file("tests/wal/lost.rs", ""),
    ];
    let roots = ["tests/wal/main.rs".to_owned()];
    assert_eq!(unreachable(&files, &roots), ["tests/wal/lost.rs"]);
    let scripts = [
        file("tests/clients/test_a.py", "from servers import Node"),
        file("tests/clients/servers.py", ""),
        file("tests/clients/snapshots_test.py", ""),
    ];
    assert_eq!(
        forgotten_scripts(&scripts),
        ["tests/clients/snapshots_test.py"]
    );
}
