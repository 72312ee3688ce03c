//! `holdfast wal dump|verify|repair DIR`: the log of a server that is not
//! running. Nothing but `repair` writes, and that only what loses nothing.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::ending::Ending;
use crate::node::DataDirectory;
use crate::types::{EntryPayload, HardState};
use crate::wal::format::{
    BatchHeader, CONTINUES, Identity, MARK, RESET, RecordHeader, SEAL, SEG_START, SegmentHeader,
    TRUNC,
};
use crate::wal::{Outcome, Seen, Survey, WalOptions, mend, owner, survey};

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum WalCommand {
    /// Prints every segment, batch and entry, without the contents of entries.
    Dump(Directory),
    /// Reads all of the log and says what it is.
    Verify(Directory),
    /// Cuts a torn tail, closes its segment, and restores segment headers of
    /// which one copy is left. A damaged log is left alone.
    Repair(Directory),
}

/// Where.
#[derive(Args, Debug)]
pub(super) struct Directory {
    /// The data directory: `path` of the storage stanza.
    #[arg(value_name = "DIR")]
    path: PathBuf,
}

/// Runs one of them.
///
/// # Errors
/// No data directory, a running server, a failing disk.
pub(super) fn run(command: &WalCommand) -> anyhow::Result<Ending> {
    let (WalCommand::Dump(at) | WalCommand::Verify(at) | WalCommand::Repair(at)) = command;
    let directory = DataDirectory::lock(&at.path)?;
    match command {
        WalCommand::Dump(_) => dump(&directory),
        WalCommand::Verify(_) => verify(&directory, &at.path),
        WalCommand::Repair(_) => repair(&directory, &at.path),
    }
}

fn dump(directory: &DataDirectory) -> anyhow::Result<Ending> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    let mut broken_pipe = None;
    let found = look(directory, &mut |seen| {
        if broken_pipe.is_none() {
            broken_pipe = print_seen(&mut output, seen).err();
        }
    })?;
    if broken_pipe.is_none() {
        broken_pipe = writeln!(output, "\n{}", found.outcome)
            .and_then(|()| output.flush())
            .err();
    }
    match broken_pipe {
        // `holdfast wal dump | head` is no failure.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output")
        }
        _ => ending(&found),
    }
}

fn verify(directory: &DataDirectory, path: &std::path::Path) -> anyhow::Result<Ending> {
    let found = look(directory, &mut |_| {})?;
    print_summary(&found);
    if let Some(advice) = advice(directory, path, &found) {
        println!("\n{advice}");
    }
    ending(&found)
}

fn repair(directory: &DataDirectory, path: &std::path::Path) -> anyhow::Result<Ending> {
    let found = look(directory, &mut |_| {})?;
    if !matches!(found.outcome, Outcome::Clean | Outcome::TornTail { .. }) {
        print_summary(&found);
        if let Some(advice) = advice(directory, path, &found) {
            println!("\nNothing was changed. {advice}");
        }
        return ending(&found);
    }
    let mended = mend(
        directory.disk(),
        &directory.wal(),
        found.identity,
        &found.half_headers,
        WalOptions::default(),
    )
    .context("repair log")?;
    if mended.is_tail_cut {
        println!("cut: {}", found.outcome);
    }
    if mended.headers > 0 {
        println!("restored: {} segment headers", mended.headers);
    }
    if !mended.is_tail_cut && mended.headers == 0 {
        println!("nothing to repair");
    }
    let after = look(directory, &mut |_| {})?;
    print_summary(&after);
    ending(&after)
}

