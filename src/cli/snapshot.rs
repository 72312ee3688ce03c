//! `holdfast operator raft snapshot inspect|verify|diff FILE`: snapshot
//! archives (ours, OpenBao's, Vault's) and the snapshot files of a data
//! directory, without a server and without keys.
//!
//! Values stay ciphertext and are never printed; keys of storage entries only
//! as the prefixes that they begin with. Memory: one entry and the prefixes.

mod prefixes;
mod source;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::ending::Ending;
use prefixes::{Changes, Counts, Prefixes};
use source::{Entries, Flaw, Source};

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Verifies a snapshot and prints what it holds, by prefix of the keys.
    Inspect {
        /// A snapshot archive or snapshot file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        shape: Shape,
    },
    /// Reads all of a snapshot and checks every sum and entry.
    Verify {
        /// A snapshot archive or snapshot file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Says what the second snapshot has that the first has not, and the other
    /// way, by prefix of the keys.
    Diff {
        /// The older one.
        #[arg(value_name = "FILE")]
        before: PathBuf,
        /// The newer one.
        #[arg(value_name = "FILE")]
        after: PathBuf,
        #[command(flatten)]
        shape: Shape,
    },
}

/// How to print.
#[derive(Args, Debug)]
pub(super) struct Shape {
    /// Parts of a key that make its prefix.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    depth: usize,
    /// Only keys that begin so.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    filter: String,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Runs one of them.
///
/// # Errors
/// A file that cannot be read, or that is no snapshot at all.
pub(super) fn run(command: &SnapshotCommand) -> anyhow::Result<Ending> {
    let outcome = match command {
        SnapshotCommand::Inspect { file, shape } => inspect(file, shape),
        SnapshotCommand::Verify { file } => verify(file),
        SnapshotCommand::Diff {
            before,
            after,
            shape,
        } => diff(before, after, shape),
    };
    match outcome {
        Err(error) if error.is::<Flaw>() => {
            println!("damaged: {error:#}");
            Ok(Ending::Damaged)
        }
        other => other,
    }
}

fn verify(file: &Path) -> anyhow::Result<Ending> {
    let source = Source::open(file)?;
    let mut counts = Counts::default();
    source.read(&mut |key, value| counts.add(key, value))?;
    print_about(&source, &counts);
    println!("sound");
    Ok(Ending::Fine)
}

fn inspect(file: &Path, shape: &Shape) -> anyhow::Result<Ending> {
    let source = Source::open(file)?;
    let mut counts = Counts::default();
    let mut prefixes: Prefixes<Counts> = Prefixes::new(shape.depth);
    source.read(&mut |key, value| {
        counts.add(key, value);
        if key.starts_with(&shape.filter) {
            prefixes.entry(key).add(key, value);
        }
    })?;
    if shape.format == Format::Json {
        let by_prefix = prefixes.rows().map(|(prefix, counts)| {
            json!({
                "prefix": prefix,
                "entries": counts.entries,
                "bytes": counts.bytes(),
                "largest": counts.largest,
            })
        });
        let by_prefix: Vec<Value> = by_prefix.collect();
        let mut all = source.describe();
        all["entries"] = counts.entries.into();
        all["key_bytes"] = counts.key_bytes.into();
        all["value_bytes"] = counts.value_bytes.into();
        all["prefixes"] = by_prefix.into();
        return print_json(&all).map(|()| Ending::Fine);
    }
    print_about(&source, &counts);
    let rows = prefixes.rows().map(|(prefix, counts)| {
        let numbers = [counts.entries, counts.bytes(), counts.largest];
        (prefix, numbers.map(|number| number.to_string()))
    });
    print_table(["prefix", "entries", "bytes", "largest"], rows);
    Ok(Ending::Fine)
}

fn diff(before: &Path, after: &Path, shape: &Shape) -> anyhow::Result<Ending> {
    let (old, new) = (Source::open(before)?, Source::open(after)?);
    let mut prefixes: Prefixes<Changes> = Prefixes::new(shape.depth);
    let mut total = Changes::default();
    let mut note = |key: &str, change: fn(&mut Changes)| {
        if key.starts_with(&shape.filter) {
            change(prefixes.entry(key));
            change(&mut total);
        }
    };
    let (mut left, mut right) = (old.entries()?, new.entries()?);
    let (mut a, mut b) = (next(&mut left)?, next(&mut right)?);
    loop {
        match (&a, &b) {
            (None, None) => break,
            (Some((key, _)), Some((other, _))) if key == other => {
                let same = a == b;
                note(
                    key,
                    if same {
                        Changes::same
                    } else {
                        Changes::changed
                    },
                );
                a = next(&mut left)?;
                b = next(&mut right)?;
            }
            (Some((key, _)), other) if other.as_ref().is_none_or(|(other, _)| key < other) => {
                note(key, Changes::removed);
                a = next(&mut left)?;
            }
            (_, Some((key, _))) => {
                note(key, Changes::added);
                b = next(&mut right)?;
            }
            (Some(_), None) => unreachable!("a key is before no key"),
        }
    }
    let is_equal = total.added + total.removed + total.changed == 0;
    if shape.format == Format::Json {
        let by_prefix: Vec<Value> = prefixes.rows().map(|row| changes_json(&row)).collect();
        print_json(&json!({
            "before": old.describe(),
            "after": new.describe(),
            "total": changes_json(&(String::new(), &total)),
            "prefixes": by_prefix,
        }))?;
    } else {
        println!("before     {}", old.title());
        println!("after      {}", new.title());
        let differing = prefixes
            .rows()
            .filter(|(_, changes)| changes.added + changes.removed + changes.changed > 0);
        let all = differing.chain([("all".to_owned(), &total)]);
        let rows = all.map(|(prefix, it)| {
            let numbers = [it.added, it.removed, it.changed, it.same];
            (prefix, numbers.map(|number| number.to_string()))
        });
        print_table(["prefix", "added", "removed", "changed", "same"], rows);
    }
    Ok(if is_equal {
        Ending::Fine
    } else {
        Ending::Notable
    })
}

fn next(entries: &mut Entries) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    entries.next().transpose()
}

fn changes_json((prefix, changes): &(String, &Changes)) -> Value {
    json!({
        "prefix": prefix,
        "added": changes.added,
        "removed": changes.removed,
        "changed": changes.changed,
        "same": changes.same,
    })
}

fn print_about(source: &Source, counts: &Counts) {
    for (name, value) in source.lines() {
        println!("{name:<10} {value}");
    }
    println!(
        "entries    {} ({} bytes of keys, {} of values)",
        counts.entries, counts.key_bytes, counts.value_bytes
    );
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("write JSON")?;
    println!("{text}");
    Ok(())
}

fn print_table<const N: usize, const M: usize>(
    titles: [&str; N],
    rows: impl Iterator<Item = (String, [String; M])>,
) {
    let rows: Vec<(String, [String; M])> = rows.collect();
    let longest = rows.iter().map(|(prefix, _)| prefix.len()).max();
    let width = longest.unwrap_or(0).max(titles[0].len());
    print!("\n{:<width$}", titles[0]);
    for title in &titles[1..] {
        print!(" {title:>12}");
    }
    println!();
    for (prefix, numbers) in rows {
        print!("{prefix:<width$}");
        for number in numbers {
            print!(" {number:>12}");
        }
        println!();
    }
}
