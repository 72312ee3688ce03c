//! The bytes of a small log, pinned. `UPDATE=1` rewrites the file; then its
//! difference is a change of the format and needs a new version.

use std::fmt::Write;
use std::path::Path;

use holdfast::disk::{Disk, MemoryDisk};

use crate::model::{Model, create, open, options, segment_paths};

#[test]
fn bytes_of_a_small_log_are_pinned() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    let steps: [&dyn Fn(&Model) -> _; 5] = [
        &|m| m.hard_state(2, Some(0x0102_0304_0506_0708), 0),
        &|m| m.append(2, &[0, 5, 33]),
        &|m| m.replace(3, 3, &[1]),
        &|m| m.hard_state(3, None, 2),
        &|m| m.reset(9, 3, &[2]),
    ];
    for step in steps {
        let write = step(&model);
        wal.append(std::slice::from_ref(&write)).unwrap();
        model.apply(&write);
    }
    wal.mark_idle().unwrap();

    let dump: String = segment_paths(&disk)
        .iter()
        .map(|path| dump(&disk, path))
        .collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wal/testdata/small.hex");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::write(&golden, &dump).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).expect("run once with UPDATE=1");
    assert_eq!(dump, expected);

    // And these bytes, not only this program's memory of them, are that log.
    let disk = MemoryDisk::new();
    load(&disk, &expected);
    let (_, opened) = open(&disk, options(8)).unwrap();
    assert!(model.matches_entries(&opened));
    assert_eq!(opened.hard_state, model.hard_state);
}

/// Sixteen bytes a line; lines of zeros are left out.
fn dump(disk: &MemoryDisk, path: &Path) -> String {
    let map = disk.map(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut text = format!("{name} {} bytes\n", map.bytes().len());
    for (line, bytes) in map.bytes().chunks(16).enumerate() {
        if bytes.iter().any(|&byte| byte != 0) {
            writeln!(text, "{:06x} {}", line * 16, hex::encode(bytes)).unwrap();
        }
    }
    text
}

fn load(disk: &MemoryDisk, dump: &str) {
    let dir = crate::model::dir();
    disk.create_dir_all(dir).unwrap();
    let mut file = None;
    for line in dump.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if words.len() == 3 {
            let created = file.insert(disk.create(&dir.join(words[0])).unwrap());
            created.set_length(words[1].parse().unwrap()).unwrap();
        } else {
            let offset = u64::from_str_radix(words[0], 16).unwrap();
            let bytes = hex::decode(words[1]).unwrap();
            file.as_mut().unwrap().write_at(offset, &bytes).unwrap();
        }
    }
}
