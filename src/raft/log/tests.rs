use proptest::prelude::*;

use super::*;
use crate::types::EntryPayload;

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        payload: EntryPayload::Noop,
    }
}

/// A log with one entry per given term.
fn log(terms: &[u64]) -> Log {
    let entries = (1..)
        .zip(terms)
        .map(|(index, term)| entry(index, *term))
        .collect();
    Log::recover(None, entries, 1 << 20).expect("consistent")
}

fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: LogIndex(index),
        term: Term(term),
        ..SnapshotMeta::default()
    }
}

#[test]
fn terms_survive_as_runs() {
    let log = log(&[1, 1, 3, 3, 4]);
    let terms: Vec<_> = (0..=6)
        .map(|i| log.term_at(LogIndex(i)).map(|t| t.0))
        .collect();
    assert_eq!(
        terms,
        [Some(0), Some(1), Some(1), Some(3), Some(3), Some(4), None]
    );
    assert_eq!(log.runs.len(), 3, "one a term, however long");
}

#[test]
fn last_at_most_skips_whole_terms() {
    let log = log(&[1, 1, 3, 3, 4]);
    let check = |index, term, expected: (u64, u64)| {
        let found = log.last_at_most(LogIndex(index), Term(term));
        assert_eq!((found.index.0, found.term.0), expected);
    };
    check(5, 4, (5, 4));
    check(9, 3, (4, 3));
    check(5, 2, (2, 1));
    check(1, 0, (0, 0));
}

#[test]
fn up_to_date_compares_term_before_index() {
    let log = log(&[1, 2]);
    let check = |index, term| {
        log.is_up_to_date(Position {
            index: LogIndex(index),
            term: Term(term),
        })
    };
    assert!(check(2, 2) && check(1, 3) && check(3, 2));
    assert!(!check(9, 1) && !check(1, 2));
}

#[test]
fn one_write_carries_truncation_and_what_replaces_it() {
    let mut log = log(&[1, 1, 1]);
    log.truncate(LogIndex(3));
    log.truncate(LogIndex(2));
    log.append([entry(2, 2)]);
    assert_eq!(log.durable(), LogIndex(1));
    let write = log.take_unwritten();
    assert_eq!(write.truncate_from, Some(LogIndex(2)));
    assert_eq!(write.entries, [entry(2, 2)]);
    assert!(!log.has_unwritten());
}

#[test]
fn only_applied_entries_leave_the_cache() {
    let mut log = Log::recover(None, Vec::new(), 0).expect("empty");
    log.append((1..=4).map(|index| entry(index, 1)));
    assert!(
        log.cached_range(LogIndex(1), LogIndex(4), 1 << 20)
            .is_some()
    );
    log.take_unwritten();
    log.advance_durable(LogIndex(3));
    log.commit_to(LogIndex(4));
    assert_eq!(log.hand_out(1).len(), 1, "one entry always fits");
    assert_eq!(log.hand_out(1 << 20).len(), 2, "the fourth is not durable");
    log.advance_applied(LogIndex(2));
    assert!(
        log.cached_range(LogIndex(2), LogIndex(4), 1 << 20)
            .is_none()
    );
    assert_eq!(
        log.cached_range(LogIndex(3), LogIndex(4), 1 << 20)
            .map(|e| e.len()),
        Some(2)
    );
}

// Apply 2 ends after a snapshot up to 3 was taken over (R15).
#[test]
fn late_report_of_the_store_changes_nothing() {
    let mut log = log(&[1, 1, 1]);
    log.commit_to(LogIndex(3));
    log.hand_out(1 << 20);
    log.advance_applied(LogIndex(3));
    log.advance_applied(LogIndex(2));
    assert_eq!(log.applied(), LogIndex(3));
}

// Entries that were cut must not be sent or applied from memory (R16).
#[test]
fn what_replaces_a_tail_replaces_it_in_memory() {
    let mut log = log(&[1, 1, 1]);
    log.truncate(LogIndex(2));
    log.append([entry(2, 2)]);
    let held = log.cached_range(LogIndex(1), LogIndex(2), 1 << 20);
    assert_eq!(held, Some(vec![entry(1, 1), entry(2, 2)]));
}

#[test]
fn purge_keeps_terms_of_what_remains() {
    let mut log = log(&[1, 1, 2, 2, 3]);
    log.start_at(LogIndex(5), LogIndex(5));
    log.advance_snapshot(Position {
        index: LogIndex(5),
        term: Term(3),
    });
    assert!(log.purge(LogIndex(3)));
    let terms: Vec<_> = (2..=5)
        .map(|i| log.term_at(LogIndex(i)).map(|t| t.0))
        .collect();
    assert_eq!(terms, [None, Some(2), Some(2), Some(3)]);
    assert!(log.purge(LogIndex(5)));
    assert_eq!(
        log.last(),
        Position {
            index: LogIndex(5),
            term: Term(3)
        }
    );
    log.append([entry(6, 3)]);
    assert_eq!(log.term_at(LogIndex(6)), Some(Term(3)));
}

/// What is counted, and what is there.
fn sizes(log: &Log) -> (usize, usize) {
    (log.cache_bytes, log.cache.iter().map(Entry::size).sum())
}

