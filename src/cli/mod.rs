//! The `weave` command: what a person types, and the two ways to start the daemon.

mod addresses;
mod client;
mod logging;
mod peers;
mod start;
mod status;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::client::{Client, ClientError};
use crate::config::{self, HOST_ROOT_VARIABLE, Paths};

/// The command did what was asked.
const OK: u8 = 0;
/// It did not, and has said why.
const FAILED: u8 = 1;
/// There is no daemon to ask. A usage error is 2, clap's own.
const NOT_RUNNING: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, with the reason on standard error
  2  the command line is not understood
  3  the daemon is not running";

/// Multi-host container networking for Docker
#[derive(Debug, Parser)]
#[command(name = "weave", version, after_help = EXIT_CODES, disable_help_subcommand = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what goes on: what is wrong first, then an overview, or one part in full
    Status(status::Status),
    /// Show everything, for a look at the whole or for a bug report
    Report(status::Report),
    /// Connect to other hosts, now and after restarts
    Connect(peers::Connect),
    /// Stop connecting to hosts, now and after restarts
    Forget(peers::Forget),
    /// Take over the addresses of a peer that is gone for good
    Rmpeer(addresses::RemovePeer),
    /// Wait until addresses can be handed out, or say what is missing
    Prime,
    /// Hand all addresses of this host over to another peer, before it leaves for good
    Reset,
    /// Allocate, claim, look up or release addresses of a container
    #[command(subcommand)]
    Ipam(addresses::Ipam),
    /// Show the versions of this command and of the daemon
    Version,
    /// Run the daemon in the foreground, as root
    #[command(after_help = daemon_help())]
    Daemon(start::Daemon),
    /// Run the daemon as Docker's managed plugin does
    #[command(hide = true)]
    Plugin,
}

/// Does what the words of the command line say.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output with code 0, usage errors to standard error
            // with code 2; nothing is left to do when that cannot be written.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED));
        }
    };
    let host_root = std::env::var(HOST_ROOT_VARIABLE).ok();
    let paths = Paths::detect(host_root.as_deref());
    ExitCode::from(run(cli.command, paths))
}

fn run(command: Command, paths: Paths) -> u8 {
    let client = Client::new(paths.control_socket());
    match command {
        Command::Status(command) => ask(command.run(&client)),
        Command::Report(command) => ask(command.run(&client)),
        Command::Connect(command) => ask(command.run(&client)),
        Command::Forget(command) => ask(command.run(&client)),
        Command::Rmpeer(command) => ask(command.run(&client)),
        Command::Prime => ask(addresses::prime(&client)),
        Command::Reset => ask(addresses::reset(&client)),
        Command::Ipam(command) => ask(command.run(&client)),
        Command::Version => ask(status::version(&client)),
        Command::Daemon(command) => command.run(paths),
        Command::Plugin => start::plugin(paths),
    }
}

/// Runs a command that asks the daemon, and says why when it fails.
fn ask(command: impl Future<Output = Result<(), ClientError>>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(ClientError::Local(error)),
    };
    match result {
        Ok(()) => OK,
        Err(error) => {
            eprintln!("weave: {error}");
            match error {
                ClientError::NotRunning { .. } => NOT_RUNNING,
                _ => FAILED,
            }
        }
    }
}

fn daemon_help() -> String {
    format!(
        "Settings, as flags or [variables]; words without a flag are peers:\n{}\n\
         A setting that is not understood is shown in `weave status` and stops nothing.\n\n\
         {EXIT_CODES}",
        config::flags_help()
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_the_daemon_are_left_to_the_settings() {
        let Ok(Command::Daemon(daemon)) = parse("weave daemon --mtu 1400 --nonsense h1 -x") else {
            panic!("not a daemon");
        };
        assert_eq!(daemon.words, ["--mtu", "1400", "--nonsense", "h1", "-x"]);
        let help = parse("weave daemon --help").unwrap_err().to_string();
        assert!(help.contains("--ipalloc-init"), "{help}");
    }

    #[test]
    fn help_tells_the_exit_codes() {
        for line in ["weave help", "weave --help"] {
            let help = parse(line).unwrap_err();
            assert_eq!(help.exit_code(), 0);
            assert!(
                help.to_string().contains("3  the daemon is not running"),
                "{help}"
            );
        }
    }

    #[test]
    fn words_that_make_no_sense_are_usage_errors() {
        for line in [
            "weave",
            "weave dance",
            "weave connect",
            "weave connect h:x",
            "weave status it",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert!(parse("weave connect --replace").is_ok());
    }

    #[test]
    fn a_daemon_that_is_not_running_has_an_exit_code_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let paths = || Paths::below(dir.path());
        assert_eq!(run(parse("weave status").unwrap(), paths()), NOT_RUNNING);
        assert_eq!(run(parse("weave forget h1").unwrap(), paths()), NOT_RUNNING);
        assert_eq!(run(parse("weave version").unwrap(), paths()), OK);
    }
}
