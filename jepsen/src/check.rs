//! `jepsen check`: verdicts on recorded histories.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jepsen::linearizability::read::{ModelName, read_file};
use jepsen::linearizability::{Budget, Verdict, check};

/// Exit codes: an illegal history outweighs an unknown one.
const ILLEGAL: u8 = 1;
const UNKNOWN: u8 = 2;
const UNREADABLE: u8 = 255;

/// Arguments of `check`.
#[derive(clap::Args, Debug)]
pub struct CheckArguments {
    /// The object that the histories are about.
    #[arg(long, value_enum)]
    model: ModelName,
    /// Wall clock for each file, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Search steps for each file.
    #[arg(long, default_value_t = Budget::default().steps)]
    steps: u64,
    /// Histories: .jsonl (ours), .log and .txt (porcupine), .edn (knossos).
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Prints a line a file; exits 0 when all are linearizable, 1 when one is
/// not, 2 when one is undecided, 255 when one cannot be read.
#[must_use]
pub fn run(arguments: &CheckArguments) -> ExitCode {
    let budget = Budget {
        time: Duration::from_secs(arguments.seconds),
        steps: arguments.steps,
        ..Budget::default()
    };
    let mut codes = Vec::new();
    for file in &arguments.files {
        let started = Instant::now();
        let (model, history) = match read_file(file, arguments.model) {
            Ok(read) => read,
            Err(error) => {
                println!("unreadable    {}: {error:#}", file.display());
                codes.push(UNREADABLE);
                continue;
            }
        };
        let report = check(model, &history, budget);
        let cost = format!(
            "{} operations, {} steps, {} ms",
            report.operations,
            report.steps,
            started.elapsed().as_millis()
        );
        match report.verdict {
            Verdict::Linearizable => println!("linearizable  {}: {cost}", file.display()),
            Verdict::Illegal { key, witness } => {
                println!("illegal       {}: {cost}; key {key:?}", file.display());
                for operation in witness {
                    println!("    {operation:?}");
                }
                codes.push(ILLEGAL);
            }
            Verdict::Unknown { reason } => {
                println!("unknown       {}: {cost}; {reason}", file.display());
                codes.push(UNKNOWN);
            }
        }
    }
    let worst = [ILLEGAL, UNREADABLE, UNKNOWN]
        .into_iter()
        .find(|code| codes.contains(code));
    ExitCode::from(worst.unwrap_or(0))
}
