//! The slim crate: a copy of the sources that tests of the lower layers need,
//! under the same name, so that a mutant of the core builds in seconds.
//!
//! Which modules come along is computed: from those the tests name, everything
//! they name in turn. Of `node` and `sim` only the pure parts come, unless the
//! whole is asked for. Files are written only when they differ, so an unchanged
//! tree is not built again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::patch::Patch;

/// How much of the sources a slim crate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// The core, the log, snapshots, the store, and what simulates them.
    Core,
    /// And the threads, the transport and the membership policy.
    Node,
}

/// Test binaries that run against a slim crate, where they exist.
const CORE_TESTS: [&str; 4] = ["raft", "wal", "model", "model.rs"];
/// What of the package `jepsen` stands beside the larger one: seeds.
const SIMULATION: [&str; 4] = [
    "src/lib.rs",
    "src/simulation",
    "src/linearizability",
    "tests/sim.rs",
];
/// What comes along of modules that the core does not need whole.
const PARTS: [(&str, &[&str]); 2] = [
    ("node", &["driver"]),
    ("sim", &["history", "notation", "spec", "model"]),
];
/// Modules mutants are made in, beside those that the tests name.
const CORE: [&str; 4] = ["raft", "wal", "snapshot", "store"];

/// Files by their path from the root of a tree.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A slim crate on disk.
#[derive(Debug)]
pub struct Tree {
    /// The repository it is a copy of.
    source: PathBuf,
    /// Where it is.
    pub root: PathBuf,
    /// Where it is built: with the workspace, whose dependencies it shares.
    pub target: PathBuf,
    /// A hash of all files.
    pub fingerprint: u64,
    modules: BTreeSet<String>,
    extent: Extent,
}

