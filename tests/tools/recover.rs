//! `holdfast operator recover`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast::disk::{Disk, RealDisk};
use holdfast::node::node_number;
use holdfast::raft;
use holdfast::types::{
    ClusterId, Entry, EntryPayload, HardState, Incarnation, LogIndex, LogWrite, Member, Membership,
    Term,
};
use holdfast::wal::{Identity, Wal, WalOptions};

use crate::{holdfast, text};

const LIFE: Incarnation = Incarnation(0xaa);

fn three() -> Membership {
    let names = ["n1", "n2", "n3"];
    let member = |name: &&str| Member {
        name: (*name).to_owned(),
        address: format!("{name}.example:8201"),
        incarnation: LIFE,
        non_voter: false,
    };
    let ids = || names.iter().map(|name| node_number(name));
    Membership {
        voters: ids().collect(),
        members: ids().zip(names.iter().map(member)).collect(),
        ..Membership::default()
    }
}

/// A member of a cluster of three whose log ends at this position, in term 2.
fn survivor(folder: &Path, name: &str, last: u64) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.join("snapshots")).unwrap();
    let identity = format!(
        r#"{{"version":1,"node_id":"{name}","incarnation":"{:016x}"}}"#,
        LIFE.0
    );
    fs::write(path.join("node.json"), identity).unwrap();
    let identity = Identity {
        cluster: ClusterId([5; 16]),
        node: node_number(name),
        incarnation: LIFE,
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let mut wal = Wal::create(disk, &path.join("wal"), identity, WalOptions::default()).unwrap();
    wal.append(&[raft::bootstrap(three())]).unwrap();
    for index in 2..=last {
        let entry = Entry {
            index: LogIndex(index),
            term: Term(2),
            payload: EntryPayload::Command(vec![b'S'; 100].into()),
        };
        let write = LogWrite {
            hard_state: Some(HardState {
                term: Term(2),
                vote: None,
                commit_index: LogIndex(index - 1),
            }),
            entries: vec![entry],
            ..LogWrite::default()
        };
        wal.append(&[write]).unwrap();
    }
    path
}

#[test]
fn one_survivor_of_three_gets_its_file_and_nothing_is_written_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = survivor(folder.path(), "n2", 9);
    let file = path.join("raft/peers.json");
    let planned = holdfast(&["operator", "recover", text(&path)]);
    assert_eq!(planned.code, 0, "{}", &planned.errors);
    let said = &planned.output;
    for part in [
        "lost: n1, n3",
        "index 9 of term 2",
        "up to 8",
        "n2.example:8201",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("SSSS"), "no content of entries");
    assert!(!file.exists());
    let applied = holdfast(&["operator", "recover", "-apply", text(&path)]);
    assert_eq!(applied.code, 0, "{}", &applied.errors);
    let written = fs::read_to_string(file).unwrap();
    assert!(
        written.contains(r#""id": "n2""#) && !written.contains("n1"),
        "{written}"
    );
}

#[test]
fn reports_of_other_machines_serve_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = survivor(folder.path(), "n3", 5);
    let report = holdfast(&["operator", "recover", "-report", text(&path)]);
    assert_eq!(report.code, 0, "{}", &report.errors);
    let file = folder.path().join("n3.json");
    fs::write(&file, &report.output).unwrap();
    let planned = holdfast(&["operator", "recover", text(&file)]);
    let said = &planned.output;
    assert!(said.contains("n3 has the most complete log"), "{said}");
}

#[test]
fn quorum_is_told_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [
        survivor(folder.path(), "n1", 4),
        survivor(folder.path(), "n2", 9),
    ];
    let names = paths.each_ref().map(|path| text(path));
    let refused = holdfast(&["operator", "recover", "-apply", names[0], names[1]]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.errors.contains("are a quorum"),
        "{}",
        &refused.errors
    );
    let forced = holdfast(&["operator", "recover", "-force", names[0], names[1]]);
    assert_eq!(forced.code, 0);
}

#[test]
fn what_is_no_survivor_is_refused_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("poem.txt");
    fs::write(&file, "no report").unwrap();
    let refused = holdfast(&["operator", "recover", text(&file)]);
    assert_eq!(refused.code, 1);
    let said = &refused.errors;
    assert!(
        said.contains("poem.txt") && said.contains("report"),
        "{said}"
    );
}
