//! The harness: checkers and fault injection.

mod check;
mod linearizability;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Checks and fault injection for Holdfast")]
enum Command {
    /// Is a recorded history linearizable?
    Check(check::CheckArguments),
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Check(arguments) => check::run(&arguments),
    }
}
