//! Each rule once by hand, then random commands against a plain model.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::types::{Member, NodeId, Operation, Precondition, RestoreProgress, Transaction};

/// A store that numbers its own entries.
#[derive(Default)]
struct Applier {
    store: Store,
}

impl Applier {
    fn payload(&mut self, payload: EntryPayload) -> Option<Outcome> {
        let index = self.store.applied_index().next();
        self.store.apply(&Entry {
            index,
            term: Term(1),
            payload,
        })
    }

    fn command(&mut self, command: &Command) -> Outcome {
        self.payload(EntryPayload::Command(codec::encode_command(command)))
            .expect("a command has an outcome")
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        let outcome = self.command(&transaction(&[], &[(key, Some(value))]));
        assert_eq!(outcome, Outcome::Applied);
    }

    fn restore(&mut self, step: RestoreStep) -> Outcome {
        self.command(&Command::Restore(step))
    }
}

type Pairs<'a> = [(&'a str, Option<&'a [u8]>)];

fn transaction(preconditions: &Pairs, operations: &Pairs) -> Command {
    Command::Transaction(Transaction {
        preconditions: preconditions
            .iter()
            .map(|(key, expected)| Precondition {
                key: (*key).to_owned(),
                expected: expected.map(<[u8]>::to_vec),
            })
            .collect(),
        operations: operations
            .iter()
            .map(|(key, value)| operation((*key).to_owned(), value.map(<[u8]>::to_vec)))
            .collect(),
    })
}

fn operation(key: String, value: Option<Vec<u8>>) -> Operation {
    match value {
        Some(value) => Operation::Put { key, value },
        None => Operation::Delete { key },
    }
}

fn content(view: &View) -> Vec<(String, Vec<u8>)> {
    view.scan()
        .map(|pair| (pair.key().to_owned(), pair.value().to_vec()))
        .collect()
}

fn chunk(id: u128, sequence: u64, entries: &[(&str, &[u8])]) -> RestoreStep {
    RestoreStep::Chunk {
        id,
        sequence,
        entries: entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.to_vec()))
            .collect(),
    }
}

fn copy(store: &Store) -> Store {
    let view = store.view();
    let mut copy = Store::new();
    copy.restore_from(
        view.records().map(Ok::<_, Infallible>),
        &view.meta(),
        &view.header(),
    )
    .expect("counts are right");
    copy
}

#[test]
fn transaction_with_preconditions_held_applies_in_order() {
    let mut applier = Applier::default();
    applier.put("a", b"1");
    let outcome = applier.command(&transaction(
        &[("a", Some(b"1")), ("b", None)],
        &[("b", Some(b"2")), ("a", None), ("b", Some(b"3"))],
    ));
    assert_eq!(outcome, Outcome::Applied);
    assert_eq!(
        content(&applier.store.view()),
        [("b".to_owned(), b"3".to_vec())]
    );
}

#[test]
fn transaction_with_one_precondition_broken_changes_nothing() {
    let mut applier = Applier::default();
    applier.put("a", b"1");
    let outcome = applier.command(&transaction(
        &[("a", Some(b"1")), ("b", Some(b"")), ("a", None)],
        &[("a", Some(b"2")), ("c", Some(b"3"))],
    ));
    assert_eq!(outcome, Outcome::PreconditionFailed { key: "b".into() });
    assert_eq!(
        content(&applier.store.view()),
        [("a".to_owned(), b"1".to_vec())]
    );
    assert_eq!(applier.store.applied_index(), LogIndex(2));
}

#[test]
fn precondition_tells_absent_from_empty() {
    let mut applier = Applier::default();
    applier.put("empty", b"");
    let failed = applier.command(&transaction(&[("empty", None)], &[]));
    assert_eq!(
        failed,
        Outcome::PreconditionFailed {
            key: "empty".into()
        }
    );
    let held = applier.command(&transaction(&[("empty", Some(b""))], &[]));
    assert_eq!(held, Outcome::Applied);
}

