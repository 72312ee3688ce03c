//! What happened, for people: one line an event. Written only when asked for.

use std::fmt::Write;

use super::agenda::Moment;

/// The lines so far.
#[derive(Clone, Debug, Default)]
pub struct Story {
    is_told: bool,
    text: String,
}

impl Story {
    /// One that is told, or one that costs nothing.
    #[must_use]
    pub fn new(is_told: bool) -> Self {
        Self {
            is_told,
            text: String::new(),
        }
    }

    pub(super) fn tell(&mut self, now: Moment, line: impl FnOnce() -> String) {
        if self.is_told {
            let _ = writeln!(self.text, "{now:?}  {}", line());
        }
    }

    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    /// The whole text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}
