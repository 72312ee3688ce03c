//! What an observer found wrong, as a value: a simulation prints it, compares
//! it with that of a shorter run, and stops.

use std::fmt;

use crate::sim::history::Life;

/// What must hold, by the names used in DESIGN.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// A term never had two leaders.
    ElectionSafety,
}

/// A property that does not hold, with both sides of the contradiction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// Which property. Two runs fail alike when this is equal.
    pub property: Property,
    /// On which node it showed.
    pub life: Life,
    /// What was known.
    pub known: String,
    /// What contradicts it.
    pub found: String,
}

/// What an observer says of an event.
pub type Verdict = Result<(), Box<Violation>>;

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            property,
            life,
            known,
            found,
        } = self;
        write!(f, "{property:?} on {life:?}: {known}, but {found}")
    }
}
