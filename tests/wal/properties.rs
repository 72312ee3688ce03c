//! Random histories against the model.

use holdfast::disk::{AppendMode, MemoryDisk};
use holdfast::types::{LogIndex, LogWrite};
use holdfast::wal::{Verdict, Wal, WalError, WalOptions};
use proptest::prelude::*;

use crate::model::{MODES, Model, create, depth, open, options};

#[derive(Clone, Debug)]
enum Operation {
    Append { group: Vec<Write> },
    Purge { back: u64 },
    Mark,
    Reopen,
    PowerCut { after_calls: u64, seed: u64 },
}

#[derive(Clone, Debug)]
enum Write {
    Entries {
        term_step: u64,
        sizes: Vec<usize>,
    },
    Replace {
        back: u64,
        term_step: u64,
        sizes: Vec<usize>,
    },
    HardState {
        term_step: u64,
        vote: Option<u64>,
        commit_back: u64,
    },
    Reset {
        ahead: u64,
        sizes: Vec<usize>,
    },
}

/// Payload sizes around the edges of records, blocks and batches.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..300usize,
        4 => (1..4usize, 0..260usize).prop_map(|(blocks, less)| blocks * 4096 + 40 - less),
        1 => 0..60_000usize,
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let sizes = || prop::collection::vec(size(), 0..6);
    prop_oneof![
        6 => (0..2u64, sizes()).prop_map(|(term_step, sizes)| Write::Entries { term_step, sizes }),
        2 => (0..8u64, 0..2u64, sizes())
            .prop_map(|(back, term_step, sizes)| Write::Replace { back, term_step, sizes }),
        3 => (0..2u64, prop::option::of(1..4u64), 0..9u64).prop_map(
            |(term_step, vote, commit_back)| Write::HardState { term_step, vote, commit_back }
        ),
        1 => (0..20u64, sizes()).prop_map(|(ahead, sizes)| Write::Reset { ahead, sizes }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        10 => prop::collection::vec(write(), 1..5).prop_map(|group| Operation::Append { group }),
        2 => (0..10u64).prop_map(|back| Operation::Purge { back }),
        1 => Just(Operation::Mark),
        2 => Just(Operation::Reopen),
        3 => (0..12u64, any::<u64>())
            .prop_map(|(after_calls, seed)| Operation::PowerCut { after_calls, seed }),
    ]
}

/// A write that fits the model: no lower term, nothing committed is cut.
fn concrete(model: &Model, write: &Write) -> LogWrite {
    let (last, last_term) = model.last();
    let commit = model.hard_state.commit_index.0;
    match write {
        Write::Entries { term_step, sizes } => model.append(last_term.0 + term_step, sizes),
        Write::Replace {
            back,
            term_step,
            sizes,
        } => {
            let least = model.base.0.0.max(commit) + 1;
            let from = (last.0 + 1).saturating_sub(*back).max(least);
            model.replace(from, last_term.0 + term_step, sizes)
        }
        Write::HardState {
            term_step,
            vote,
            commit_back,
        } => {
            let old = model.hard_state;
            let commit = last.0.saturating_sub(*commit_back).max(commit).min(last.0);
            let vote = match old.vote {
                Some(kept) if *term_step == 0 => Some(kept.0),
                _ => *vote,
            };
            model.hard_state(old.term.0 + term_step, vote, commit)
        }
        Write::Reset { ahead, sizes } => model.reset((last.0 + ahead).max(1), last_term.0, sizes),
    }
}

struct Run {
    disk: MemoryDisk,
    wal: Wal,
    model: Model,
    options: WalOptions,
}

