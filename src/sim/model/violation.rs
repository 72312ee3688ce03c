//! What the search found wrong.

use std::fmt;

use crate::types::NodeId;

/// A property that does not hold, where it showed, and both sides of the
/// contradiction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// Which property, by its name in DESIGN.md. Two findings of one mistake
    /// usually agree in this.
    pub property: &'static str,
    /// On which node.
    pub node: NodeId,
    /// What contradicts what.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {:?}: {}", self.property, self.node, self.text)
    }
}

pub(super) fn violation(
    property: &'static str,
    node: NodeId,
    text: impl fmt::Display,
) -> Violation {
    Violation {
        property,
        node,
        text: text.to_string(),
    }
}
