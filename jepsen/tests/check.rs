//! `jepsen check` as a program: every format it reads, every exit code it has,
//! on small histories of our own in `testdata/histories`.

use std::path::Path;
use std::process::Command;

/// Exit code and output of `jepsen check`.
fn check(model: &str, options: &[&str], files: &[&str]) -> (i32, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/histories");
    let output = Command::new(env!("CARGO_BIN_EXE_jepsen"))
        .args(["check", "--model", model])
        .args(options)
        .args(files.iter().map(|file| folder.join(file)))
        .output()
        .expect("the program was built with this test");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().expect("it was not killed"), said)
}

#[test]
fn check_of_legal_histories_of_every_format_exits_0() {
    let registers = ["legal.jsonl", "late-write.log", "unknown-read.edn"];
    let (code, said) = check("cas-register", &[], &registers);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches("linearizable  ").count(), 3, "{said}");
    let (code, said) = check("kv", &[], &["appends.txt"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn check_of_illegal_histories_exits_1_and_shows_the_smallest() {
    let (code, said) = check("cas-register", &[], &["stale-read.jsonl"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("key \"a\""), "{said}");
    assert!(said.contains("read -> 1"), "{said}");
    let (code, said) = check("cas-register", &[], &["invented-read.log"]);
    assert_eq!(code, 1, "{said}");
    let (code, said) = check("kv", &[], &["lost-append.txt"]);
    assert_eq!(code, 1, "{said}");
}

#[test]
fn check_that_runs_out_exits_2_and_says_of_what() {
    let (code, said) = check("cas-register", &["--steps", "1000"], &["hard.jsonl"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("steps ran out after 1001"), "{said}");
    let (code, said) = check("cas-register", &["--seconds", "0"], &["hard.jsonl"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("time ran out"), "{said}");
    // Given enough, it is decided.
    let (code, said) = check("cas-register", &[], &["hard.jsonl"]);
    assert_eq!(code, 1, "{said}");
}

#[test]
fn check_of_several_histories_exits_with_the_worst() {
    let (code, said) = check("cas-register", &[], &["torn.jsonl"]);
    assert_eq!(code, 255, "{said}");
    assert!(said.contains("unreadable"), "{said}");
    let steps = ["--steps", "1000"];
    let all = [
        "legal.jsonl",
        "hard.jsonl",
        "torn.jsonl",
        "stale-read.jsonl",
    ];
    assert_eq!(check("cas-register", &steps, &all).0, 1);
    assert_eq!(check("cas-register", &steps, &all[..3]).0, 255);
    assert_eq!(check("cas-register", &steps, &all[..2]).0, 2);
}
