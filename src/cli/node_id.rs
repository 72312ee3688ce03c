//! The name of a node that was given none: drawn once, kept beside its data.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};

/// The name in `<path>/node-id`, drawn and written if there is none.
///
/// # Errors
/// The folder cannot be used, or the file holds no name.
pub fn load_or_draw(path: &Path) -> anyhow::Result<String> {
    let file = path.join("node-id");
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let name = text.trim();
            if name.is_empty() || name.len() > 128 || name.contains(char::is_whitespace) {
                bail!("{} holds no node id", file.display());
            }
            return Ok(name.to_owned());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    }
    std::fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    let name = uuid::Uuid::new_v4().to_string();
    write(&file, &name).with_context(|| format!("write {}", file.display()))?;
    Ok(name)
}

// Complete or absent, and durable before the cluster hears of the name.
fn write(file: &Path, name: &str) -> std::io::Result<()> {
    let staged = file.with_extension("tmp");
    let mut options = OpenOptions::new();
    let mut stream = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)?;
    stream.write_all(name.as_bytes())?;
    stream.sync_all()?;
    std::fs::rename(&staged, file)?;
    match file.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_or_draw_keeps_the_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let name = load_or_draw(&path).expect("drawn");
        assert_eq!(load_or_draw(&path).expect("read"), name);
        std::fs::write(path.join("node-id"), "  ").expect("written");
        assert!(load_or_draw(&path).is_err());
    }
}
