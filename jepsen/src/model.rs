//! `model`: the exhaustive search through everything a small cluster of
//! production cores can do (`holdfast::sim::model`), preset by preset.
//!
//! Exit codes: 0 nothing found, every preset searched as far as it goes and
//! everything seen that it must come across; 1 a violation, with the shortest
//! story that leads to it; 3 not enough covered (a limit was reached or a
//! witness is missing); 255 no such preset or bound.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use holdfast::sim::model::{self, Ending, Limits, Preset, Progress, Report};

/// What to search, and how far.
#[derive(Args)]
pub struct ModelArguments {
    /// Only these presets, e.g. `--preset election --preset fig8`.
    #[arg(long)]
    preset: Vec<String>,
    /// Only the presets that take seconds.
    #[arg(long)]
    quick: bool,
    /// Another bound for all chosen presets, e.g. `--bound crashes=2`.
    #[arg(long, value_name = "NAME=NUMBER")]
    bound: Vec<String>,
    /// Stop a preset after so many distinct states.
    #[arg(long, default_value_t = 400_000_000)]
    states_max: usize,
    /// Stop a preset beyond so much memory.
    #[arg(long, default_value_t = 6144)]
    memory_mib: usize,
    /// Stop a preset after so long.
    #[arg(long)]
    seconds: Option<u64>,
    /// Paths of so many steps, instead of as many as each preset says.
    #[arg(long)]
    depth_max: Option<u32>,
    /// Print the presets and stop.
    #[arg(long)]
    list: bool,
}

/// How a preset came out; the worst decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Held,
    NotCovered,
    Violated,
}

/// Searches and prints.
pub fn run(arguments: &ModelArguments) -> ExitCode {
    let presets = match chosen(arguments) {
        Ok(presets) => presets,
        Err(error) => {
            eprintln!("model: {error}");
            return ExitCode::from(255);
        }
    };
    if arguments.list {
        for preset in presets {
            println!("{:<14} {}", preset.name, preset.purpose);
        }
        return ExitCode::SUCCESS;
    }
    println!(
        "{:<14} {:>12} {:>12} {:>5} {:>8} {:>9} {:>3} {:>8}  outcome",
        "preset", "states", "transitions", "depth", "nodes", "reactions", "sym", "seconds"
    );
    let outcomes = presets.iter().map(|preset| search(preset, arguments));
    match outcomes.max() {
        None | Some(Outcome::Held) => ExitCode::SUCCESS,
        Some(Outcome::Violated) => ExitCode::from(1),
        Some(Outcome::NotCovered) => ExitCode::from(3),
    }
}

fn chosen(arguments: &ModelArguments) -> anyhow::Result<Vec<Preset>> {
    let all = model::presets();
    for name in &arguments.preset {
        if !all.iter().any(|preset| preset.name == name) {
            anyhow::bail!("there is no preset {name}: see --list");
        }
    }
    let wanted = |preset: &Preset| {
        let named = arguments.preset.iter().any(|name| preset.name == name);
        named || (arguments.preset.is_empty() && (preset.is_quick || !arguments.quick))
    };
    let mut presets: Vec<Preset> = all.into_iter().filter(wanted).collect();
    for bound in &arguments.bound {
        let parts = bound.split_once('=');
        let number = parts.and_then(|(name, number)| Some((name, number.parse().ok()?)));
        let Some((name, number)) = number else {
            anyhow::bail!("{bound} is not NAME=NUMBER");
        };
        for preset in &mut presets {
            preset
                .bounds
                .set(name, number)
                .map_err(anyhow::Error::msg)?;
        }
    }
    Ok(presets)
}

fn search(preset: &Preset, arguments: &ModelArguments) -> Outcome {
    let begun = Instant::now();
    let limits = Limits {
        states_max: arguments.states_max,
        memory_bytes_max: arguments.memory_mib << 20,
        depth_max: arguments.depth_max.unwrap_or(preset.bounds.depth_max),
    };
    let mut told = begun;
    let report = model::explore(&preset.bounds, limits, &mut |progress| {
        tell_progress(preset, &progress, &mut told);
        let limit = arguments.seconds.map(Duration::from_secs);
        limit.is_none_or(|limit| begun.elapsed() < limit)
    });
    print(preset, &report, begun.elapsed())
}

/// A line every ten seconds, so that nobody wonders.
fn tell_progress(preset: &Preset, progress: &Progress, told: &mut Instant) {
    if Duration::from_secs(10) <= told.elapsed() {
        *told = Instant::now();
        eprintln!(
            "{}: {} states, {} waiting, depth {}, {} MiB",
            preset.name,
            progress.states,
            progress.waiting,
            progress.depth,
            progress.memory_bytes >> 20
        );
    }
}

fn print(preset: &Preset, report: &Report, took: Duration) -> Outcome {
    let missing: Vec<_> = preset
        .witnesses
        .iter()
        .filter(|witness| report.witnesses.count(**witness) == 0)
        .collect();
    let ended = match &report.ending {
        Ending::TooDeep => format!("all paths of {} steps", report.depth),
        _ => "exhausted".to_owned(),
    };
    let (outcome, text) = match &report.ending {
        Ending::Violated(finding) => {
            let property = finding.violation.property;
            let text = format!("VIOLATED: {property} in {} steps", finding.steps);
            (Outcome::Violated, text)
        }
        Ending::Exhausted | Ending::TooDeep if !missing.is_empty() => {
            let text = format!("{ended}, but never saw {missing:?}");
            (Outcome::NotCovered, text)
        }
        Ending::Exhausted => (Outcome::Held, ended),
        // As deep as the preset means to go.
        Ending::TooDeep if preset.bounds.depth_max <= report.depth => (Outcome::Held, ended),
        Ending::TooMuchMemory => {
            let text = "stopped: --memory-mib is used up; narrower bounds or more memory";
            (Outcome::NotCovered, text.to_owned())
        }
        other => (Outcome::NotCovered, format!("stopped: {other:?}")),
    };
    println!(
        "{:<14} {:>12} {:>12} {:>5} {:>8} {:>9} {:>3} {:>8.1}  {text}",
        preset.name,
        report.states,
        report.transitions,
        report.depth,
        report.nodes,
        report.reactions,
        report.numberings,
        took.as_secs_f64(),
    );
    let seen: Vec<String> = report
        .witnesses
        .seen()
        .map(|(witness, count)| format!("{witness:?} {count}"))
        .collect();
    println!("{:<14} seen: {}", "", seen.join(", "));
    println!(
        "{:<14} {} MiB, chance of an omission below {:.1e}",
        "",
        report.memory_bytes >> 20,
        report.omission()
    );
    if let Ending::Violated(finding) = &report.ending {
        println!("\n{}", finding.story);
    }
    outcome
}
