//! Everything that cargo-mutants can think of in `src/raft`, tried on the core
//! alone: which mutants do its unit tests, transcripts and walks not notice?
//!
//! cargo-mutants only lists them; here a copy of the sources is built with all
//! of them at once, each asleep until its number is called. A mutant that no
//! test notices must be explained in `jepsen/mutants/SURVIVORS.md`.
//!
//! `mutants` tries all; `mutants NAME…` those whose name contains one of the
//! NAMEs, in their order; `--resume` leaves out what was tried before on the
//! same text; `--survivors` tries again what survived; `--report` only counts.
//! Results are kept in `target/core-mutants/results.txt`.

mod listed;
mod planted;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use listed::{Mutant, list, mutated};
use planted::plant;
use trial::{Build, Outcome, ask, build};

/// What the tests need.
const SOURCES: [&str; 7] = [
    "src/types",
    "src/codec",
    "src/raft",
    "src/sim/history",
    "src/sim/spec",
    "tests/raft",
    "tests/core",
];
const SURVIVORS: &str = "jepsen/mutants/SURVIVORS.md";

/// By the key of the mutant.
type Results = BTreeMap<String, Outcome>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match campaign(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("mutants: {error}");
            ExitCode::from(255)
        }
    }
}

/// Whether every survivor is explained.
fn campaign(arguments: &[String]) -> io::Result<bool> {
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let words: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    let folder = root.join("target/core-mutants");
    fs::create_dir_all(&folder)?;
    let mut results = read_results(&folder);
    let mutants = list(&root)?;
    let is_chosen = |mutant: &&Mutant| {
        let named = words.is_empty() || words.iter().any(|word| mutant.name.contains(*word));
        let again = match results.get(&mutant.key()) {
            Some(Outcome::Survived) => !flag("--resume"),
            Some(_) => !flag("--resume") && !flag("--survivors"),
            None => !flag("--survivors"),
        };
        named && again && !flag("--report")
    };
    let mut chosen: Vec<&Mutant> = mutants.iter().filter(is_chosen).collect();
    chosen.sort_by_key(|mutant| words.iter().position(|word| mutant.name.contains(*word)));
    if !chosen.is_empty() {
        mirror(&root, &folder.join("tree"))?;
        try_all(&chosen, &folder, &mut results)?;
    }
    report(&root, &mutants, &results)
}

/// First those that live in one build, then each of the others in its own.
fn try_all(chosen: &[&Mutant], folder: &Path, results: &mut Results) -> io::Result<()> {
    let (tree, target) = (folder.join("tree"), folder.join("target"));
    let planted = plant(chosen, &tree, &target)?;
    // The next build replaces it.
    let binary = folder.join("planted");
    fs::copy(&planted.binary, &binary)?;
    let unchanged = ask(&binary, &tree, 0)?;
    if unchanged != Outcome::Survived {
        return Err(io::Error::other(format!(
            "the unchanged core: {unchanged:?}"
        )));
    }
    let numbered = (1..).zip(chosen);
    let (together, alone): (Vec<_>, Vec<_>) =
        numbered.partition(|(number, _)| planted.numbers.contains(number));
    println!("{} in one build", together.len());
    for (number, mutant) in together.into_iter().chain(alone) {
        let started = Instant::now();
        let outcome = if planted.numbers.contains(&number) {
            ask(&binary, &tree, number)?
        } else if planted.unviable.contains(&number) {
            Outcome::Unviable
        } else {
            try_alone(mutant, &tree, &target)?
        };
        let seconds = started.elapsed().as_secs_f64();
        println!("{number} {outcome:?} {seconds:.1} s {}", mutant.name);
        note_result(folder, mutant, outcome)?;
        results.insert(mutant.key(), outcome);
    }
    Ok(())
}

fn try_alone(mutant: &Mutant, tree: &Path, target: &Path) -> io::Result<Outcome> {
    let path = tree.join(&mutant.file);
    let original = fs::read_to_string(&path)?;
    fs::write(&path, mutated(&original, &mutant.diff)?)?;
    let outcome = match build(tree, target) {
        Ok(Build::Done(binary)) => ask(&binary, tree, 0),
        Ok(Build::Failed(_)) => Ok(Outcome::Unviable),
        Err(error) => Err(error),
    };
    fs::write(&path, original)?;
    outcome
}

/// Copies what differs, removes what is no longer there.
fn mirror(root: &Path, tree: &Path) -> io::Result<()> {
    for folder in SOURCES {
        mirror_folder(&root.join(folder), &tree.join(folder))?;
    }
    let notation = "src/sim/notation.rs";
    copy_if_different(&root.join(notation), &tree.join(notation))
}

fn mirror_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut wanted = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        wanted.insert(entry.file_name());
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            mirror_folder(&entry.path(), &target)?;
        } else {
            copy_if_different(&entry.path(), &target)?;
        }
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !wanted.contains(&entry.file_name()) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn copy_if_different(from: &Path, to: &Path) -> io::Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::write(to, bytes)
}

fn note_result(folder: &Path, mutant: &Mutant, outcome: Outcome) -> io::Result<()> {
    let path = folder.join("results.txt");
    let mut file = File::options().create(true).append(true).open(path)?;
    writeln!(file, "{outcome:?}\t{}", mutant.key())
}

fn read_results(folder: &Path) -> Results {
    let all = [
        Outcome::Unviable,
        Outcome::Caught,
        Outcome::Timeout,
        Outcome::Survived,
    ];
    let outcome = |word: &str| all.into_iter().find(|one| format!("{one:?}") == word);
    let text = fs::read_to_string(folder.join("results.txt")).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('\t'));
    pairs
        .filter_map(|(word, key)| Some((key.to_owned(), outcome(word)?)))
        .collect()
}

/// Counts, and names the survivors that nothing explains.
fn report(root: &Path, mutants: &[Mutant], results: &Results) -> io::Result<bool> {
    // A bar inside a table is escaped.
    let explained = fs::read_to_string(root.join(SURVIVORS)).unwrap_or_default();
    let explained = explained.replace("\\|", "|");
    let is_explained = |mutant: &Mutant| explained.contains(&format!("`{}`", mutant.name));
    let mut counts = BTreeMap::<String, usize>::new();
    let mut is_complete = true;
    for mutant in mutants {
        let outcome = results.get(&mutant.key());
        let what = match outcome {
            None => "not tried".to_owned(),
            Some(Outcome::Survived) if is_explained(mutant) => "survived, explained".to_owned(),
            Some(Outcome::Survived) => {
                println!("survives unexplained: {}", mutant.name);
                is_complete = false;
                "survived, unexplained".to_owned()
            }
            Some(outcome) => format!("{outcome:?}").to_lowercase(),
        };
        if is_explained(mutant) && !matches!(outcome, None | Some(Outcome::Survived)) {
            println!("explained, but {outcome:?}: {}", mutant.name);
        }
        *counts.entry(what).or_default() += 1;
    }
    println!("{} mutants: {counts:?}", mutants.len());
    Ok(is_complete)
}
