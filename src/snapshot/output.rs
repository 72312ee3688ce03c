//! The file below a snapshot that is being written: bytes go out past the page
//! cache, are made durable window by window, and what the disk then gives back
//! is compared with them, so that no byte is believed that was not read.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::disk::{BLOCK_BYTES, BlockBuffer, Disk, DiskError, File};
use crate::sync::queue::{Receiver, Sender, channel};

use super::SnapshotError;
use super::temporary::TemporaryFile;

/// Writes buffers one behind the other, here or on threads beside.
pub struct Output {
    path: PathBuf,
    /// `None` once it failed.
    place: Option<Place>,
}

enum Place {
    Here {
        writing: Writing,
        checking: Checking,
        free: Vec<BlockBuffer>,
    },
    Beside(Beside),
}

/// One thread writes, one reads back. Chunks go there, their memory comes back;
/// when that ends, so have the threads.
struct Beside {
    chunks: Sender<BlockBuffer>,
    memory: Receiver<BlockBuffer>,
    writer: JoinHandle<Result<TemporaryFile, SnapshotError>>,
    checker: JoinHandle<Result<u64, SnapshotError>>,
}

/// A window: what is written and may not be durable yet.
struct Writing {
    file: TemporaryFile,
    buffers: Vec<BlockBuffer>,
}

/// The same file, read.
struct Checking {
    file: Box<dyn File>,
    path: PathBuf,
    /// From where on it was not read back.
    verified: u64,
    read: BlockBuffer,
}

impl Output {
    /// Writes where it is called.
    ///
    /// # Errors
    /// The disk failed.
    pub fn here(disk: &Arc<dyn Disk>, file: TemporaryFile) -> Result<Self, SnapshotError> {
        let path = file.path().to_owned();
        let place = Some(Place::Here {
            checking: Checking::of(disk, &file)?,
            writing: Writing::to(file),
            free: Vec::new(),
        });
        Ok(Self { path, place })
    }

    /// Writes and reads back on threads of its own.
    ///
    /// # Errors
    /// The disk failed, or there is no thread to be had.
    pub fn beside(disk: &Arc<dyn Disk>, file: TemporaryFile) -> Result<Self, SnapshotError> {
        let path = file.path().to_owned();
        let no_thread =
            |error| SnapshotError::Disk(DiskError::new("begin a thread to write", &path, error));
        let mut checking = Checking::of(disk, &file)?;
        let mut writing = Writing::to(file);
        let (chunks, to_write) = channel::<BlockBuffer>();
        let (windows, to_check) = channel();
        let (given_back, memory) = channel();
        for _ in 0..2 * WINDOW_BUFFERS + BUFFERS_AHEAD {
            let _ = given_back.send(BlockBuffer::default());
        }
        let write = move || {
            while let Some(chunk) = to_write.recv() {
                let Some(window) = writing.write(chunk)? else {
                    continue;
                };
                if windows.send(window).is_err() {
                    // Reading back failed, and says so.
                    return Ok(writing.file);
                }
            }
            let _ = windows.send(writing.sync()?);
            Ok(writing.file)
        };
        let check = move || {
            while let Some(window) = to_check.recv() {
                for chunk in window {
                    let _ = given_back.send(checking.check(chunk)?);
                }
            }
            Ok(checking.verified)
        };
        let thread = || thread::Builder::new().name("snapshot-disk".into());
        let checker = thread().spawn(check).map_err(no_thread)?;
        let writer = thread().spawn(write).map_err(no_thread)?;
        let place = Some(Place::Beside(Beside {
            chunks,
            memory,
            writer,
            checker,
        }));
        Ok(Self { path, place })
    }

    /// Takes bytes to write behind those before, and gives memory for the next.
    /// Only the last ones may be no whole blocks.
    ///
    /// # Errors
    /// The disk failed, or does not hold what was written; ever after,
    /// [`SnapshotError::Poisoned`].
    pub fn write(&mut self, chunk: BlockBuffer) -> Result<BlockBuffer, SnapshotError> {
        let mut place = self.take()?;
        let memory = place.write(chunk)?;
        match memory {
            Some(memory) => {
                self.place = Some(place);
                Ok(memory)
            }
            // The threads ended without being told to: one of them failed.
            None => match place.finish() {
                Ok(_) => self.take().map(|_| BlockBuffer::default()),
                Err(error) => Err(error),
            },
        }
    }

    /// Everything is durable, and read back.
    ///
    /// # Errors
    /// As of [`Output::write`].
    pub fn finish(mut self) -> Result<TemporaryFile, SnapshotError> {
        let file = self.take()?.finish()?;
        Ok(file)
    }

