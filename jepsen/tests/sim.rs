//! Simulated clusters in `make test`: a slice of the seeds that
//! `cargo run --release -p jepsen -- sim --seeds 0..20000` tries.

use std::collections::BTreeSet;

use holdfast::sim::{Act, Mark, Plan};
use jepsen::simulation::{Campaign, judge};

/// Seeds of the slice: as many as a few seconds allow without optimisation;
/// `HOLDFAST_SEEDS` asks for another number.
const SEEDS: u64 = 100;

fn seeds() -> u64 {
    let asked = std::env::var("HOLDFAST_SEEDS").ok();
    asked.map_or(SEEDS, |count| count.parse().expect("a number of seeds"))
}

#[test]
fn slice_of_seeds_holds() {
    let tally = Campaign {
        seeds: 0..seeds(),
        jobs: 2,
        failures_max: 1,
    }
    .run(|_| {});
    if let Some(failed) = tally.failed.first() {
        panic!(
            "{}\nreplay: cargo run --release -p jepsen -- sim --seed {} --trace",
            failed.failure.details, failed.seed
        );
    }
    // The slice goes somewhere.
    let often = [
        Mark::WriteDone,
        Mark::FollowerRead,
        Mark::CrashBetweenEffects,
        Mark::PowerCut,
        Mark::SnapshotRestored,
        Mark::JointEntered,
        Mark::Replaced,
        Mark::CopyRefused,
        Mark::RollbackRefused,
        Mark::Converged,
    ];
    for mark in often {
        assert!(tally.marks[&mark].0 > 0, "never seen: {mark}");
    }
}

/// Seeds that failed once, and what they showed. As the simulator changes they
/// come to tell other stories; those are checked like any.
const REGRESSIONS: [(u64, &str); 6] = [
    (6621, "an answer of a former life counted for the next one"),
    (2655, "a rotten snapshot was streamed again and again"),
    (2237, "a member that left and came back was not remembered"),
    (5836, "nor how far it had acknowledged"),
    (1312, "a refused copy was heard"),
    (5588, "a damaged log was replaced by a peer's snapshot"),
];

#[test]
fn seeds_that_failed_once_hold() {
    for (seed, story) in REGRESSIONS {
        let failure = judge(&Plan::draw(seed), false).outcome.failure;
        assert_eq!(failure, None, "seed {seed}: {story}");
    }
}

#[test]
fn seed_gives_the_same_story_twice() {
    for seed in [1, 5, 8] {
        let [first, second] = [0, 1].map(|_| judge(&Plan::draw(seed), true).outcome);
        assert!(!first.story.is_empty());
        assert!(
            first.story == second.story,
            "seed {seed} is told differently"
        );
        assert_eq!(first.history, second.history, "seed {seed}");
        assert_eq!(first.steps, second.steps, "seed {seed}");
    }
}

#[test]
fn telling_a_story_changes_nothing() {
    let plan = Plan::draw(3);
    let (told, silent) = (judge(&plan, true).outcome, judge(&plan, false).outcome);
    assert_eq!(told.history, silent.history);
    assert_eq!(told.steps, silent.steps);
    assert_eq!(told.coverage, silent.coverage);
}

#[test]
fn every_act_is_planned_by_some_seed() {
    let acts = (0..200).flat_map(|seed| Plan::draw(seed).acts);
    let planned: BTreeSet<Act> = acts.map(|planned| planned.act).collect();
    assert_eq!(planned.len(), 19, "{planned:?}");
}
