//! A history: operations with the positions of their calls and returns.

use std::collections::BTreeMap;
use std::fmt;

use super::model::{Action, Model};

/// One operation of one client.
#[derive(Clone, PartialEq, Eq)]
pub struct Operation {
    /// Which client.
    pub process: u64,
    /// On which key ("" where there is only one).
    pub key: String,
    /// Position of the call in the history.
    pub call: u64,
    /// Position of the return; `None`: it never returned, its fate is unknown.
    pub returned: Option<u64>,
    /// What it did.
    pub action: Action,
}

/// A recorded history. Positions of calls and returns are distinct.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// From operations in any order.
    #[must_use]
    pub fn new(operations: Vec<Operation>) -> Self {
        Self { operations }
    }

    /// How many operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The operations.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Operations by key, each sorted by call, the smallest key first. Reads
    /// that never returned say nothing and are left out.
    #[must_use]
    pub fn partitions(&self, _model: Model) -> Vec<(String, Vec<Operation>)> {
        let mut keys: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
        for operation in &self.operations {
            let says_nothing = match operation.returned {
                None => operation.action.is_observation(),
                Some(_) => operation.action == Action::Read(None),
            };
            if !says_nothing {
                keys.entry(&operation.key)
                    .or_default()
                    .push(operation.clone());
            }
        }
        let mut partitions: Vec<_> = keys
            .into_iter()
            .map(|(key, mut operations)| {
                operations.sort_by_key(|operation| operation.call);
                (key.to_owned(), operations)
            })
            .collect();
        partitions.sort_by_key(|(_, operations)| operations.len());
        partitions
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:>5}, ", self.call)?;
        match self.returned {
            Some(returned) => write!(f, "{returned:>5}]")?,
            None => write!(f, " open]")?,
        }
        write!(f, " client {:<3} {:?}", self.process, self.action)
    }
}
