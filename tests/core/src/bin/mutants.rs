//! Everything that cargo-mutants can think of in `src/raft`, tried on the core
//! alone: which mutants do its unit tests, transcripts and walks not notice?
//!
//! cargo-mutants only lists the mutants; this builds a copy of the sources with
//! each in turn. A mutant that no test notices must be explained in
//! `jepsen/mutants/SURVIVORS.md`, which names mutants without line numbers:
//! the file, what is replaced in which function, and which of several alike.
//!
//! `mutants` tries all; `mutants NAME…` those whose name contains one of the
//! NAMEs, in their order; `--resume` leaves out what was tried before on the
//! same text; `--survivors` tries again what survived; `--report` only counts.
//! Results are kept in `target/core-mutants/results.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One change to one file.
struct Mutant {
    /// E.g. `log.rs: replace < with <= in Log::append (2)`.
    name: String,
    file: PathBuf,
    diff: String,
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Unviable,
    Caught,
    Timeout,
    Survived,
}

/// A choice of the tests, and how long they may take.
struct Layer {
    chosen: &'static [&'static str],
    skipped: &'static [&'static str],
    /// Of the random walks.
    seeds: &'static str,
    patience: Duration,
}

/// Cheapest first. Unchanged, they take about 0.5 s, 2 s and 3 s.
const LAYERS: [Layer; 3] = [
    Layer {
        chosen: &[],
        skipped: &["random::", "leases::", "nonsense::"],
        seeds: "1",
        patience: Duration::from_secs(40),
    },
    Layer {
        chosen: &["random::", "nonsense::"],
        skipped: &[],
        seeds: "40",
        patience: Duration::from_secs(90),
    },
    Layer {
        chosen: &["leases::"],
        skipped: &[],
        seeds: "6",
        patience: Duration::from_secs(90),
    },
];
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
/// Address space of the tests; a mutant that never stops asking for memory must
/// not take it from everybody else.
const MEMORY_KIB: u64 = 6 << 20;
const SURVIVORS: &str = "jepsen/mutants/SURVIVORS.md";
const LISTER: &str = "target/tools/bin/cargo-mutants";

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
    let results_path = folder.join("results.txt");
    let mut results = read_results(&results_path);
    let mutants = list(&root)?;
    let is_chosen = |mutant: &&Mutant| {
        let named = words.is_empty() || words.iter().any(|word| mutant.name.contains(*word));
        let before = results.get(&mutant.diff_line());
        let again = match before {
            Some(Outcome::Survived) => !flag("--resume"),
            Some(_) => !flag("--resume") && !flag("--survivors"),
            None => !flag("--survivors"),
        };
        named && again && !flag("--report")
    };
    let mut chosen: Vec<&Mutant> = mutants.iter().filter(is_chosen).collect();
    chosen.sort_by_key(|mutant| words.iter().position(|word| mutant.name.contains(*word)));
    if !chosen.is_empty() {
        let tree = folder.join("tree");
        mirror(&root, &tree)?;
        let outcome = attempt(&tree, &folder)?;
        if outcome != Outcome::Survived {
            return Err(io::Error::other(format!("the unchanged core: {outcome:?}")));
        }
        for (number, mutant) in chosen.iter().enumerate() {
            let started = Instant::now();
            let path = tree.join(&mutant.file);
            let original = fs::read_to_string(&path)?;
            fs::write(&path, mutated(&original, &mutant.diff)?)?;
            let outcome = attempt(&tree, &folder);
            fs::write(&path, original)?;
            let outcome = outcome?;
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "{}/{} {outcome:?} {seconds:.1} s {}",
                number + 1,
                chosen.len(),
                mutant.name
            );
            let mut file = File::options()
                .create(true)
                .append(true)
                .open(&results_path)?;
            writeln!(file, "{outcome:?}\t{}", mutant.diff_line())?;
            results.insert(mutant.diff_line(), outcome);
        }
    }
    report(&root, &mutants, &results)
}

impl Mutant {
    /// Name and text of the change on one line: what was tried before.
    fn diff_line(&self) -> String {
        let changed = |line: &&str| line.starts_with(['-', '+']) && !line.starts_with("---");
        let lines: Vec<&str> = self.diff.lines().filter(changed).map(str::trim).collect();
        format!("{}\t{}", self.name, lines.join(" "))
    }
}