impl Tree {
    /// Makes, or brings up to date, the slim crate of one worker.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn prepare(source: &Path, extent: Extent, worker: usize) -> anyhow::Result<Self> {
        let folder = source.join(format!("target/mutants/worker-{worker}"));
        let name = match extent {
            Extent::Core => "core",
            Extent::Node => "node",
        };
        let mut tree = Self {
            source: source.to_owned(),
            root: folder.join(name),
            target: source.join("target"),
            fingerprint: 0,
            modules: BTreeSet::new(),
            extent,
        };
        tree.modules = tree.reachable_modules()?;
        let wanted = tree.wanted_files()?;
        tree.fingerprint = fingerprint(&wanted);
        write_files(&tree.root, &wanted)?;
        remove_others(&tree.root, &tree.root, &wanted)?;
        Ok(tree)
    }

    /// Whether a patch changes only what is in here.
    #[must_use]
    pub fn holds(&self, patch: &Patch) -> bool {
        patch.paths().all(|path| self.is_original(path))
    }

    /// Makes a mutant; [`Tree::restore`] undoes it with what this returns.
    ///
    /// # Errors
    /// The patch does not fit, or a file cannot be read or written.
    pub fn mutate(&self, patch: &Patch) -> anyhow::Result<Files> {
        let changed = patch.apply(&self.root)?;
        let mut originals = Files::new();
        for path in changed.keys() {
            originals.insert(path.clone(), fs::read(self.root.join(path))?);
        }
        for (path, text) in changed {
            fs::write(self.root.join(path), text)?;
        }
        Ok(originals)
    }

    /// Puts the files of a mutant back.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn restore(&self, originals: &Files) -> anyhow::Result<()> {
        for (path, bytes) in originals {
            fs::write(self.root.join(path), bytes)?;
        }
        Ok(())
    }

    /// Whether it can run seeds.
    #[must_use]
    pub fn has_simulation(&self) -> bool {
        self.root.join("jepsen/tests/sim.rs").is_file()
    }

    /// Whether there is such a test binary.
    #[must_use]
    pub fn has_test(&self, name: &str) -> bool {
        let path = self.root.join("tests").join(name);
        path.is_dir() || path.with_extension("rs").is_file()
    }

    /// Whether the executable specification came along.
    #[must_use]
    pub fn has_specification(&self) -> bool {
        self.has_test("raft") && self.root.join("src/sim/spec").is_dir()
    }

    /// Names of property tests beside the code of some modules.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn properties(&self, modules: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for module in modules {
            for (_, bytes) in self.files_of(module)? {
                names.extend(properties_in(&String::from_utf8_lossy(&bytes)));
            }
        }
        Ok(names)
    }

    fn is_original(&self, path: &Path) -> bool {
        let of_part = |module: &str| path == Path::new("src").join(module).join("mod.rs");
        let is_generated = path == Path::new("src/lib.rs")
            || (self.extent == Extent::Core && PARTS.iter().any(|(module, _)| of_part(module)));
        self.root.join(path).is_file() && !is_generated
    }

    fn tests(&self) -> impl Iterator<Item = PathBuf> {
        let names: &[&str] = match self.extent {
            Extent::Core => &CORE_TESTS,
            Extent::Node => &[],
        };
        let all = names.iter().map(|name| Path::new("tests").join(name));
        all.filter(|path| self.source.join(path).exists())
    }

    fn reachable_modules(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut open: Vec<String> = CORE.map(str::to_owned).into();
        if self.extent == Extent::Node {
            open.extend(["node", "sim"].map(str::to_owned));
        }
        for folder in self.tests() {
            for bytes in files_under(&self.source, &folder)?.into_values() {
                open.extend(named_after(&String::from_utf8_lossy(&bytes), "holdfast::"));
            }
        }
        let mut reached = BTreeSet::new();
        while let Some(module) = open.pop() {
            let exists = self.source.join("src").join(&module).is_dir();
            if !exists || !reached.insert(module.clone()) {
                continue;
            }
            for bytes in self.files_of(&module)?.into_values() {
                open.extend(named_after(&String::from_utf8_lossy(&bytes), "crate::"));
            }
        }
        Ok(reached)
    }

    /// The files of a module that come along.
    fn files_of(&self, module: &str) -> anyhow::Result<Files> {
        let mut files = files_under(&self.source, &Path::new("src").join(module))?;
        if let Some(parts) = self.parts_of(module) {
            let folder = Path::new("src").join(module);
            files.retain(|path, _| {
                let is_in = |part: &&str| {
                    let inside = folder.join(part);
                    path.starts_with(&inside) || *path == inside.with_extension("rs")
                };
                parts.iter().any(is_in)
            });
        }
        Ok(files)
    }

    /// Which parts of a module come along; `None`: all.
    fn parts_of(&self, module: &str) -> Option<&'static [&'static str]> {
        let partial = PARTS.iter().find(|(name, _)| *name == module);
        partial
            .filter(|_| self.extent == Extent::Core)
            .map(|(_, parts)| *parts)
    }

    fn wanted_files(&self) -> anyhow::Result<Files> {
        let mut files = BTreeMap::new();
        for module in &self.modules {
            files.extend(self.files_of(module)?);
        }
        for module in &self.modules {
            let present = |part: &&str| {
                let path = Path::new("src").join(module).join(part);
                files.contains_key(&path.with_extension("rs"))
                    || files.contains_key(&path.join("mod.rs"))
            };
            if let Some(parts) = self.parts_of(module) {
                let text = declarations(parts.iter().copied().filter(present));
                let path = Path::new("src").join(module).join("mod.rs");
                files.insert(path, text.into());
            }
        }
        let library = declarations(self.modules.iter().map(String::as_str));
        files.insert(PathBuf::from("src/lib.rs"), library.into());
        for folder in self.tests() {
            files.extend(files_under(&self.source, &folder)?);
        }
        let read = |path: &str| fs::read_to_string(self.source.join(path));
        let manifest = manifest_for(&read("Cargo.toml")?) + &workspace(self.extent);
        if self.extent == Extent::Node {
            files.extend(self.simulation()?);
        }
        files.insert("Cargo.toml".into(), manifest.into());
        // Cargo drops from it what is not used.
        let (lock, copy) = (self.source.join("Cargo.lock"), self.root.join("Cargo.lock"));
        let written = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
        if written(&copy) < written(&lock) {
            files.insert("Cargo.lock".into(), fs::read(lock)?);
        }
        Ok(files)
    }

    /// What of `jepsen` judges seeds, as a package beside the slim crate.
    fn simulation(&self) -> anyhow::Result<Files> {
        let folder = Path::new("jepsen");
        let mut files = Files::new();
        for path in SIMULATION {
            files.extend(files_under(&self.source, &folder.join(path))?);
        }
        let manifest = fs::read_to_string(self.source.join("jepsen/Cargo.toml"))?;
        let manifest = format!(
            "[package]\nname = \"jepsen\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             publish = false\n\n[dependencies]\nholdfast = {{ path = \"..\" }}\n{}",
            dependencies(&manifest, "[dependencies]")
        );
        files.insert(folder.join("Cargo.toml"), manifest.into());
        Ok(files)
    }
}

