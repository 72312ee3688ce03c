//! One worker: its trees, and trying a mutant in them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::catalogue::Mutant;
use super::layer::{LayerName, Outcome, Run, runs_for, specification_alone};
use super::score::{Row, Verdict};
use super::tree::{Extent, Tree};

/// How long each run may take; `None`: it has no tests.
pub type Patience = BTreeMap<Run, Option<Duration>>;

/// Which layers are asked.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Only this one.
    pub layer: Option<LayerName>,
    /// None that costs more than the one expected to notice.
    pub up_to_expected: bool,
    /// Also the executable specification alone.
    pub specification: bool,
}

impl Scope {
    fn runs(self, mutant: &Mutant, tree: &Tree) -> anyhow::Result<Vec<Run>> {
        let mut runs = runs_for(&mutant.patch, tree)?;
        runs.retain(|run| {
            self.layer.is_none_or(|layer| run.layer == layer)
                && (!self.up_to_expected || run.layer <= mutant.expected)
        });
        Ok(runs)
    }

    /// Only what happens in the core can contradict the specification.
    fn specification(self, mutant: &Mutant, tree: &Tree) -> Option<Run> {
        let in_core = mutant
            .patch
            .paths()
            .all(|path| path.starts_with("src/raft"));
        specification_alone(tree).filter(|_| self.specification && in_core)
    }
}

/// See the module.
pub struct Worker {
    core: Tree,
    node: Tree,
}

impl Worker {
    /// Makes its trees, or brings them up to date.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn prepare(root: &Path, number: usize) -> anyhow::Result<Self> {
        Ok(Self {
            core: Tree::prepare(root, Extent::Core, number)?,
            node: Tree::prepare(root, Extent::Node, number)?,
        })
    }

    /// The tests that could notice these mutants, on the tree as it is: they
    /// must pass, or nothing they say later means anything. How long each may
    /// take from now on.
    ///
    /// # Errors
    /// A test fails, or something does not build.
    pub fn try_unchanged(&self, mutants: &[&Mutant], scope: Scope) -> anyhow::Result<Patience> {
        let mut patience = Patience::new();
        for mutant in mutants {
            let tree = self
                .tree_of(mutant, scope)
                .with_context(|| mutant.id.clone())?;
            let mut runs = scope.runs(mutant, tree)?;
            runs.extend(scope.specification(mutant, tree));
            for run in runs {
                if let Entry::Vacant(slot) = patience.entry(run) {
                    let allowed = try_run_unchanged(slot.key(), tree)?;
                    slot.insert(allowed);
                }
            }
        }
        Ok(patience)
    }

    /// Makes one mutant and goes through the layers until one notices.
    pub fn try_mutant(&self, mutant: &Mutant, scope: Scope, patience: &Patience) -> Row {
        let started = Instant::now();
        let attempt = self.tree_of(mutant, scope).and_then(|tree| {
            let originals = tree.mutate(&mutant.patch)?;
            let tried = first_kill(mutant, tree, scope, patience).and_then(|verdict| {
                let alone = killed_by_specification(mutant, tree, scope, patience)?;
                Ok((verdict, alone))
            });
            tree.restore(&originals)?;
            tried
        });
        let failed = |error| (Verdict::Error(format!("{error:#}")), None);
        let (verdict, specification) = attempt.unwrap_or_else(failed);
        Row {
            id: mutant.id.clone(),
            bug: mutant.bug.clone(),
            breaks: mutant.breaks.join(", "),
            source: mutant.source.clone(),
            expected: mutant.expected,
            verdict,
            specification,
            took: started.elapsed(),
        }
    }

    /// The smallest tree that holds everything a mutant changes, and the tests
    /// of the layer asked for.
    fn tree_of(&self, mutant: &Mutant, scope: Scope) -> anyhow::Result<&Tree> {
        [&self.core, &self.node]
            .into_iter()
            .filter(|tree| scope.layer != Some(LayerName::Sim) || tree.has_test("sim"))
            .find(|tree| tree.holds(&mutant.patch))
            .context("it changes a file that no slim crate holds")
    }
}

fn try_run_unchanged(run: &Run, tree: &Tree) -> anyhow::Result<Option<Duration>> {
    let binary = run.build(tree)?;
    let started = Instant::now();
    let outcome = run.execute(&binary, tree, UNCHANGED_PATIENCE)?;
    let took = started.elapsed();
    if outcome == Outcome::Empty {
        return Ok(None);
    }
    ensure!(
        outcome == Outcome::Passed,
        "{run:?} fails before any change: {outcome:?}"
    );
    let seconds = took.as_secs_f64();
    println!("unchanged, {}: passed in {seconds:.1} s", run.layer);
    Ok(Some(took * PATIENCE_FACTOR + PATIENCE_LEAST))
}

fn first_kill(
    mutant: &Mutant,
    tree: &Tree,
    scope: Scope,
    patience: &Patience,
) -> anyhow::Result<Verdict> {
    for run in scope.runs(mutant, tree)? {
        let Some(patience) = patience.get(&run).copied().flatten() else {
            continue;
        };
        let binary = run.build(tree)?;
        let started = Instant::now();
        let how = match run.execute(&binary, tree, patience)? {
            Outcome::Passed | Outcome::Empty => continue,
            Outcome::Failed(test, complaint) => format!("{test}: {complaint}"),
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

/// Whether a step that the specification does not allow is what ends the
/// stories and walks of a mutant when nothing else watches; `None`: not asked.
fn killed_by_specification(
    mutant: &Mutant,
    tree: &Tree,
    scope: Scope,
    patience: &Patience,
) -> anyhow::Result<Option<bool>> {
    let Some(run) = scope.specification(mutant, tree) else {
        return Ok(None);
    };
    let Some(patience) = patience.get(&run).copied().flatten() else {
        return Ok(None);
    };
    let binary = run.build(tree)?;
    run.execute(&binary, tree, patience)?;
    Ok(Some(Run::said(tree, "Refinement on ")))
}

/// For one run on the unchanged tree.
const UNCHANGED_PATIENCE: Duration = Duration::from_secs(600);
/// A mutant may take so many times as long as the unchanged tree, and this.
const PATIENCE_FACTOR: u32 = 4;
const PATIENCE_LEAST: Duration = Duration::from_secs(20);
