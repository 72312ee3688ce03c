//! The only part of `config` that touches the file system.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::syntax::{FILE_BYTES_MAX, SyntaxError, parse};
use super::{Config, ConfigError};

/// Reads files and folders (`*.hcl`, `*.json`, sorted by name), later ones
/// over earlier ones, and the environment over all. `flag_level` is a log
/// level from the command line, which wins over the environment.
///
/// # Errors
/// See [`ConfigError`]; nothing is partly used.
pub fn load(
    paths: &[PathBuf],
    environment: &dyn Fn(&str) -> Option<String>,
    flag_level: Option<&str>,
) -> Result<Config, ConfigError> {
    let mut draft = Draft::default();
    let mut files = 0;
    for path in paths {
        for file in expand(path)? {
            let text = read(&file)?;
            let entries =
                parse(&text).map_err(|SyntaxError { line, reason }| ConfigError::Syntax {
                    file: file.clone(),
                    line,
                    reason,
                })?;
            draft.add(&file, &entries)?;
            files += 1;
        }
    }
    if files == 0 {
        let reason = "no configuration file: give -config=<file or folder> or use -dev";
        return Err(ConfigError::Incomplete(reason.into()));
    }
    draft.resolve(environment, flag_level)
}

fn expand(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |error: std::io::Error| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let suits = matches!(
            file.extension().and_then(|extension| extension.to_str()),
            Some("hcl" | "json")
        );
        if suits && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    // Bounded while reading: the length of a pipe or device is not known.
    file.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(unreadable(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| unreadable("not UTF-8 text".into()))
}
