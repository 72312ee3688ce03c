//! Bits that flip in the files of a node that is down.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::bit_flips::files;

/// Which part of a data directory is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Written parts of a segment that is not the newest.
    ClosedSegment,
    /// Batches of the newest segment, but the last two.
    Tail,
    /// The last batch of all.
    LastBatch,
    /// Term, vote and commit index in one copy of the newest segment's header,
    /// and in one batch.
    HardState,
    /// Both headers of the newest segment: nothing in it can be read.
    SegmentHeaders,
    /// The newest snapshot.
    Snapshot,
    /// All snapshots.
    EverySnapshot,
}

impl Target {
    pub const ALL: [Target; 7] = [
        Target::ClosedSegment,
        Target::Tail,
        Target::LastBatch,
        Target::HardState,
        Target::SegmentHeaders,
        Target::Snapshot,
        Target::EverySnapshot,
    ];

    /// Whether no such damage may end the node: a whole batch header lies
    /// behind it, and a snapshot or the log from its beginning is left to unseal
    /// from.
    pub fn is_repairable(self) -> bool {
        !matches!(
            self,
            Target::LastBatch | Target::SegmentHeaders | Target::EverySnapshot
        )
    }

    /// Flips bits below a data directory; says where.
    ///
    /// # Errors
    /// The file system; or there is nothing of the kind to be hit.
    pub fn flip(self, data: &Path, dice: &mut Dice) -> anyhow::Result<Vec<String>> {
        if let Target::Snapshot | Target::EverySnapshot = self {
            let mut snapshots = files(&data.join("snapshots"), ".snap")?;
            ensure!(!snapshots.is_empty(), "no snapshot to hit");
            if self == Target::Snapshot {
                snapshots.drain(..snapshots.len() - 1);
            }
            let hit = |path: &PathBuf| flip_within(path, 0, fs::metadata(path)?.len(), dice);
            return snapshots.iter().map(hit).collect();
        }
        let mut segments = Vec::new();
        for path in files(&data.join("wal"), ".wal")? {
            let blocks = batches(&path)?;
            if !blocks.is_empty() {
                segments.push((path, blocks));
            }
        }
        let (newest, blocks) = segments.last().context("no segment to hit")?;
        let last = blocks[blocks.len() - 1];
        match self {
            Target::ClosedSegment => {
                let others = &segments[..segments.len() - 1];
                ensure!(!others.is_empty(), "no closed segment to hit");
                let (path, blocks) = &others[dice.below(others.len() as u64) as usize];
                let end = blocks[blocks.len() - 1];
                let count = 1 + dice.below(3);
                let hit = |_| flip_within(path, BLOCK, end, dice);
                (0..count).map(hit).collect()
            }
            Target::Tail => {
                let end = blocks[blocks.len().saturating_sub(2)].max(2 * BLOCK);
                let count = 1 + dice.below(3);
                let hit = |_| flip_within(newest, BLOCK, end, dice);
                (0..count).map(hit).collect()
            }
            Target::LastBatch => Ok(vec![flip_within(newest, last, last + BLOCK, dice)?]),
            Target::HardState => {
                let middle = blocks[blocks.len().saturating_sub(3)];
                Ok(vec![
                    flip_within(newest, 72, 96, dice)?,
                    flip_within(newest, middle + 96, middle + 120, dice)?,
                ])
            }
            Target::SegmentHeaders => {
                let copy = fs::metadata(newest)?.len() - BLOCK;
                Ok(vec![
                    flip_within(newest, 0, 248, dice)?,
                    flip_within(newest, copy, copy + 248, dice)?,
                ])
            }
            Target::Snapshot | Target::EverySnapshot => unreachable!("handled above"),
        }
    }
}

const BLOCK: u64 = 4096;

/// Where batches begin in a segment.
fn batches(path: &Path) -> anyhow::Result<Vec<u64>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let blocks = bytes.chunks(BLOCK as usize).enumerate();
    let begun = blocks.filter(|(_, block)| block.starts_with(b"HFB1"));
    Ok(begun.map(|(block, _)| block as u64 * BLOCK).collect())
}

/// Flips one bit at or after `first` and before `end`.
fn flip_within(path: &Path, first: u64, end: u64, dice: &mut Dice) -> anyhow::Result<String> {
    let offset = first + dice.below(end - first);
    let bit = dice.below(8);
    let file = File::options().read(true).write(true).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, offset)?;
    file.sync_all()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{name} at {offset}.{bit}"))
}

/// Numbers drawn from a seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below this one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_bit_flips_within_the_range() {
        let file = tempfile();
        for seed in 0..50 {
            fs::write(&file, [0; 64]).unwrap();
            flip_within(&file, 16, 24, &mut Dice::new(seed)).unwrap();
            let bytes = fs::read(&file).unwrap();
            let ones: u32 = bytes[16..24].iter().map(|byte| byte.count_ones()).sum();
            assert_eq!(ones, 1);
            assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 1);
        }
        fs::remove_file(file).unwrap();
    }

    fn tempfile() -> PathBuf {
        std::env::temp_dir().join(format!("jepsen-rot-{}", std::process::id()))
    }
}
