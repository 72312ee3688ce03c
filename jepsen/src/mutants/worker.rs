//! One worker: its trees, and trying a mutant in them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::catalogue::Mutant;
use super::layer::{LayerName, Outcome, Run, Subject, runs_for, seeds, specification_alone};
use super::score::{HUNG, Row, Verdict};
use super::tree::{Extent, Files, Tree};

/// How long each run may take, as far as it was tried on the tree as it is;
/// `None`: it has no tests.
pub type Patience = Mutex<BTreeMap<Run, Option<Duration>>>;

/// Which layers are asked.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Scope {
    /// Only this one.
    pub layer: Option<LayerName>,
    /// Only the one expected to notice.
    pub expected: bool,
    /// Also the executable specification alone.
    pub specification: bool,
}

impl Scope {
    fn asks(self, layer: LayerName, mutant: &Mutant) -> bool {
        self.layer.is_none_or(|only| layer == only) && (!self.expected || layer == mutant.expected)
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

    /// A hash of all that a verdict depends on.
    pub fn fingerprint(&self, mutant: &Mutant, scope: Scope) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.core.fingerprint, self.node.fingerprint).hash(&mut hasher);
        (format!("{:?}", mutant.patch), scope).hash(&mut hasher);
        hasher.finish()
    }

    /// Makes one mutant and goes through the layers until one notices.
    pub fn try_mutant(&self, mutant: &Mutant, scope: Scope, patience: &Patience) -> Row {
        let started = Instant::now();
        let mut row = Row::of(mutant);
        if let Err(error) = self.ask_layers(mutant, scope, patience, &mut row) {
            row.verdict = Verdict::Error(format!("{error:#}"));
        }
        row.took = started.elapsed();
        row
    }

    fn ask_layers(
        &self,
        mutant: &Mutant,
        scope: Scope,
        patience: &Patience,
        row: &mut Row,
    ) -> anyhow::Result<()> {
        let smallest = [&self.core, &self.node]
            .into_iter()
            .find(|tree| tree.holds(&mutant.patch))
            .context("it changes a file that no slim crate holds")?;
        let mut runs = runs_for(&mutant.patch, smallest)?;
        runs.retain(|run| scope.asks(run.layer, mutant));
        let specification = scope.specification(mutant, smallest);
        let mut bench = Bench::new(smallest, mutant, patience);
        let tried = bench.ask_until_killed(&runs, row).and_then(|()| {
            row.specification = specification
                .map(|run| bench.contradicts(&run))
                .transpose()?;
            Ok(())
        });
        bench.undo()?;
        tried?;
        let seeds = seeds(&self.node).filter(|run| scope.asks(run.layer, mutant));
        if let (Verdict::Survived, Some(run)) = (&row.verdict, seeds) {
            let mut bench = Bench::new(&self.node, mutant, patience);
            let tried = bench.ask_until_killed(&[run], row);
            bench.undo()?;
            tried?;
        }
        Ok(())
    }
}

/// A tree that holds a mutant, or not.
struct Bench<'a> {
    tree: &'a Tree,
    mutant: &'a Mutant,
    patience: &'a Patience,
    /// What the mutant changed, while it is there.
    originals: Option<Files>,
}

impl<'a> Bench<'a> {
    fn new(tree: &'a Tree, mutant: &'a Mutant, patience: &'a Patience) -> Self {
        Self {
            tree,
            mutant,
            patience,
            originals: None,
        }
    }

    fn ask_until_killed(&mut self, runs: &[Run], row: &mut Row) -> anyhow::Result<()> {
        for run in runs {
            let Some(allowed) = self.allowed(run)? else {
                continue;
            };
            self.make()?;
            let heard = self.try_mutated(run, allowed)?;
            let says_why = heard.as_ref().is_some_and(|heard| !heard.is_hung());
            // Tests that never end notice something, but not what.
            if says_why || matches!(row.verdict, Verdict::Survived) {
                row.verdict = heard.unwrap_or(Verdict::Survived);
            }
            if says_why {
                break;
            }
            if row.passed.last() != Some(&run.layer) {
                row.passed.push(run.layer);
            }
        }
        Ok(())
    }

    /// Whether a step that the specification does not allow is what ends the
    /// stories and walks when nothing else watches.
    fn contradicts(&mut self, run: &Run) -> anyhow::Result<bool> {
        let Some(allowed) = self.allowed(run)? else {
            return Ok(false);
        };
        self.make()?;
        self.try_mutated(run, allowed)?;
        Ok(Run::said(self.tree, "Refinement on "))
    }

    fn make(&mut self) -> anyhow::Result<()> {
        if self.originals.is_none() {
            self.originals = Some(self.tree.mutate(&self.mutant.patch)?);
        }
        Ok(())
    }

    fn undo(&mut self) -> anyhow::Result<()> {
        match self.originals.take() {
            Some(originals) => self.tree.restore(&originals),
            None => Ok(()),
        }
    }

    /// How long a run may take. The tree must pass before anything is changed,
    /// or nothing that is said later means anything.
    fn allowed(&mut self, run: &Run) -> anyhow::Result<Option<Duration>> {
        if let Some(allowed) = self.known().get(run) {
            return Ok(*allowed);
        }
        self.undo()?;
        let allowed = self.try_unchanged(run)?;
        let mut known = self.known();
        known.insert(run.clone(), allowed);
        Ok(allowed)
    }

    fn known(&self) -> MutexGuard<'a, BTreeMap<Run, Option<Duration>>> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_unchanged(&self, run: &Run) -> anyhow::Result<Option<Duration>> {
        let began = Instant::now();
        let binary = run.build(self.tree)?;
        let built = began.elapsed().as_secs_f64();
        let started = Instant::now();
        let subject = Subject::default();
        let outcome = run.execute(&binary, self.tree, UNCHANGED_PATIENCE, &subject)?;
        let took = started.elapsed();
        if outcome == Outcome::Empty {
            return Ok(None);
        }
        ensure!(
            outcome == Outcome::Passed,
            "{run:?} fails before any change: {outcome:?}"
        );
        let seconds = took.as_secs_f64();
        println!(
            "unchanged, {}: built in {built:.1} s, passed in {seconds:.1} s",
            run.layer
        );
        Ok(Some(took * PATIENCE_FACTOR + PATIENCE_LEAST))
    }

    fn try_mutated(&self, run: &Run, allowed: Duration) -> anyhow::Result<Option<Verdict>> {
        let binary = run.build(self.tree)?;
        let started = Instant::now();
        let subject = Subject::of(self.mutant, self.tree);
        let how = match run.execute(&binary, self.tree, allowed, &subject)? {
            Outcome::Passed | Outcome::Empty => return Ok(None),
            Outcome::Failed(test, complaint) => format!("{test}: {complaint}"),
            Outcome::Hung => format!("{HUNG} {} s", allowed.as_secs()),
            Outcome::Aborted(how) => how,
        };
        Ok(Some(Verdict::Killed {
            layer: run.layer,
            how,
            test_time: started.elapsed(),
        }))
    }
}

/// For one run on the unchanged tree.
const UNCHANGED_PATIENCE: Duration = Duration::from_secs(1200);
/// A mutant may take so many times as long as the unchanged tree, and this.
const PATIENCE_FACTOR: u32 = 4;
const PATIENCE_LEAST: Duration = Duration::from_secs(20);
