//! A small part of the model checker's work, in every test run: exhaustive
//! searches that take seconds. `cargo run --release -p jepsen -- model` goes
//! further.

use holdfast::sim::model::{
    Bounds, Elections, Ending, Limits, Preset, Report, Wish, Witness, explore, presets,
};

const LIMITS: Limits = Limits {
    states_max: 100_000,
    memory_bytes_max: 1 << 30,
    depth_max: 200,
};

/// Everything within the bounds, which must be all there is.
fn search(bounds: &Bounds, witnesses: &[Witness]) -> Report {
    let report = explore(bounds, LIMITS, &mut |_| true);
    assert!(
        matches!(report.ending, Ending::Exhausted | Ending::Violated(_)),
        "{:?} after {} states",
        report.ending,
        report.states
    );
    judge(report, witnesses)
}

fn preset(name: &str) -> Preset {
    let preset = presets().into_iter().find(|preset| preset.name == name);
    preset.expect("a preset of that name")
}

/// A preset to its end.
fn whole(name: &str) -> Report {
    let preset = preset(name);
    search(&preset.bounds, &preset.witnesses)
}

/// A preset as far as paths of a few steps lead.
fn begin(name: &str, depth_max: u32, witnesses: &[Witness]) -> Report {
    let preset = preset(name);
    let limits = Limits {
        depth_max,
        ..LIMITS
    };
    judge(explore(&preset.bounds, limits, &mut |_| true), witnesses)
}

fn judge(report: Report, witnesses: &[Witness]) -> Report {
    if let Ending::Violated(finding) = &report.ending {
        panic!("{}\n{}", finding.violation, finding.story);
    }
    for witness in witnesses {
        assert!(
            0 < report.witnesses.count(*witness),
            "{witness:?} was never seen in {} states",
            report.states
        );
    }
    println!("{} states, depth {}", report.states, report.depth);
    report
}

#[test]
fn election_among_three_with_every_pre_vote_is_safe() {
    let bounds = Bounds {
        elections: Elections::Stepwise,
        ..Bounds::new(3, 0)
    };
    search(&bounds, &[Witness::Leader]);
}

#[test]
fn crash_with_writes_under_way_breaks_no_promise() {
    let bounds = Bounds {
        crashes: 1,
        slow_writes: 1,
        ..Bounds::new(3, 0)
    };
    search(&bounds, &[Witness::Leader, Witness::WritesLost]);
}

#[test]
fn tails_are_replaced_only_where_nothing_is_committed() {
    let bounds = Bounds {
        term_max: 3,
        proposals: 1,
        elections: Elections::AtOnce,
        round_trips: true,
        ..Bounds::new(3, 0)
    };
    let witnesses = [Witness::CommandCommitted, Witness::TailReplaced];
    search(&bounds, &witnesses);
}

#[test]
fn learner_is_promoted_while_leaders_change() {
    let bounds = Bounds {
        term_max: 3,
        changes: 1,
        wishes: vec![Wish::Promote],
        elections: Elections::AtOnce,
        round_trips: true,
        ..Bounds::new(2, 1)
    };
    search(&bounds, &[Witness::LearnerPromoted]);
}

#[test]
fn voter_is_replaced_jointly() {
    let bounds = Bounds {
        changes: 1,
        wishes: vec![Wish::Replace],
        elections: Elections::AtOnce,
        round_trips: true,
        ..Bounds::new(2, 1)
    };
    let witnesses = [Witness::JointCommitted, Witness::JointLeft];
    search(&bounds, &witnesses);
}

#[test]
fn reads_are_valid_on_every_kind_of_node() {
    let bounds = Bounds {
        term_max: 3,
        reads: 1,
        elections: Elections::AtOnce,
        round_trips: true,
        ..Bounds::new(2, 1)
    };
    let witnesses = [
        Witness::LeaderRead,
        Witness::FollowerRead,
        Witness::LearnerRead,
    ];
    search(&bounds, &witnesses);
}

#[test]
fn learner_behind_a_purged_log_gets_the_snapshot() {
    let bounds = Bounds {
        term_max: 3,
        proposals: 1,
        snapshots: 2,
        crashes: 1,
        slow_writes: 1,
        elections: Elections::AtOnce,
        ..Bounds::new(1, 1)
    };
    search(&bounds, &[Witness::SnapshotInstalled]);
}

#[test]
fn figure_8_from_its_middle_keeps_what_is_committed() {
    begin("fig8", 11, &[Witness::TailReplaced]);
}

#[test]
fn second_change_from_the_middle_of_the_2015_bug_waits() {
    begin("ongaro-2015", 5, &[Witness::LaterLeader]);
}

#[test]
fn candidate_holds_what_it_advertises() {
    whole("slow-disks");
}

#[test]
fn append_sent_again_proves_nothing_of_an_older_tail() {
    begin("evicted", 9, &[Witness::CommandCommitted]);
}

#[test]
fn second_removal_waits_for_the_first() {
    begin("two-changes", 7, &[Witness::LaterLeader]);
}

#[test]
fn two_learners_take_over_from_the_only_voter() {
    whole("move");
}

#[test]
fn new_leader_answers_no_read_before_it_knows_what_is_committed() {
    let witnesses = [Witness::LaterLeader, Witness::LearnerRead];
    begin("learner-reads", 9, &witnesses);
}

#[test]
fn former_leader_answers_no_read() {
    begin("reads", 8, &[Witness::LaterLeader, Witness::FollowerRead]);
}

/// Renumbering merges states and loses none: without it the search comes to
/// the same depth, over up to six times as many states.
#[test]
fn symmetry_merges_states_and_loses_none() {
    let merged = Bounds {
        crashes: 1,
        ..Bounds::new(3, 0)
    };
    let every = Bounds {
        symmetry: false,
        ..merged.clone()
    };
    let merged = search(&merged, &[Witness::Leader]);
    let every = search(&every, &[Witness::Leader]);
    assert_eq!(merged.depth, every.depth);
    let (few, many) = (merged.states, every.states);
    assert!(
        5 * few < many && many <= 6 * few,
        "{few} merged, {many} in all"
    );
}

#[test]
fn same_search_twice_finds_the_same() {
    let bounds = Bounds {
        crashes: 1,
        ..Bounds::new(3, 0)
    };
    let one = search(&bounds, &[Witness::Leader]);
    let other = search(&bounds, &[Witness::Leader]);
    assert_eq!(
        (one.states, one.transitions, one.depth),
        (other.states, other.transitions, other.depth)
    );
}
