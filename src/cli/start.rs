//! The two ways to start the daemon.

use std::ffi::OsString;

use clap::Args;

use super::{FAILED, OK, logging};
use crate::config::{Paths, Settings};
use crate::daemon::{self, Mode};

#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// Settings as flags, and peers; see below
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "SETTINGS"
    )]
    pub(super) words: Vec<String>,
}

impl Daemon {
    pub(super) fn run(self, paths: Paths) -> u8 {
        if !nix::unistd::geteuid().is_root() {
            eprintln!(
                "weave: only root may make the devices and sockets that the daemon needs\ntry: sudo weave daemon"
            );
            return FAILED;
        }
        start(&self.words, paths, Mode::Standalone)
    }
}

/// Runs the daemon with the settings of `docker plugin set`.
pub(super) fn plugin(paths: Paths) -> u8 {
    start(&[], paths, Mode::Plugin)
}

/// Without the managed plugin the legacy drivers are how Docker reaches the daemon.
fn environment(mode: Mode) -> impl Iterator<Item = (OsString, OsString)> {
    const VARIABLE: &str = "WEAVE_LEGACY_SOCKETS";
    let is_given = std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty());
    let default = (mode == Mode::Standalone && !is_given).then(|| (VARIABLE.into(), "true".into()));
    std::env::vars_os().chain(default)
}

fn start(words: &[String], paths: Paths, mode: Mode) -> u8 {
    let (settings, rejected) = Settings::load(environment(mode), words, &paths);
    logging::start(settings.log_level, mode == Mode::Plugin);
    for rejected in &rejected {
        tracing::warn!("setting {rejected}");
    }
    let paths = paths.with_docker_socket(settings.docker_socket.as_ref());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result =
        runtime.and_then(|runtime| runtime.block_on(daemon::run(settings, rejected, paths, mode)));
    match result {
        Ok(()) => OK,
        Err(error) => {
            tracing::error!("the daemon cannot run: {error}");
            FAILED
        }
    }
}
