use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{AppendMode, BLOCK_BYTES, Disk, Fate, MemoryDisk, RealDisk};

const MODES: [AppendMode; 3] = [AppendMode::Direct, AppendMode::Cached, AppendMode::Mapped];

/// What both disks must do alike.
fn check_disk(disk: &dyn Disk, root: &Path) {
    let folder = root.join("a/b");
    disk.create_dir_all(&folder).unwrap();
    disk.create_dir_all(&folder).unwrap();
    let path = folder.join("one");
    assert!(!disk.exists(&path).unwrap());
    let mut file = disk.create(&path).unwrap();
    let error = disk.create(&path).err().unwrap();
    assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);

    file.write_at(0, &[7; 3 * BLOCK_BYTES]).unwrap();
    file.sync().unwrap();
    file.drop_cache().unwrap();
    let mut blocks = vec![9; BLOCK_BYTES];
    blocks[1] = 1;
    file.write_at(BLOCK_BYTES as u64, &blocks).unwrap();
    file.write_at(BLOCK_BYTES as u64 * 3, &[5; 2 * BLOCK_BYTES])
        .unwrap();
    file.sync().unwrap();
    assert_eq!(file.length().unwrap(), 5 * BLOCK_BYTES as u64);

    let mut buffer = vec![0; 4];
    let read = |offset: u64, buffer: &mut [u8]| disk.open(&path).unwrap().read_at(offset, buffer);
    read(BLOCK_BYTES as u64 - 2, &mut buffer).unwrap();
    assert_eq!(buffer, [7, 7, 9, 1]);
    read(5 * BLOCK_BYTES as u64 - 4, &mut buffer).unwrap();
    assert_eq!(buffer, [5, 5, 5, 5]);
    assert!(read(5 * BLOCK_BYTES as u64 - 3, &mut buffer).is_err());

    let mut blocks = vec![0; 2 * BLOCK_BYTES];
    file.read_blocks(3 * BLOCK_BYTES as u64, &mut blocks)
        .unwrap();
    assert_eq!(blocks, [5; 2 * BLOCK_BYTES]);
    assert!(
        file.read_blocks(4 * BLOCK_BYTES as u64, &mut blocks)
            .is_err()
    );

    file.set_length(10).unwrap();
    file.set_length(20).unwrap();
    let mut buffer = [1; 20];
    file.read_at(0, &mut buffer).unwrap();
    assert_eq!(buffer, [[7; 10], [0; 10]].concat()[..]);
    file.sync().unwrap();

    // Renamed while open: a handle follows the file, not its old name.
    let renamed = folder.join("two");
    disk.rename(&path, &renamed).unwrap();
    disk.sync_dir(&folder).unwrap();
    let mut file = disk.open(&renamed).unwrap();
    disk.rename(&renamed, &path).unwrap();
    file.write_at(0, &[3; BLOCK_BYTES]).unwrap();
    file.sync().unwrap();
    file.read_blocks(0, &mut [0; BLOCK_BYTES]).unwrap();
    let map = disk.map(&path).unwrap();
    assert_eq!(map.bytes(), [3; BLOCK_BYTES]);
    assert_eq!(disk.list(&folder).unwrap(), ["one"]);
    disk.remove(&path).unwrap();
    assert_eq!(map.bytes()[0], 3, "a map outlives the name");
    assert!(disk.open(&path).is_err());

    let lock = disk.lock(&folder.join("lock")).unwrap();
    let error = disk.lock(&folder.join("lock")).err().unwrap();
    assert_eq!(error.source.kind(), io::ErrorKind::WouldBlock);
    let pid = std::process::id().to_string();
    assert!(error.source.to_string().contains(&pid), "{error:?}");
    drop(lock);
    drop(disk.lock(&folder.join("lock")).unwrap());
}

/// What every way of appending must do alike; the ways taken.
fn check_appends(disk: &dyn Disk, root: &Path) -> Vec<&'static str> {
    disk.create_dir_all(root).unwrap();
    let mut ways = Vec::new();
    for mode in MODES {
        let path = root.join(format!("{mode:?}"));
        let mut file = disk.create(&path).unwrap();
        file.write_at(0, &[0; 6 * BLOCK_BYTES]).unwrap();
        file.sync().unwrap();
        file.drop_cache().unwrap();
        let mut io = disk.segment_io(&path, mode).unwrap();
        io.append(BLOCK_BYTES as u64, &[7; BLOCK_BYTES]).unwrap();
        // An unaligned source, several blocks, and another name by now.
        let renamed = root.join(format!("{mode:?}.renamed"));
        disk.rename(&path, &renamed).unwrap();
        let shifted = [&[0], &[5; 3 * BLOCK_BYTES][..]].concat();
        io.append(2 * BLOCK_BYTES as u64, &shifted[1..]).unwrap();
        ways.push(io.way());
        assert_eq!(file.length().unwrap(), 6 * BLOCK_BYTES as u64);
        let mut blocks = vec![1; 6 * BLOCK_BYTES];
        file.read_blocks(0, &mut blocks).unwrap();
        let expected = [(0, 1), (7, 1), (5, 3), (0, 1)]
            .map(|(byte, count)| vec![byte; count * BLOCK_BYTES])
            .concat();
        assert!(blocks == expected, "{mode:?}");
        drop(io);
        assert!(disk.map(&renamed).unwrap().bytes() == expected, "{mode:?}");
    }
    ways
}

