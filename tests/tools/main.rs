//! The offline tools, as the program runs them: what they print, how they end,
//! and that they leave alone what they must.

mod recover;
mod snapshots;

mod wal;

use std::path::Path;
use std::process::Command;

/// Exit code and standard output, with what it said on standard error.
struct Ran {
    code: i32,
    output: String,
    errors: String,
}

fn holdfast(arguments: &[&str]) -> Ran {
    let ran = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .output()
        .expect("the program runs");
    Ran {
        code: ran.status.code().expect("it ends by itself"),
        output: String::from_utf8(ran.stdout).expect("text"),
        errors: String::from_utf8(ran.stderr).expect("text"),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
