//! How the tools end: exit codes that a script can tell apart.

use std::process::ExitCode;

/// What a tool found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing wrong; nothing different.
    Fine,
    /// Something that `wal repair` mends; or two snapshots that differ.
    Notable,
    /// Data is lost or changed.
    Damaged,
    /// The files are another cluster's, node's or life's.
    Foreign,
}

/// For `--help`. 1 and 2 are what errors and wrong arguments give anyway, 3 is
/// a server whose disk failed.
pub(super) const HELP: &str = "\
Exit codes:
  0  sound (diff: the same state)
  1  the command failed: a wrong path, a running server, a failing disk
  2  wrong arguments
  4  not clean, and `wal repair` mends it (diff: the states differ)
  5  damaged: data is lost or changed; nothing was touched
  6  of another cluster, node, or life of its data directory

A server ends with 3 when its disk failed: a write or a sync that failed once
is never tried again, because the disk may say that it succeeded.";

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(match ending {
            Ending::Fine => 0,
            Ending::Notable => 4,
            Ending::Damaged => 5,
            Ending::Foreign => 6,
        })
    }
}
