//! Numbers that stand for states, and compact tables of them.
//!
//! A tree is reduced to 128 bits under every numbering of the interchangeable
//! nodes; a state's name is the least of its sums. Of that the search keeps 64
//! bits: among n states two fall together with a probability below n²/2⁶⁵.

use super::canonical::Tree;

/// 128 bits that stand for a value.
pub(super) type Hash = u128;

/// Another numbering of the nodes: where each id (from 1) goes.
pub(super) type Numbering = [u64; IDS_MAX + 1];

/// The highest node id a model uses.
pub(super) const IDS_MAX: usize = 7;

/// Every numbering that exchanges ids only within one of the `classes`; the
/// first changes nothing.
pub(super) fn numberings(classes: &[Vec<u64>]) -> Vec<Numbering> {
    let mut identity = [0; IDS_MAX + 1];
    for (id, place) in identity.iter_mut().enumerate() {
        *place = id as u64;
    }
    let mut all = vec![identity];
    for class in classes {
        let orders = orders_of(class);
        let before = std::mem::take(&mut all);
        for numbering in before {
            all.extend(orders.iter().map(|order| {
                let mut next = numbering;
                for (id, place) in class.iter().zip(order) {
                    next[*id as usize] = *place;
                }
                next
            }));
        }
    }
    all
}

/// Every order of the ids, the given one first.
fn orders_of(ids: &[u64]) -> Vec<Vec<u64>> {
    if ids.is_empty() {
        return vec![Vec::new()];
    }
    let mut orders = Vec::new();
    for (position, first) in ids.iter().enumerate() {
        let mut rest = ids.to_vec();
        rest.remove(position);
        for mut order in orders_of(&rest) {
            order.insert(0, *first);
            orders.push(order);
        }
    }
    orders
}

/// Folds a number into a hash; order matters.
pub(super) fn mix(hash: Hash, number: u64) -> Hash {
    let (low, high) = (hash as u64, (hash >> 64) as u64);
    // Small numbers must not undo each other: kinds are small numbers, too.
    let low = fold(low.rotate_left(29) ^ number, 0x9E37_79B9_7F4A_7C15 ^ high);
    let high = fold(high ^ number.rotate_left(32), 0xC2B2_AE3D_27D4_EB4F ^ low);
    Hash::from(low) | (Hash::from(high) << 64)
}

/// Multiplies and folds the halves of the product together.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0xA076_1D64_78BD_642F) * u128::from(b ^ 0xE703_7ED1_A0B4_28DB);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The hash of a tree whose nodes are renumbered. The members of a set are
/// added up, so that their order does not matter.
pub(super) fn hash(tree: &Tree, numbering: &Numbering) -> Hash {
    match tree {
        Tree::Number(number) => mix(1, *number),
        Tree::Node(id) => {
            let place = numbering.get(*id as usize).copied();
            mix(2, place.unwrap_or(*id))
        }
        Tree::List(parts) => parts.iter().fold(mix(3, parts.len() as u64), |sum, part| {
            join(sum, hash(part, numbering))
        }),
        Tree::Set(members) => {
            let sum = members
                .iter()
                .fold(0, |sum: Hash, part| sum.wrapping_add(hash(part, numbering)));
            join(mix(4, members.len() as u64), sum)
        }
    }
}

/// Folds a hash into a hash; order matters.
pub(super) fn join(hash: Hash, other: Hash) -> Hash {
    mix(mix(hash, other as u64), (other >> 64) as u64)
}

/// A map from well-mixed non-zero keys to numbers: open addressing, 12 bytes a
/// slot. The standard map is not for simulated code, and larger.
#[derive(Debug)]
pub(super) struct Table {
    keys: Vec<u64>,
    values: Vec<u32>,
    count: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            keys: vec![0; 1 << 10],
            values: vec![0; 1 << 10],
            count: 0,
        }
    }

    pub(super) fn find(&self, key: u64) -> Option<u32> {
        let slot = self.slot(key);
        (self.keys[slot] != 0).then(|| self.values[slot])
    }

    /// Notes a key that is not there yet.
    pub(super) fn insert(&mut self, key: u64, value: u32) {
        if self.keys.len() * 3 < (self.count + 1) * 4 {
            self.grow();
        }
        let slot = self.slot(key);
        assert!(self.keys[slot] == 0, "inserted twice");
        self.keys[slot] = normalised(key);
        self.values[slot] = value;
        self.count += 1;
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * 12
    }

    /// Where a key is, or would be.
    fn slot(&self, key: u64) -> usize {
        let key = normalised(key);
        let mask = self.keys.len() - 1;
        let mut slot = (fold(key, 1) as usize) & mask;
        while self.keys[slot] != 0 && self.keys[slot] != key {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        let size = self.keys.len() * 2;
        let keys = std::mem::replace(&mut self.keys, vec![0; size]);
        let values = std::mem::replace(&mut self.values, vec![0; size]);
        for (key, value) in keys.into_iter().zip(values) {
            if key != 0 {
                let slot = self.slot(key);
                self.keys[slot] = key;
                self.values[slot] = value;
            }
        }
    }
}

/// Zero marks an empty slot.
fn normalised(key: u64) -> u64 {
    key.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numberings_permute_within_classes() {
        let all = numberings(&[vec![1, 2, 3], vec![5]]);
        assert_eq!(all.len(), 6);
        assert_eq!(all[0], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(all.iter().all(|numbering| numbering[5] == 5));
    }

    #[test]
    fn renumbered_sets_hash_alike_and_lists_do_not() {
        let pair = |id| Tree::List(vec![Tree::Node(id), Tree::Number(9)]);
        let one = Tree::Set(vec![pair(1), Tree::Node(2)]);
        let other = Tree::Set(vec![Tree::Node(1), pair(2)]);
        let [identity, exchanged] = numberings(&[vec![1, 2]])[..] else {
            panic!("two numberings")
        };
        assert_eq!(hash(&one, &identity), hash(&other, &exchanged));
        assert_ne!(hash(&one, &identity), hash(&other, &identity));
        let list = |a, b| Tree::List(vec![Tree::Number(a), Tree::Number(b)]);
        assert_ne!(hash(&list(1, 2), &identity), hash(&list(2, 1), &identity));
    }

    #[test]
    fn table_finds_what_was_inserted_after_it_grew() {
        let mut table = Table::new();
        for number in 0..10_000 {
            table.insert(mix(5, number) as u64, number as u32);
        }
        for number in 0..10_000 {
            assert_eq!(table.find(mix(5, number) as u64), Some(number as u32));
        }
        assert_eq!(table.find(mix(6, 1) as u64), None);
    }
}