#[test]
fn appends_in_every_mode_are_the_same_bytes() {
    check_appends(&MemoryDisk::new(), Path::new("/data"));
    let folder = tempfile::tempdir().unwrap();
    let ways = check_appends(&RealDisk, folder.path());
    assert_eq!(
        ways[1..],
        ["synchronous writes", "stores through a map and msync"]
    );
    if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
        check_appends(&RealDisk, folder.path());
    }
}

#[test]
fn sparse_file_is_not_mapped_for_appending() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    RealDisk.create(&path).unwrap().set_length(1 << 20).unwrap();
    let mut io = RealDisk.segment_io(&path, AppendMode::Mapped).unwrap();
    assert!(io.way().contains("writes"), "{}", io.way());
    io.append(0, &[1; BLOCK_BYTES]).unwrap();
}

#[test]
fn append_cut_short_by_the_power_leaves_any_part() {
    for mode in MODES {
        let disk = MemoryDisk::new();
        let folder = Path::new("/d");
        let path = folder.join("f");
        disk.create_dir_all(folder).unwrap();
        let mut file = disk.create(&path).unwrap();
        file.write_at(0, &[0; 2 * BLOCK_BYTES]).unwrap();
        file.sync().unwrap();
        disk.sync_dir(folder).unwrap();
        let mut io = disk.segment_io(&path, mode).unwrap();
        io.append(0, &[1; BLOCK_BYTES]).unwrap();
        assert!(disk.unsynced().is_empty());
        disk.power_off_at(disk.calls());
        assert!(io.append(BLOCK_BYTES as u64, &[2; BLOCK_BYTES]).is_err());
        assert_eq!(disk.unsynced().len(), 1, "{mode:?}");
    }
}

#[test]
fn memory_disk_behaves_as_a_disk() {
    check_disk(&MemoryDisk::new(), Path::new("/data"));
}

#[test]
fn real_disk_behaves_as_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    check_disk(&RealDisk::new(), folder.path());
}

#[test]
fn real_disk_without_direct_io_behaves_as_a_disk() {
    // tmpfs; where it takes direct writes this repeats the test above.
    if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
        check_disk(&RealDisk::new(), folder.path());
    }
}

#[test]
fn real_disk_files_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("raft");
    RealDisk.create_dir_all(&inner).unwrap();
    RealDisk.create(&inner.join("file")).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(&inner.join("file")), 0o600);
}

#[test]
fn crash_undoes_what_was_not_synced() {
    let disk = MemoryDisk::new();
    let folder = Path::new("/d");
    let path = folder.join("f");
    disk.create_dir_all(folder).unwrap();
    let mut file = disk.create(&path).unwrap();
    file.write_at(0, &[1; BLOCK_BYTES]).unwrap();
    file.sync().unwrap();
    assert!(!disk.crash(|_| Fate::Lost).exists(&path).unwrap());
    disk.sync_dir(folder).unwrap();
    file.write_at(0, &[2; 2 * BLOCK_BYTES]).unwrap();
    assert_eq!(disk.unsynced().len(), 3, "{:?}", disk.unsynced());

    let bytes = |disk: MemoryDisk| disk.map(&path).unwrap().bytes().to_vec();
    assert_eq!(bytes(disk.crash(|_| Fate::Lost)), [1; BLOCK_BYTES]);
    assert_eq!(bytes(disk.duplicate()), [2; 2 * BLOCK_BYTES]);
    let torn = bytes(disk.crash(|_| Fate::Torn(0b10)));
    assert_eq!(torn[..512], [1; 512]);
    assert_eq!(torn[512..1024], [2; 512]);
    assert_eq!(torn[1024..BLOCK_BYTES], [1; BLOCK_BYTES - 1024]);
    assert_eq!(bytes(disk.crash_seeded(3)), bytes(disk.crash_seeded(3)));
}

#[test]
fn power_cut_leaves_its_call_unsynced() {
    let disk = MemoryDisk::new();
    let folder = Path::new("/d");
    disk.create_dir_all(folder).unwrap();
    let mut file = disk.create(&folder.join("f")).unwrap();
    disk.sync_dir(folder).unwrap();
    disk.power_off_at(disk.calls());
    assert!(file.write_at(0, &[1; BLOCK_BYTES]).is_err());
    assert!(file.sync().is_err());
    assert_eq!(disk.unsynced().len(), 2);
    let after = disk.crash(|_| Fate::Lost);
    assert_eq!(after.open(&folder.join("f")).unwrap().length().unwrap(), 0);
}
