//! The mutants as cargo-mutants lists them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Line and column, both from 1.
pub type Point = (usize, usize);

/// One change to one file.
pub struct Mutant {
    /// E.g. `log.rs: replace < with <= in Log::append (2)`: the file, the
    /// change, the function, and which of several alike.
    pub name: String,
    /// From the root of the tree.
    pub file: PathBuf,
    /// With one hunk.
    pub diff: String,
    /// The function around it, from its documentation to its last brace.
    pub function: Option<(Point, Point)>,
}

impl Mutant {
    /// Name and text of the change on one line: what was tried before.
    #[must_use]
    pub fn key(&self) -> String {
        let changed = |line: &&str| line.starts_with(['-', '+']) && !line.starts_with("---");
        let lines: Vec<&str> = self.diff.lines().filter(changed).map(str::trim).collect();
        format!("{}\t{}", self.name, lines.join(" "))
    }
}

/// All of them in `src/raft`.
///
/// # Errors
/// The tool is not there (`make target/tools/bin/cargo-mutants`), or what it
/// says is not understood.
pub fn list(root: &Path) -> io::Result<Vec<Mutant>> {
    let output = Command::new(root.join("target/tools/bin/cargo-mutants"))
        .args(["mutants", "--list", "--json", "--diff"])
        .args(["--file", "src/raft/**"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let mut alike = BTreeMap::<String, usize>::new();
    let mut mutants = Vec::new();
    for one in listed.as_array().into_iter().flatten() {
        let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
        let (file, name) = (text("file"), text("name"));
        // The name begins with file, line and column.
        let what = name.splitn(4, ':').nth(3).unwrap_or_default().trim();
        let name = format!("{}: {what}", file.trim_start_matches("src/raft/"));
        let count = alike.entry(name.clone()).or_default();
        *count += 1;
        let name = match *count {
            1 => name,
            count => format!("{name} ({count})"),
        };
        let span = &one["function"]["span"];
        let around = point(&span["start"]).zip(point(&span["end"]));
        mutants.push(Mutant {
            name,
            file: file.into(),
            diff: text("diff"),
            function: around,
        });
    }
    Ok(mutants)
}

fn point(value: &Value) -> Option<Point> {
    let number = |field: &str| Some(value[field].as_u64()? as usize);
    number("line").zip(number("column"))
}

/// The text after the one hunk of a diff; its lines must be there exactly.
///
/// # Errors
/// They are not.
pub fn mutated(original: &str, diff: &str) -> io::Result<String> {
    let misfit = || io::Error::other(format!("does not fit:\n{diff}"));
    let mut lines = diff.lines().skip_while(|line| !line.starts_with("@@"));
    let header = lines.next().ok_or_else(misfit)?;
    let start = header.trim_start_matches("@@ -").split([',', ' ']).next();
    let start: usize = start.and_then(|n| n.parse().ok()).ok_or_else(misfit)?;
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for line in lines {
        match line.split_at_checked(1) {
            Some(("-", rest)) => removed.push(rest),
            Some(("+", rest)) => added.push(rest),
            Some((" ", rest)) => {
                removed.push(rest);
                added.push(rest);
            }
            _ => return Err(misfit()),
        }
    }
    let all: Vec<&str> = original.lines().collect();
    let end = start - 1 + removed.len();
    if all.get(start - 1..end) != Some(&removed) {
        return Err(misfit());
    }
    let lines = [&all[..start - 1], &added, &all[end..]].concat();
    Ok(lines.join("\n") + "\n")
}
