//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file: its path from the top of the repository, with `/`, and text.
pub struct TextFile {
    /// E.g. `src/raft/mod.rs`.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// Folders that are built, downloaded or not ours.
const FOREIGN: [&str; 6] = [
    "target",
    ".git",
    ".venv",
    "__pycache__",
    "corpus",
    "proptest-regressions",
];

/// Top of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file under `folder` ending in `suffix`, in order of path.
pub fn under(folder: &str, suffix: &str) -> Vec<TextFile> {
    let mut files = Vec::new();
    collect(&root().join(folder), suffix, &mut files);
    files.sort_by(|left, right| left.path.cmp(&right.path));
    files
}

fn collect(folder: &Path, suffix: &str, files: &mut Vec<TextFile>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry
            .expect("a folder of the repository is readable")
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if FOREIGN.contains(&name.as_ref()) {
            continue; // `.git` is a file in a worktree
        }
        if path.is_dir() {
            collect(&path, suffix, files);
        } else if name.ends_with(suffix) {
            // What is no UTF-8 is no text.
            if let Ok(text) = fs::read_to_string(&path) {
                let path = path
                    .strip_prefix(root())
                    .expect("it was found below the root");
                let path = path.to_string_lossy().replace('\\', "/");
                files.push(TextFile { path, text });
            }
        }
    }
}

mod paths_of_one_machine {
    use super::TextFile;

    /// Written in two halves, or this file would violate its own rule.
    const PREFIXES: [&str; 3] = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];

    fn violations(files: &[TextFile]) -> Vec<String> {
        let mut violations = Vec::new();
        for file in files {
            for (number, line) in file.text.lines().enumerate() {
                if PREFIXES.iter().any(|prefix| line.contains(prefix)) {
                    violations.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
                }
            }
        }
        violations
    }

    #[test]
    fn no_file_names_a_path_of_one_machine() {
        crate::assert_none("paths of one machine", &violations(&super::under("", "")));
    }

    #[test]
    fn planted_path_is_found() {
        let planted = TextFile {
            path: "README.md".into(),
            text: format!("fine\nsee {}x\n", PREFIXES[0]),
        };
        assert_eq!(violations(&[planted]).len(), 1);
    }
}