    fn take(&mut self) -> Result<Place, SnapshotError> {
        let poisoned = || SnapshotError::Poisoned {
            path: self.path.clone(),
        };
        self.place.take().ok_or_else(poisoned)
    }
}

/// A file that is given up is removed before its writer is gone.
impl Drop for Output {
    fn drop(&mut self) {
        if let Some(Place::Beside(beside)) = self.place.take() {
            drop(beside.chunks);
            let _ = beside.writer.join();
            let _ = beside.checker.join();
        }
    }
}

impl Place {
    /// Memory for what follows; `None` if nobody writes any more.
    fn write(&mut self, chunk: BlockBuffer) -> Result<Option<BlockBuffer>, SnapshotError> {
        match self {
            Self::Here {
                writing,
                checking,
                free,
            } => {
                for chunk in writing.write(chunk)?.unwrap_or_default() {
                    free.push(checking.check(chunk)?);
                }
                Ok(Some(free.pop().unwrap_or_default()))
            }
            Self::Beside(beside) => match beside.chunks.send(chunk) {
                Ok(()) => Ok(beside.memory.recv()),
                Err(_) => Ok(None),
            },
        }
    }

    fn finish(self) -> Result<TemporaryFile, SnapshotError> {
        let (file, verified) = match self {
            Self::Here {
                mut writing,
                mut checking,
                ..
            } => {
                for chunk in writing.sync()? {
                    checking.check(chunk)?;
                }
                (writing.file, checking.verified)
            }
            Self::Beside(beside) => {
                drop(beside.chunks);
                let written = beside.writer.join();
                let checked = beside.checker.join();
                let verified = checked.unwrap_or_else(|panic| resume_unwind(panic))?;
                let file = written.unwrap_or_else(|panic| resume_unwind(panic))?;
                (file, verified)
            }
        };
        assert_eq!(verified, file.length());
        Ok(file)
    }
}

impl Writing {
    fn to(file: TemporaryFile) -> Self {
        Self {
            file,
            buffers: Vec::new(),
        }
    }

    /// A window that is full is durable, and given out.
    fn write(&mut self, chunk: BlockBuffer) -> Result<Option<Vec<BlockBuffer>>, SnapshotError> {
        let bytes = chunk.as_slice();
        let (blocks, rest) = bytes.split_at(bytes.len() / BLOCK_BYTES * BLOCK_BYTES);
        for piece in blocks.chunks(PIECE_BYTES) {
            self.file.append_blocks(piece)?;
        }
        self.file.append(rest)?;
        self.buffers.push(chunk);
        match self.buffers.len() {
            WINDOW_BUFFERS => self.sync().map(Some),
            _ => Ok(None),
        }
    }

    fn sync(&mut self) -> Result<Vec<BlockBuffer>, SnapshotError> {
        self.file.sync()?;
        Ok(std::mem::take(&mut self.buffers))
    }
}

impl Checking {
    fn of(disk: &Arc<dyn Disk>, file: &TemporaryFile) -> Result<Self, SnapshotError> {
        Ok(Self {
            file: disk.open(file.path()).map_err(SnapshotError::Disk)?,
            path: file.path().to_owned(),
            verified: 0,
            read: BlockBuffer::zeroed(PIECE_BYTES),
        })
    }

    /// Reads what follows from the disk and compares; gives back the memory.
    fn check(&mut self, mut chunk: BlockBuffer) -> Result<BlockBuffer, SnapshotError> {
        self.file.drop_cache().map_err(SnapshotError::Disk)?;
        for piece in chunk.as_slice().chunks(PIECE_BYTES) {
            let found = &mut self.read.as_mut_slice()[..piece.len()];
            let read = match piece.len().is_multiple_of(BLOCK_BYTES) {
                true => self.file.read_blocks(self.verified, found),
                false => self.file.read_at(self.verified, found),
            };
            read.map_err(|source| SnapshotError::Unreadable {
                path: self.path.clone(),
                offset: self.verified,
                source,
            })?;
            if found != piece {
                return Err(SnapshotError::Damaged {
                    path: self.path.clone(),
                    offset: self.verified,
                    reason: "the disk does not hold what was written",
                });
            }
            self.verified += piece.len() as u64;
        }
        chunk.clear(usize::MAX / 2);
        Ok(chunk)
    }
}

/// One write or read: larger ones keep the log's appends waiting longer.
const PIECE_BYTES: usize = 256 << 10;
/// Buffers from one sync to the next.
const WINDOW_BUFFERS: usize = 8;
/// Buffers that gather while as many windows as there are threads are busy.
const BUFFERS_AHEAD: usize = 8;

#[cfg(test)]
mod tests;
