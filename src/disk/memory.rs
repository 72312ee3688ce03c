//! A disk in memory, for `-dev` servers and tests.
//!
//! It keeps what a real one keeps apart: the cached image that readers see and
//! the durable image a power failure leaves (equal blocks are shared, zero
//! blocks take no room). Directory operations are durable only after
//! `sync_dir`. `crash.rs` makes the failures.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::crash::CacheAfter;
use super::{AppendMode, BLOCK_BYTES, Disk, DiskError, DiskResult, File, Mapped, SegmentIo};

/// A file system in memory; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

pub(super) type Block = Arc<[u8; BLOCK_BYTES]>;
pub(super) type Inode = Arc<Mutex<Content>>;

#[derive(Default)]
pub(super) struct State {
    pub(super) names: BTreeMap<PathBuf, Inode>,
    pub(super) durable_names: BTreeMap<PathBuf, Inode>,
    pub(super) operations: Vec<DirectoryOperation>,
    pub(super) folders: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// Calls that change something, so far.
    pub(super) calls: u64,
    pub(super) fault: Option<Fault>,
    pub(super) powered_off: bool,
    pub(super) is_full: bool,
}

/// What goes wrong at a given call.
#[derive(Clone, Copy)]
pub(super) struct Fault {
    pub(super) at_call: u64,
    pub(super) power_off: bool,
    /// What becomes of unsynced blocks that the failing call was about.
    pub(super) forgets: Option<CacheAfter>,
}

/// A change of names that `sync_dir` has not made durable yet.
#[derive(Clone)]
pub(super) enum DirectoryOperation {
    Create(PathBuf, Inode),
    Rename(PathBuf, PathBuf, Inode),
    Remove(PathBuf),
}

/// One file's two images.
#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) cached: Image,
    pub(super) durable: Image,
    /// Blocks written since the last sync.
    pub(super) dirty: BTreeSet<u64>,
    /// Blocks whose reading fails until they are written again.
    pub(super) unreadable: BTreeSet<u64>,
}

#[derive(Clone, Default)]
pub(super) struct Image {
    pub(super) length: u64,
    /// Absent: zeros.
    pub(super) blocks: BTreeMap<u64, Block>,
}

/// How a call that changes something goes.
enum Call {
    Succeeds,
    /// Its effect is begun and not durable; the caller gets this error.
    /// With this, the system also forgets that the file has unsynced blocks.
    Fails(io::Error, Option<CacheAfter>),
}

impl MemoryDisk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn inode(&self, operation: &'static str, path: &Path) -> DiskResult<Inode> {
        let found = self.state().names.get(path).cloned();
        found.ok_or_else(|| DiskError::new(operation, path, io::ErrorKind::NotFound.into()))
    }

    /// Runs a directory change and reports the fault due at this call, if any.
    fn change<T>(
        &self,
        operation: &'static str,
        path: &Path,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> DiskResult<T> {
        let mut state = self.state();
        let result = state.begin_call().and_then(|call| {
            let value = change(&mut state)?;
            match call {
                Call::Succeeds => Ok(value),
                Call::Fails(error, _) => Err(error),
            }
        });
        result.map_err(|error| DiskError::new(operation, path, error))
    }

    fn handle(&self, inode: Inode, path: &Path) -> MemoryFile {
        MemoryFile {
            disk: self.clone(),
            inode,
            path: path.to_path_buf(),
        }
    }
}

impl State {
    fn begin_call(&mut self) -> io::Result<Call> {
        self.check_power()?;
        let this_call = self.calls;
        self.calls += 1;
        match self.fault {
            Some(fault) if fault.at_call == this_call => {
                self.powered_off = fault.power_off;
                let what = if fault.power_off {
                    "power failed"
                } else {
                    "injected fault"
                };
                Ok(Call::Fails(io::Error::other(what), fault.forgets))
            }
            _ => Ok(Call::Succeeds),
        }
    }

