//! `jepsen mutants`: makes the bugs of the catalogue one at a time and asks
//! which layer of tests notices, and how soon.
//!
//! A mutant that only the most expensive layer notices is a missing cheap test.
//! One that does not build, or a tree whose tests fail before anything is
//! changed, is an error, never a verdict.

mod catalogue;
mod layer;
mod patch;
mod record;
mod score;
mod tree;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use catalogue::{Catalogue, Mutant};
use layer::LayerName;
use record::Record;
use score::Verdict;
use worker::{Scope, Worker};

/// Arguments of `mutants`.
#[derive(clap::Args, Debug)]
pub struct MutantsArguments {
    /// Only these numbers of the catalogue.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only this layer.
    #[arg(long, value_enum)]
    layer: Option<LayerName>,
    /// Mutants at a time, each with a tree of its own.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Also see what the executable specification notices alone.
    #[arg(long)]
    specification: bool,
    /// Only so many, others every day.
    #[arg(long)]
    rotating: Option<usize>,
    /// Only see whether all patches fit the tree.
    #[arg(long)]
    check: bool,
    /// Write patches whose surroundings moved anew.
    #[arg(long)]
    refresh: bool,
    /// Keep the verdicts of a run of the same sources that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Also write the table of results here.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Exits 0 when every mutant was noticed, 1 when one was not, 255 when the
/// question could not be answered.
#[must_use]
pub fn run(arguments: &MutantsArguments) -> ExitCode {
    match answer(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::from(255)
        }
    }
}

fn answer(arguments: &MutantsArguments) -> anyhow::Result<bool> {
    let root = repository();
    let catalogue = Catalogue::read(&root.join("jepsen/mutants"))?;
    let mutants = choose(&catalogue, arguments)?;
    if arguments.check || arguments.refresh {
        return fit(&root, &mutants, arguments.refresh);
    }
    let started = Instant::now();
    let workers: Vec<Worker> = (0..arguments.jobs.max(1))
        .map(|number| Worker::prepare(&root, number))
        .collect::<anyhow::Result<_>>()?;
    let scope = Scope {
        layer: arguments.layer,
        expected: arguments.rotating.is_some(),
        specification: arguments.specification,
    };
    let patience = Mutex::new(BTreeMap::new());
    let record = Record::open(&root, arguments.resume)?;
    let queue = Mutex::new(mutants.iter().copied().collect::<VecDeque<_>>());
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for worker in &workers {
            threads.spawn(|| {
                while let Some(mutant) = next(&queue) {
                    let key = worker.fingerprint(mutant, scope);
                    let row = record.find(mutant, key).unwrap_or_else(|| {
                        let row = worker.try_mutant(mutant, scope, &patience);
                        record.keep(&row, key);
                        row
                    });
                    println!("{row}");
                    rows.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let place = |id: &str| mutants.iter().position(|mutant| mutant.id == id);
    rows.sort_by_key(|row| place(&row.id));
    let table = score::table(&rows, &catalogue.inapplicable, started.elapsed());
    println!("\n{table}");
    if let Some(path) = &arguments.output {
        fs::write(path, &table).with_context(|| path.display().to_string())?;
    }
    let errors = rows
        .iter()
        .filter(|row| matches!(row.verdict, Verdict::Error(_)));
    ensure!(errors.count() == 0, "a mutant could not be tried");
    Ok(rows
        .iter()
        .all(|row| matches!(row.verdict, Verdict::Killed { .. })))
}

fn next<'a>(queue: &Mutex<VecDeque<&'a Mutant>>) -> Option<&'a Mutant> {
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
}

/// Where the sources are: this program belongs to them.
fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

fn choose<'a>(
    catalogue: &'a Catalogue,
    arguments: &MutantsArguments,
) -> anyhow::Result<Vec<&'a Mutant>> {
    for id in &arguments.only {
        if let Some(why) = catalogue.inapplicable.get(id) {
            bail!("{id} has no patch: {why}");
        }
        let known = catalogue.mutants.iter().any(|mutant| mutant.id == *id);
        ensure!(known, "{id} is not in the catalogue");
    }
    let all = catalogue.mutants.iter();
    let mut chosen: Vec<&Mutant> = all
        .filter(|mutant| arguments.only.is_empty() || arguments.only.contains(&mutant.id))
        .collect();
    if let Some(count) = arguments.rotating {
        let day = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / SECONDS_A_DAY;
        let length = chosen.len();
        let first = (usize::try_from(day)? * count) % length.max(1);
        chosen.rotate_left(first);
        chosen.truncate(count);
    }
    Ok(chosen)
}

/// Whether every patch fits the tree; those that moved are written anew.
fn fit(root: &Path, mutants: &[&Mutant], refresh: bool) -> anyhow::Result<bool> {
    let mut misfits = 0;
    for mutant in mutants {
        if let Err(error) = mutant.patch.apply(root) {
            println!("{}: {error}", mutant.path.display());
            misfits += 1;
        } else if refresh {
            let text = fs::read_to_string(&mutant.path)?;
            let anew = catalogue::header_lines(&text) + &mutant.patch.refreshed(root)?;
            if anew != text {
                fs::write(&mutant.path, anew)?;
                println!("{}: written anew", mutant.path.display());
            }
        }
    }
    println!(
        "{} of {} patches apply",
        mutants.len() - misfits,
        mutants.len()
    );
    Ok(misfits == 0)
}

const SECONDS_A_DAY: u64 = 86_400;
