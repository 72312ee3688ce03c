//! Failures of the disk in memory: power cuts, single faults, decay.
//!
//! After a power cut each unsynced block is lost, kept, or torn at any subset
//! of its 512-byte sectors; each unsynced change of a file's length and each
//! directory operation is lost or kept, independently.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::memory::{DirectoryOperation, Fault, Inode, MemoryDisk, State, lock};
use super::{BLOCK_BYTES, DiskResult};

/// Something a power cut may undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// A written block of a file.
    Block {
        /// A name of the file.
        path: PathBuf,
        /// Which, counted in blocks.
        index: u64,
    },
    /// A file's length.
    Length {
        /// A name of the file.
        path: PathBuf,
    },
    /// A creation, renaming or removal.
    Directory {
        /// The name concerned.
        path: PathBuf,
    },
}

/// What readers see of a file after a sync of it failed: its unsynced blocks
/// count as clean from then on, so that later syncs succeed and do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAfter {
    /// What was written, until the cache is dropped.
    New,
    /// What was there before.
    Old,
}

/// What a power cut does to one unsynced thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As if never done.
    Lost,
    /// Done.
    Kept,
    /// Of a block: the sectors whose bit is set are new. Anything else: kept.
    Torn(u8),
}

const SECTOR_BYTES: usize = 512;

impl MemoryDisk {
    /// How many calls have changed something so far: the clock of
    /// [`Self::power_off_at`] and [`Self::fail_at`].
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The power fails during that call: what it writes stays unsynced, it and
    /// everything after it returns an error.
    pub fn power_off_at(&self, call: u64) {
        self.state().fault = Some(Fault {
            at_call: call,
            power_off: true,
            forgets: None,
        });
    }

    /// Whether the power has failed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().powered_off
    }

    /// From now on (or no longer) there is no room for new files and longer
    /// ones; what has its place on the disk can be written.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// No fault is to come any more, and there is room.
    pub fn forgive(&self) {
        let mut state = self.state();
        state.fault = None;
        state.is_full = false;
    }

    /// That one call fails, leaving what it writes unsynced; later ones work.
    pub fn fail_at(&self, call: u64) {
        self.state().fault = Some(Fault {
            at_call: call,
            power_off: false,
            forgets: None,
        });
    }

    /// That one call fails, and what the file had unsynced is lost, though later
    /// calls work: as Linux file systems do it.
    pub fn fail_losing_at(&self, call: u64, cache: CacheAfter) {
        self.state().fault = Some(Fault {
            at_call: call,
            power_off: false,
            forgets: Some(cache),
        });
    }

    /// What a power cut now could undo, in a fixed order.
    #[must_use]
    pub fn unsynced(&self) -> Vec<Unsynced> {
        let state = self.state();
        let mut found = Vec::new();
        for (path, inode) in reachable(&state) {
            let content = lock(&inode);
            let changed = content.dirty.iter().filter(|&&index| {
                content.cached.blocks.get(&index) != content.durable.blocks.get(&index)
            });
            found.extend(changed.map(|&index| Unsynced::Block {
                path: path.clone(),
                index,
            }));
            if content.cached.length != content.durable.length {
                found.push(Unsynced::Length { path });
            }
        }
        found.extend(state.operations.iter().map(|operation| {
            let (DirectoryOperation::Create(path, _)
            | DirectoryOperation::Rename(_, path, _)
            | DirectoryOperation::Remove(path)) = operation;
            Unsynced::Directory { path: path.clone() }
        }));
        found
    }

    /// The disk as it comes back after a power cut; this one is left alone.
    #[must_use]
    pub fn crash(&self, mut fate: impl FnMut(&Unsynced) -> Fate) -> Self {
        let state = self.state();
        let mut copies: Vec<(Inode, Inode)> = Vec::new();
        for (path, inode) in reachable(&state) {
            let survivor = surviving(&inode, &path, &mut fate);
            copies.push((inode, survivor));
        }
        let copy_of = |inode: &Inode| {
            let found = copies.iter().find(|(old, _)| Arc::ptr_eq(old, inode));
            Arc::clone(&found.expect("every named file was copied").1)
        };
        let mut names = state.durable_names.clone();
        for operation in &state.operations {
            let (DirectoryOperation::Create(path, _)
            | DirectoryOperation::Rename(_, path, _)
            | DirectoryOperation::Remove(path)) = operation;
            if fate(&Unsynced::Directory { path: path.clone() }) != Fate::Lost {
                operation.clone().apply(&mut names);
            }
        }
        for inode in names.values_mut() {
            *inode = copy_of(inode);
        }
        let after = Self::new();
        {
            let mut fresh = after.state();
            fresh.durable_names = names.clone();
            fresh.names = names;
            fresh.folders = state.folders.clone();
        }
        after
    }

    /// [`Self::crash`] with fates drawn from a seed.
    #[must_use]
    pub fn crash_seeded(&self, seed: u64) -> Self {
        let mut state = seed;
        self.crash(|_| {
            let draw = splitmix(&mut state);
            match draw % 3 {
                0 => Fate::Lost,
                1 => Fate::Kept,
                _ => Fate::Torn((draw >> 8) as u8),
            }
        })
    }

    /// A copy in which everything is as durable as it looks.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        self.crash(|_| Fate::Kept)
    }

    /// Changes the bytes on the medium itself: decay, or a misdirected write.
    ///
    /// # Errors
    /// No such file.
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        let inode = self.inode("overwrite", path)?;
        let mut content = lock(&inode);
        content.write(offset, bytes);
        content.sync();
        Ok(())
    }

    /// Makes every read of one block fail.
    ///
    /// # Errors
    /// No such file.
    pub fn make_unreadable(&self, path: &Path, block: u64) -> DiskResult<()> {
        let inode = self.inode("make unreadable", path)?;
        lock(&inode).unreadable.insert(block);
        Ok(())
    }
}

