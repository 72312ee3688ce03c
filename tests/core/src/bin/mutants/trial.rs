//! Building the core alone, and asking its tests.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It does not compile.
    Unviable,
    /// A test failed.
    Caught,
    /// The tests did not end.
    Timeout,
    /// Nothing noticed.
    Survived,
}

/// What became of a build.
pub enum Build {
    /// The test binary.
    Done(PathBuf),
    /// The compiler's errors.
    Failed(Vec<Value>),
}

/// A choice of the tests, and how long they may take.
struct Layer {
    chosen: &'static [&'static str],
    skipped: &'static [&'static str],
    /// Of the random walks.
    seeds: &'static str,
    patience: Duration,
}

/// Cheapest first. Unchanged, each takes a few seconds at most. The observers' own
/// tests (`sim`) say nothing of the core.
const LAYERS: [Layer; 3] = [
    Layer {
        chosen: &[],
        skipped: &["random::", "leases::", "nonsense::", "sim::"],
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
/// Address space of the tests; a mutant that never stops asking for memory must
/// not take it from everybody else.
const MEMORY_KIB: u64 = 6 << 20;
/// A planted function has a frame for all its mutants.
const STACK_BYTES: &str = "67108864";

/// Builds the test binary of a copy of the sources.
///
/// # Errors
/// Cargo cannot be run.
pub fn build(tree: &Path, target: &Path) -> io::Result<Build> {
    let output = Command::new("cargo")
        .args(["test", "--lib", "--no-run", "--locked"])
        .args(["--message-format", "json"])
        .current_dir(tree.join("tests/core"))
        .env("CARGO_TARGET_DIR", target)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let executable = messages.iter().find_map(|m| m["executable"].as_str());
    if let Some(path) = executable.filter(|_| output.status.success()) {
        return Ok(Build::Done(path.into()));
    }
    let errors = messages.iter().map(|message| &message["message"]);
    let errors = errors.filter(|message| message["level"] == "error");
    Ok(Build::Failed(errors.cloned().collect()))
}

/// Asks the layers, until one notices the mutant of this number.
///
/// # Errors
/// The binary cannot be run.
pub fn ask(binary: &Path, tree: &Path, number: usize) -> io::Result<Outcome> {
    for layer in &LAYERS {
        let outcome = run(binary, tree, number, layer)?;
        if outcome != Outcome::Survived {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Survived)
}

fn run(binary: &Path, tree: &Path, number: usize, layer: &Layer) -> io::Result<Outcome> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"")])
        .arg(binary)
        .args(layer.chosen)
        .args(layer.skipped.iter().flat_map(|name| ["--skip", name]))
        .current_dir(tree.join("tests/core"))
        .env("MUTANT", number.to_string())
        .env("HOLDFAST_SEEDS", layer.seeds)
        .env("RUST_BACKTRACE", "0")
        .env("RUST_MIN_STACK", STACK_BYTES)
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let passed = status.success();
            return Ok(if passed {
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
