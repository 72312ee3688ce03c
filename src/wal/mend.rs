//! What can be mended in a log without its peers, while no server runs on it.

use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskError};

use super::error::WalError;
use super::format::{BLOCK, HeaderFault, Identity};
use super::recovery::judge_log;
use super::segment::segment_name;
use super::walk::OpenSegment;
use super::{Wal, WalOptions};

/// What was mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Segments that got back the copy of their header that was lost.
    pub headers: u64,
    /// Whether a torn tail was cut and its segment closed.
    pub is_tail_cut: bool,
}

/// Writes lost header copies anew from the other copy, cuts a torn tail,
/// closes its segment, and makes the end certain. Done again, it does nothing.
///
/// # Errors
/// [`WalError::Damaged`] and [`WalError::Foreign`] before anything was
/// touched: a log with lost entries is not mended, whatever else is wrong.
pub fn mend(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    expected: Option<Identity>,
    half_headers: &[u64],
    options: WalOptions,
) -> Result<Mended, WalError> {
    let verdict = judge_log(&**disk, dir, expected)?;
    let mut mended = Mended {
        is_tail_cut: verdict != super::Verdict::Clean,
        ..Mended::default()
    };
    for &sequence in half_headers {
        if restore_headers(&**disk, dir, sequence)? {
            mended.headers += 1;
        }
    }
    let (mut wal, _) = Wal::open(Arc::clone(disk), dir, expected, options)?;
    wal.mark_idle()?;
    Ok(mended)
}

/// Gives a segment both copies of its header; whether one was missing. Only
/// the block of the lost copy is written, with bytes that the other vouches
/// for.
fn restore_headers(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<bool, WalError> {
    let segment = match OpenSegment::open(disk, dir, sequence)? {
        Ok(segment) => segment,
        Err(HeaderFault::Damaged | HeaderFault::Version(_)) => return Ok(false),
    };
    let header = segment.header;
    let copies = [0, header.area_end()];
    let Some(lost) = copies.into_iter().find(|&copy| !segment.has_header(copy)) else {
        return Ok(false);
    };
    let mut block = vec![0; BLOCK as usize];
    let encoded = header.encode();
    block[..encoded.len()].copy_from_slice(&encoded);
    let mut file = segment.file;
    file.write_at(lost, &block)?;
    file.sync()?;
    drop(file);
    let again = OpenSegment::open(disk, dir, sequence)?;
    if again.is_ok_and(|segment| segment.has_both_headers()) {
        return Ok(true);
    }
    let error = std::io::Error::other("what was written does not come back");
    let path = dir.join(segment_name(sequence));
    Err(DiskError::new("restore header of", &path, error).into())
}
