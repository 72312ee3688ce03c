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
        let operations = outcome.history.iter().map(operation).collect();
        let history = History::new(operations);
        match check(Model::CasRegister, &history, BUDGET).verdict {
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

/// Steps, not time: the same seed must give the same verdict on any machine.
const BUDGET: Budget = Budget {
    time: std::time::Duration::from_secs(3600),
    steps: 2_000_000,
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
