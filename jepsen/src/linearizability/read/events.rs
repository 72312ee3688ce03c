//! From a sequence of invocations and completions to operations.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use serde_json::Value as Json;

use crate::linearizability::{Action, History, Model, Operation, Value};

/// What happened to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Invoke,
    Ok,
    /// Certainly not done.
    Fail,
    /// Unknown.
    Info,
}

/// What `nil` means as the answer of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NilRead {
    Absent,
    Unknown,
}

/// One line of a history.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub process: u64,
    pub kind: Kind,
    pub function: String,
    pub key: String,
    pub value: Json,
}

impl Kind {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "invoke" => Some(Self::Invoke),
            "ok" => Some(Self::Ok),
            "fail" => Some(Self::Fail),
            "info" => Some(Self::Info),
            _ => None,
        }
    }
}

impl Event {
    pub(super) fn from_object(object: &Json) -> anyhow::Result<Self> {
        let text = |name: &str| object.get(name).and_then(Json::as_str);
        let kind = text("type").context("no \"type\"")?;
        Ok(Self {
            process: object
                .get("process")
                .and_then(Json::as_u64)
                .context("no numeric \"process\"")?,
            kind: Kind::parse(kind).with_context(|| format!("unknown type {kind:?}"))?,
            function: text("f").context("no \"f\"")?.to_owned(),
            key: object.get("key").map(plain).unwrap_or_default(),
            value: object.get("value").cloned().unwrap_or(Json::Null),
        })
    }
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn value(model: Model, value: &Json) -> Value {
    match value {
        Json::Null if model == Model::Kv => Some("".into()),
        Json::Null => None,
        other => Some(plain(other).into()),
    }
}

/// What an invocation asks for, as if it succeeded with an unknown answer.
fn asked(model: Model, event: &Event) -> anyhow::Result<Action> {
    let held: Arc<str> = "held".into();
    Ok(match event.function.as_str() {
        "read" | "get" => Action::Read(None),
        "write" | "put" => Action::Write(value(model, &event.value)),
        "delete" => Action::Write(value(model, &Json::Null)),
        "append" => Action::Append(plain(&event.value).into()),
        "cas" => {
            let Some([from, to]) = event.value.as_array().map(Vec::as_slice) else {
                bail!("cas of {}: expected [from to]", event.value);
            };
            Action::Cas {
                from: value(model, from),
                to: value(model, to),
                succeeded: true,
            }
        }
        "acquire" => Action::Cas {
            from: None,
            to: Some(held),
            succeeded: true,
        },
        "release" => Action::Cas {
            from: Some(held),
            to: None,
            succeeded: true,
        },
        other => bail!("unknown operation {other:?}"),
    })
}

/// Pairs invocations with completions. Failed operations are left out: they
/// did not happen. Open ones stay open to the end.
pub(super) fn history(
    model: Model,
    events: &[Event],
    nil_read: NilRead,
) -> anyhow::Result<History> {
    let mut operations: Vec<Option<Operation>> = Vec::new();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    for (position, event) in events.iter().enumerate() {
        let at = position as u64;
        if event.kind == Kind::Invoke {
            if open.insert(event.process, operations.len()).is_some() {
                bail!(
                    "event {at}: process {} has an operation open",
                    event.process
                );
            }
            let action = asked(model, event).with_context(|| format!("event {at}"))?;
            operations.push(Some(Operation {
                process: event.process,
                key: event.key.clone(),
                call: at,
                returned: None,
                action,
            }));
            continue;
        }
        let Some(index) = open.remove(&event.process) else {
            // A nemesis line, or the second completion of a timed-out client.
            continue;
        };
        match event.kind {
            Kind::Fail => operations[index] = None,
            Kind::Ok => {
                let operation = operations[index].as_mut().expect("open, so not failed");
                operation.returned = Some(at);
                if operation.action == Action::Read(None) {
                    let is_unknown = event.value.is_null() && nil_read == NilRead::Unknown;
                    let answer = (!is_unknown).then(|| value(model, &event.value));
                    operation.action = Action::Read(answer);
                }
            }
            Kind::Info | Kind::Invoke => {}
        }
    }
    Ok(History::new(operations.into_iter().flatten().collect()))
}
