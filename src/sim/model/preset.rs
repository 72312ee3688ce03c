//! Searches with a purpose.

use super::bounds::{Bounds, Elections, Prepared, PreparedEntry, Wish};
use super::witness::Witness;

/// Bounds, why these, and what must be seen within them.
#[derive(Clone, Debug)]
pub struct Preset {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it looks for.
    pub purpose: &'static str,
    /// Whether it takes seconds, not minutes.
    pub is_quick: bool,
    /// How far it goes.
    pub bounds: Bounds,
    /// What the search must come across.
    pub witnesses: Vec<Witness>,
}

/// All presets, quick ones first.
#[must_use]
pub fn presets() -> Vec<Preset> {
    vec![
        election(),
        crash(),
        replication(),
        fig8(),
        promotion(),
        reads(),
        learner_reads(),
        transfer(),
        snapshot(),
        slow_disks(),
        evicted(),
        two_changes(),
        moved(),
        ongaro_2015(),
        stepwise(),
        joint(),
        crash_deep(),
        replication_deep(),
        doubled(),
        reads_deep(),
        wide_reads(),
    ]
}

fn election() -> Preset {
    Preset {
        name: "election",
        is_quick: true,
        purpose: "two elections among three voters, every message by itself",
        bounds: Bounds {
            term_max: 3,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::Leader, Witness::LaterLeader],
    }
}

fn crash() -> Preset {
    Preset {
        name: "crash",
        is_quick: true,
        purpose: "votes and entries when disks are slow and nodes crash",
        bounds: Bounds {
            term_max: 2,
            crashes: 1,
            slow_writes: 2,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::Leader, Witness::WritesLost],
    }
}

fn replication() -> Preset {
    Preset {
        name: "replication",
        is_quick: true,
        purpose: "one command under two leaders, appends overtaking each other",
        bounds: Bounds {
            term_max: 3,
            proposals: 1,
            elections: Elections::AtOnce,
            one_entry_a_message: true,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::CommandCommitted, Witness::TailReplaced],
    }
}

fn fig8() -> Preset {
    use PreparedEntry::Command;
    let log = |term, entries: &[(u64, PreparedEntry)]| Prepared {
        term,
        entries: entries.to_vec(),
    };
    Preset {
        name: "fig8",
        is_quick: true,
        purpose: "thesis figure 3.7 among three, from the moment at which two leaders \
                  have left an entry each that nobody else has",
        bounds: Bounds {
            term_max: 5,
            elections: Elections::AtOnce,
            one_entry_a_message: true,
            prepared: vec![
                log(3, &[(2, Command)]),
                log(3, &[]),
                log(3, &[(3, Command)]),
            ],
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::OlderTermCommitted, Witness::TailReplaced],
    }
}

fn promotion() -> Preset {
    Preset {
        name: "promotion",
        is_quick: true,
        purpose: "a learner becomes a voter while leaders change",
        bounds: Bounds {
            term_max: 3,
            changes: 1,
            abdications: 1,
            wishes: vec![Wish::Promote],
            elections: Elections::AtOnce,
            round_trips: true,
            ..Bounds::new(2, 1)
        },
        witnesses: vec![Witness::LearnerPromoted, Witness::LaterLeader],
    }
}

fn joint() -> Preset {
    Preset {
        name: "joint",
        is_quick: false,
        purpose: "a learner takes a voter's place, jointly, while leaders change",
        bounds: Bounds {
            term_max: 3,
            changes: 1,
            wishes: vec![Wish::Replace],
            elections: Elections::AtOnce,
            round_trips: true,
            ..Bounds::new(3, 1)
        },
        witnesses: vec![Witness::JointCommitted, Witness::JointLeft],
    }
}

fn ongaro_2015() -> Preset {
    use PreparedEntry::{Noop, Promotion};
    let log = |entries: &[(u64, PreparedEntry)]| Prepared {
        term: 2,
        entries: entries.to_vec(),
    };
    let ahead = log(&[(2, Noop), (2, Promotion)]);
    let behind = log(&[]);
    Preset {
        name: "ongaro-2015",
        is_quick: false,
        purpose: "single changes of two leaders in a row, from the moment at which the \
                  first one's promotion of the fifth node is on two disks of five",
        bounds: Bounds {
            term_max: 4,
            changes: 1,
            depth_max: 11,
            wishes: vec![Wish::Remove],
            elections: Elections::AtOnce,
            round_trips: true,
            prepared: vec![ahead.clone(), behind.clone(), behind.clone(), behind, ahead],
            ..Bounds::new(4, 1)
        },
        witnesses: vec![Witness::LaterLeader],
    }
}

