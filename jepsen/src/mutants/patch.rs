//! Unified diffs: reading them, placing them in text that may have moved, and
//! writing them anew where they now belong.
//!
//! A hunk is looked for by its lines, nearest to where it says it is; if its
//! context changed, up to two lines of context at either end are let go. What
//! it removes must be there exactly.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Lines of context written around a change.
const CONTEXT: usize = 3;
/// Lines of context that may differ at either end of a hunk.
const FUZZ: usize = 2;

/// Changes to several files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    files: Vec<FilePatch>,
}

/// Changes to one file, top down.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FilePatch {
    path: PathBuf,
    hunks: Vec<Hunk>,
}

/// One change with its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hunk {
    /// Line number of its first line in the original, from 1.
    start: usize,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Keep(String),
    Remove(String),
    Add(String),
}

/// Why a patch is not one, or does not fit.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// It is no unified diff.
    #[error("line {number} of the patch: {reason}")]
    Malformed {
        /// From 1, the header included.
        number: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file it changes cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The lines it changes are not there.
    #[error("{path}: hunk {hunk} (at line {start}) does not apply: `{first}`")]
    Misplaced {
        /// Which file.
        path: String,
        /// Which hunk of that file, from 1.
        hunk: usize,
        /// Where it should be.
        start: usize,
        /// The first line it removes, or else its first line.
        first: String,
    },
}

impl Patch {
    /// Reads a diff; lines before the first `---` are not its business.
    ///
    /// # Errors
    /// Anything but `---`, `+++`, `@@` and lines that begin as in a diff.
    pub fn parse(text: &str) -> Result<Self, PatchError> {
        let mut patch = Self::default();
        let mut begun = false;
        for (at, line) in text.lines().enumerate() {
            begun |= line.starts_with("--- ");
            if begun {
                patch.parse_line(line).map_err(|reason| {
                    let number = at + 1;
                    PatchError::Malformed { number, reason }
                })?;
            }
        }
        Ok(patch)
    }

    fn parse_line(&mut self, line: &str) -> Result<(), &'static str> {
        if line.starts_with("--- ") {
            return Ok(());
        }
        if let Some(path) = line.strip_prefix("+++ b/") {
            let (path, hunks) = (PathBuf::from(path), Vec::new());
            self.files.push(FilePatch { path, hunks });
            return Ok(());
        }
        let file = self.files.last_mut().ok_or("a file name is missing")?;
        if let Some(place) = line.strip_prefix("@@ -") {
            let digits = place.split([',', ' ']).next().unwrap_or_default();
            let start = digits.parse().map_err(|_| "`@@ -` without a line number")?;
            let lines = Vec::new();
            file.hunks.push(Hunk { start, lines });
            return Ok(());
        }
        let hunk = file.hunks.last_mut().ok_or("a `@@` is missing")?;
        let (kind, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
        hunk.lines.push(match kind {
            " " => Line::Keep(rest.to_owned()),
            "-" => Line::Remove(rest.to_owned()),
            "+" => Line::Add(rest.to_owned()),
            _ => return Err("a line of a hunk begins with ` `, `-` or `+`"),
        });
        Ok(())
    }

    /// The files it changes.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The changed files, whole.
    ///
    /// # Errors
    /// A file that cannot be read, a hunk that does not fit.
    pub fn apply(&self, root: &Path) -> Result<BTreeMap<PathBuf, String>, PatchError> {
        let changed = |file: &FilePatch| {
            let original = read(root, &file.path)?;
            let text = file.apply(&lines_of(&original))?;
            Ok((file.path.clone(), text))
        };
        self.files.iter().map(changed).collect()
    }

    /// The same changes with the lines and numbers of the tree as it is now.
    ///
    /// # Errors
    /// As [`Patch::apply`].
    pub fn refreshed(&self, root: &Path) -> Result<String, PatchError> {
        let mut text = String::new();
        for file in &self.files {
            let original = read(root, &file.path)?;
            file.write_anew(&lines_of(&original), &mut text)?;
        }
        Ok(text)
    }
}