/// The mutants of the core, as cargo-mutants thinks of them.
fn list(root: &Path) -> io::Result<Vec<Mutant>> {
    let output = Command::new(root.join(LISTER))
        .args([
            "mutants",
            "--list",
            "--json",
            "--diff",
            "--file",
            "src/raft/**",
        ])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let mut alike = BTreeMap::<String, usize>::new();
    let mut mutants = Vec::new();
    for one in listed.as_array().into_iter().flatten() {
        let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
        let (file, name) = (text("file"), text("name"));
        // The name begins with file, line and column.
        let what = name.splitn(4, ':').nth(3).unwrap_or_default().trim();
        let name = format!("{}: {what}", file.trim_start_matches("src/raft/"));
        let count = alike.entry(name.clone()).or_default();
        *count += 1;
        let name = if *count == 1 {
            name
        } else {
            format!("{name} ({count})")
        };
        mutants.push(Mutant {
            name,
            file: file.into(),
            diff: text("diff"),
        });
    }
    Ok(mutants)
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

/// The text after the one hunk of a diff; its lines must be there exactly.
fn mutated(original: &str, diff: &str) -> io::Result<String> {
    let misfit = || io::Error::other(format!("does not fit:\n{diff}"));
    let mut lines = diff.lines().skip_while(|line| !line.starts_with("@@"));
    let header = lines.next().ok_or_else(misfit)?;
    let start = header.trim_start_matches("@@ -").split([',', ' ']).next();
    let start: usize = start.and_then(|n| n.parse().ok()).ok_or_else(misfit)?;
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for line in lines {
        match line.split_at_checked(1) {
            Some(("-", rest)) => removed.push(rest),
            Some(("+", rest)) => added.push(rest),
            Some((" ", rest)) => {
                removed.push(rest);
                added.push(rest);
            }
            _ => return Err(misfit()),
        }
    }
    let all: Vec<&str> = original.lines().collect();
    let end = start - 1 + removed.len();
    if all.get(start - 1..end) != Some(&removed) {
        return Err(misfit());
    }
    let lines = [&all[..start - 1], &added, &all[end..]].concat();
    Ok(lines.join("\n") + "\n")
}

/// Builds the tree and asks the layers, until one notices.
fn attempt(tree: &Path, folder: &Path) -> io::Result<Outcome> {
    let Some(binary) = build(tree, folder)? else {
        return Ok(Outcome::Unviable);
    };
    for layer in &LAYERS {
        let outcome = run(&binary, tree, layer)?;
        if outcome != Outcome::Survived {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Survived)
}

/// The test binary; `None`: it does not build.
fn build(tree: &Path, folder: &Path) -> io::Result<Option<PathBuf>> {
    let output = Command::new("cargo")
        .args([
            "test",
            "--lib",
            "--no-run",
            "--locked",
            "--message-format",
            "json",
        ])
        .current_dir(tree.join("tests/core"))
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    Ok(executable.filter(|_| output.status.success()))
}

fn run(binary: &Path, tree: &Path, layer: &Layer) -> io::Result<Outcome> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"")])
        .arg(binary)
        .args(layer.chosen)
        .args(layer.skipped.iter().flat_map(|name| ["--skip", name]))
        .current_dir(tree.join("tests/core"))
        .env("HOLDFAST_SEEDS", layer.seeds)
        .env("RUST_BACKTRACE", "0")
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                Outcome::Survived
            } else {
                Outcome::Caught
            });
        }
        if layer.patience <= started.elapsed() {
            child.kill()?;
            child.wait()?;
            return Ok(Outcome::Timeout);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read_results(path: &Path) -> BTreeMap<String, Outcome> {
    let outcome = |word: &str| match word {
        "Unviable" => Some(Outcome::Unviable),
        "Caught" => Some(Outcome::Caught),
        "Timeout" => Some(Outcome::Timeout),
        "Survived" => Some(Outcome::Survived),
        _ => None,
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('\t'));
    pairs
        .filter_map(|(word, key)| Some((key.to_owned(), outcome(word)?)))
        .collect()
}

/// Counts, and names the survivors that nothing explains.
fn report(
    root: &Path,
    mutants: &[Mutant],
    results: &BTreeMap<String, Outcome>,
) -> io::Result<bool> {
    // A bar inside a table is escaped.
    let explained = fs::read_to_string(root.join(SURVIVORS)).unwrap_or_default();
    let explained = explained.replace("\\|", "|");
    let is_explained = |mutant: &Mutant| explained.contains(&format!("`{}`", mutant.name));
    let mut counts = BTreeMap::<String, usize>::new();
    let mut open = 0;
    for mutant in mutants {
        let outcome = results.get(&mutant.diff_line());
        let what = match outcome {
            None => "not tried".to_owned(),
            Some(Outcome::Survived) if is_explained(mutant) => "survived, explained".to_owned(),
            Some(Outcome::Survived) => {
                println!("survives unexplained: {}", mutant.name);
                open += 1;
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
    Ok(open == 0)
}
