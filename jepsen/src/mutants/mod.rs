//! `jepsen mutants`: makes the bugs of the catalogue one at a time and asks
//! which layer of tests notices, and how soon.
//!
//! A mutant that only the most expensive layer notices is a missing cheap test.
//! One that does not build, or a tree whose tests fail before anything is
//! changed, is an error, never a verdict.

mod catalogue;
mod layer;
mod patch;
mod score;
mod tree;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use catalogue::{Catalogue, Mutant};
use layer::{LayerName, Outcome, Run, runs_for};
use score::{Row, Verdict};
use tree::{Extent, Tree};

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
    /// Only so many, others every day.
    #[arg(long)]
    rotating: Option<usize>,
    /// Only see whether all patches fit the tree.
    #[arg(long)]
    check: bool,
    /// Write patches whose surroundings moved anew.
    #[arg(long)]
    refresh: bool,
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
    let patience = workers[0].try_unchanged(&mutants, arguments.layer)?;
    let queue = Mutex::new(mutants.iter().copied().collect::<VecDeque<_>>());
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in &workers {
            scope.spawn(|| {
                while let Some(mutant) = next(&queue) {
                    let row = worker.try_mutant(mutant, arguments.layer, &patience);
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

/// How long each run may take; `None`: it has no tests.
type Patience = BTreeMap<Run, Option<Duration>>;

/// One worker's trees.
struct Worker {
    core: Tree,
    node: Tree,
}

impl Worker {
    fn prepare(root: &Path, number: usize) -> anyhow::Result<Self> {
        Ok(Self {
            core: Tree::prepare(root, Extent::Core, number)?,
            node: Tree::prepare(root, Extent::Node, number)?,
        })
    }

    /// The smallest tree that holds everything a mutant changes, and the tests
    /// of the layer asked for.
    fn tree_of(&self, mutant: &Mutant, layer: Option<LayerName>) -> anyhow::Result<&Tree> {
        [&self.core, &self.node]
            .into_iter()
            .filter(|tree| layer != Some(LayerName::Sim) || tree.has_test("sim"))
            .find(|tree| tree.holds(&mutant.patch))
            .context("it changes a file that no slim crate holds")
    }

    /// The tests that could notice these mutants, on the tree as it is: they
    /// must pass, or nothing they say later means anything.
    fn try_unchanged(
        &self,
        mutants: &[&Mutant],
        layer: Option<LayerName>,
    ) -> anyhow::Result<Patience> {
        let mut patience = Patience::new();
        for mutant in mutants {
            let tree = self
                .tree_of(mutant, layer)
                .with_context(|| mutant.id.clone())?;
            for run in chosen_runs(mutant, tree, layer)? {
                if patience.contains_key(&run) {
                    continue;
                }
                let binary = run.build(tree)?;
                let started = Instant::now();
                let outcome = run.execute(&binary, tree, UNCHANGED_PATIENCE)?;
                let took = started.elapsed();
                let allowed = took * PATIENCE_FACTOR + PATIENCE_LEAST;
                let passed = outcome == Outcome::Passed;
                ensure!(
                    passed || outcome == Outcome::Empty,
                    "{run:?} fails before any change: {outcome:?}"
                );
                if passed {
                    let seconds = took.as_secs_f64();
                    println!("unchanged, {}: passed in {seconds:.1} s", run.layer);
                }
                patience.insert(run, passed.then_some(allowed));
            }
        }
        Ok(patience)
    }

    fn try_mutant(&self, mutant: &Mutant, layer: Option<LayerName>, patience: &Patience) -> Row {
        let started = Instant::now();
        let attempt = self.tree_of(mutant, layer).and_then(|tree| {
            let originals = tree.mutate(&mutant.patch)?;
            let verdict = first_kill(mutant, tree, layer, patience);
            tree.restore(&originals)?;
            verdict
        });
        Row {
            id: mutant.id.clone(),
            bug: mutant.bug.clone(),
            breaks: mutant.breaks.join(", "),
            source: mutant.source.clone(),
            expected: mutant.expected,
            verdict: attempt.unwrap_or_else(|error| Verdict::Error(format!("{error:#}"))),
            took: started.elapsed(),
        }
    }
}

fn chosen_runs(mutant: &Mutant, tree: &Tree, layer: Option<LayerName>) -> anyhow::Result<Vec<Run>> {
    let runs = runs_for(&mutant.patch, tree)?;
    let wanted = |run: &Run| layer.is_none_or(|layer| run.layer == layer);
    Ok(runs.into_iter().filter(wanted).collect())
}

/// Goes through the layers until one notices.
fn first_kill(
    mutant: &Mutant,
    tree: &Tree,
    layer: Option<LayerName>,
    patience: &Patience,
) -> anyhow::Result<Verdict> {
    for run in chosen_runs(mutant, tree, layer)? {
        let Some(patience) = patience.get(&run).copied().flatten() else {
            continue;
        };
        let binary = run.build(tree)?;
        let started = Instant::now();
        let outcome = run.execute(&binary, tree, patience)?;
        let how = match outcome {
            Outcome::Passed | Outcome::Empty => continue,
            Outcome::Failed(test) => test,
            Outcome::Hung => format!("no end within {} s", patience.as_secs()),
            Outcome::Aborted(how) => how,
        };
        return Ok(Verdict::Killed {
            layer: run.layer,
            how,
            test_time: started.elapsed(),
        });
    }
    Ok(Verdict::Survived)
}

const SECONDS_A_DAY: u64 = 86_400;
/// For one run on the unchanged tree.
const UNCHANGED_PATIENCE: Duration = Duration::from_secs(600);
/// A mutant may take so many times as long as the unchanged tree, and this.
const PATIENCE_FACTOR: u32 = 4;
const PATIENCE_LEAST: Duration = Duration::from_secs(20);