/// Of the same files the same number, whoever asks.
fn fingerprint(files: &Files) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, bytes) in files {
        if path.file_name().is_none_or(|name| name != "Cargo.lock") {
            (path, bytes).hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn declarations<'a>(modules: impl Iterator<Item = &'a str>) -> String {
    let lines: String = modules.map(|name| format!("pub mod {name};\n")).collect();
    format!("//! A part of Holdfast.\n\n{lines}")
}

/// The lines of a manifest under a title. All of them, used or not: with other
/// features chosen, dependencies would have to be built again.
fn dependencies(manifest: &str, title: &str) -> String {
    let after = manifest.lines().skip_while(|line| *line != title).skip(1);
    let section = after.take_while(|line| !line.starts_with('['));
    section
        .filter(|line| !line.is_empty() && !line.starts_with("holdfast "))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn workspace(extent: Extent) -> String {
    let members = match extent {
        Extent::Core => "",
        Extent::Node => "members = [\"jepsen\"]\n",
    };
    format!("\n[workspace]\n{members}")
}

/// The root's manifest, cut to what a slim crate needs of it.
fn manifest_for(root: &str) -> String {
    format!(
        "[package]\nname = \"holdfast\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         publish = false\n\n[features]\ndefault = [\"sim\"]\nsim = []\n\n\
         [dependencies]\n{}\n[dev-dependencies]\n{}\n[profile.dev]\ndebug = \"line-tables-only\"\n\n\
         [profile.dev.package.\"*\"]\nopt-level = 1\n\n\
         [profile.dev.package.holdfast]\ndebug = false\n\n\
         [lints.rust]\nwarnings = \"allow\"\n",
        dependencies(root, "[dependencies]"),
        dependencies(root, "[dev-dependencies]"),
    )
}

/// The modules named after a prefix: `crate::raft::…`, `crate::{raft, wal}`.
fn named_after(text: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        let rest = &text[at + prefix.len()..];
        let list = match rest.strip_prefix('{') {
            Some(inside) => inside.split('}').next().unwrap_or_default(),
            None => rest.split(|c: char| !is_name(c)).next().unwrap_or_default(),
        };
        for part in list.split(',') {
            let name: String = part.trim().chars().take_while(|c| is_name(*c)).collect();
            names.insert(name);
        }
    }
    names.remove("");
    names
}

fn is_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// Names of the functions inside `proptest! { … }`.
fn properties_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_start();
        if line.starts_with("proptest! {") {
            inside = Some(indent);
        } else if inside == Some(indent) && line.starts_with('}') {
            inside = None;
        } else if inside.is_some()
            && let Some(rest) = line.strip_prefix("fn ")
        {
            names.extend(rest.split('(').next().map(str::to_owned));
        }
    }
    names
}

/// A folder's files, or the one file.
fn files_under(root: &Path, folder: &Path) -> anyhow::Result<Files> {
    let mut files = BTreeMap::new();
    if root.join(folder).is_file() {
        files.insert(folder.to_owned(), fs::read(root.join(folder))?);
        return Ok(files);
    }
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let path = root.join(&folder);
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let entry = entry?;
            let inside = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(inside);
            } else {
                files.insert(inside, fs::read(entry.path())?);
            }
        }
    }
    Ok(files)
}

fn write_files(root: &Path, files: &Files) -> anyhow::Result<()> {
    for (path, bytes) in files {
        let path = root.join(path);
        if fs::read(&path).is_ok_and(|present| present == *bytes) {
            continue;
        }
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn remove_others(root: &Path, folder: &Path, wanted: &Files) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let inside = path.strip_prefix(root)?;
        if path.is_dir() {
            remove_others(root, &path, wanted)?;
        } else if !wanted.contains_key(inside) && inside != Path::new("Cargo.lock") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_paths_and_lists() {
        let text = "use crate::raft::{Raft, self};\nuse crate::{codec, wal::Wal};\ncrate::types::X";
        let names: Vec<String> = named_after(text, "crate::").into_iter().collect();
        assert_eq!(names, ["codec", "raft", "types", "wal"]);
    }

    #[test]
    fn properties_are_told_from_other_tests() {
        let text = "fn a() {}\n    proptest! {\n        #[test]\n        fn b(x in 0..1) {\n\
                    \x20       }\n    }\n    fn c() {}\n";
        assert_eq!(properties_in(text), ["b"]);
    }

    #[test]
    fn manifest_keeps_all_dependencies_but_itself() {
        let root = "[package]\n[dependencies]\nserde = \"1\"\nmemmap2 = \"2\"\n\n[dev-dependencies]\n\
                    holdfast = { path = \".\" }\nproptest = \"1\"\n\n[profile.dev]\n";
        let manifest = manifest_for(root);
        assert!(manifest.contains("[dependencies]\nserde = \"1\"\nmemmap2 = \"2\"\n\n"));
        assert!(manifest.contains("[dev-dependencies]\nproptest = \"1\"\n"));
    }
}
