//! Histories from files: our JSON lines, porcupine's etcd logs and key-value
//! files, knossos' EDN.
//!
//! The formats disagree about `nil`: as the answer of a read it means "absent"
//! in porcupine's logs and in ours, and "unknown" in knossos' files.

mod edn;
mod events;

use std::path::Path;

use anyhow::{Context, bail};

use super::{History, Model};
use events::{Event, Kind, NilRead};

/// Which object the caller says the history is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModelName {
    /// One register (or one a key) with read, write and cas; also a mutex.
    CasRegister,
    /// Strings with get, put and append.
    Kv,
}

/// Reads a file; its ending names the format: `.jsonl`, `.log`, `.txt`, `.edn`.
///
/// # Errors
/// A file that cannot be read or parsed, with the line or byte.
pub fn read_file(path: &Path, name: ModelName) -> anyhow::Result<(Model, History)> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read history {}", path.display()))?;
    parse(&text, extension(path), name).with_context(|| format!("history {}", path.display()))
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn parse(text: &str, format: &str, name: ModelName) -> anyhow::Result<(Model, History)> {
    let register = match format {
        "edn" => Model::CasRegisterZero,
        _ => Model::CasRegister,
    };
    let (events, nil_read) = match format {
        "jsonl" => (json_lines(text)?, NilRead::Absent),
        "log" => (etcd_log(text)?, NilRead::Absent),
        "txt" => (edn::lines(text)?, NilRead::Absent),
        "edn" => (edn::document(text)?, NilRead::Unknown),
        other => bail!("unknown format {other:?}: expected .jsonl, .log, .txt or .edn"),
    };
    let is_mutex = events.iter().any(|event| event.function == "acquire");
    let model = match name {
        ModelName::Kv => Model::Kv,
        ModelName::CasRegister if is_mutex => Model::CasRegister,
        ModelName::CasRegister => register,
    };
    Ok((model, events::history(model, &events, nil_read)?))
}

/// `{"process":0,"type":"invoke","f":"write","key":"a","value":1}` a line.
fn json_lines(text: &str) -> anyhow::Result<Vec<Event>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let value: serde_json::Value = serde_json::from_str(line)?;
            Event::from_object(&value).with_context(|| format!("line {}", number + 1))
        })
        .collect()
}

/// `INFO  jepsen.util - 3 TAB :invoke TAB :cas TAB [1 2]` a line; other lines
/// are chatter.
fn etcd_log(text: &str) -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [process, kind, function, value, ..] = fields[..] else {
            continue;
        };
        let Some(process) = process.rsplit(' ').next().and_then(|p| p.parse().ok()) else {
            continue;
        };
        let Some(kind) = Kind::parse(kind.trim_start_matches(':')) else {
            continue;
        };
        let value = if kind == Kind::Info {
            serde_json::Value::Null
        } else {
            edn::value(value).with_context(|| format!("line {}", number + 1))?
        };
        events.push(Event {
            process,
            kind,
            function: function.trim_start_matches(':').to_owned(),
            key: String::new(),
            value,
        });
    }
    Ok(events)
}

#[cfg(test)]
pub(super) fn parse_for_tests(text: &str, format: &str, name: ModelName) -> (Model, History) {
    parse(text, format, name).expect("a history written in the test")
}
