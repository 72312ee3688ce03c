//! Plays `testdata/*.txt` and compares what happens with what is written there.
//!
//! A file is a story: `#` comments, then commands, each followed by `----`, its
//! answer and an empty line. `UPDATE=1 cargo test --test raft` writes the
//! answers anew; the difference is then reviewed like code.

use std::fs;
use std::path::{Path, PathBuf};

use crate::script::Script;

fn play(path: &Path) -> (String, String) {
    let written = fs::read_to_string(path).expect("a readable transcript");
    let mut script = Script::default();
    let mut played = String::new();
    let mut lines = written.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            played += line;
            played.push('\n');
            continue;
        }
        let mut commands = vec![line];
        while let Some(next) = lines.next_if(|next| !next.is_empty() && *next != "----") {
            commands.push(next);
        }
        if lines.next_if(|next| *next == "----").is_some() {
            while lines.next_if(|next| !next.is_empty()).is_some() {}
        }
        lines.next_if(|next| next.is_empty());
        played += &format!("{}\n----\n", commands.join("\n"));
        let answer: String = commands
            .into_iter()
            .map(|command| script.play(command))
            .collect();
        played += if answer.is_empty() {
            "nothing to see\n"
        } else {
            &answer
        };
        played.push('\n');
    }
    while played.ends_with("\n\n") {
        played.pop();
    }
    (written, played)
}

#[test]
fn transcripts_tell_what_happens() {
    // Beside this file, whichever crate it is compiled in.
    let directory = Path::new(file!()).with_file_name("testdata");
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .expect("the transcripts")
        .map(|entry| entry.expect("a directory entry").path())
        .collect();
    paths.sort();
    let only = std::env::var("HOLDFAST_TRANSCRIPT").unwrap_or_default();
    let mut different = Vec::new();
    for path in paths
        .iter()
        .filter(|path| path.to_string_lossy().contains(&only))
    {
        eprintln!("playing {}", path.display());
        let (written, played) = play(path);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(path, played).expect("the transcript is writable");
        } else if written != played {
            let line = written
                .lines()
                .zip(played.lines())
                .take_while(|(a, b)| a == b)
                .count();
            different.push(format!(
                "{}:{}\n  written: {}\n  played:  {}",
                path.display(),
                line + 1,
                written.lines().nth(line).unwrap_or("(end)"),
                played.lines().nth(line).unwrap_or("(end)"),
            ));
        }
    }
    assert!(!paths.is_empty(), "no transcript found");
    assert!(
        different.is_empty(),
        "UPDATE=1 if intended:\n{}",
        different.join("\n")
    );
}
