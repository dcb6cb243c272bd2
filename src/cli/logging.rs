//! The daemon's log, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::LogLevel;

/// Starts logging. In the plugin dockerd puts its own time before each line.
pub(super) fn start(level: LogLevel, in_plugin: bool) {
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(filter(level))
        .with_target(false)
        .with_ansi(terminal);
    match in_plugin && !terminal {
        true => log.without_time().init(),
        false => log.init(),
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