#[test]
fn command_that_does_not_decode_is_refused_alike() {
    for bytes in [&b""[..], b"\xff\xff\xff\xff", b"\0\0\0\0garbage"] {
        let mut applier = Applier::default();
        let outcome = applier.payload(EntryPayload::Command(bytes.into()));
        assert_eq!(
            outcome,
            Some(Outcome::RestoreRefused {
                reason: UNDECODABLE
            })
        );
        assert_eq!(applier.store.applied_index(), LogIndex(1));
        assert!(applier.store.view().is_empty());
    }
}

#[test]
fn noop_and_membership_have_no_outcome() {
    let mut applier = Applier::default();
    assert_eq!(applier.payload(EntryPayload::Noop), None);
    let membership = Arc::new(Membership {
        voters: BTreeSet::from([NodeId(7)]),
        members: BTreeMap::from([(NodeId(7), Member::default())]),
        ..Membership::default()
    });
    let payload = EntryPayload::Membership(Arc::clone(&membership));
    assert_eq!(applier.payload(payload), None);
    assert_eq!(applier.payload(EntryPayload::Noop), None);
    assert_eq!(applier.store.membership(), &membership);
    assert_eq!(applier.store.membership_index(), LogIndex(2));
    assert_eq!(applier.store.applied_index(), LogIndex(3));
}

#[test]
#[should_panic(expected = "assertion")]
fn apply_with_a_gap_panics() {
    Store::new().apply(&Entry {
        index: LogIndex(2),
        term: Term(1),
        payload: EntryPayload::Noop,
    });
}

#[test]
fn list_names_children_once() {
    let mut applier = Applier::default();
    let keys = [
        "foo", "foo-bar", "foo/a", "foo/b/c", "foo/b/d", "foo/b0", "foo0", "z/",
    ];
    for key in keys {
        applier.put(key, b"");
    }
    let view = applier.store.view();
    assert_eq!(view.list(""), ["foo", "foo-bar", "foo/", "foo0", "z/"]);
    assert_eq!(view.list("foo/"), ["a", "b/", "b0"]);
    assert_eq!(view.list("foo/b/"), ["c", "d"]);
    assert_eq!(view.list("z/"), [""; 0]);
    assert_eq!(view.list("nothing/"), [""; 0]);
}

#[test]
fn view_keeps_its_content() {
    let mut applier = Applier::default();
    applier.put("a", b"1");
    let view = applier.store.view();
    applier.put("a", b"2");
    applier.put("b", b"3");
    assert_eq!(view.value("a").as_deref(), Some(&b"1"[..]));
    assert_eq!(view.len(), 1);
    assert_eq!(view.bytes(), 2);
    assert_eq!(view.applied_index(), LogIndex(1));
    assert_eq!(applier.store.view().bytes(), 4);
}

#[test]
fn restore_replaces_the_state_at_commit_only() {
    let mut applier = Applier::default();
    applier.put("old", b"1");
    assert_eq!(
        applier.restore(RestoreStep::Begin { id: 5 }),
        Outcome::Applied
    );
    let first = chunk(5, 0, &[("x", b"1"), ("y", b"2")]);
    assert_eq!(applier.restore(first), Outcome::Applied);
    applier.put("old", b"2");
    assert_eq!(
        applier.restore(chunk(5, 1, &[("x", b"3")])),
        Outcome::Applied
    );
    let view = applier.store.view();
    assert_eq!(view.list(""), ["old"]);
    assert_eq!(view.staged_bytes(), 4);
    assert_eq!(view.restore_epoch(), 0);

    let commit = RestoreStep::Commit {
        id: 5,
        chunk_count: 2,
    };
    assert_eq!(applier.restore(commit), Outcome::Applied);
    let view = applier.store.view();
    assert_eq!(
        content(&view),
        [
            ("x".to_owned(), b"3".to_vec()),
            ("y".to_owned(), b"2".to_vec())
        ]
    );
    assert_eq!((view.bytes(), view.staged_bytes()), (4, 0));
    assert_eq!(view.restore_epoch(), 1);
}

