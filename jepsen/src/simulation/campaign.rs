//! Many seeds, on a few threads; the result does not depend on how many.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use holdfast::sim::{Failure, Mark, Plan};

use super::judge::judge;

/// Which seeds, and how.
pub struct Campaign {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Threads.
    pub jobs: usize,
    /// Failing seeds after which it stops.
    pub failures_max: usize,
}

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which.
    pub seed: u64,
    /// How.
    pub failure: Failure,
}

/// What all runs came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Runs ended.
    pub runs: u64,
    /// Microseconds simulated.
    pub simulated: u64,
    /// Events handled.
    pub steps: u64,
    /// Positions committed.
    pub commits: u64,
    /// Client operations checked.
    pub operations: u64,
    /// Of each mark: how often it was hit, and the first seed that did.
    pub marks: BTreeMap<Mark, (u64, u64)>,
    /// Failing seeds, ascending.
    pub failed: Vec<Failed>,
    /// Seeds without a verdict on linearizability, and why.
    pub undecided: Vec<(u64, String)>,
}

impl Campaign {
    /// Runs them all; `progress` is told after each run.
    pub fn run(&self, progress: impl Fn(&Tally) + Sync) -> Tally {
        let next = AtomicU64::new(self.seeds.start);
        let is_over = AtomicBool::new(false);
        let tally = Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.seeds.end || is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        let judged = judge(&Plan::draw(seed), false);
                        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                        tally.add(seed, judged);
                        if tally.failed.len() >= self.failures_max {
                            is_over.store(true, Ordering::Relaxed);
                        }
                        progress(&tally);
                    }
                });
            }
        });
        let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        tally.failed.sort_by_key(|failed| failed.seed);
        tally.undecided.sort();
        tally
    }
}

impl Tally {
    fn add(&mut self, seed: u64, judged: super::judge::Judged) {
        let outcome = judged.outcome;
        self.runs += 1;
        self.simulated += outcome.simulated.0;
        self.steps += outcome.steps;
        self.commits += outcome.commits;
        self.operations += outcome.history.len() as u64;
        for mark in Mark::ALL {
            let count = outcome.coverage.count(*mark);
            let entry = self.marks.entry(*mark).or_insert((0, u64::MAX));
            entry.0 += count;
            if count > 0 {
                entry.1 = entry.1.min(seed);
            }
        }
        if let Some(reason) = judged.undecided {
            self.undecided.push((seed, reason));
        }
        if let Some(failure) = outcome.failure {
            self.failed.push(Failed { seed, failure });
        }
    }

    /// What no run ever came to.
    #[must_use]
    pub fn never(&self) -> Vec<Mark> {
        let never = self.marks.iter().filter(|(_, hits)| hits.0 == 0);
        never.map(|(mark, _)| *mark).collect()
    }
}
