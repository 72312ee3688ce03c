//! `holdfast wal dump|verify|repair`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast::disk::{Disk, RealDisk};
use holdfast::node::node_number;
use holdfast::types::{
    ClusterId, Entry, EntryPayload, HardState, Incarnation, LogIndex, LogWrite, Term,
};
use holdfast::wal::{Identity, Wal, WalOptions};

use crate::{holdfast, text};

/// A data directory with a log of 20 entries in several segments.
fn data_directory(folder: &Path) -> PathBuf {
    let path = folder.join("data");
    fs::create_dir_all(path.join("snapshots")).unwrap();
    fs::write(
        path.join("node.json"),
        r#"{"version":1,"node_id":"n1","incarnation":"00000000000000aa"}"#,
    )
    .unwrap();
    let identity = Identity {
        cluster: ClusterId([5; 16]),
        node: node_number("n1"),
        incarnation: Incarnation(0xaa),
    };
    let options = WalOptions {
        segment_bytes: 64 << 10,
        ..WalOptions::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let mut wal = Wal::create(disk, &path.join("wal"), identity, options).unwrap();
    for index in 1..=20 {
        let entry = Entry {
            index: LogIndex(index),
            term: Term(2),
            payload: EntryPayload::Command(vec![b'S'; 5000].into()),
        };
        let write = LogWrite {
            hard_state: Some(HardState {
                term: Term(2),
                vote: Some(identity.node),
                commit_index: LogIndex(index - 1),
            }),
            entries: vec![entry],
            ..LogWrite::default()
        };
        wal.append(&[write]).unwrap();
    }
    path
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(path.join("wal")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|suffix| suffix == "wal"));
    files.sort();
    files
}

fn overwrite(file: &Path, offset: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Offset of the last batch of a segment.
fn last_batch(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap();
    let blocks = bytes.chunks(4096).enumerate();
    let mut batches = blocks.filter(|(_, block)| block.starts_with(b"HFB1"));
    batches.next_back().unwrap().0 as u64 * 4096
}

fn contents(path: &Path) -> Vec<Vec<u8>> {
    segments(path)
        .iter()
        .map(|file| fs::read(file).unwrap())
        .collect()
}

#[test]
fn sound_log_is_verified_and_dumped_without_its_contents() {
    let folder = tempfile::tempdir().unwrap();
    let path = data_directory(folder.path());
    let ran = holdfast(&["wal", "verify", text(&path)]);
    assert_eq!(ran.code, 0, "{}{}", ran.output, ran.errors);
    assert!(ran.output.contains("log        clean"), "{}", ran.output);
    assert!(ran.output.contains("entries    1 to 20"), "{}", ran.output);

    let ran = holdfast(&["wal", "dump", text(&path)]);
    assert_eq!(ran.code, 0, "{}{}", ran.output, ran.errors);
    for index in 1..=20 {
        let line = format!("    entry {index} term 2 command 5000 bytes\n");
        assert!(ran.output.contains(&line), "{line}{}", ran.output);
    }
    assert!(!ran.output.contains("SSSS"));
    let before = contents(&path);
    let ran = holdfast(&["wal", "repair", text(&path)]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.output.starts_with("nothing to repair\n"),
        "{}",
        ran.output
    );
    // But for the promise that covers the last write.
    assert_eq!(before.len(), contents(&path).len());
}

#[test]
fn torn_tail_is_told_and_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = data_directory(folder.path());
    let tail = segments(&path).pop().unwrap();
    // The second block of the last write never came.
    overwrite(&tail, last_batch(&tail) + 4096, &[0; 4096]);
    let ran = holdfast(&["wal", "verify", text(&path)]);
    assert_eq!(ran.code, 4, "{}{}", ran.output, ran.errors);
    assert!(
        ran.output
            .contains("entries 20 to 20 were never acknowledged"),
        "{}",
        ran.output
    );
    assert!(ran.output.contains("holdfast wal repair"), "{}", ran.output);

    let ran = holdfast(&["wal", "repair", text(&path)]);
    assert_eq!(ran.code, 0, "{}{}", ran.output, ran.errors);
    assert!(ran.output.contains("entries    1 to 19"), "{}", ran.output);
    assert_eq!(holdfast(&["wal", "verify", text(&path)]).code, 0);
}

#[test]
fn damage_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = data_directory(folder.path());
    overwrite(&segments(&path)[0], 2 * 4096 + 300, &[0xff]);
    let before = contents(&path);
    for command in ["verify", "repair"] {
        let ran = holdfast(&["wal", command, text(&path)]);
        assert_eq!(ran.code, 5, "{}{}", ran.output, ran.errors);
        let lost = "entries 1 (term 2) to 1 (term 2) cannot be read";
        assert!(ran.output.contains(lost), "{}", ran.output);
        assert!(ran.output.contains("remove-peer n1"), "{}", ran.output);
        assert!(contents(&path) == before);
    }
    let ran = holdfast(&["wal", "dump", text(&path)]);
    assert_eq!(ran.code, 5);
    assert!(ran.output.contains("entry 20 term 2"), "{}", ran.output);
}

#[test]
fn lost_header_copy_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let path = data_directory(folder.path());
    let before = contents(&path);
    overwrite(&segments(&path)[0], 0, &[0; 512]);
    let ran = holdfast(&["wal", "verify", text(&path)]);
    assert_eq!(ran.code, 4, "{}{}", ran.output, ran.errors);
    let ran = holdfast(&["wal", "repair", text(&path)]);
    assert_eq!(ran.code, 0, "{}{}", ran.output, ran.errors);
    assert!(
        ran.output.contains("restored: 1 segment headers"),
        "{}",
        ran.output
    );
    assert!(contents(&path)[0] == before[0]);
}

#[test]
fn log_of_another_node_is_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let path = data_directory(folder.path());
    let stranger = r#"{"version":1,"node_id":"n2","incarnation":"00000000000000aa"}"#;
    fs::write(path.join("node.json"), stranger).unwrap();
    for command in ["verify", "repair"] {
        let ran = holdfast(&["wal", command, text(&path)]);
        assert_eq!(ran.code, 6, "{}{}", ran.output, ran.errors);
    }
}

#[test]
fn running_server_and_wrong_path_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = data_directory(folder.path());
    let lock = RealDisk.lock(&path.join("holdfast.lock")).unwrap();
    let ran = holdfast(&["wal", "repair", text(&path)]);
    assert_eq!(ran.code, 1);
    let pid = std::process::id().to_string();
    assert!(ran.errors.contains(&pid), "{}", ran.errors);
    assert!(
        ran.errors.contains("stop the server first"),
        "{}",
        ran.errors
    );
    drop(lock);
    let ran = holdfast(&["wal", "verify", text(folder.path())]);
    assert_eq!(ran.code, 1);
    assert!(ran.errors.contains("no data directory"), "{}", ran.errors);
    assert!(!folder.path().join("holdfast.lock").exists());
    assert_eq!(holdfast(&["wal", "verfiy", "x"]).code, 2);
    let help = holdfast(&["wal", "--help"]);
    assert!(help.output.contains("5  damaged"), "{}", help.output);
}