impl FilePatch {
    fn apply(&self, original: &[&str]) -> Result<String, PatchError> {
        let mut text = Vec::new();
        let mut copied = 0;
        for (start, lines) in self.place(original)? {
            text.extend(original[copied..start].iter().copied());
            copied = start;
            for line in lines {
                match line {
                    Line::Add(line) => text.push(line.as_str()),
                    Line::Remove(_) => copied += 1,
                    Line::Keep(_) => {
                        text.push(original[copied]);
                        copied += 1;
                    }
                }
            }
        }
        text.extend(original[copied..].iter().copied());
        Ok(text.join("\n") + "\n")
    }

    /// Where each hunk fits, from 0, and the lines of it that had to.
    fn place(&self, original: &[&str]) -> Result<Vec<(usize, &[Line])>, PatchError> {
        let mut placed: Vec<(usize, &[Line])> = Vec::new();
        let (mut free_from, mut moved_by) = (0, 0);
        for (number, hunk) in self.hunks.iter().enumerate() {
            let wanted = (hunk.start as isize - 1 + moved_by).max(0) as usize;
            let Some((start, lines)) = hunk.find(original, wanted, free_from) else {
                return Err(PatchError::Misplaced {
                    path: self.path.display().to_string(),
                    hunk: number + 1,
                    start: hunk.start,
                    first: hunk.first_change().trim().to_owned(),
                });
            };
            let skipped = hunk.lines.len() - lines.len();
            moved_by = start as isize - (hunk.start as isize - 1) - skipped.min(FUZZ) as isize;
            free_from = start + old_lines(lines).count();
            placed.push((start, lines));
        }
        Ok(placed)
    }

    fn write_anew(&self, original: &[&str], text: &mut String) -> Result<(), PatchError> {
        let path = self.path.display();
        text.push_str(&format!("--- a/{path}\n+++ b/{path}\n"));
        let mut grown = 0;
        for (start, lines) in self.place(original)? {
            let core = core_of(lines);
            let before = lines.iter().take_while(|line| is_kept(line)).count();
            let first = start + before;
            let end = first + old_lines(core).count();
            let from = first.saturating_sub(CONTEXT);
            let to = original.len().min(end + CONTEXT);
            let added = core
                .iter()
                .filter(|line| !is_kept(line) && !is_removed(line));
            let removed = core.iter().filter(|line| is_removed(line)).count() as isize;
            let growth = added.count() as isize - removed;
            let (old, new) = (to - from, (to - from) as isize + growth);
            let new_start = from as isize + 1 + grown;
            grown += growth;
            writeln!(text, "@@ -{},{old} +{new_start},{new} @@", from + 1).expect("into memory");
            let keep = |text: &mut String, line: &str| *text += &format!(" {line}\n");
            original[from..first]
                .iter()
                .for_each(|line| keep(text, line));
            for line in core {
                match line {
                    Line::Keep(line) => keep(text, line),
                    Line::Remove(line) => *text += &format!("-{line}\n"),
                    Line::Add(line) => *text += &format!("+{line}\n"),
                }
            }
            original[end..to].iter().for_each(|line| keep(text, line));
        }
        Ok(())
    }
}

impl Hunk {
    /// The place nearest to `wanted`, with as much context as will fit.
    fn find(&self, original: &[&str], wanted: usize, free_from: usize) -> Option<(usize, &[Line])> {
        (0..=FUZZ).find_map(|fuzz| {
            let leading = self.lines.iter().take_while(|line| is_kept(line)).count();
            let trailing = self
                .lines
                .iter()
                .rev()
                .take_while(|line| is_kept(line))
                .count();
            let skip = fuzz.min(leading);
            let lines = &self.lines[skip..self.lines.len() - fuzz.min(trailing)];
            let old: Vec<&str> = old_lines(lines).collect();
            let last = original.len().checked_sub(old.len())?;
            (free_from..=last)
                .filter(|start| original[*start..start + old.len()] == old)
                .min_by_key(|start| start.abs_diff(wanted + skip))
                .map(|start| (start, lines))
        })
    }

