//! The lock of a data directory: `flock` on a file that names its holder.
//!
//! The kernel releases it with the process, however that ends; the file stays.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Held until dropped.
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock without waiting.
    ///
    /// # Errors
    /// Kind `WouldBlock`, naming the holder's pid, if another open file holds
    /// it; what opening or writing the file gave otherwise.
    pub(super) fn acquire(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(held_elsewhere(&mut file)),
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)?;
        Ok(Self { _file: file })
    }
}

fn held_elsewhere(file: &mut File) -> io::Error {
    // The holder may be between `flock` and writing its number.
    let mut holder = String::new();
    let readable = file.take(32).read_to_string(&mut holder).is_ok();
    let message = match holder.trim() {
        pid if readable && !pid.is_empty() => format!("held by process {pid}"),
        _ => "held by another process".to_owned(),
    };
    io::Error::new(io::ErrorKind::WouldBlock, message)
}
