//! What the end of a log means: the decision table of recovery, as data.
//!
//! Reading a segment stops at its SEAL batch or at the first block `p` that
//! begins no valid batch. Everything that bears on what that means is a
//! [`Finding`]; [`TABLE`] has one row for every finding, and a test goes through
//! all of them.

use Decision::{Clean, Damaged, ReadOn, Torn};
use End::{Broken, Sealed};
use Log::{Headless, NoRoom, Short, Whole};
use Next::{Empty, None as Nothing, Unreadable, Used};

/// Where reading a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its SEAL batch.
    Sealed,
    /// At a block that begins no valid batch.
    Broken,
}

/// What comes after that segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// No segment.
    None,
    /// One segment, prepared and never written to.
    Empty,
    /// A segment that something was written to, or several segments.
    Used,
    /// A segment without a readable header.
    Unreadable,
}

/// What was read up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// A log that can be continued.
    Whole,
    /// It ends before its own commit index.
    Short,
    /// No room is left for the batch that closes the segment.
    NoRoom,
    /// Not one batch, so that nothing says where it begins.
    Headless,
}

/// All that a decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub end: End,
    pub next: Next,
    /// Whether any batch behind `p` says that `p` was durable before it.
    pub is_promised: bool,
    /// Whether everything from `p` to the end of the segment is zero.
    pub is_zero: bool,
    pub log: Log,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Read the next segment.
    ReadOn,
    /// The last write ended here: append here.
    Clean,
    /// The last write was cut short and never acknowledged: close the segment
    /// here.
    Torn,
    /// Acknowledged bytes are lost: touch nothing.
    Damaged(&'static str),
}

struct Row {
    end: End,
    next: &'static [Next],
    /// Empty: either.
    is_promised: &'static [bool],
    /// Empty: either.
    is_zero: &'static [bool],
    /// Empty: whatever.
    log: &'static [Log],
    decision: Decision,
}

const ANY: &[bool] = &[];
const YES: &[bool] = &[true];
const NO: &[bool] = &[false];

// A macro, so that a row is a line.
macro_rules! table {
    ($($end:ident | $next:expr, $promised:ident, $zero:ident, $log:expr => $decision:expr;)+) => {
        [$(Row {
            end: $end,
            next: &$next,
            is_promised: $promised,
            is_zero: $zero,
            log: &$log,
            decision: $decision,
        }),+]
    };
}

/// Every finding matches exactly one row.
#[rustfmt::skip]
static TABLE: [Row; 9] = table! {
//  ends   | next segment               promised  zero   log                so
    Sealed | [Empty, Used, Unreadable], ANY,      ANY,   []                 => ReadOn;
    Sealed | [Nothing],                 ANY,      ANY,   []                 => Damaged(NO_SUCCESSOR);
    Broken | [Used, Unreadable],        ANY,      ANY,   []                 => Damaged(UNREADABLE);
    Broken | [Nothing, Empty],          YES,      ANY,   []                 => Damaged(UNREADABLE);
    Broken | [Nothing, Empty],          NO,       ANY,   [Short]            => Damaged(SHORT);
    Broken | [Nothing, Empty],          NO,       ANY,   [NoRoom]           => Damaged(NO_ROOM);
    Broken | [Nothing, Empty],          NO,       ANY,   [Headless]         => Damaged(HEADLESS);
    Broken | [Nothing, Empty],          NO,       YES,   [Whole]            => Clean;
    Broken | [Nothing, Empty],          NO,       NO,    [Whole]            => Torn;
};

const NO_SUCCESSOR: &str = "the segment after a closed one is missing, found";
const UNREADABLE: &str = "an unreadable batch";
const SHORT: &str = "an end of the log below the commit index";
const NO_ROOM: &str = "no room to close the segment";
const HEADLESS: &str = "no batch to continue";

/// The table's word on a finding.
pub(super) fn decide(finding: &Finding) -> Decision {
    let row = TABLE.iter().find(|row| row.matches(finding));
    row.expect("the table has a row for every finding").decision
}

impl Row {
    fn matches(&self, finding: &Finding) -> bool {
        let allows = |column: &[bool], value| column.is_empty() || column.contains(&value);
        self.end == finding.end
            && self.next.contains(&finding.next)
            && allows(self.is_promised, finding.is_promised)
            && allows(self.is_zero, finding.is_zero)
            && (self.log.is_empty() || self.log.contains(&finding.log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Finding> {
        let mut all = Vec::new();
        for end in [Sealed, Broken] {
            for next in [Nothing, Empty, Used, Unreadable] {
                for flags in 0..4 {
                    for log in [Whole, Short, NoRoom, Headless] {
                        all.push(Finding {
                            end,
                            next,
                            is_promised: flags & 1 == 1,
                            is_zero: flags & 2 == 2,
                            log,
                        });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn every_finding_matches_exactly_one_row() {
        for finding in all() {
            let count = TABLE.iter().filter(|row| row.matches(&finding)).count();
            assert_eq!(count, 1, "{finding:?}");
        }
    }

    #[test]
    fn every_row_matches_something() {
        for (number, row) in TABLE.iter().enumerate() {
            assert!(all().iter().any(|it| row.matches(it)), "row {number}");
        }
    }

    /// The rules that the table must obey, said another way.
    #[test]
    fn decisions_obey_the_rules() {
        for finding in all() {
            let decision = decide(&finding);
            // What a promise covers, or what a later segment continues, was
            // acknowledged: it is never cut.
            let was_durable = finding.is_promised || matches!(finding.next, Used | Unreadable);
            if finding.end == Broken && was_durable {
                assert!(matches!(decision, Damaged(_)), "{finding:?}");
            }
            // A cut needs something to cut and a log to continue.
            if decision == Torn {
                assert!(!finding.is_zero && finding.log == Whole, "{finding:?}");
            }
            if decision == Clean {
                assert!(finding.is_zero && finding.log == Whole, "{finding:?}");
            }
            // Only a closed segment is left behind, and only for another one.
            assert_eq!(
                decision == ReadOn,
                finding.end == Sealed && finding.next != Nothing,
                "{finding:?}"
            );
        }
        assert_eq!(all().len(), 128);
    }
}