impl Run {
    fn new(segment_blocks: u64, append: AppendMode) -> Self {
        let disk = MemoryDisk::new();
        let options = WalOptions {
            append,
            ..options(segment_blocks)
        };
        Self {
            wal: create(&disk, options).unwrap(),
            disk,
            model: Model::default(),
            options,
        }
    }

    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Append { group } => {
                let (writes, states) = self.concrete_group(group);
                self.wal.append(&writes).unwrap();
                self.model = states.last().unwrap().clone();
            }
            Operation::Purge { back } => {
                let through = self.model.hard_state.commit_index.0.saturating_sub(*back);
                self.wal.purge(LogIndex(through)).unwrap();
            }
            Operation::Mark => self.wal.mark_idle().unwrap(),
            Operation::Reopen => self.reopen(Some(Verdict::Clean)),
            Operation::PowerCut { after_calls, seed } => self.power_cut(*after_calls, *seed),
        }
        self.check_reader();
    }

    fn concrete_group(&self, group: &[Write]) -> (Vec<LogWrite>, Vec<Model>) {
        let mut states = vec![self.model.clone()];
        let mut writes = Vec::new();
        for write in group {
            let mut model = states.last().unwrap().clone();
            let write = concrete(&model, write);
            model.apply(&write);
            states.push(model);
            writes.push(write);
        }
        (writes, states)
    }

    fn reopen(&mut self, expected: Option<Verdict>) {
        let (wal, opened) = open(&self.disk, self.options).unwrap();
        if let Some(expected) = expected {
            assert_eq!(opened.verdict, expected);
        }
        assert_eq!(opened.hard_state, self.model.hard_state);
        assert!(
            self.model.matches_entries(&opened),
            "{opened:?}\n{:?}",
            self.model
        );
        self.wal = wal;
    }

    /// Appends until the power fails, and finds what was acknowledged.
    fn power_cut(&mut self, after_calls: u64, seed: u64) {
        self.disk.power_off_at(self.disk.calls() + after_calls);
        let group: Vec<Write> = (0..3)
            .map(|step| Write::Entries {
                term_step: step & 1,
                sizes: vec![(seed % 9000) as usize, 10],
            })
            .collect();
        let states = loop {
            let (writes, states) = self.concrete_group(&group);
            match self.wal.append(&writes) {
                Ok(()) => self.model = states.last().unwrap().clone(),
                Err(WalError::Poisoned(_)) => break states,
                Err(error) => panic!("{error}"),
            }
        };
        self.disk = self.disk.crash_seeded(seed);
        let (wal, opened) = open(&self.disk, self.options).unwrap();
        assert_eq!(opened.hard_state, self.model.hard_state);
        let found = states
            .into_iter()
            .rev()
            .find(|state| state.matches_entries(&opened));
        self.model = found.unwrap_or_else(|| panic!("{opened:?}\n{:?}", self.model));
        self.wal = wal;
    }

    fn check_reader(&self) {
        let reader = self.wal.reader();
        let end = self.model.last().0;
        let error = reader.entries(end.next(), end.next(), 0).unwrap_err();
        let WalError::Gone { first, last, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(last, end);
        assert!(first > self.model.base.0);
        if first <= last {
            let read = reader.entries(first, last, usize::MAX).unwrap();
            assert_eq!(read, self.model.after(first.previous()).entries);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150 * depth() as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn log_behaves_as_the_model(
        segment_blocks in prop_oneof![Just(4u64), Just(6), Just(9), Just(40)],
        append in prop::sample::select(&MODES[..]),
        operations in prop::collection::vec(operation(), 1..30),
    ) {
        let mut run = Run::new(segment_blocks, append);
        for operation in &operations {
            run.perform(operation);
        }
        run.reopen(None);
    }
}

#[test]
fn megabyte_entries_around_block_edges_come_back() {
    let mut run = Run::new(64, AppendMode::Mapped);
    for size in [
        1 << 20,
        (1 << 20) - 160,
        (1 << 20) - 161,
        65_536 - 160,
        65_536 - 159,
    ] {
        let group = vec![Write::Entries {
            term_step: 0,
            sizes: vec![size, 1, size],
        }];
        run.perform(&Operation::Append { group });
        run.perform(&Operation::Reopen);
    }
}
