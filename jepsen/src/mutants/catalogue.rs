//! The catalogue of mutants: `jepsen/mutants/ID.patch`, each a header and a
//! diff, and the list of bugs that have no place here to be made in.
//!
//! ```text
//! # id: E1
//! # bug: what the code does wrong, in one sentence
//! # breaks: LC
//! # source: where it was seen
//! # expected: transcript
//! --- a/src/raft/replication.rs
//! …
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::layer::LayerName;
use super::patch::Patch;

/// How many bugs each chapter of the catalogue names: elections, replication,
/// membership, snapshots, reads and sessions, storage.
const CHAPTERS: [(&str, u32); 6] = [
    ("E", 20),
    ("R", 20),
    ("M", 16),
    ("S", 14),
    ("C", 9),
    ("W", 15),
];

/// Election safety, leader completeness, log matching, state-machine safety,
/// linearizability, durability, liveness.
const PROPERTIES: [&str; 7] = ["ES", "LC", "LM", "SM", "LIN", "DUR", "LIVE"];

/// One bug, ready to be made.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Its number in the catalogue.
    pub id: String,
    /// What it does wrong.
    pub bug: String,
    /// The properties it breaks.
    pub breaks: Vec<String>,
    /// Where it was seen.
    pub source: String,
    /// The cheapest layer that should notice.
    pub expected: LayerName,
    /// How to make it.
    pub patch: Patch,
    /// Its file.
    pub path: PathBuf,
}

/// Everything in the folder.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// In the order of the chapters.
    pub mutants: Vec<Mutant>,
    /// Why a bug cannot be made here.
    pub inapplicable: BTreeMap<String, String>,
}

impl Catalogue {
    /// Reads all patches and the README beside them.
    ///
    /// # Errors
    /// Names the file with the first flaw: an incomplete header, a diff that
    /// is none, a bug of the catalogue with neither patch nor reason.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut catalogue = Self::default();
        let mut found = BTreeMap::new();
        let listed = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
        for file in listed {
            let path = file?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "patch")
            {
                let mutant = read_mutant(&path).with_context(|| path.display().to_string())?;
                found.insert(mutant.id.clone(), mutant);
            }
        }
        let readme = directory.join("README.md");
        let text = fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
        catalogue.inapplicable = reasons(&text);
        let known: BTreeSet<String> = all_ids().into_iter().collect();
        for id in found.keys().chain(catalogue.inapplicable.keys()) {
            ensure!(known.contains(id), "{id} is not in the catalogue");
        }
        for id in all_ids() {
            match (found.remove(&id), catalogue.inapplicable.contains_key(&id)) {
                (Some(mutant), false) => catalogue.mutants.push(mutant),
                (None, true) => {}
                (Some(_), true) => bail!("{id}: both a patch and a reason why there is none"),
                (None, false) => bail!("{id}: neither a patch nor a reason why there is none"),
            }
        }
        Ok(catalogue)
    }
}

/// Every number of the catalogue, in order.
#[must_use]
pub fn all_ids() -> Vec<String> {
    let chapter = |(letter, count): &(&str, u32)| {
        let letter = (*letter).to_owned();
        (1..=*count).map(move |number| format!("{letter}{number}"))
    };
    CHAPTERS.iter().flat_map(chapter).collect()
}

/// Lines `- **ID**: why` of the README.
fn reasons(text: &str) -> BTreeMap<String, String> {
    let reason = |line: &str| {
        let (id, why) = line.strip_prefix("- **")?.split_once("**: ")?;
        Some((id.to_owned(), why.to_owned()))
    };
    text.lines().filter_map(reason).collect()
}

fn read_mutant(path: &Path) -> anyhow::Result<Mutant> {
    let text = fs::read_to_string(path)?;
    let mut fields = header(&text)?;
    let mut field = |name: &str| {
        let value = fields.remove(name).filter(|value| !value.is_empty());
        value.with_context(|| format!("the header lacks `# {name}:`"))
    };
    let id = field("id")?;
    let named = path.file_stem().is_some_and(|stem| stem == id.as_str());
    ensure!(named, "the header is that of {id}");
    let breaks: Vec<String> = field("breaks")?.split(", ").map(str::to_owned).collect();
    for property in &breaks {
        let known = PROPERTIES.contains(&property.as_str());
        ensure!(known, "`{property}` is none of {PROPERTIES:?}");
    }
    let mutant = Mutant {
        bug: field("bug")?,
        source: field("source")?,
        expected: field("expected")?.parse()?,
        patch: Patch::parse(&text)?,
        path: path.to_owned(),
        breaks,
        id,
    };
    ensure!(mutant.patch.paths().next().is_some(), "it changes nothing");
    match fields.keys().next() {
        Some(unknown) => bail!("the header has an unknown field `{unknown}`"),
        None => Ok(mutant),
    }
}

/// `# name: value`, continued by lines that begin with `#   `.
fn header(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        if let Some(more) = line.strip_prefix("#   ") {
            let (_, value) = fields.last_mut().context("a header begins with a name")?;
            *value += " ";
            *value += more.trim();
        } else {
            let field = line
                .strip_prefix("# ")
                .and_then(|line| line.split_once(": "));
            let (name, value) = field.with_context(|| format!("`{line}` is no header line"))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    Ok(fields.into_iter().collect())
}

/// The comment lines a patch begins with.
#[must_use]
pub fn header_lines(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_has_ninety_four_numbers() {
        assert_eq!(all_ids().len(), 94);
    }

    // Also run by `make test`: every bug has a patch that fits the tree as it
    // is, or a reason why it cannot be made here.
    #[test]
    fn every_patch_applies_to_this_tree() {
        let root = super::super::repository();
        let catalogue = Catalogue::read(&root.join("jepsen/mutants")).expect("complete");
        let misfits: Vec<String> = catalogue
            .mutants
            .iter()
            .filter_map(|mutant| {
                let error = mutant.patch.apply(&root).err()?;
                Some(format!("{}: {error}", mutant.path.display()))
            })
            .collect();
        assert!(
            misfits.is_empty(),
            "`jepsen mutants --refresh` adjusts what merely moved:\n{}",
            misfits.join("\n")
        );
        assert!(
            70 <= catalogue.mutants.len(),
            "{} apply",
            catalogue.mutants.len()
        );
    }

    #[test]
    fn header_lines_continue() {
        let text = "# id: E1\n# bug: long\n#   and longer\n--- a/x\n";
        let fields = header(text).expect("a header");
        assert_eq!(fields["bug"], "long and longer");
        assert_eq!(header_lines(text).lines().count(), 3);
    }
}
