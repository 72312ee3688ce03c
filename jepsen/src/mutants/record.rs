//! Verdicts on disk, so that a run of an hour can be interrupted: a file for
//! each mutant under `target/mutants/verdicts`, good for the sources it was
//! found with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::catalogue::Mutant;
use super::layer::LayerName;
use super::score::{Row, Verdict};

/// See the module.
pub struct Record {
    folder: PathBuf,
}

impl Record {
    /// Of a repository; emptied unless an earlier run is to be `resumed`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(root: &Path, resumed: bool) -> anyhow::Result<Self> {
        let folder = root.join("target/mutants/verdicts");
        if !resumed && folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder })
    }

    /// What was found of a mutant in sources with this hash.
    pub fn find(&self, mutant: &Mutant, key: u64) -> Option<Row> {
        let text = fs::read(self.path(&mutant.id)).ok()?;
        read(&serde_json::from_slice(&text).ok()?, mutant, key)
    }

    /// Keeps a verdict; what was not tried will be tried again.
    pub fn keep(&self, row: &Row, key: u64) {
        if let Some(value) = write(row, key)
            && let Err(error) = fs::write(self.path(&row.id), value.to_string())
        {
            eprintln!("the verdict on {} is not kept: {error}", row.id);
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id).with_extension("json")
    }
}

fn write(row: &Row, key: u64) -> Option<Value> {
    let killed = match &row.verdict {
        Verdict::Killed {
            layer,
            how,
            test_time,
        } => json!({
            "layer": layer.to_string(),
            "how": how,
            "test_seconds": test_time.as_secs_f64(),
        }),
        Verdict::Survived => Value::Null,
        Verdict::Error(_) => return None,
    };
    Some(json!({
        "key": key.to_string(),
        "killed": killed,
        "passed": row.passed_names(),
        "specification": row.specification,
        "took_seconds": row.took.as_secs_f64(),
    }))
}

fn read(value: &Value, mutant: &Mutant, key: u64) -> Option<Row> {
    if value["key"].as_str()? != key.to_string() {
        return None;
    }
    let layer = |value: &Value| value.as_str()?.parse::<LayerName>().ok();
    let seconds = |value: &Value| Duration::try_from_secs_f64(value.as_f64()?).ok();
    let verdict = match &value["killed"] {
        Value::Null => Verdict::Survived,
        killed => Verdict::Killed {
            layer: layer(&killed["layer"])?,
            how: killed["how"].as_str()?.to_owned(),
            test_time: seconds(&killed["test_seconds"])?,
        },
    };
    Some(Row {
        verdict,
        passed: value["passed"]
            .as_array()?
            .iter()
            .map(layer)
            .collect::<Option<_>>()?,
        specification: value["specification"].as_bool(),
        took: seconds(&value["took_seconds"])?,
        ..Row::of(mutant)
    })
}

#[cfg(test)]
mod tests {
    use super::super::repository;
    use super::*;
    use crate::mutants::catalogue::Catalogue;

    #[test]
    fn verdict_is_read_back_for_the_same_sources_only() {
        let catalogue = Catalogue::read(&repository().join("jepsen/mutants")).expect("complete");
        let mutant = &catalogue.mutants[0];
        let row = Row {
            verdict: Verdict::Killed {
                layer: LayerName::Transcript,
                how: "figure_8.txt:7".to_owned(),
                test_time: Duration::from_millis(1500),
            },
            passed: vec![LayerName::Unit],
            specification: Some(true),
            took: Duration::from_secs(20),
            ..Row::of(mutant)
        };
        let written = write(&row, 7).expect("a verdict");
        let again = read(&written, mutant, 7).expect("the same sources");
        assert_eq!(format!("{row:?}"), format!("{again:?}"));
        assert!(read(&written, mutant, 8).is_none());
        let error = Row {
            verdict: Verdict::Error("no room".to_owned()),
            ..row
        };
        assert!(write(&error, 7).is_none());
    }
}
