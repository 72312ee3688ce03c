//! What a state amounts to, in 128 bits: equal states have equal digests by
//! whatever history they came about, so replicas can be compared at any
//! position that both reached, and a state read from a snapshot needs no digest
//! beside it.
//!
//! The digest of a set of entries is the sum of their hashes, modulo 2^128:
//! order does not matter and a change costs the hashes of what it changes. The
//! hash is XXH3, fast and well mixed but no cryptographic one: it finds faults,
//! not forgers, and whoever can write to a store can do worse than collide.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::codec;
use crate::types::{Membership, Pair};

use super::{Applied, Entries, Shadow};

/// The sum over a set of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u128);

impl Sum {
    /// An entry comes in.
    pub fn add(&mut self, pair: &Pair) {
        self.0 = self.0.wrapping_add(xxh3_128(pair.as_bytes()));
    }

    /// It goes.
    pub fn subtract(&mut self, pair: &Pair) {
        self.0 = self.0.wrapping_sub(xxh3_128(pair.as_bytes()));
    }
}

/// Of everything replicated: the entries, a restore in progress, the position
/// and the membership.
pub(super) fn state(entries: &Entries, shadow: Option<&Shadow>, applied: &Applied) -> u128 {
    let mut hash = Xxh3::new();
    let mut number = |number: u128| hash.update(&number.to_le_bytes());
    number(entries.sum().0);
    number(shadow.is_some().into());
    if let Some(shadow) = shadow {
        number(shadow.progress.id);
        number(shadow.progress.chunk_count.into());
        number(shadow.entries.sum().0);
    }
    number(applied.index.0.into());
    number(applied.term.0.into());
    number(applied.restore_epoch.into());
    number(applied.membership_index.0.into());
    hash.update(&codec::encode::<Membership>(&applied.membership));
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::Sum;
    use crate::codec;
    use crate::store::{Entries, Store};
    use crate::types::{
        Command, Entry, EntryPayload, LogIndex, Membership, Operation, Pair, RestoreStep, Term,
        Transaction,
    };

    fn apply(store: &mut Store, payload: EntryPayload) {
        store.apply(&Entry {
            index: store.applied_index().next(),
            term: Term(1),
            payload,
        });
    }

    fn operate(store: &mut Store, operations: Vec<Operation>) {
        let command = Command::Transaction(Transaction {
            preconditions: Vec::new(),
            operations,
        });
        apply(
            store,
            EntryPayload::Command(codec::encode_command(&command)),
        );
    }

    fn put(key: &str, value: &[u8]) -> Operation {
        Operation::Put {
            key: key.to_owned(),
            value: value.to_vec(),
        }
    }

    fn delete(key: &str) -> Operation {
        Operation::Delete {
            key: key.to_owned(),
        }
    }

    fn digest_after(operations: Vec<Operation>) -> u128 {
        let mut store = Store::new();
        operate(&mut store, operations);
        store.checkpoint().digest
    }

    /// The definition is part of what replicas agree on: a change of it is a
    /// new state machine version, or two programs of one cluster would take
    /// each other for broken.
    #[test]
    fn digest_keeps_its_definition() {
        let digest = digest_after(vec![put("a", b"1"), put("b/c", b"")]);
        assert_eq!(format!("{digest:032x}"), "2f0ae98b617e1748bdbc4387d8d1bab0");
    }

    #[test]
    fn equal_states_of_other_histories_have_equal_digests() {
        let plain = digest_after(vec![put("a", b"1"), put("b", b"2")]);
        let winding = digest_after(vec![
            put("b", b"1"),
            put("x", b"y"),
            put("b", b"2"),
            delete("x"),
            delete("never"),
            put("a", b"1"),
        ]);
        assert_eq!(plain, winding);
    }

    #[test]
    fn every_part_of_the_state_counts() {
        let mut digests = vec![
            digest_after(vec![]),
            digest_after(vec![put("a", b"1")]),
            digest_after(vec![put("a", b"2")]),
            digest_after(vec![put("b", b"1")]),
            digest_after(vec![put("a1", b"")]),
            digest_after(vec![put("a", b"1"), put("b", b"2")]),
            digest_after(vec![put("a", b"2"), put("b", b"1")]),
        ];
        for payload in [
            EntryPayload::Membership(Arc::new(Membership::default())),
            EntryPayload::Command(codec::encode_command(&Command::Restore(
                RestoreStep::Begin { id: 1 },
            ))),
            EntryPayload::Command(codec::encode_command(&Command::Restore(
                RestoreStep::Begin { id: 2 },
            ))),
        ] {
            let mut store = Store::new();
            apply(&mut store, payload);
            digests.push(store.checkpoint().digest);
        }
        let mut further = Store::new();
        operate(&mut further, vec![]);
        apply(&mut further, EntryPayload::Noop);
        digests.push(further.checkpoint().digest);
        for (position, digest) in digests.iter().enumerate() {
            assert!(!digests[..position].contains(digest), "number {position}");
        }
    }

    proptest! {
        #[test]
        fn sum_kept_along_the_way_equals_the_sum_of_what_is_there(
            operations in prop::collection::vec(("[ab]{1,2}", prop::option::of("[xy]{0,2}")), 0..80),
        ) {
            let mut entries: Entries = Entries::default();
            for (key, value) in operations {
                match value {
                    Some(value) => entries.put(Pair::new(&key, value.as_bytes())),
                    None => entries.delete(&key),
                }
            }
            let mut sum = Sum::default();
            for pair in entries.scan() {
                sum.add(&pair);
            }
            prop_assert_eq!(entries.sum(), sum);
        }

        #[test]
        fn state_from_a_snapshot_has_the_same_digest(
            steps in prop::collection::vec((0..4u8, "[ab]{1,2}", "[xy]{0,2}"), 0..30),
        ) {
            let mut store = Store::new();
            for (sequence, (kind, key, value)) in steps.into_iter().enumerate() {
                let entries = vec![(key.clone(), value.clone().into_bytes())];
                let step = match kind {
                    0 => RestoreStep::Begin { id: 1 },
                    1 => RestoreStep::Chunk { id: 1, sequence: sequence as u64, entries },
                    2 => RestoreStep::Commit { id: 1, chunk_count: 0 },
                    _ => {
                        operate(&mut store, vec![put(&key, value.as_bytes())]);
                        continue;
                    }
                };
                let command = codec::encode_command(&Command::Restore(step));
                apply(&mut store, EntryPayload::Command(command));
            }
            let view = store.view();
            let mut copy = Store::new();
            copy.restore_from(view.records().map(Ok::<_, Infallible>), &view.meta(), &view.header())
                .expect("counts are right");
            prop_assert_eq!(copy.checkpoint(), store.checkpoint());
            prop_assert_eq!(copy.applied_index(), LogIndex(store.checkpoint().index.0));
        }
    }
}
