//! One plan, run and judged: by the observers within, then its clients'
//! history by the linearizability checker.

use std::sync::Arc;

use holdfast::sim::{ClientAction, ClientOperation, ClientValue, Failure, Outcome, Plan, run};

use crate::linearizability::{Action, Budget, History, Model, Operation, Value, Verdict, check};

/// A run with the checker's word on its clients' history.
pub struct Judged {
    /// The run; its `failure` may be the checker's.
    pub outcome: Outcome,
    /// The checker gave up, and why: no verdict on linearizability.
    pub undecided: Option<String>,
}

/// Runs a plan; tells its story if asked.
#[must_use]
pub fn judge(plan: &Plan, is_told: bool) -> Judged {
    let mut outcome = run(plan, is_told);
    let mut undecided = None;
    if outcome.failure.is_none() {
        match verdict(&outcome.history) {
            Verdict::Linearizable => {}
            Verdict::Unknown { reason } => undecided = Some(reason),
            Verdict::Illegal { key, witness } => {
                let lines = witness.iter().map(|item| format!("\n    {item:?}"));
                outcome.failure = Some(Failure {
                    kind: "Linearizability".into(),
                    details: format!(
                        "no order explains what clients of key {key} were told:{}",
                        lines.collect::<String>()
                    ),
                });
            }
        }
    }
    Judged { outcome, undecided }
}

/// Operations without an answer may never have happened, so a history that is
/// linearizable without some of them is so with them, too. Those whose values
/// nobody saw cost the search most and explain least: it goes without them
/// first.
fn verdict(known: &[ClientOperation]) -> Verdict {
    let seen = |value: ClientValue| {
        known.iter().any(|other| match other.action {
            ClientAction::Read(Some(answer)) => answer == value,
            ClientAction::Cas { from, .. } => from == value,
            _ => false,
        })
    };
    let matters = |item: &&ClientOperation| {
        item.returned.is_some()
            || match item.action {
                ClientAction::Write(value) | ClientAction::Cas { to: value, .. } => seen(value),
                ClientAction::Read(_) => false,
            }
    };
    let check =
        |history: Vec<Operation>| check(Model::CasRegister, &History::new(history), BUDGET).verdict;
    match check(known.iter().filter(matters).map(operation).collect()) {
        Verdict::Linearizable => Verdict::Linearizable,
        _ => check(known.iter().map(operation).collect()),
    }
}

/// Steps, not time: the same seed must give the same verdict on any machine.
const BUDGET: Budget = Budget {
    time: std::time::Duration::from_secs(3600),
    steps: 2_000_000,
    cache_bytes: 1 << 30,
};

fn operation(known: &ClientOperation) -> Operation {
    let action = match known.action {
        ClientAction::Read(answer) => Action::Read(answer.map(value)),
        ClientAction::Write(written) => Action::Write(value(written)),
        ClientAction::Cas {
            from,
            to,
            succeeded,
        } => Action::Cas {
            from: value(from),
            to: value(to),
            succeeded,
        },
    };
    Operation {
        process: known.process,
        key: known.key.to_string(),
        call: known.call,
        returned: known.returned,
        action,
    }
}

fn value(value: ClientValue) -> Value {
    value.map(|number| Arc::from(number.to_string()))
}