#[test]
fn restore_step_that_does_not_fit_is_refused_and_changes_nothing() {
    let abort = RestoreStep::Abort { id: 5 };
    let commit = |chunk_count| RestoreStep::Commit { id: 5, chunk_count };
    let cases = [
        (chunk(6, 1, &[]), NOT_HERE),
        (chunk(5, 0, &[("x", b"again")]), SEQUENCE),
        (chunk(5, 2, &[]), SEQUENCE),
        (commit(0), COUNT),
        (commit(2), COUNT),
        (
            RestoreStep::Commit {
                id: 6,
                chunk_count: 1,
            },
            NOT_HERE,
        ),
        (RestoreStep::Abort { id: 6 }, NOT_HERE),
    ];
    for (step, reason) in cases {
        let mut applier = Applier::default();
        applier.restore(RestoreStep::Begin { id: 5 });
        applier.restore(chunk(5, 0, &[("x", b"1")]));
        let before = applier.store.view().header();
        let label = format!("{step:?}");
        assert_eq!(
            applier.restore(step),
            Outcome::RestoreRefused { reason },
            "{label}"
        );
        assert_eq!(applier.store.view().header(), before, "{label}");
        assert_eq!(applier.restore(commit(1)), Outcome::Applied, "{label}");
        assert_eq!(
            content(&applier.store.view()),
            [("x".to_owned(), b"1".to_vec())]
        );
    }
    let mut idle = Applier::default();
    assert_eq!(
        idle.restore(abort),
        Outcome::RestoreRefused { reason: NOT_HERE }
    );
}

const NOT_HERE: &str = "this restore is not in progress";
const SEQUENCE: &str = "a restore chunk is missing or repeated";
const COUNT: &str = "the restore ends with another number of chunks than were gathered";

#[test]
fn restore_begun_anew_discards_what_was_gathered() {
    let mut applier = Applier::default();
    applier.restore(RestoreStep::Begin { id: 5 });
    applier.restore(chunk(5, 0, &[("x", b"1")]));
    applier.restore(RestoreStep::Begin { id: 6 });
    assert_eq!(
        applier.store.view().header(),
        StateHeader {
            state_machine_version: STATE_MACHINE_VERSION,
            restore_epoch: 0,
            restore: Some(RestoreProgress {
                id: 6,
                chunk_count: 0
            }),
            entry_count: 0,
            staged_count: 0,
        }
    );
    assert_eq!(
        applier.restore(RestoreStep::Abort { id: 6 }),
        Outcome::Applied
    );
    assert_eq!(applier.store.view().header().restore, None);
}

#[test]
fn snapshot_in_the_middle_of_a_restore_carries_it_on() {
    let mut applier = Applier::default();
    applier.put("old", b"1");
    applier.restore(RestoreStep::Begin { id: 5 });
    applier.restore(chunk(5, 0, &[("x", b"1")]));
    let mut other = Applier {
        store: copy(&applier.store),
    };
    for applier in [&mut applier, &mut other] {
        applier.restore(chunk(5, 1, &[("y", b"2")]));
        let commit = RestoreStep::Commit {
            id: 5,
            chunk_count: 2,
        };
        assert_eq!(applier.restore(commit), Outcome::Applied);
    }
    assert_eq!(content(&applier.store.view()), content(&other.store.view()));
    assert_eq!(applier.store.view().header(), other.store.view().header());
}

#[test]
fn restore_from_with_wrong_counts_keeps_the_old_state() {
    let mut applier = Applier::default();
    applier.put("a", b"1");
    let view = applier.store.view();
    let mut target = Applier::default();
    target.put("kept", b"1");
    let records = view.records().map(Ok::<_, Infallible>);
    let header = StateHeader {
        entry_count: 2,
        ..view.header()
    };
    let refused = target.store.restore_from(records, &view.meta(), &header);
    assert!(matches!(
        refused.map(|_| ()),
        Err(RestoreError::Count { entries: 1, .. })
    ));
    assert_eq!(target.store.view().list(""), ["kept"]);
}