fn reads() -> Preset {
    Preset {
        name: "reads",
        purpose: "a read on any node while leadership moves",
        is_quick: true,
        bounds: Bounds {
            term_max: 3,
            reads: 1,
            elections: Elections::AtOnce,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![
            Witness::LaterLeader,
            Witness::LeaderRead,
            Witness::FollowerRead,
        ],
    }
}

fn learner_reads() -> Preset {
    Preset {
        name: "learner-reads",
        purpose: "a read on any of two voters and a learner; the first leader steps down",
        is_quick: true,
        bounds: Bounds {
            term_max: 3,
            proposals: 1,
            reads: 1,
            // Two voters elect another leader only when the first gave up: it
            // trusts itself, and ignores who asks.
            abdications: 1,
            elections: Elections::AtOnce,
            round_trips: true,
            ..Bounds::new(2, 1)
        },
        witnesses: vec![Witness::LaterLeader, Witness::LearnerRead],
    }
}

fn transfer() -> Preset {
    Preset {
        name: "transfer",
        is_quick: true,
        purpose: "leadership is handed over, also to who is behind",
        bounds: Bounds {
            term_max: 2,
            proposals: 1,
            transfers: 1,
            elections: Elections::AtOnce,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::TransferStarted, Witness::LaterLeader],
    }
}

fn snapshot() -> Preset {
    Preset {
        name: "snapshot",
        purpose: "a learner needs entries that are purged, disks are slow and nodes crash",
        is_quick: true,
        bounds: Bounds {
            term_max: 4,
            proposals: 1,
            snapshots: 2,
            crashes: 2,
            slow_writes: 1,
            elections: Elections::AtOnce,
            ..Bounds::new(1, 1)
        },
        witnesses: vec![Witness::SnapshotInstalled, Witness::WritesLost],
    }
}

fn slow_disks() -> Preset {
    Preset {
        name: "slow-disks",
        purpose: "whoever asks for votes holds what it advertises, however slow its disk",
        is_quick: true,
        bounds: Bounds {
            term_max: 3,
            proposals: 1,
            slow_writes: 1,
            elections: Elections::AtOnce,
            round_trips: true,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::LaterLeader, Witness::CommandCommitted],
    }
}

fn evicted() -> Preset {
    use PreparedEntry::{Command, Noop};
    let log = |entries: &[(u64, PreparedEntry)]| Prepared {
        term: 2,
        entries: entries.to_vec(),
    };
    let tail = log(&[(2, Noop), (2, Command), (2, Command)]);
    let behind = log(&[(2, Noop)]);
    Preset {
        name: "evicted",
        purpose: "a leader whose memory holds only what is not executed yet sends again \
                  to a follower with a tail of an older term",
        is_quick: true,
        bounds: Bounds {
            term_max: 3,
            proposals: 1,
            waits: 1,
            evicts: true,
            elections: Elections::AtOnce,
            round_trips: true,
            prepared: vec![tail, behind.clone(), behind],
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::CommandCommitted, Witness::TailReplaced],
    }
}

fn two_changes() -> Preset {
    Preset {
        name: "two-changes",
        purpose: "two of three voters are removed, one after the other, while leaders change",
        is_quick: true,
        bounds: Bounds {
            term_max: 3,
            changes: 2,
            wishes: vec![Wish::Remove],
            elections: Elections::AtOnce,
            round_trips: true,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::LaterLeader, Witness::NodeRemoved],
    }
}

fn moved() -> Preset {
    Preset {
        name: "move",
        purpose: "two learners take over from the only voter, jointly",
        is_quick: true,
        bounds: Bounds {
            term_max: 3,
            changes: 1,
            wishes: vec![Wish::Move],
            elections: Elections::AtOnce,
            round_trips: true,
            ..Bounds::new(1, 2)
        },
        witnesses: vec![Witness::JointCommitted, Witness::JointLeft],
    }
}

fn stepwise() -> Preset {
    Preset {
        name: "stepwise",
        purpose: "two elections among three voters, every pre-vote by itself",
        is_quick: false,
        bounds: Bounds {
            term_max: 3,
            depth_max: 17,
            elections: Elections::Stepwise,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::LaterLeader],
    }
}

fn crash_deep() -> Preset {
    Preset {
        name: "crash-deep",
        purpose: "one command under two leaders, appends overtaking each other, slow disks \
                  and a crash",
        is_quick: false,
        bounds: Bounds {
            crashes: 1,
            slow_writes: 1,
            ..replication().bounds
        },
        witnesses: vec![Witness::WritesLost, Witness::CommandCommitted],
    }
}

fn replication_deep() -> Preset {
    Preset {
        name: "replication-deep",
        purpose: "two commands under three leaders, an append at a time",
        is_quick: false,
        bounds: Bounds {
            term_max: 4,
            proposals: 2,
            inflight_messages: 1,
            elections: Elections::AtOnce,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::CommandCommitted, Witness::TailReplaced],
    }
}

fn doubled() -> Preset {
    Preset {
        name: "doubled",
        purpose: "one command under three leaders, one message doubled",
        is_quick: false,
        bounds: Bounds {
            term_max: 4,
            proposals: 1,
            duplicates: 1,
            elections: Elections::AtOnce,
            ..Bounds::new(3, 0)
        },
        witnesses: vec![Witness::CommandCommitted, Witness::TailReplaced],
    }
}

fn reads_deep() -> Preset {
    Preset {
        name: "reads-deep",
        purpose: "a read on any of two voters and a learner, and a crash",
        is_quick: false,
        bounds: Bounds {
            crashes: 1,
            ..learner_reads().bounds
        },
        witnesses: vec![Witness::LaterLeader, Witness::LearnerRead],
    }
}

fn wide_reads() -> Preset {
    Preset {
        name: "wide-reads",
        purpose: "two reads among three voters and a learner, a crash, a handover",
        is_quick: false,
        bounds: Bounds {
            term_max: 3,
            reads: 2,
            crashes: 1,
            transfers: 1,
            depth_max: 8,
            elections: Elections::AtOnce,
            round_trips: true,
            ..Bounds::new(3, 1)
        },
        witnesses: vec![Witness::LearnerRead, Witness::TransferStarted],
    }
}
