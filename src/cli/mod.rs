//! The `weave` command: what a person types, and the two ways to start the daemon.

mod addresses;
mod attach;
mod client;
mod launch;
mod logging;
mod names;
mod parts;
mod peers;
mod ps;
mod reset;
mod retired;
mod start;
mod status;
mod template;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::client::{Client, ClientError};
use self::launch::LaunchError;
use crate::config::{self, HOST_ROOT_VARIABLE, Paths};
use crate::control::Switch;

/// The command did what was asked.
const OK: u8 = 0;
/// It did not, and has said why.
const FAILED: u8 = 1;
/// The command line is not understood; clap's own number for that.
const USAGE: u8 = 2;
/// There is no daemon to ask.
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
    /// Launch the daemon as a container, or replace one of an older version
    #[command(after_help = daemon_help())]
    Launch(launch::Launch),
    /// Stop the launched daemon; containers keep talking
    Stop,
    /// Make the image that `launch` starts, and launch nothing
    Setup,
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
    /// Leave for good: hand this host's addresses over, stop, and remove all state
    Reset(reset::Reset),
    /// Show who has which addresses on this host
    Ps(ps::Ps),
    /// Give a running container addresses, each with an interface of its own
    Attach(attach::Attach),
    /// Take addresses from a container
    Detach(attach::Detach),
    /// Give this host addresses on the containers' networks
    Expose(attach::Expose),
    /// Take them back
    Hide(attach::Hide),
    /// Allocate, claim, look up or release addresses of a container
    Ipam(addresses::Ipam),
    /// Give a container, or addresses, a name in weaveDNS
    DnsAdd(names::Naming),
    /// Take back what dns-add did
    DnsRemove(names::Naming),
    /// Show the addresses of a name in weaveDNS
    DnsLookup(names::Lookup),
    /// Print what `docker run` needs for a container to use weaveDNS
    DnsArgs(names::RunArguments),
    /// Show the versions of this command and of the daemon
    Version(status::Version),
    /// Run the daemon in the foreground, as root
    #[command(after_help = daemon_help())]
    Daemon(start::Daemon),
    /// Run the daemon as Docker's managed plugin does
    #[command(hide = true)]
    Plugin,
    /// Launch the daemon without the legacy drivers
    #[command(hide = true, after_help = daemon_help())]
    LaunchRouter(launch::Launch),
    /// Serve the legacy drivers `weave` and `weavemesh`, now and after restarts
    LaunchPlugin(Ignored),
    /// Serve them no more, now and after restarts
    StopPlugin,
    /// The same as `stop`
    #[command(hide = true)]
    StopRouter,
    /// Serve Docker's API and put containers that name no network on ours, now and after restarts
    LaunchProxy(Ignored),
    /// Serve it no more, now and after restarts
    StopProxy,
    /// Print what leads Docker's clients to the proxy: eval $(weave env)
    Env(parts::Env),
    /// Print the flags that lead `docker` to the proxy: docker $(weave config) run ...
    Config,
}

/// Words that older scripts give and that have no meaning any more.
#[derive(Debug, clap::Args)]
struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<String>,
}

impl Ignored {
    fn tell(&self) {
        if !self.words.is_empty() {
            eprintln!(
                "weave: ignoring {}: this switches a part of the daemon that runs, whose settings \
                 are those of `weave launch`; to change them: weave stop, then weave launch ...",
                self.words.join(" ")
            );
        }
    }
}

/// The command line, for manuals and shells.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the words of the command line say.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<_> = words.into_iter().collect();
    if let Some(instead) = retired::instead(&words) {
        eprintln!("weave: {instead}");
        return ExitCode::from(USAGE);
    }
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
        Command::Launch(command) => ask(command.run(&paths, &client, Switch::On)),
        Command::LaunchRouter(command) => ask(command.run(&paths, &client, Switch::Off)),
        Command::Stop | Command::StopRouter => ask(launch::stop(&paths, &client)),
        Command::Setup => ask(launch::setup(&paths, &client)),
        Command::Reset(command) => ask(command.run(&paths, &client)),
        Command::Ps(command) => ask(command.run(&client)),
        Command::Attach(command) => ask(command.run(&client)),
        Command::Detach(command) => ask(command.run(&client)),
        Command::Expose(command) => ask(command.run(&client)),
        Command::Hide(command) => ask(command.run(&client)),
        Command::LaunchPlugin(ignored) => {
            ignored.tell();
            ask(parts::plugin(&client, Switch::On))
        }
        Command::StopPlugin => ask(parts::plugin(&client, Switch::Off)),
        Command::LaunchProxy(ignored) => {
            ignored.tell();
            ask(parts::proxy(&client, Switch::On))
        }
        Command::StopProxy => ask(parts::proxy(&client, Switch::Off)),
        Command::Env(command) => ask(command.run(&client, &paths)),
        Command::Config => ask(parts::flag(&client, &paths)),
        Command::Ipam(command) => ask(command.run(&client)),
        Command::DnsAdd(naming) => ask(naming.add(&client)),
        Command::DnsRemove(naming) => ask(naming.remove(&client)),
        Command::DnsLookup(command) => ask(command.run(&client)),
        Command::DnsArgs(command) => ask(command.run(&client)),
        Command::Version(command) => ask(command.run(&client)),
        Command::Daemon(command) => command.run(paths),
        Command::Plugin => start::plugin(paths),
    }
}

/// Why a command that asks the daemon, or Docker, failed.
trait Failure: From<std::io::Error> + std::fmt::Display {
    fn code(&self) -> u8;
}

impl Failure for ClientError {
    fn code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } => NOT_RUNNING,
            Self::Local(error) if error.kind() == std::io::ErrorKind::InvalidInput => USAGE,
            _ => FAILED,
        }
    }
}

impl Failure for LaunchError {
    fn code(&self) -> u8 {
        match self {
            Self::Client(error) => error.code(),
            _ => FAILED,
        }
    }
}

/// Runs a command that asks the daemon, and says why when it fails.
fn ask<E: Failure>(command: impl Future<Output = Result<(), E>>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => OK,
        Err(error) => {
            eprintln!("weave: {error}");
            error.code()
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
        assert_eq!(run(parse("weave ps").unwrap(), paths()), NOT_RUNNING);
        assert_eq!(run(parse("weave attach x c1").unwrap(), paths()), USAGE);
        assert_eq!(run(parse("weave version").unwrap(), paths()), OK);
    }
}
