//! `holdfast operator recover SURVIVOR…`: a quorum is lost for good. Compares
//! the logs of the servers that are left, says what a cluster of them would
//! keep, and writes the `raft/peers.json` that makes them one.
//!
//! A survivor is a data directory, or a report of one that `-report` printed on
//! another machine.

mod plan;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::ending::Ending;
use plan::Plan;
use report::Report;

/// The command.
#[derive(Args, Debug)]
pub(super) struct Recover {
    /// Data directories of stopped servers (`path` of the storage stanza), or
    /// files that `-report` printed: all that are left.
    #[arg(value_name = "SURVIVOR", required = true)]
    survivors: Vec<PathBuf>,
    /// Prints what the log in one data directory says, for a plan that is made
    /// on another machine.
    #[arg(long, conflicts_with = "apply")]
    report: bool,
    /// Writes raft/peers.json into each data directory named. It is followed
    /// when the server starts and is unsealed.
    #[arg(long)]
    apply: bool,
    /// Goes on although the survivors are a quorum, which elects a leader by
    /// itself and keeps every answered write.
    #[arg(long)]
    force: bool,
}

/// For `--help`.
pub(super) const HELP: &str = "\
First try to bring back enough servers for a quorum: that loses nothing. If they
are gone for good:
  1. Stop every server that is left, and make sure that the others never start again.
  2. On each machine:  holdfast operator recover -report DIR > NAME.json
  3. On one of them:   holdfast operator recover *.json
  4. Put the peers.json that it prints into DIR/raft/ of every survivor (or, for
     directories on this machine: holdfast operator recover -apply DIR...).
  5. Start and unseal all of them: the first leader needs the vote of every voter named,
     so that nothing is lost that one of them has. The file goes when it has been followed.
  6. Let new servers join, and remove the data of the lost ones.";

/// Runs it.
///
/// # Errors
/// No data directory, a running server, a damaged log, survivors that do not
/// belong together.
pub(super) fn run(command: &Recover) -> anyhow::Result<Ending> {
    if command.report {
        let [directory] = command.survivors.as_slice() else {
            bail!("-report looks into one data directory");
        };
        let report = Report::of_directory(directory)?;
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(Ending::Fine);
    }
    let mut reports = Vec::new();
    for survivor in &command.survivors {
        let read = if survivor.is_dir() {
            Report::of_directory(survivor)
        } else {
            Report::of_file(survivor)
        };
        reports.push(read.with_context(|| format!("survivor {}", survivor.display()))?);
    }
    let plan = Plan::of(reports)?;
    print!("{plan}");
    ensure!(
        !plan.is_quorum() || command.force,
        "the survivors are a quorum of the last membership: start them, nothing needs to be \
         recovered (-force makes a cluster of them all the same)"
    );
    let peers = serde_json::to_string_pretty(&plan.peers())?;
    println!("\nraft/peers.json, the same for every survivor:\n{peers}");
    let directories = command.survivors.iter().filter(|path| path.is_dir());
    if command.apply {
        for directory in directories {
            let path = write(directory, &peers)?;
            println!("written: {}", path.display());
        }
        println!("Start and unseal every survivor. The lost servers must never run again.");
    } else {
        println!("\nNothing was written. See holdfast operator recover -help for what to do.");
    }
    Ok(Ending::Fine)
}

fn write(directory: &Path, peers: &str) -> anyhow::Result<PathBuf> {
    let folder = directory.join("raft");
    let path = folder.join("peers.json");
    let write = || {
        std::fs::create_dir_all(&folder)?;
        let file = std::fs::File::create(&path)?;
        std::io::Write::write_all(&mut &file, peers.as_bytes())?;
        file.sync_all()?;
        std::fs::File::open(&folder)?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
