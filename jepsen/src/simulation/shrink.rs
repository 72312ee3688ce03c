//! From a failing run to the smallest schedule that fails in the same way:
//! acts are left out in ever smaller spans while the failure stays.

use holdfast::sim::{Failure, Finale, LinkWeather, Plan};

use super::judge::judge;

/// A plan that fails as the one it was made from.
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// Runs that it took.
    pub runs: u64,
}

/// Shrinks a failing plan with at most that many runs.
#[must_use]
pub fn shrink(plan: &Plan, failure: &Failure, runs_max: u64) -> Shrunk {
    let mut shrinker = Shrinker {
        best: plan.clone(),
        kind: failure.kind.clone(),
        runs: 0,
        runs_max,
    };
    shrinker.calm_the_weather();
    shrinker.leave_out_acts();
    shrinker.shorten();
    Shrunk {
        plan: shrinker.best,
        runs: shrinker.runs,
    }
}

struct Shrinker {
    best: Plan,
    kind: String,
    runs: u64,
    runs_max: u64,
}

impl Shrinker {
    /// Keeps a simpler plan if it fails alike.
    fn attempt(&mut self, plan: Plan) -> bool {
        if self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        let failure = judge(&plan, false).outcome.failure;
        let alike = failure.is_some_and(|failure| failure.kind == self.kind);
        if alike {
            self.best = plan;
        }
        alike
    }

    /// Ordinary links, prompt disks and true clocks, one after the other.
    fn calm_the_weather(&mut self) {
        let calm: [fn(&mut Plan); 5] = [
            |plan| plan.finale = Finale::HealAll,
            |plan| {
                plan.options.link = LinkWeather {
                    straggle: 0,
                    loss: 0,
                    duplication: 0,
                    reorders: false,
                    ..plan.options.link.clone()
                };
            },
            |plan| plan.options.disk.hiccup = 0,
            |plan| {
                plan.options.clock.rate_min = 1_000_000;
                plan.options.clock.rate_max = 1_000_001;
            },
            |plan| {
                plan.options.clock.lateness_max = 0;
                plan.options.clock.wake_max = 1;
            },
        ];
        for change in calm {
            let mut plan = self.best.clone();
            change(&mut plan);
            self.attempt(plan);
        }
    }

    fn leave_out_acts(&mut self) {
        let mut span = self.best.acts.len().div_ceil(2);
        while span > 0 {
            let mut start = 0;
            while start < self.best.acts.len() {
                let mut plan = self.best.clone();
                let end = (start + span).min(plan.acts.len());
                plan.acts.drain(start..end);
                if !self.attempt(plan) {
                    start += span;
                }
                if self.runs >= self.runs_max {
                    return;
                }
            }
            span = if span == 1 { 0 } else { span.div_ceil(2) };
        }
    }

    /// Ends the rough part after the last act.
    fn shorten(&mut self) {
        let last = self.best.acts.last().map_or(0, |planned| planned.at.0);
        let mut plan = self.best.clone();
        plan.options.rough_seconds = (last / 1_000_000 + 1).min(plan.options.rough_seconds);
        self.attempt(plan);
    }
}
