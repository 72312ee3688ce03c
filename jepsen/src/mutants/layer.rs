//! The layers of tests, cheapest first, and running one of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::catalogue::Mutant;
use super::patch::Patch;
use super::tree::Tree;

/// A way of testing; the order is that of their cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum LayerName {
    /// Tests beside the code, on chosen data.
    Unit,
    /// Told stories, whole clusters in memory.
    Transcript,
    /// Tests on drawn data against small models.
    Proptest,
    /// The log under a crash or a fault at every call.
    Crash,
    /// Random walks of whole clusters in memory.
    Walk,
    /// Every interleaving within small bounds.
    Model,
    /// Seeded simulation over disk, network and clock.
    Sim,
}

impl std::str::FromStr for LayerName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        <Self as ValueEnum>::from_str(text, false)
            .map_err(|_| anyhow::anyhow!("`{text}` is no layer"))
    }
}

impl std::fmt::Display for LayerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = format!("{self:?}").to_lowercase();
        f.pad(&name)
    }
}

/// One test binary with a choice of its tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The layer it belongs to.
    pub layer: LayerName,
    /// The tests of the library, or a test binary by name.
    target: Option<&'static str>,
    /// Names, or parts of them, of the tests to run.
    chosen: Vec<String>,
    /// And of those not to run.
    skipped: Vec<String>,
    /// The one observer that watches; otherwise all do.
    observer: Option<&'static str>,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every test passed.
    Passed,
    /// This one failed, perhaps others too; and what was said first.
    Failed(String, String),
    /// The time was up.
    Hung,
    /// The process ended by itself before its tests did.
    Aborted(String),
    /// There was nothing to run.
    Empty,
}

/// The runs that could notice a patch, cheapest first.
///
/// # Errors
/// A source file cannot be read.
pub fn runs_for(patch: &Patch, tree: &Tree) -> anyhow::Result<Vec<Run>> {
    let modules = modules_of(patch);
    let properties = tree.properties(&modules)?;
    let touches = |names: &[&str]| names.iter().any(|name| modules.contains(*name));
    let beside = modules.iter().map(|name| format!("{name}::")).collect();
    let mut runs = vec![Run::of(LayerName::Unit, None, beside).without(&properties)];
    if !properties.is_empty() {
        runs.push(Run::of(LayerName::Proptest, None, properties));
    }
    if touches(&["raft", "codec", "types"]) {
        let told = ["transcripts", "script", "notation"].map(str::to_owned);
        runs.push(Run::of(
            LayerName::Transcript,
            Some("raft"),
            vec!["transcripts".into()],
        ));
        runs.push(Run::of(LayerName::Walk, Some("raft"), Vec::new()).without(&told));
        runs.push(Run::of(LayerName::Model, Some("model"), Vec::new()));
    }
    if touches(&["wal", "disk", "codec", "types"]) {
        let drawn = ["properties".to_owned()];
        runs.push(Run::of(LayerName::Proptest, Some("wal"), drawn.to_vec()));
        runs.push(Run::of(LayerName::Crash, Some("wal"), Vec::new()).without(&drawn));
    }
    runs.retain(|run| run.target.is_none_or(|name| tree.has_test(name)));
    runs.sort();
    Ok(runs)
}

/// Seeds, one after the other, until one fails.
#[must_use]
pub fn seeds(tree: &Tree) -> Option<Run> {
    let chosen = vec!["slice_of_seeds_holds".to_owned()];
    let run = Run::of(LayerName::Sim, Some("sim"), chosen);
    tree.has_simulation().then_some(run)
}

/// The stories and walks of whole clusters with no other observer than the
/// executable specification.
#[must_use]
pub fn specification_alone(tree: &Tree) -> Option<Run> {
    let chosen = ["transcripts", "random"].map(str::to_owned);
    let run = Run {
        observer: Some("spec"),
        ..Run::of(LayerName::Walk, Some("raft"), chosen.into())
    };
    tree.has_specification().then_some(run)
}

/// The modules under `src` that a patch changes.
fn modules_of(patch: &Patch) -> BTreeSet<String> {
    let module = |path: &Path| {
        let path = path.strip_prefix("src").ok()?;
        let first = path.components().next()?.as_os_str().to_str()?;
        Some(first.trim_end_matches(".rs").to_owned())
    };
    patch.paths().filter_map(module).collect()
}

impl Run {
    fn of(layer: LayerName, target: Option<&'static str>, chosen: Vec<String>) -> Self {
        Self {
            layer,
            target,
            chosen,
            skipped: Vec::new(),
            observer: None,
        }
    }

