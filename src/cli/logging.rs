//! The daemon's log: on standard error, and split between both outputs in the plugin.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use crate::config::LogLevel;

/// Starts logging. In the plugin dockerd puts its own time before each line, and its own level:
/// `info` for what comes on standard output, `error` for what comes on standard error.
pub(super) fn start(level: LogLevel, in_plugin: bool) {
    let terminal = io::stderr().is_terminal();
    let lines = fmt::layer().with_target(false).with_ansi(terminal);
    let lines = match in_plugin && !terminal {
        true => lines
            .with_writer(io::stderr.with_max_level(Level::ERROR).or_else(io::stdout))
            .without_time()
            .with_filter(filter(level))
            .boxed(),
        false => lines
            .with_writer(io::stderr)
            .with_filter(filter(level))
            .boxed(),
    };
    registry().with(lines).init();
}

/// Of what others wrote, warnings are enough unless everything is asked for.
fn filter(level: LogLevel) -> Targets {
    let (others, ours) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warning => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::WARN, LevelFilter::INFO),
        LogLevel::Debug => (LevelFilter::WARN, LevelFilter::DEBUG),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    Targets::new()
        .with_default(others)
        .with_target("weave_net", ours)
}