fn look(directory: &DataDirectory, see: &mut dyn FnMut(&Seen<'_>)) -> anyhow::Result<Survey> {
    let (disk, dir) = (&**directory.disk(), directory.wal());
    let found = owner(disk, &dir).context("read log")?;
    let expected = match (found, directory.owner()) {
        // The cluster is only in the log itself: any, but one.
        (Some(found), Some((node, incarnation))) => Some(Identity {
            node,
            incarnation,
            ..found
        }),
        _ => None,
    };
    survey(disk, &dir, expected, see).context("read log")
}

fn ending(found: &Survey) -> anyhow::Result<Ending> {
    match &found.outcome {
        Outcome::Clean if found.half_headers.is_empty() => Ok(Ending::Fine),
        Outcome::Clean | Outcome::TornTail { .. } => Ok(Ending::Notable),
        Outcome::Damaged(_) => Ok(Ending::Damaged),
        Outcome::Foreign { .. } => Ok(Ending::Foreign),
        Outcome::Stopped(error) => Err(error.clone()).context("read log"),
    }
}

/// The command to run next.
fn advice(directory: &DataDirectory, path: &std::path::Path, found: &Survey) -> Option<String> {
    let path = path.display();
    let node = directory.node_name().unwrap_or("NODE_ID");
    match &found.outcome {
        Outcome::Clean if found.half_headers.is_empty() => None,
        Outcome::Clean => Some(format!("Run: holdfast wal repair {path}")),
        Outcome::TornTail { .. } => Some(format!(
            "The server cuts this by itself when it starts; or run: holdfast wal repair {path}"
        )),
        Outcome::Damaged(_) => Some(format!(
            "Acknowledged entries are lost here; the other members have them. \
             With a quorum of them running, replace this node:\n  \
             bao operator raft remove-peer {node}\n  \
             mv {path} {path}.damaged\n  \
             holdfast server -config=...   (with retry_join; it joins as a new member)\n\
             Without one, save {path} before anything else."
        )),
        Outcome::Foreign { .. } => Some(format!(
            "This log was copied here from another data directory. \
             Put back what belongs to {path}, or start with an empty directory."
        )),
        Outcome::Stopped(_) => None,
    }
}

fn print_summary(found: &Survey) {
    println!("log        {}", found.outcome);
    if let Some(identity) = &found.identity {
        println!("belongs to {identity}");
    }
    if let Some((first, last)) = found.entries {
        println!("entries    {first} to {last}");
    }
    println!("state      {}", state(&found.hard_state));
    println!(
        "files      {} segments, {} batches",
        found.segment_count, found.batch_count
    );
    if !found.half_headers.is_empty() {
        println!(
            "headers    one copy is lost in segments {:?}",
            found.half_headers
        );
    }
    for flaw in &found.flaws {
        println!("flaw       {flaw}");
    }
}

fn print_seen(output: &mut impl Write, seen: &Seen<'_>) -> io::Result<()> {
    match seen {
        Seen::Segment { header, is_doubled } => print_segment(output, header, *is_doubled),
        Seen::NoHeader { sequence } => {
            writeln!(
                output,
                "segment {sequence}: missing, or without a readable header"
            )
        }
        Seen::Batch { offset, header } => print_batch(output, *offset, header),
        Seen::Entry { header, payload } => print_entry(output, header, payload),
        Seen::Flaw(damage) => writeln!(output, "  FLAW {damage}"),
    }
}

fn print_segment(
    output: &mut impl Write,
    header: &SegmentHeader,
    is_doubled: bool,
) -> io::Result<()> {
    writeln!(
        output,
        "segment {} base {:?} bytes {} salt {:016x} state {}{}",
        header.sequence,
        header.base_lsn,
        header.segment_bytes,
        header.salt,
        state(&header.hard_state),
        if is_doubled { "" } else { " (one header lost)" },
    )
}

fn print_batch(output: &mut impl Write, offset: u64, header: &BatchHeader) -> io::Result<()> {
    const NAMES: [(u16, &str); 6] = [
        (SEG_START, "START"),
        (TRUNC, "TRUNC"),
        (SEAL, "SEAL"),
        (MARK, "MARK"),
        (RESET, "RESET"),
        (CONTINUES, "CONTINUES"),
    ];
    write!(
        output,
        "  batch {:?} at {offset} bytes {}",
        header.lsn, header.length
    )?;
    if header.first_index <= header.last_index {
        write!(
            output,
            " entries {} to {} term {}",
            header.first_index, header.last_index, header.term
        )?;
    }
    write!(
        output,
        " after {} ({}) promises {:?} state {}",
        header.prev_index,
        header.prev_term,
        header.synced_lsn,
        state(&header.hard_state)
    )?;
    for (flag, name) in NAMES {
        if header.has(flag) {
            write!(output, " {name}")?;
        }
    }
    writeln!(output)
}

fn print_entry(output: &mut impl Write, header: &RecordHeader, payload: &[u8]) -> io::Result<()> {
    let kind = match crate::codec::decode_payload(header.kind, payload) {
        Ok(EntryPayload::Noop) => "no-op",
        Ok(EntryPayload::Command(_)) => "command",
        Ok(EntryPayload::Membership(_)) => "membership",
        Err(_) => "of no kind known here",
    };
    writeln!(
        output,
        "    entry {} term {} {kind} {} bytes",
        header.index, header.term, header.payload_bytes
    )
}

fn state(state: &HardState) -> String {
    let vote = state
        .vote
        .map_or("nobody".to_owned(), |vote| vote.to_string());
    format!(
        "term {} voted for {vote} committed {}",
        state.term, state.commit_index
    )
}
