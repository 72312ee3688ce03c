//! `jepsen sim`: campaigns of simulated clusters.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast::sim::{Failure, Plan};
use jepsen::simulation::{Campaign, Tally, judge, shrink};

/// Exit codes.
const VIOLATED: u8 = 1;
const NOT_COVERED: u8 = 3;

/// Arguments of `sim`.
#[derive(clap::Args, Debug)]
pub struct SimArguments {
    /// Seeds to run, as `0..1000`.
    #[arg(long, default_value = "0..200", value_parser = parse_range)]
    seeds: std::ops::Range<u64>,
    /// One seed instead: it is run, and shrunk if it fails.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Tell its story.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Stop after this many failing seeds.
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// Runs that shrinking a failing seed may take; 0: it is not shrunk.
    #[arg(long, default_value_t = 300)]
    shrink: u64,
    /// Marks of the coverage table that need not be hit.
    #[arg(long)]
    lenient: bool,
}

fn parse_range(text: &str) -> anyhow::Result<std::ops::Range<u64>> {
    let (first, end) = text.split_once("..").context("seeds are given as A..B")?;
    let range = first.parse()?..end.parse()?;
    if range.is_empty() {
        bail!("no seeds in {text}");
    }
    Ok(range)
}

/// Exits 0 when every run held, 1 when one failed, 3 when something that a
/// campaign must have seen was never seen.
#[must_use]
pub fn run(arguments: &SimArguments) -> ExitCode {
    // A panic of the code under test is a verdict, not a message.
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.seed {
        Some(seed) => run_one(seed, arguments),
        None => run_many(arguments),
    }
}

fn run_one(seed: u64, arguments: &SimArguments) -> ExitCode {
    let plan = Plan::draw(seed);
    println!("seed {seed}: {:#?}\nfinale {:?}", plan.options, plan.finale);
    let started = Instant::now();
    let judged = judge(&plan, arguments.trace);
    print!("{}", judged.outcome.story);
    println!(
        "{} s simulated in {} ms, {} events, {} positions committed, {} client operations",
        judged.outcome.simulated.0 / 1_000_000,
        started.elapsed().as_millis(),
        judged.outcome.steps,
        judged.outcome.commits,
        judged.outcome.history.len(),
    );
    match judged.outcome.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("{}\n{}", failure.kind, failure.details);
            explain(seed, &failure, arguments);
            ExitCode::from(VIOLATED)
        }
    }
}

/// The smallest schedule that fails alike, and its story.
fn explain(seed: u64, failure: &Failure, arguments: &SimArguments) {
    if arguments.shrink == 0 {
        return;
    }
    let shrunk = shrink(&Plan::draw(seed), failure, arguments.shrink);
    let told = judge(&shrunk.plan, true).outcome;
    println!("\nshrunk in {} runs; its story:\n", shrunk.runs);
    let lines: Vec<&str> = told.story.lines().collect();
    let first = lines.len().saturating_sub(STORY_LINES_MAX);
    if 0 < first {
        println!("  ({first} lines are before these)");
    }
    println!("{}", lines[first..].join("\n"));
    println!(
        "\nschedule of {} acts in {} s, {:?}:",
        shrunk.plan.acts.len(),
        shrunk.plan.options.rough_seconds,
        shrunk.plan.finale
    );
    for planned in &shrunk.plan.acts {
        println!("    {planned}");
    }
}

fn run_many(arguments: &SimArguments) -> ExitCode {
    let started = Instant::now();
    let count = arguments.seeds.end - arguments.seeds.start;
    let last = Mutex::new((Instant::now(), 0));
    let tally = Campaign {
        seeds: arguments.seeds.clone(),
        jobs: arguments.jobs,
        failures_max: arguments.failures,
    }
    .run(|tally| {
        let mut last = last.lock().expect("printing does not panic");
        if last.1 < tally.failed.len() {
            last.1 = tally.failed.len();
            if let Some(failed) = tally.failed.last() {
                eprintln!("seed {} fails: {}", failed.seed, failed.failure.kind);
            }
        }
        if last.0.elapsed() >= PROGRESS {
            last.0 = Instant::now();
            eprintln!(
                "{} of {count} seeds, {} failed, {} s",
                tally.runs,
                tally.failed.len(),
                started.elapsed().as_secs()
            );
        }
    });
    report(&tally, started.elapsed());
    for failed in &tally.failed {
        println!("\nseed {} fails: {}", failed.seed, failed.failure.kind);
        println!("{}", failed.failure.details);
        println!(
            "replay: cargo run --release -p jepsen -- sim --seed {} --trace",
            failed.seed
        );
    }
    if let Some(first) = tally.failed.first() {
        explain(first.seed, &first.failure, arguments);
        return ExitCode::from(VIOLATED);
    }
    let never = tally.never();
    if !never.is_empty() && !arguments.lenient {
        println!(
            "never seen: {}",
            never
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        );
        return ExitCode::from(NOT_COVERED);
    }
    ExitCode::SUCCESS
}

fn report(tally: &Tally, elapsed: Duration) {
    println!("{:>12}  {:>10}  mark", "count", "first seed");
    for (mark, (count, first)) in &tally.marks {
        let first = if *count > 0 {
            first.to_string()
        } else {
            "never".into()
        };
        println!("{count:>12}  {first:>10}  {mark}");
    }
    let seconds = elapsed.as_secs_f64().max(0.001);
    println!(
        "\n{} seeds, {} failed, {} undecided, in {seconds:.1} s: {:.0} simulated seconds and {:.0} events a second; \
         {} positions committed, {} client operations checked",
        tally.runs,
        tally.failed.len(),
        tally.undecided.len(),
        tally.simulated as f64 / 1e6 / seconds,
        tally.steps as f64 / seconds,
        tally.commits,
        tally.operations,
    );
    for (seed, reason) in &tally.undecided {
        println!("undecided: seed {seed}: {reason}");
    }
}

/// The end of a longer story is shown.
const STORY_LINES_MAX: usize = 400;
const PROGRESS: Duration = Duration::from_secs(10);