#[test]
fn restore_from_a_newer_state_machine_is_refused() {
    let header = StateHeader {
        state_machine_version: STATE_MACHINE_VERSION + 1,
        ..StateHeader::default()
    };
    let none = std::iter::empty::<Result<Record, Infallible>>();
    let refused = Store::new().restore_from(none, &SnapshotMeta::default(), &header);
    assert!(matches!(
        refused.map(|_| ()),
        Err(RestoreError::Version { .. })
    ));
}

/// What the store should do, on a plain map and without cleverness.
#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Vec<u8>>,
    restore: Option<(u128, u64, BTreeMap<String, Vec<u8>>)>,
    epoch: u64,
}

impl Model {
    fn apply(&mut self, command: &Command) -> bool {
        match command {
            Command::Transaction(transaction) => self.transact(transaction),
            Command::Restore(step) => self.step(step.clone()),
        }
    }

    fn transact(&mut self, transaction: &Transaction) -> bool {
        for precondition in &transaction.preconditions {
            if self.entries.get(&precondition.key) != precondition.expected.as_ref() {
                return false;
            }
        }
        for operation in &transaction.operations {
            match operation {
                Operation::Put { key, value } => {
                    self.entries.insert(key.clone(), value.clone());
                }
                Operation::Delete { key } => {
                    self.entries.remove(key);
                }
            }
        }
        true
    }

    fn step(&mut self, step: RestoreStep) -> bool {
        match (step, &mut self.restore) {
            (RestoreStep::Begin { id }, restore) => *restore = Some((id, 0, BTreeMap::new())),
            (
                RestoreStep::Chunk {
                    id,
                    sequence,
                    entries,
                },
                Some((current, next, gathered)),
            ) if id == *current && sequence == *next => {
                *next += 1;
                gathered.extend(entries);
            }
            (RestoreStep::Commit { id, chunk_count }, Some((current, next, gathered)))
                if id == *current && chunk_count == *next =>
            {
                self.entries = std::mem::take(gathered);
                self.restore = None;
                self.epoch += 1;
            }
            (RestoreStep::Abort { id }, Some((current, ..))) if id == *current => {
                self.restore = None;
            }
            _ => return false,
        }
        true
    }

    fn list(&self, prefix: &str) -> Vec<String> {
        let names: BTreeSet<String> = self
            .entries
            .keys()
            .filter_map(|key| key.strip_prefix(prefix))
            .filter(|rest| !rest.is_empty())
            .map(|rest| match rest.split_once('/') {
                Some((folder, _)) => format!("{folder}/"),
                None => rest.to_owned(),
            })
            .collect();
        names.into_iter().collect()
    }
}

fn key() -> impl Strategy<Value = String> {
    proptest::string::string_regex("([ab/0.-]{1,2}/){0,2}[abé]{1,2}").expect("the pattern is valid")
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..3_u8, 0..3)
}

/// Also such as the map keeps beside their keys.
fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => value(), 1 => (500..600_usize).prop_map(|length| vec![1; length])]
}

fn command() -> impl Strategy<Value = Command> {
    let precondition = (key(), prop::option::weighted(0.3, value()))
        .prop_map(|(key, expected)| Precondition { key, expected });
    let transaction = (
        prop::collection::vec(precondition, 0..2),
        prop::collection::vec(
            (key(), prop::option::weighted(0.8, value()))
                .prop_map(|(key, value)| operation(key, value)),
            0..5,
        ),
    )
        .prop_map(|(preconditions, operations)| {
            Command::Transaction(Transaction {
                preconditions,
                operations,
            })
        });
    let step = prop_oneof![
        2 => (0..2_u128).prop_map(|id| RestoreStep::Begin { id }),
        4 => (0..2_u128, 0..3_u64, prop::collection::vec((key(), value()), 0..4)).prop_map(
            |(id, sequence, entries)| RestoreStep::Chunk { id, sequence, entries }
        ),
        3 => (0..2_u128, 0..3_u64)
            .prop_map(|(id, chunk_count)| RestoreStep::Commit { id, chunk_count }),
        1 => (0..2_u128).prop_map(|id| RestoreStep::Abort { id }),
    ];
    prop_oneof![6 => transaction, 4 => step.prop_map(Command::Restore)]
}

