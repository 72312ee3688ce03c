//! Files of the operating system.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memmap2::{Advice, Mmap};
use rustix::fs::{Advice as CacheAdvice, FallocateFlags, fadvise, fallocate, statvfs};
use rustix::io::Errno;

use super::append::RealSegment;
use super::direct::{is_refusal, open_direct, read_direct, write_direct};
use super::lock::DirectoryLock;
use super::{AppendMode, BLOCK_BYTES, Disk, DiskError, DiskResult, File, Mapped, SegmentIo};

/// The operating system's file system. Files are created with mode 0600,
/// folders with 0700.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The one there is.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// Opens a file for reading only: for looking at files that are not ours.
///
/// # Errors
/// The system's.
pub fn open_read_only(path: &Path) -> DiskResult<Box<dyn File>> {
    let file = fs::File::open(path).map_err(|error| DiskError::new("open", path, error))?;
    Ok(RealFile::boxed(file, path))
}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> DiskResult<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
            .collect();
        for folder in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(folder) {
                Ok(()) => {}
                // Made by somebody else meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                Err(error) => return Err(DiskError::new("create folder", folder, error)),
            }
            self.sync_dir(parent(folder))?;
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> DiskResult<Vec<String>> {
        let fail = |error| DiskError::new("list folder", path, error);
        let mut names = Vec::new();
        for item in fs::read_dir(path).map_err(fail)? {
            names.push(item.map_err(fail)?.file_name().to_string_lossy().into());
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> DiskResult<bool> {
        path.try_exists()
            .map_err(|error| DiskError::new("look up", path, error))
    }

    fn create(&self, path: &Path) -> DiskResult<Box<dyn File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| DiskError::new("create", path, error))?;
        Ok(RealFile::boxed(file, path))
    }

    fn open(&self, path: &Path) -> DiskResult<Box<dyn File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| DiskError::new("open", path, error))?;
        Ok(RealFile::boxed(file, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()> {
        fs::rename(from, to).map_err(|error| DiskError::new("rename", from, error))
    }

    fn remove(&self, path: &Path) -> DiskResult<()> {
        fs::remove_file(path).map_err(|error| DiskError::new("remove", path, error))
    }

    fn sync_dir(&self, path: &Path) -> DiskResult<()> {
        fs::File::open(path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| DiskError::new("sync folder", path, error))
    }

    fn free_bytes(&self, path: &Path) -> DiskResult<u64> {
        match statvfs(path) {
            Ok(found) => Ok(found.f_bavail.saturating_mul(found.f_frsize)),
            Err(error) => Err(DiskError::new("measure", path, error.into())),
        }
    }

    fn segment_io(&self, path: &Path, mode: AppendMode) -> DiskResult<Box<dyn SegmentIo>> {
        match RealSegment::open(path, mode) {
            Ok(segment) => Ok(Box::new(segment)),
            Err(error) => Err(DiskError::new("open for appending", path, error)),
        }
    }

    fn map(&self, path: &Path) -> DiskResult<Arc<dyn Mapped>> {
        let fail = |error| DiskError::new("map", path, error);
        let file = fs::File::open(path).map_err(fail)?;
        // SAFETY: the bytes behind a map must not change while it lives. Only
        // closed files are mapped: nothing in this program writes to one or
        // changes its length again (removing it leaves the mapped pages alone),
        // and the data directory's lock keeps other processes of ours out.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        // Advice only: a kernel that refuses it reads just as well.
        let _ = map.advise(Advice::Sequential);
        Ok(Arc::new(RealMap(map)))
    }

    fn lock(&self, path: &Path) -> DiskResult<Box<dyn Send + Sync>> {
        match DirectoryLock::acquire(path) {
            Ok(lock) => Ok(Box::new(lock)),
            Err(error) => Err(DiskError::new("lock", path, error)),
        }
    }
}

struct RealMap(Mmap);

impl Mapped for RealMap {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

struct RealFile {
    file: fs::File,
    path: PathBuf,
    /// Opened when first needed; `None`: refused.
    direct: OnceLock<Option<fs::File>>,
}

impl RealFile {
    fn boxed(file: fs::File, path: &Path) -> Box<dyn File> {
        Box::new(Self {
            file,
            path: path.to_path_buf(),
            direct: OnceLock::new(),
        })
    }

    fn fail(&self, operation: &'static str, error: io::Error) -> DiskError {
        DiskError::new(operation, &self.path, error)
    }

    fn direct(&self) -> Option<&fs::File> {
        let direct = self.direct.get_or_init(|| {
            // A renamed file is reached by descriptor, not by its old name.
            // Whatever goes wrong, the ordinary descriptor serves as well.
            open_direct(&descriptor_path(&self.file)).unwrap_or(None)
        });
        direct.as_ref()
    }
}

impl File for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| self.fail("write", error))
    }

    fn write_blocks(&mut self, offset: u64, blocks: &[u8]) -> DiskResult<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(blocks.len().is_multiple_of(BLOCK_BYTES));
        let Some(direct) = self.direct() else {
            return self.write_at(offset, blocks);
        };
        match write_direct(direct, offset, blocks) {
            // It did no part of it.
            Err(error) if is_refusal(&error) => self.write_at(offset, blocks),
            result => result.map_err(|error| self.fail("write", error)),
        }
    }

    fn sync(&mut self) -> DiskResult<()> {
        self.file
            .sync_data()
            .map_err(|error| self.fail("sync", error))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> DiskResult<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| self.fail("read", error))
    }

    fn read_blocks(&self, offset: u64, blocks: &mut [u8]) -> DiskResult<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(blocks.len().is_multiple_of(BLOCK_BYTES));
        let Some(direct) = self.direct() else {
            return self.read_at(offset, blocks);
        };
        match read_direct(direct, offset, blocks) {
            Err(error) if is_refusal(&error) => self.read_at(offset, blocks),
            result => result.map_err(|error| self.fail("read", error)),
        }
    }

    fn length(&self) -> DiskResult<u64> {
        match self.file.metadata() {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(self.fail("measure", error)),
        }
    }

    fn allocate(&mut self, length: u64) -> DiskResult<bool> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(error) => Err(self.fail("allocate", error.into())),
        }
    }

    fn set_length(&mut self, length: u64) -> DiskResult<()> {
        self.file
            .set_len(length)
            .map_err(|error| self.fail("set length of", error))
    }

    fn drop_cache(&self) -> DiskResult<()> {
        fadvise(&self.file, 0, None, CacheAdvice::DontNeed)
            .map_err(|error| self.fail("drop cache of", error.into()))
    }
}

fn descriptor_path(file: &fs::File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
