//! The command line: a server, a single development server, a development
//! cluster of three; tools for the files of a server that is not running.
//!
//! Flags are Go's: one dash or two, `-flag=value` or `-flag value`.

mod api;
mod cluster;
mod connect;
mod dev;
mod ending;
mod logging;
mod memory;
mod node_id;
mod recover;
mod server;
mod signals;
mod snapshot;
mod wal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Runs the command that the arguments name.
///
/// # Errors
/// What made it fail, with its causes.
pub async fn run(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    match Arguments::parse_from(normalised(arguments)).command {
        Command::Server(flags) if flags.dev => dev::run(&flags).await?,
        Command::Server(flags) => server::run(&flags).await?,
        Command::Dev => cluster::run().await?,
        Command::Version => println!("{}", version()),
        Command::Wal { command } => return Ok(wal::run(&command)?.into()),
        Command::Operator {
            command:
                Operator::Raft {
                    command: Raft::Snapshot { command },
                },
        } => return Ok(snapshot::run(&command)?.into()),
        Command::Operator {
            command: Operator::Recover(command),
        } => return Ok(recover::run(&command)?.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// `Holdfast v0.1.0 (API of OpenBao 2.7.2)`.
fn version() -> String {
    format!(
        "Holdfast v{} (API of OpenBao {})",
        env!("CARGO_PKG_VERSION"),
        crate::vault::COMPATIBLE_VERSION
    )
}

#[derive(Debug, Parser)]
#[command(name = "holdfast", about = "A highly available secrets store")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one server.
    Server(ServerFlags),
    /// Runs a cluster of three servers on loopback, in a folder that goes
    /// with it.
    Dev,
    /// Says which version this is.
    Version,
    /// Looks at, checks and mends the log of a server that is not running.
    #[command(after_help = ending::HELP)]
    Wal {
        #[command(subcommand)]
        command: wal::WalCommand,
    },
    /// What an operator does.
    Operator {
        #[command(subcommand)]
        command: Operator,
    },
}

#[derive(Debug, Subcommand)]
enum Operator {
    /// Raft storage.
    Raft {
        #[command(subcommand)]
        command: Raft,
    },
    /// Makes a cluster of the servers that are left when a quorum is lost for
    /// good.
    #[command(after_help = recover::HELP)]
    Recover(recover::Recover),
}

#[derive(Debug, Subcommand)]
enum Raft {
    /// Looks at and checks snapshot files, without a server and without keys.
    #[command(after_help = ending::HELP)]
    Snapshot {
        #[command(subcommand)]
        command: snapshot::SnapshotCommand,
    },
}

/// Flags of `server`.
#[derive(Args, Clone, Debug, Default)]
struct ServerFlags {
    /// A file, or a folder with *.hcl and *.json files; may be repeated.
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// trace, debug, info, warn or error.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// One server in memory, initialised and unsealed. Not for secrets.
    #[arg(long)]
    dev: bool,
    /// Where the development server listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8200")]
    dev_listen_address: String,
    /// Refused: root tokens are always random.
    #[arg(long, value_name = "TOKEN", hide = true)]
    dev_root_token_id: Option<String>,
    /// Accepted; no token is ever stored in a file.
    #[arg(long, hide = true)]
    dev_no_store_token: bool,
    /// Ends when standard input does, and removes this folder of a
    /// development cluster.
    #[arg(long, value_name = "FOLDER", hide = true)]
    exit_with_parent: Option<PathBuf>,
}

/// Go's flags as clap's: `-config` is `--config`, `-v` is `version`.
fn normalised(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut normalised = Vec::new();
    let mut flags_ended = false;
    for (position, argument) in arguments.enumerate() {
        let text = argument.to_str().unwrap_or_default();
        flags_ended |= text == "--";
        let one_dash = text.starts_with('-') && !text.starts_with("--");
        let word = one_dash && text[1..].starts_with(|first: char| first.is_ascii_alphabetic());
        normalised.push(match text {
            "-v" | "-version" | "--version" if position == 1 => "version".into(),
            _ if word && text.len() > 2 && !flags_ended => {
                let mut longer = OsString::from("-");
                longer.push(&argument);
                longer
            }
            _ => argument,
        });
    }
    normalised
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Command, clap::Error> {
        let arguments = std::iter::once("holdfast").chain(arguments.iter().copied());
        let arguments = normalised(arguments.map(OsString::from));
        Arguments::try_parse_from(arguments).map(|arguments| arguments.command)
    }

    fn server(arguments: &[&str]) -> ServerFlags {
        match parse(arguments) {
            Ok(Command::Server(flags)) => flags,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    #[test]
    fn flags_with_one_dash_or_two() {
        for arguments in [
            &["server", "-config=a.hcl", "-config", "b"][..],
            &["server", "--config=a.hcl", "--config", "b"][..],
        ] {
            let flags = server(arguments);
            assert_eq!(flags.config, [PathBuf::from("a.hcl"), PathBuf::from("b")]);
            assert!(!flags.dev);
        }
        let flags = server(&[
            "server",
            "-dev",
            "-dev-listen-address=127.0.0.1:9",
            "-log-level=debug",
        ]);
        assert!(flags.dev);
        assert_eq!(flags.dev_listen_address, "127.0.0.1:9");
        assert_eq!(flags.log_level.as_deref(), Some("debug"));
    }

    #[test]
    fn version_in_its_spellings_and_errors() {
        for spelling in ["version", "-v", "-version", "--version"] {
            assert!(
                matches!(parse(&[spelling]), Ok(Command::Version)),
                "{spelling}"
            );
        }
        assert!(matches!(parse(&["dev"]), Ok(Command::Dev)));
        assert!(parse(&["server", "-cofnig=x"]).is_err());
        assert!(parse(&["sever"]).is_err());
        assert!(parse(&[]).is_err());
    }
}
