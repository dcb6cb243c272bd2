//! The daemon's log: on standard error, and split between both outputs in the plugin.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use crate::config::LogLevel;

/// Starts logging. In the plugin dockerd puts its own time before each line, and its own level:
/// `info` for what comes on standard output, `error` for what comes on standard error.
pub(super) fn start(level: LogLevel, in_plugin: bool) {
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_target(false)
        .with_ansi(terminal);
    match in_plugin && !terminal {
        true => log
            .with_writer(io::stderr.with_max_level(Level::ERROR).or_else(io::stdout))
            .without_time()
            .init(),
        false => log.with_writer(io::stderr).init(),
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(match level {
        LogLevel::Error => "error",
        LogLevel::Warning => "warn",
        LogLevel::Info => "warn,weave_net=info",
        LogLevel::Debug => "warn,weave_net=debug",
        LogLevel::Trace => "trace",
    })
}