#[test]
fn bytes_in_memory_are_counted_whatever_leaves() {
    let mut log = log(&[1, 1, 1, 1, 1]);
    log.truncate(LogIndex(5));
    assert_eq!(sizes(&log).0, sizes(&log).1, "cut");
    assert_eq!(log.uncommitted_bytes(), sizes(&log).1);
    log.start_at(LogIndex(4), LogIndex(4));
    assert_eq!(log.uncommitted_bytes(), 0);
    log.advance_snapshot(Position {
        index: LogIndex(4),
        term: Term(1),
    });
    log.purge(LogIndex(1));
    assert_eq!(sizes(&log).0, sizes(&log).1, "purged");
    log.cache_bytes_max = sizes(&log).1 - 1;
    log.evict();
    assert_eq!(sizes(&log).0, sizes(&log).1, "evicted");
    assert_eq!(log.cache.len(), 2);
}

#[test]
fn cache_that_is_just_full_keeps_everything() {
    let mut log = log(&[1, 1, 1]);
    log.start_at(LogIndex(3), LogIndex(3));
    log.cache_bytes_max = sizes(&log).0;
    log.evict();
    assert_eq!(log.cache.len(), 3);
}

#[test]
fn range_takes_what_just_fits() {
    let log = log(&[1, 1, 1]);
    let size = entry(1, 1).size();
    let taken = |bytes_max| {
        let range = log.cached_range(LogIndex(1), LogIndex(3), bytes_max);
        range.expect("in memory").len()
    };
    assert_eq!((taken(2 * size - 1), taken(2 * size)), (1, 2));
}

// A snapshot of term 3 cannot be continued by an entry of term 2.
#[test]
fn recovery_refuses_terms_that_fall_after_the_snapshot() {
    let after = |term| {
        let entries = vec![entry(6, term)];
        Log::recover(Some(&meta(5, 3)), entries, 0).map(|log| log.last().term)
    };
    assert!(matches!(
        after(2),
        Err(RecoverError::Inconsecutive {
            index: LogIndex(5),
            ..
        })
    ));
    assert_eq!(after(3).expect("the same term"), Term(3));
    assert_eq!(after(4).expect("a later term"), Term(4));
}

#[test]
fn recovery_keeps_a_log_that_begins_before_its_snapshot() {
    let entries = (3..=8).map(|index| entry(index, 2)).collect();
    let log = Log::recover(Some(&meta(5, 2)), entries, 1 << 20).expect("consistent");
    assert_eq!(
        (log.base(), log.snapshot().index),
        (LogIndex(3), LogIndex(5))
    );
    assert_eq!(log.commit(), LogIndex(5));
    assert_eq!(log.uncommitted_bytes(), 3 * entry(1, 1).size());
    assert!(
        log.cached_range(LogIndex(4), LogIndex(8), 1 << 20)
            .is_some()
    );
}

#[test]
fn recovery_replaces_a_log_that_conflicts_with_its_snapshot() {
    let entries = (1..=8).map(|index| entry(index, 1)).collect();
    let mut log = Log::recover(Some(&meta(5, 2)), entries, 1 << 20).expect("consistent");
    assert_eq!(
        log.last(),
        Position {
            index: LogIndex(5),
            term: Term(2)
        }
    );
    assert_eq!(log.take_unwritten().reset_to, Some(meta(5, 2)));
}

#[test]
fn recovery_refuses_gaps() {
    let hole = vec![entry(1, 1), entry(3, 1)];
    assert!(matches!(
        Log::recover(None, hole, 0),
        Err(RecoverError::Inconsecutive { .. })
    ));
    let late = vec![entry(7, 2)];
    let refused = Log::recover(Some(&meta(5, 2)), late, 0);
    assert!(matches!(
        refused,
        Err(RecoverError::Gap {
            first: LogIndex(7),
            ..
        })
    ));
}

proptest! {
    // The reference: a plain vector of terms.
    #[test]
    fn random_edits_follow_a_vector(
        edits in proptest::collection::vec((any::<bool>(), 1u64..4, 0u64..20), 1..40),
    ) {
        let mut log = log(&[]);
        let mut model: Vec<u64> = Vec::new();
        for (append, amount, place) in edits {
            if append || model.is_empty() {
                let term = model.last().copied().unwrap_or(1) + place % 2;
                for _ in 0..amount {
                    log.append([entry(log.last().index.0 + 1, term)]);
                    model.push(term);
                }
            } else {
                let from = 1 + place % model.len() as u64;
                log.truncate(LogIndex(from));
                model.truncate(from as usize - 1);
            }
            for index in 1..=model.len() + 1 {
                let term = log.term_at(LogIndex(index as u64)).map(|term| term.0);
                prop_assert_eq!(term, model.get(index - 1).copied());
            }
            for limit in 0..6 {
                let found = log.last_at_most(LogIndex(99), Term(limit)).index.0 as usize;
                let expected = model.iter().rposition(|term| *term <= limit).map_or(0, |i| i + 1);
                prop_assert_eq!(found, expected);
            }
        }
    }
}