    fn check_room(&self) -> io::Result<()> {
        match self.is_full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn check_power(&self) -> io::Result<()> {
        match self.powered_off {
            true => Err(io::Error::other("the power is off")),
            false => Ok(()),
        }
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, path: &Path) -> DiskResult<()> {
        let folders = path.ancestors().map(Path::to_path_buf);
        self.state().folders.extend(folders);
        Ok(())
    }

    fn list(&self, path: &Path) -> DiskResult<Vec<String>> {
        let state = self.state();
        let powered = state.check_power();
        powered.map_err(|error| DiskError::new("list folder", path, error))?;
        if !state.folders.contains(path) {
            let error = io::ErrorKind::NotFound.into();
            return Err(DiskError::new("list folder", path, error));
        }
        let inside = |name: &&PathBuf| name.parent() == Some(path);
        let names = state.names.keys().chain(&state.folders).filter(inside);
        let mut names: Vec<String> = names
            .filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> DiskResult<bool> {
        let state = self.state();
        Ok(state.names.contains_key(path) || state.folders.contains(path))
    }

    fn create(&self, path: &Path) -> DiskResult<Box<dyn File>> {
        let inode = self.change("create", path, |state| {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.check_room()?;
            let inode = Inode::default();
            state.names.insert(path.to_path_buf(), Arc::clone(&inode));
            let operation = DirectoryOperation::Create(path.to_path_buf(), Arc::clone(&inode));
            state.operations.push(operation);
            Ok(inode)
        })?;
        Ok(Box::new(self.handle(inode, path)))
    }

    fn open(&self, path: &Path) -> DiskResult<Box<dyn File>> {
        let inode = self.inode("open", path)?;
        Ok(Box::new(self.handle(inode, path)))
    }

    fn free_bytes(&self, _path: &Path) -> DiskResult<u64> {
        Ok(if self.state().is_full { 0 } else { u64::MAX })
    }

    fn segment_io(&self, path: &Path, mode: AppendMode) -> DiskResult<Box<dyn SegmentIo>> {
        let inode = self.inode("open for appending", path)?;
        let file = self.handle(inode, path);
        Ok(Box::new(MemorySegment { file, mode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()> {
        self.change("rename", from, |state| {
            let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_path_buf(), Arc::clone(&inode));
            let operation = DirectoryOperation::Rename(from.into(), to.into(), inode);
            state.operations.push(operation);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> DiskResult<()> {
        self.change("remove", path, |state| {
            state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
            state
                .operations
                .push(DirectoryOperation::Remove(path.into()));
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> DiskResult<()> {
        let mut state = self.state();
        let call = state.begin_call();
        match call {
            Ok(Call::Succeeds) => {
                let all = std::mem::take(&mut state.operations);
                let (synced, later) = all.into_iter().partition(|item| item.is_in(path));
                state.operations = later;
                let synced: Vec<DirectoryOperation> = synced;
                for operation in synced {
                    operation.apply(&mut state.durable_names);
                }
                Ok(())
            }
            Ok(Call::Fails(error, _)) | Err(error) => {
                Err(DiskError::new("sync folder", path, error))
            }
        }
    }

    /// A copy: costs the file's length in memory while it lives.
    fn map(&self, path: &Path) -> DiskResult<Arc<dyn Mapped>> {
        let file = self.open(path)?;
        let length = file.length()?;
        let mut bytes = vec![0; usize::try_from(length).expect("a file in memory fits memory")];
        file.read_at(0, &mut bytes)?;
        Ok(Arc::new(MemoryMap(bytes)))
    }

    fn lock(&self, path: &Path) -> DiskResult<Box<dyn Send + Sync>> {
        if !self.state().locks.insert(path.to_path_buf()) {
            let message = format!("held by process {}", std::process::id());
            let error = io::Error::new(io::ErrorKind::WouldBlock, message);
            return Err(DiskError::new("lock", path, error));
        }
        Ok(Box::new(MemoryLock {
            disk: self.clone(),
            path: path.to_path_buf(),
        }))
    }
}

impl DirectoryOperation {
    fn is_in(&self, folder: &Path) -> bool {
        let (Self::Create(path, _) | Self::Rename(_, path, _) | Self::Remove(path)) = self;
        path.parent() == Some(folder)
    }

    pub(super) fn apply(self, names: &mut BTreeMap<PathBuf, Inode>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path, inode);
            }
            Self::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

struct MemoryMap(Vec<u8>);

impl Mapped for MemoryMap {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: Inode,
    path: PathBuf,
}

impl MemoryFile {
    fn change(
        &self,
        operation: &'static str,
        begun: impl FnOnce(&mut Content) -> io::Result<()>,
        finished: impl FnOnce(&mut Content),
    ) -> DiskResult<()> {
        let call = self.disk.state().begin_call();
        let result = call.and_then(|call| {
            let mut content = lock(&self.inode);
            begun(&mut content)?;
            match call {
                Call::Succeeds => {
                    finished(&mut content);
                    Ok(())
                }
                Call::Fails(error, forgets) => {
                    if let Some(cache) = forgets {
                        content.forget_unsynced(cache);
                    }
                    Err(error)
                }
            }
        });
        result.map_err(|error| DiskError::new(operation, &self.path, error))
    }
}

impl File for MemoryFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        let is_full = self.disk.state().is_full;
        let begun = |content: &mut Content| {
            if is_full && content.cached.length < offset + bytes.len() as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.write(offset, bytes);
            Ok(())
        };
        self.change("write", begun, |_| {})
    }

    fn sync(&mut self) -> DiskResult<()> {
        self.change("sync", |_| Ok(()), Content::sync)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> DiskResult<()> {
        let powered = self.disk.state().check_power();
        let result = powered.and_then(|()| lock(&self.inode).read(offset, buffer));
        result.map_err(|error| DiskError::new("read", &self.path, error))
    }

    fn length(&self) -> DiskResult<u64> {
        Ok(lock(&self.inode).cached.length)
    }

    fn set_length(&mut self, length: u64) -> DiskResult<()> {
        let begun = |content: &mut Content| {
            content.set_length(length);
            Ok(())
        };
        self.change("set length of", begun, |_| {})
    }

    fn drop_cache(&self) -> DiskResult<()> {
        lock(&self.inode).drop_clean();
        Ok(())
    }
}

/// A write is one call, begun and finished; stores through a map are there at
/// once, for readers and for the kernel to write back when it likes, and only
/// their sync is a call.
struct MemorySegment {
    file: MemoryFile,
    mode: AppendMode,
}

impl SegmentIo for MemorySegment {
    fn append(&mut self, offset: u64, blocks: &[u8]) -> DiskResult<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(blocks.len().is_multiple_of(BLOCK_BYTES));
        assert!(offset + blocks.len() as u64 <= self.file.length()?);
        let is_mapped = self.mode == AppendMode::Mapped;
        if is_mapped && self.file.disk.state().check_power().is_ok() {
            lock(&self.file.inode).write(offset, blocks);
        }
        let begun = |content: &mut Content| {
            if !is_mapped {
                content.write(offset, blocks);
            }
            Ok(())
        };
        let first = offset / BLOCK_BYTES as u64;
        let end = first + (blocks.len() / BLOCK_BYTES) as u64;
        self.file.change("append to", begun, |content| {
            for index in first..end {
                content.sync_block(index);
            }
        })
    }

    fn way(&self) -> &'static str {
        match self.mode {
            AppendMode::Direct | AppendMode::Cached => "writes in memory",
            AppendMode::Mapped => "stores in memory",
        }
    }
}

impl Content {
    pub(super) fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.cached.length = self.cached.length.max(end);
        let mut position = offset;
        while !bytes.is_empty() {
            let (index, start) = block_position(position);
            let count = bytes.len().min(BLOCK_BYTES - start);
            let mut block = self.cached.block(index);
            block[start..start + count].copy_from_slice(&bytes[..count]);
            self.cached.set_block(index, block);
            self.dirty.insert(index);
            self.unreadable.remove(&index);
            position += count as u64;
            bytes = &bytes[count..];
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.cached.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut position = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (index, start) = block_position(position);
            if self.unreadable.contains(&index) {
                return Err(io::Error::other("unreadable block"));
            }
            let count = rest.len().min(BLOCK_BYTES - start);
            let (target, later) = rest.split_at_mut(count);
            match self.cached.blocks.get(&index) {
                Some(block) => target.copy_from_slice(&block[start..start + count]),
                None => target.fill(0),
            }
            position += count as u64;
            rest = later;
        }
        Ok(())
    }

    fn set_length(&mut self, length: u64) {
        let (last, start) = block_position(length);
        if length < self.cached.length {
            self.dirty
                .extend(self.cached.blocks.split_off(&(last + 1)).into_keys());
            let mut block = self.cached.block(last);
            block[start..].fill(0);
            self.cached.set_block(last, block);
            self.dirty.insert(last);
        }
        self.cached.length = length;
    }

    fn sync_block(&mut self, index: u64) {
        match self.cached.blocks.get(&index) {
            Some(block) => self.durable.blocks.insert(index, Arc::clone(block)),
            None => self.durable.blocks.remove(&index),
        };
        self.dirty.remove(&index);
    }

    /// After a failed sync: blocks count as clean, whatever the cache shows.
    fn forget_unsynced(&mut self, cache: CacheAfter) {
        for index in std::mem::take(&mut self.dirty) {
            if cache == CacheAfter::Old {
                let durable = self.durable.block(index);
                self.cached.set_block(index, durable);
            }
        }
    }

    /// Clean blocks are read from the medium again.
    fn drop_clean(&mut self) {
        let shown = self.cached.blocks.keys().chain(self.durable.blocks.keys());
        let clean: BTreeSet<u64> = shown
            .copied()
            .filter(|index| !self.dirty.contains(index))
            .filter(|index| self.cached.blocks.get(index) != self.durable.blocks.get(index))
            .collect();
        for index in clean {
            let durable = self.durable.block(index);
            self.cached.set_block(index, durable);
        }
    }

    pub(super) fn sync(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            self.sync_block(index);
        }
        self.durable.length = self.cached.length;
    }
}

impl Image {
    pub(super) fn block(&self, index: u64) -> [u8; BLOCK_BYTES] {
        self.blocks
            .get(&index)
            .map_or([0; BLOCK_BYTES], |block| **block)
    }

    pub(super) fn set_block(&mut self, index: u64, block: [u8; BLOCK_BYTES]) {
        if block == [0; BLOCK_BYTES] {
            self.blocks.remove(&index);
        } else {
            self.blocks.insert(index, Arc::new(block));
        }
    }
}

fn block_position(offset: u64) -> (u64, usize) {
    let block = BLOCK_BYTES as u64;
    (offset / block, (offset % block) as usize)
}

// A panicking test thread must not hide its message behind a poisoned lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