    fn without(mut self, names: &[String]) -> Self {
        self.skipped = names.to_vec();
        self
    }

    /// Builds the binary; its path.
    ///
    /// # Errors
    /// It does not build: the first error of the compiler.
    pub fn build(&self, tree: &Tree) -> anyhow::Result<PathBuf> {
        let mut command = Command::new("cargo");
        command
            .args(["test", "--offline", "--no-run", "--message-format", "json"])
            .current_dir(&tree.root)
            .env("CARGO_TARGET_DIR", &tree.target)
            .stdin(Stdio::null());
        match self.target {
            None => command.arg("--lib"),
            Some(name) => command.args(["--test", name]),
        };
        if self.layer == LayerName::Sim {
            command.args(["--package", "jepsen"]);
        }
        let output = command.output().context("run cargo")?;
        let messages = String::from_utf8_lossy(&output.stdout);
        let messages = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let (mut executable, mut error) = (None, None);
        for message in messages {
            if let Some(path) = message["executable"].as_str() {
                executable = Some(PathBuf::from(path));
            }
            if message["message"]["level"] == "error" && error.is_none() {
                error = message["message"]["rendered"].as_str().map(str::to_owned);
            }
        }
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("does not build: {}", error.unwrap_or(stderr));
        }
        executable.context("cargo named no executable")
    }

    /// Whether these words are in what it printed when it ran last.
    #[must_use]
    pub fn said(tree: &Tree, words: &str) -> bool {
        let output = fs::read(output_path(tree)).unwrap_or_default();
        String::from_utf8_lossy(&output).contains(words)
    }

    /// Runs the chosen tests, for at most `patience`. What is said of a failure
    /// is what is nearest to the `subject`.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn execute(
        &self,
        binary: &Path,
        tree: &Tree,
        patience: Duration,
        subject: &Subject,
    ) -> anyhow::Result<Outcome> {
        let output_path = output_path(tree);
        let output = File::create(&output_path)?;
        // A mutant that never stops asking for memory must not take it from
        // everybody else.
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"")])
            .arg(binary)
            .args(&self.chosen)
            .args(self.skipped.iter().flat_map(|name| ["--skip", name]))
            .current_dir(&tree.root)
            .env("RUST_BACKTRACE", "0")
            .env("HOLDFAST_SEEDS", SEEDS_MAX)
            .envs(self.observer.map(|name| ("HOLDFAST_ONLY", name)))
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if patience <= started.elapsed() {
                child.kill()?;
                child.wait()?;
                return Ok(Outcome::Hung);
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let output = fs::read(&output_path).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        Ok(
            match (subject.judge(&output, status), failed_seed(&output)) {
                (Outcome::Failed(_, complaint), Some(seed)) if self.layer == LayerName::Sim => {
                    Outcome::Failed(format!("seed {seed} of 0..{}", seed + 1), complaint)
                }
                (outcome, _) => outcome,
            },
        )
    }
}

fn output_path(tree: &Tree) -> PathBuf {
    tree.root.join("output.txt")
}

/// What a mutant is about. Of several tests that fail the one nearest to it is
/// named: a mutant is noticed by many that are about something else, too.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// Its number, which the stories about it name.
    id: String,
    /// Names of the files changed, without their endings.
    stems: Vec<String>,
    /// Where the stories are.
    stories: PathBuf,
}

impl Subject {
    /// Of a mutant in a tree.
    #[must_use]
    pub fn of(mutant: &Mutant, tree: &Tree) -> Self {
        let stems = mutant.patch.paths().filter_map(|path| path.file_stem());
        Self {
            id: mutant.id.clone(),
            stems: stems
                .map(|stem| stem.to_string_lossy().into_owned())
                .collect(),
            stories: tree.root.join("tests/raft/testdata"),
        }
    }

    fn judge(&self, output: &str, status: ExitStatus) -> Outcome {
        let failed = output
            .lines()
            .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        let distance = |name: &&str| {
            let is_beside = |stem: &String| name.split("::").any(|part| part == stem);
            // Bytes that are pinned differ for many reasons.
            (name.contains("golden"), !self.stems.iter().any(is_beside))
        };
        if let Some(name) = failed.min_by_key(distance) {
            return Outcome::Failed(name.to_owned(), self.complaint(output, name));
        }
        if !status.success() {
            let last = output.lines().rfind(|line| !line.trim().is_empty());
            let last = last.unwrap_or_default();
            return Outcome::Aborted(format!("{status}: {last}"));
        }
        let ran = output.lines().any(|line| line.ends_with(" ... ok"));
        if ran { Outcome::Passed } else { Outcome::Empty }
    }

