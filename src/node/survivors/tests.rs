use std::sync::Arc;

use super::*;
use crate::disk::MemoryDisk;
use crate::peer::Run;
use crate::types::{Entry, HardState, Incarnation, NodeId};

const DIRECTORY: &str = "/data";

fn identity(name: &str) -> DirectoryIdentity {
    DirectoryIdentity {
        name: name.to_owned(),
        id: node_number(name),
        incarnation: life(name),
        run: Run::default(),
        removed_at: None,
    }
}

fn life(name: &str) -> Incarnation {
    Incarnation(node_number(name).0 ^ 7)
}

fn voters(names: &[&str]) -> Membership {
    let member = |name: &&str| Member {
        name: (*name).to_owned(),
        address: format!("{name}:8201"),
        incarnation: life(name),
        non_voter: false,
    };
    let ids = || names.iter().map(|name| node_number(name));
    Membership {
        voters: ids().collect(),
        members: ids().zip(names.iter().map(member)).collect(),
        ..Membership::default()
    }
}

/// From here on the log is of a leader elected by the survivors.
const FORCED_AT: u64 = 3;

/// A log of memberships, one a position, in term 3 and then 5.
fn log(commit: u64, memberships: &[Membership]) -> Recovered {
    let entry = |(index, membership): (u64, &Membership)| Entry {
        index: LogIndex(index),
        term: Term(if index < FORCED_AT { 3 } else { 5 }),
        payload: EntryPayload::Membership(Arc::new(membership.clone())),
    };
    Recovered {
        hard_state: HardState {
            term: Term(3),
            vote: None,
            commit_index: LogIndex(commit),
        },
        entries: (1..).zip(memberships).map(entry).collect(),
        ..Recovered::default()
    }
}

fn disk_with(text: &str) -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let folder = Path::new(DIRECTORY).join(FOLDER);
    disk.create_dir_all(&folder).expect("a folder");
    replace_file(&*disk, &folder, OPERATORS_FILE, text.as_bytes()).expect("a file");
    disk
}

fn take(disk: &Arc<dyn Disk>, log: &Recovered) -> Result<Option<Forced>, SurvivorsError> {
    forced(disk, Path::new(DIRECTORY), &identity("n1"), log)
}

fn refusal(text: &str) -> String {
    let disk = disk_with(text);
    let log = log(1, &[voters(&["n1", "n2", "n3"])]);
    let refused = take(&disk, &log).map(|_| ()).expect_err("refused");
    let path = Path::new(DIRECTORY).join(FOLDER).join(OPERATORS_FILE);
    assert!(disk.exists(&path).expect("looks"), "the file stays");
    chain(&refused)
}

#[test]
fn file_is_completed_by_what_the_log_knows() {
    let disk = disk_with(
        r#"[{"id":"n1","address":"new:1","non_voter":false},
            {"id":"n3","address":"n3:8201","non_voter":true}]"#,
    );
    // The newest entry is not committed, and knows best who n3 is.
    let log = log(1, &[voters(&["n1", "n2"]), voters(&["n1", "n2", "n3"])]);
    let forced = take(&disk, &log).expect("followed").expect("forced");
    let membership = &forced.membership;
    assert_eq!(membership.voters, [node_number("n1")].into());
    assert_eq!(membership.learners, [node_number("n3")].into());
    let member = |name| &membership.members[&node_number(name)];
    assert_eq!(
        (member("n1").address.as_str(), member("n1").incarnation),
        ("new:1", life("n1"))
    );
    assert!(member("n3").non_voter);
    assert_eq!(forced.since, LogIndex(1));
}

#[test]
fn file_counts_until_the_log_says_the_same() {
    let before = voters(&["n1", "n2", "n3"]);
    let disk = disk_with(r#"[{"id":"n1","address":"n1:8201"}]"#);
    let exists = |name: &str| {
        let path = Path::new(DIRECTORY).join(FOLDER).join(name);
        disk.exists(&path).expect("looks")
    };
    // That it was so once, before the file came, does not count.
    let once = [voters(&["n1"]), before.clone()];
    assert!(take(&disk, &log(2, &once)).expect("followed").is_some());
    assert!(!exists(OPERATORS_FILE) && exists(OWN_FILE));
    assert!(
        take(&disk, &log(2, &once)).expect("followed").is_some(),
        "a crash"
    );
    let written = [voters(&["n1"]), before, voters(&["n1"])];
    assert!(
        take(&disk, &log(2, &written)).expect("followed").is_some(),
        "not committed"
    );
    assert!(take(&disk, &log(3, &written)).expect("followed").is_none());
    assert!(!exists(OWN_FILE), "it is forgotten");
}

#[test]
fn later_snapshot_says_it_too() {
    let disk = disk_with(r#"[{"id":"n1","address":"n1:8201"}]"#);
    assert!(
        take(&disk, &log(1, &[voters(&["n1", "n2"])]))
            .expect("followed")
            .is_some()
    );
    let later = Recovered {
        snapshot: Some(crate::types::SnapshotMeta {
            index: LogIndex(90),
            term: Term(4),
            membership: Arc::new(voters(&["n1", "n7"])),
            membership_index: LogIndex(70),
        }),
        ..Recovered::default()
    };
    assert!(take(&disk, &later).expect("followed").is_none());
}

#[test]
fn mistakes_are_named() {
    let said = |text: &str, words: &[&str]| {
        let refusal = refusal(text);
        for word in words {
            assert!(refusal.contains(word), "{word}: {refusal}");
        }
    };
    said("[", &["raft/peers.json", "line 1"]);
    said(r#"["n1"]"#, &["raft/peers.json"]);
    said("[]", &["names no voter"]);
    said(r#"[{"id":"n2","address":"n2:1"}]"#, &["this node", "n1"]);
    said(
        r#"[{"id":"n9","address":"n9:1"}]"#,
        &["n9", "join afterwards"],
    );
    said(
        r#"[{"id":"n1","address":"n1:1"},{"id":"n1","address":"n1:1"}]"#,
        &["n1", "twice"],
    );
    said(r#"[{"id":"n1","address":"nowhere"}]"#, &["n1", "host:port"]);
    said(
        r#"[{"id":"n1","address":"n1:1","non_voter":true}]"#,
        &["no voter"],
    );
}

#[test]
fn directory_that_joined_anew_is_not_taken_for_its_former_life() {
    let mut anew = voters(&["n1", "n2"]);
    let own = anew
        .members
        .get_mut(&NodeId(node_number("n1").0))
        .expect("a member");
    own.incarnation = Incarnation(99);
    let disk = disk_with(r#"[{"id":"n1","address":"n1:1"}]"#);
    let refused = take(&disk, &log(1, &[anew]))
        .map(|_| ())
        .expect_err("refused");
    assert!(refused.to_string().contains("another data directory"));
}

#[test]
fn nothing_is_forced_without_a_file() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    disk.create_dir_all(Path::new(DIRECTORY)).expect("a folder");
    assert!(
        take(&disk, &log(1, &[voters(&["n1"])]))
            .expect("followed")
            .is_none()
    );
}