    fn first_change(&self) -> &str {
        let change = self.lines.iter().find(|line| is_removed(line));
        match change.or(self.lines.first()) {
            Some(Line::Keep(line) | Line::Remove(line) | Line::Add(line)) => line,
            None => "",
        }
    }
}

fn is_kept(line: &Line) -> bool {
    matches!(line, Line::Keep(_))
}

fn is_removed(line: &Line) -> bool {
    matches!(line, Line::Remove(_))
}

fn old_lines(lines: &[Line]) -> impl Iterator<Item = &str> {
    lines.iter().filter_map(|line| match line {
        Line::Keep(line) | Line::Remove(line) => Some(line.as_str()),
        Line::Add(_) => None,
    })
}

/// From the first changed line to the last.
fn core_of(lines: &[Line]) -> &[Line] {
    let first = lines.iter().position(|line| !is_kept(line));
    let last = lines.iter().rposition(|line| !is_kept(line));
    match (first, last) {
        (Some(first), Some(last)) => &lines[first..=last],
        _ => &[],
    }
}

fn lines_of(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn read(root: &Path, path: &Path) -> Result<String, PatchError> {
    std::fs::read_to_string(root.join(path)).map_err(|source| PatchError::Unreadable {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "a\nb\nc\nd\ne\nf\ng\n";
    const DIFF: &str = "# told\n--- a/x\n+++ b/x\n@@ -2,5 +2,5 @@\n b\n c\n-d\n+D\n e\n f\n";

    fn applied(original: &str) -> Result<String, PatchError> {
        let patch = Patch::parse(DIFF).expect("a diff");
        patch.files[0].apply(&lines_of(original))
    }

    #[test]
    fn hunk_in_place_is_applied() {
        assert_eq!(applied(OLD).expect("fits"), "a\nb\nc\nD\ne\nf\ng\n");
    }

    #[test]
    fn hunk_is_found_where_its_lines_went() {
        let moved = format!("1\n2\n3\n{OLD}");
        let expected = "1\n2\n3\na\nb\nc\nD\ne\nf\ng\n";
        assert_eq!(applied(&moved).expect("fits"), expected);
    }

    #[test]
    fn changed_context_is_let_go_but_changed_lines_are_not() {
        let fits = "a\nB\nX\nd\nY\nF\ng\n";
        assert_eq!(applied(fits).expect("fits"), "a\nB\nX\nD\nY\nF\ng\n");
        let error = applied("a\nb\nc\nD\ne\nf\ng\n").expect_err("nothing to change");
        assert_eq!(
            error.to_string(),
            "x: hunk 1 (at line 2) does not apply: `d`"
        );
    }

    #[test]
    fn refreshed_patch_names_the_present_lines() {
        let patch = Patch::parse(DIFF).expect("a diff");
        let mut text = String::new();
        let moved = "1\n2\na\nB\nc\nd\ne\nf\ng\n";
        patch.files[0]
            .write_anew(&lines_of(moved), &mut text)
            .expect("fits");
        let expected = "--- a/x\n+++ b/x\n@@ -3,7 +3,7 @@\n a\n B\n c\n-d\n+D\n e\n f\n g\n";
        assert_eq!(text, expected);
        assert_eq!(Patch::parse(&text).expect("a diff").files[0].hunks.len(), 1);
    }

    #[test]
    fn text_that_is_no_diff_is_named_by_line() {
        let error = Patch::parse("# x\n--- a/x\n+++ b/x\nnonsense\n").expect_err("no diff");
        assert_eq!(error.to_string(), "line 4 of the patch: a `@@` is missing");
    }
}