/// Every file with a name now, durably, or in a pending operation; once each.
fn reachable(state: &State) -> Vec<(PathBuf, Inode)> {
    let mut found: Vec<(PathBuf, Inode)> = Vec::new();
    let named = state.names.iter().chain(&state.durable_names);
    let pending = state
        .operations
        .iter()
        .filter_map(|operation| match operation {
            DirectoryOperation::Create(path, inode)
            | DirectoryOperation::Rename(_, path, inode) => Some((path, inode)),
            DirectoryOperation::Remove(_) => None,
        });
    for (path, inode) in named.chain(pending) {
        if !found.iter().any(|(_, known)| Arc::ptr_eq(known, inode)) {
            found.push((path.clone(), Arc::clone(inode)));
        }
    }
    found
}

fn surviving(inode: &Inode, path: &Path, fate: &mut impl FnMut(&Unsynced) -> Fate) -> Inode {
    let content = lock(inode);
    let mut after = content.clone();
    after.cached = content.durable.clone();
    after.dirty.clear();
    for &index in &content.dirty {
        if content.cached.blocks.get(&index) == content.durable.blocks.get(&index) {
            continue;
        }
        let mut block = content.durable.block(index);
        let new = content.cached.block(index);
        let item = Unsynced::Block {
            path: path.to_path_buf(),
            index,
        };
        let sectors = match fate(&item) {
            Fate::Lost => 0,
            Fate::Kept => 0xff,
            Fate::Torn(sectors) => sectors,
        };
        for sector in (0..BLOCK_BYTES / SECTOR_BYTES).filter(|sector| sectors >> sector & 1 == 1) {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            block[range.clone()].copy_from_slice(&new[range]);
        }
        after.cached.set_block(index, block);
    }
    if content.cached.length != content.durable.length {
        let item = Unsynced::Length {
            path: path.to_path_buf(),
        };
        if fate(&item) != Fate::Lost {
            after.cached.length = content.cached.length;
        }
    }
    let end = after.cached.length.div_ceil(BLOCK_BYTES as u64);
    after.cached.blocks.retain(|&index, _| index < end);
    after.durable = after.cached.clone();
    Inode::new(std::sync::Mutex::new(after))
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