    /// What a test says first when it panics; of transcripts that differ, which
    /// one.
    fn complaint(&self, output: &str, test: &str) -> String {
        let thread = format!("thread '{test}' ");
        let mut lines = output
            .lines()
            .skip_while(|line| !(line.starts_with(&thread) && line.contains("panicked at ")))
            .skip(1);
        let first = lines.next().unwrap_or_default();
        let words = if first.starts_with("UPDATE=1") {
            let places = lines.filter(|line| line.contains(".txt:"));
            let names = places.map(|place| place.rsplit('/').next().unwrap_or(place));
            names
                .min_by_key(|name| !self.is_told_in(name))
                .unwrap_or(first)
        } else {
            first
        };
        let words: String = words.trim().chars().take(COMPLAINT_CHARS_MAX).collect();
        words.replace('|', "/")
    }

    /// Whether the story at `file:line` names the mutant.
    fn is_told_in(&self, place: &str) -> bool {
        let file = place.split(':').next().unwrap_or(place);
        let text = fs::read_to_string(self.stories.join(file)).unwrap_or_default();
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| word == self.id)
    }
}

/// The seed that a failing campaign tells to replay.
fn failed_seed(output: &str) -> Option<u64> {
    let (_, after) = output.split_once("--seed ")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Of a panic's words, as many are shown.
const COMPLAINT_CHARS_MAX: usize = 70;
/// As many seeds are tried.
const SEEDS_MAX: &str = "1000";
/// Address space of a test binary.
const MEMORY_KIB: u64 = 6 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn about(stem: &str) -> Subject {
        Subject {
            stems: vec![stem.to_owned()],
            ..Subject::default()
        }
    }

    #[test]
    fn failed_test_nearest_to_the_mutant_is_named() {
        let output = "test a ... ok\ntest golden::a ... FAILED\ntest b::c ... FAILED\n\
                      test d::e ... FAILED\n";
        let status = ExitStatus::from_raw(101 << 8);
        for (stem, name) in [
            ("b", "b::c"),
            ("d", "d::e"),
            ("x", "b::c"),
            ("golden", "b::c"),
        ] {
            let expected = Outcome::Failed(name.to_owned(), String::new());
            assert_eq!(about(stem).judge(output, status), expected);
        }
    }

    #[test]
    fn complaint_is_the_panic_or_the_transcript() {
        let subject = Subject::default();
        let panic = "x\nthread 'a' (7) panicked at src/x.rs:1:2:\nthe term went back\nnote: b\n";
        assert_eq!(subject.complaint(panic, "a"), "the term went back");
        assert_eq!(subject.complaint(panic, "b"), "");
        let differs = "thread 'a' panicked at t.rs:1:2:\nUPDATE=1 if intended:\n\
                       /a/b/election.txt:7\n  written: x\n/a/b/figure_8.txt:9\n";
        assert_eq!(subject.complaint(differs, "a"), "election.txt:7");
        let told = Subject {
            id: "E1".to_owned(),
            stories: super::super::repository().join("tests/raft/testdata"),
            ..Subject::default()
        };
        assert_eq!(told.complaint(differs, "a"), "figure_8.txt:9");
    }

    #[test]
    fn process_that_dies_is_no_pass_and_no_test_is_no_verdict() {
        let subject = Subject::default();
        let aborted = subject.judge("test a ... ok\nstack overflow\n", ExitStatus::from_raw(6));
        assert!(matches!(aborted, Outcome::Aborted(_)));
        let nothing = subject.judge("running 0 tests\n", ExitStatus::from_raw(0));
        assert_eq!(nothing, Outcome::Empty);
    }

    #[test]
    fn layers_are_ordered_by_cost_and_read_by_name() {
        assert!(LayerName::Unit < LayerName::Transcript && LayerName::Walk < LayerName::Sim);
        assert_eq!(
            "crash".parse::<LayerName>().expect("known"),
            LayerName::Crash
        );
        assert!("harness".parse::<LayerName>().is_err());
    }

    #[test]
    fn failed_seed_is_the_one_to_replay() {
        let output = "ReadValid\nreplay: jepsen -- sim --seed 41 --trace\n";
        assert_eq!(failed_seed(output), Some(41));
        assert_eq!(failed_seed("test a ... ok"), None);
    }
}
