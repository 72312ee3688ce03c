//! `holdfast operator raft snapshot inspect|verify|diff`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast::disk::{Disk, RealDisk};
use holdfast::snapshot::SnapshotDirectory;
use holdfast::snapshot::archive::{ArchiveMeta, ArchiveServer, ArchiveWriter};
use holdfast::types::{ClusterId, LogIndex, Pair, Record, SnapshotMeta, StateHeader, Term};

use crate::{Ran, holdfast, text};

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn archive(path: &Path, pairs: Pairs<'_>) {
    let meta = ArchiveMeta {
        index: 77,
        term: 3,
        servers: vec![ArchiveServer {
            id: "n1".into(),
            address: "127.0.0.1:8201".into(),
            voter: true,
        }],
        configuration_index: 1,
    };
    let entries = || {
        let pairs = pairs.iter();
        pairs.map(|(key, value)| Pair::new(key, value.as_bytes()))
    };
    let seal = |sums: &[u8]| Ok::<_, std::convert::Infallible>(sums.to_vec());
    let writer = ArchiveWriter::prepare(&meta, entries, seal).unwrap();
    fs::write(path, writer.write(Vec::new(), 0).unwrap()).unwrap();
}

fn file(folder: &Path, pairs: Pairs<'_>) -> PathBuf {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let directory = SnapshotDirectory::open(disk, folder).unwrap();
    let meta = SnapshotMeta {
        index: LogIndex(77),
        term: Term(3),
        ..SnapshotMeta::default()
    };
    let state = StateHeader {
        entry_count: pairs.len() as u64,
        ..StateHeader::default()
    };
    let mut writer = directory.writer(ClusterId([9; 16]), meta, state).unwrap();
    for (key, value) in pairs {
        let record = Record {
            pair: Pair::new(key, value.as_bytes()),
            staged: false,
        };
        writer.add(&record).unwrap();
    }
    writer.finish().unwrap().path
}

fn snapshot(arguments: &[&str]) -> Ran {
    holdfast(&[&["operator", "raft", "snapshot"], arguments].concat())
}

const OLD: Pairs<'_> = &[
    ("core/keyring", "k"),
    ("logical/a/1", "secret-one"),
    ("logical/a/2", "secret-two"),
    ("sys/x", "y"),
];
const NEW: Pairs<'_> = &[
    ("core/keyring", "k"),
    ("logical/a/1", "secret-eins"),
    ("logical/b/3", "secret-three"),
    ("sys/x", "y"),
];

#[test]
fn both_forms_are_inspected_by_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("a.snap");
    archive(&packed, OLD);
    let plain = file(&folder.path().join("snapshots"), OLD);
    for path in [&packed, &plain] {
        let ran = snapshot(&["inspect", text(path)]);
        assert_eq!(ran.code, 0, "{}{}", ran.output, ran.errors);
        for expected in [
            "index      77",
            "term       3",
            "entries    4 ",
            "logical/a/",
        ] {
            assert!(ran.output.contains(expected), "{expected}\n{}", ran.output);
        }
        assert!(!ran.output.contains("secret-"), "{}", ran.output);
        let ran = snapshot(&[
            "inspect",
            "-depth=1",
            "-filter=logical/",
            "-format=json",
            text(path),
        ]);
        let json: serde_json::Value = serde_json::from_str(&ran.output).unwrap();
        assert_eq!(json["prefixes"].as_array().unwrap().len(), 1);
        assert_eq!(json["prefixes"][0]["prefix"], "logical/");
        assert_eq!(json["prefixes"][0]["entries"], 2);
        assert_eq!(json["entries"], 4);
        let ran = snapshot(&["verify", text(path)]);
        assert_eq!(ran.code, 0);
        assert!(ran.output.ends_with("sound\n"), "{}", ran.output);
    }
}

#[test]
fn archive_of_a_real_openbao_is_verified() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/snapshot/archive/testdata/openbao.snap");
    let ran = snapshot(&["inspect", text(&path)]);
    assert_eq!(ran.code, 0, "{}{}", ran.output, ran.errors);
    assert!(ran.output.contains("core/"), "{}", ran.output);
    let ran = snapshot(&["diff", text(&path), text(&path)]);
    assert_eq!(ran.code, 0, "{}{}", ran.output, ran.errors);
}

#[test]
fn diff_counts_what_changed_across_forms() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.snap");
    archive(&old, OLD);
    let new = file(&folder.path().join("snapshots"), NEW);
    let ran = snapshot(&["diff", "-format=json", text(&old), text(&new)]);
    assert_eq!(ran.code, 4, "{}{}", ran.output, ran.errors);
    let json: serde_json::Value = serde_json::from_str(&ran.output).unwrap();
    let total = &json["total"];
    let count = |name: &str| total[name].as_u64().unwrap();
    let counts = ["added", "removed", "changed", "same"].map(count);
    assert_eq!(counts, [1, 1, 1, 2]);
    let ran = snapshot(&["diff", text(&old), text(&new)]);
    assert!(ran.output.contains("logical/b/"), "{}", ran.output);
    assert!(!ran.output.contains("core/"), "{}", ran.output);
    // The same state in two forms.
    let same = file(&folder.path().join("same"), OLD);
    assert_eq!(snapshot(&["diff", text(&old), text(&same)]).code, 0);
}

#[test]
fn every_kind_of_damage_is_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("a.snap");
    archive(&packed, OLD);
    let plain = file(&folder.path().join("snapshots"), OLD);
    for path in [&packed, &plain] {
        let whole = fs::read(path).unwrap();
        for position in [whole.len() / 3, whole.len() / 2, whole.len() - 3] {
            let mut changed = whole.clone();
            changed[position] ^= 0x40;
            fs::write(path, &changed).unwrap();
            let ran = snapshot(&["verify", text(path)]);
            assert_eq!(ran.code, 5, "{position}: {}{}", ran.output, ran.errors);
            fs::write(path, &whole[..position]).unwrap();
            let ran = snapshot(&["inspect", text(path)]);
            assert_eq!(ran.code, 5, "{position}: {}{}", ran.output, ran.errors);
        }
    }
    let ran = snapshot(&["verify", text(&folder.path().join("none"))]);
    assert_eq!(ran.code, 1, "{}", ran.errors);
    fs::write(&packed, b"").unwrap();
    assert_eq!(snapshot(&["verify", text(&packed)]).code, 5);
}