proptest! {
    /// What is executed in place is what decoding makes of the same bytes,
    /// whatever became of them; else replicas that do it the other way differ.
    #[test]
    fn borrowed_command_is_the_decoded_one(
        command in command(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        kept in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        added in prop::option::weighted(0.2, any::<u8>()),
    ) {
        let mut bytes = codec::encode_command(&command).to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(kept.map_or(bytes.len(), |kept| kept.index(bytes.len())));
        bytes.extend(added);
        let borrowed = codec::borrow_command(&bytes).expect("it is small");
        match (borrowed, codec::decode_command(&bytes)) {
            (Ok(CommandRef::Transaction(borrowed)), Ok(Command::Transaction(decoded))) => {
                prop_assert_eq!(borrowed, decoded.borrowed());
            }
            (Ok(CommandRef::Restore(borrowed)), Ok(Command::Restore(decoded))) => {
                prop_assert_eq!(borrowed, decoded);
            }
            (borrowed, decoded) => prop_assert!(borrowed.is_err() && decoded.is_err()),
        }
    }

    #[test]
    fn random_commands_agree_with_the_model(
        commands in prop::collection::vec(command(), 0..60),
        copied_at in 0..60_usize,
        prefixes in prop::collection::vec("[ab/0.-]{0,3}", 0..8),
    ) {
        let mut model = Model::default();
        let mut applier = Applier::default();
        for (position, command) in commands.iter().enumerate() {
            if position == copied_at {
                applier.store = copy(&applier.store);
            }
            let applied = applier.command(command) == Outcome::Applied;
            prop_assert_eq!(applied, model.apply(command), "{:?}", command);
        }
        let view = applier.store.view();
        let expected: Vec<_> = model.entries.clone().into_iter().collect();
        prop_assert_eq!(content(&view), expected);
        let bytes: usize = model.entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        prop_assert_eq!(view.bytes(), bytes as u64);
        prop_assert_eq!(view.len(), model.entries.len());
        prop_assert_eq!(view.restore_epoch(), model.epoch);
        prop_assert_eq!(view.applied_index(), LogIndex(commands.len() as u64));
        for prefix in prefixes.iter().map(String::as_str).chain(["", "a/", "b/a/", "//"]) {
            prop_assert_eq!(view.list(prefix), model.list(prefix), "{:?}", prefix);
        }
        for key in model.entries.keys() {
            let value = view.value(key).map(|value| value.to_vec());
            prop_assert_eq!(value.as_ref(), model.entries.get(key));
        }
    }

    /// The production map against the oracle behind the same trait.
    #[test]
    fn maps_behind_the_trait_agree(
        operations in prop::collection::vec((key(), prop::option::of(any_value())), 0..600),
        prefix in "[ab/]{0,3}",
    ) {
        let mut persistent = Entries::<PersistentMap>::default();
        let mut oracle = Entries::<BTreeSet<ByKey>>::default();
        for (key, value) in operations {
            match value {
                Some(value) => {
                    persistent.put(Pair::new(&key, &value));
                    oracle.put(Pair::new(&key, &value));
                }
                None => {
                    persistent.delete(&key);
                    oracle.delete(&key);
                }
            }
        }
        prop_assert_eq!(persistent.count(), oracle.count());
        prop_assert_eq!(persistent.bytes(), oracle.bytes());
        prop_assert_eq!(persistent.list(&prefix), oracle.list(&prefix));
    }
}

#[test]
fn scan_walks_more_than_one_page_in_order() {
    let mut applier = Applier::default();
    let keys: Vec<String> = (0..1000).map(|number| format!("k{number:04}")).collect();
    for key in &keys {
        applier.put(key, b"v");
    }
    let scan = applier.store.view().scan();
    applier.put("k0000", b"changed");
    let found: Vec<String> = scan.map(|pair| pair.key().to_owned()).collect();
    assert_eq!(found, keys);
}
