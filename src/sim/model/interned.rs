//! Values by number: a state of the search is a handful of numbers, and what a
//! value hashes to under each numbering of the nodes is computed once.

use super::canonical::Tree;
use super::fingerprint::{Hash, Numbering, Table, hash};

/// See the module.
#[derive(Debug)]
pub(super) struct Interned<T> {
    values: Vec<T>,
    /// One hash a numbering; values in a row.
    hashes: Vec<Hash>,
    numberings: usize,
    table: Table,
}

impl<T> Interned<T> {
    pub(super) fn new(numberings: usize) -> Self {
        Self {
            values: Vec::new(),
            hashes: Vec::new(),
            numberings,
            table: Table::new(),
        }
    }

    /// The number of this value; `tree` is its canonical form. Of values with
    /// the same form the first stays.
    pub(super) fn number(&mut self, value: T, tree: &Tree, numberings: &[Numbering]) -> u32 {
        let own = hash(tree, &numberings[0]);
        if let Some(found) = self.table.find(own as u64) {
            let known = self.hashes[found as usize * self.numberings];
            // 64 bits find it, 128 must agree: never seen to fail, and a
            // silent mistake would be worse than none.
            assert!(known == own, "two values share a hash");
            return found;
        }
        let number = self.values.len() as u32;
        self.values.push(value);
        self.hashes.push(own);
        let others = numberings[1..].iter().map(|other| hash(tree, other));
        self.hashes.extend(others);
        self.table.insert(own as u64, number);
        number
    }

    pub(super) fn value(&self, number: u32) -> &T {
        &self.values[number as usize]
    }

    /// Hashes of a value, one a numbering.
    pub(super) fn hashes(&self, number: u32) -> &[Hash] {
        let start = number as usize * self.numberings;
        &self.hashes[start..start + self.numberings]
    }

    pub(super) fn count(&self) -> usize {
        self.values.len()
    }
}
