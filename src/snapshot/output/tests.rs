//! What the disk gives back is compared with what was written.

use std::path::Path;

use super::*;
use crate::disk::MemoryDisk;

/// The medium changes a block after the sync said that it is durable.
#[test]
fn block_that_rots_before_it_is_read_back_is_found() {
    let memory = MemoryDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    disk.create_dir_all(Path::new("/snapshots")).unwrap();
    let path = Path::new("/snapshots/write-0.tmp");
    let file = TemporaryFile::create(Arc::clone(&disk), path.to_owned()).unwrap();
    let mut checking = Checking::of(&disk, &file).unwrap();
    let mut writing = Writing::to(file);
    for _ in 0..2 {
        let mut chunk = BlockBuffer::zeroed(2 * PIECE_BYTES);
        chunk.as_mut_slice().fill(7);
        assert!(writing.write(chunk).unwrap().is_none());
    }
    let window = writing.sync().unwrap();
    let rotten = 3 * PIECE_BYTES as u64 + 100;
    memory.overwrite(path, rotten, b"rot").unwrap();
    let mut window = window.into_iter();
    checking.check(window.next().unwrap()).unwrap();
    let found = checking.check(window.next().unwrap()).map(|_| ());
    let at = 3 * PIECE_BYTES as u64;
    assert!(
        matches!(found, Err(SnapshotError::Damaged { offset, .. }) if offset == at),
        "{found:?}"
    );
}
