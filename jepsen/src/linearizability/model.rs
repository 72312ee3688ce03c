//! What a key is: a small sequential object.

use std::fmt;
use std::sync::Arc;

/// A value of the object. `None` is "absent".
pub type Value = Option<Arc<str>>;

/// What was asked, and, when it returned, what was answered.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// A read; `None`: the answer is unknown (any value explains it).
    Read(Option<Value>),
    /// An unconditional write.
    Write(Value),
    /// Appends to a string (absent counts as empty).
    Append(Arc<str>),
    /// Sets `to` if the value is `from`. `succeeded` false: the server proved
    /// that the value was not `from`.
    Cas {
        /// Expected.
        from: Value,
        /// New.
        to: Value,
        /// The answer; open operations count as succeeded if they took effect.
        succeeded: bool,
    },
}

/// Which object the history is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// A register with reads, writes and compare-and-set, absent at first.
    CasRegister,
    /// The same, holding 0 at first (knossos).
    CasRegisterZero,
    /// String registers with get, put and append, empty at first.
    Kv,
}

impl Model {
    /// The state before any operation.
    #[must_use]
    pub fn initial(self) -> Value {
        match self {
            Self::CasRegister => None,
            Self::CasRegisterZero => Some("0".into()),
            Self::Kv => Some("".into()),
        }
    }

    /// The state after `action`, or `None` if it cannot have happened here.
    #[must_use]
    pub fn step(self, state: &Value, action: &Action) -> Option<Value> {
        match action {
            Action::Read(None) => Some(state.clone()),
            Action::Read(Some(answer)) => (answer == state).then(|| state.clone()),
            Action::Write(value) => Some(value.clone()),
            Action::Append(suffix) => {
                let mut text = String::from(state.as_deref().unwrap_or(""));
                text.push_str(suffix);
                Some(Some(text.into()))
            }
            Action::Cas {
                from,
                to,
                succeeded: true,
            } => (from == state).then(|| to.clone()),
            Action::Cas {
                from,
                succeeded: false,
                ..
            } => (from != state).then(|| state.clone()),
        }
    }
}

impl Action {
    /// Whether it leaves every state as it is: dropping it from a history can
    /// only make the history easier to explain.
    #[must_use]
    pub fn is_observation(&self) -> bool {
        matches!(
            self,
            Self::Read(_)
                | Self::Cas {
                    succeeded: false,
                    ..
                }
        )
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn text(value: &Value) -> &str {
            value.as_deref().unwrap_or("absent")
        }
        match self {
            Self::Read(None) => f.write_str("read -> ?"),
            Self::Read(Some(value)) => write!(f, "read -> {}", text(value)),
            Self::Write(value) => write!(f, "write {}", text(value)),
            Self::Append(suffix) => write!(f, "append {suffix:?}"),
            Self::Cas {
                from,
                to,
                succeeded,
            } => {
                let answer = if *succeeded { "ok" } else { "refused" };
                write!(f, "cas {} -> {}: {answer}", text(from), text(to))
            }
        }
    }
}
