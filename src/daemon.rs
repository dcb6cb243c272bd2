//! The one place where the parts are built, wired, supervised and shut down.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

use crate::config::{Paths, PeerAddress, Rejected, Settings};
use crate::control::{Control, ControlError, Report, Targets, Warning, Warnings, http, socket};
use crate::store::{Store, StoreError};

/// Runs the daemon until it is told to stop (SIGTERM, SIGINT).
///
/// What fails on the way is shown in status and tried again; only a process that cannot even
/// wait for signals gives up.
pub async fn run(settings: Settings, rejected: Vec<Rejected>, paths: Paths) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let warnings = Warnings::default();
    let control = Arc::new(Daemon {
        started: Instant::now(),
        warnings: warnings.clone(),
        paths: paths.clone(),
        targets: Mutex::new(()),
        settings,
        rejected,
    });
    let socket = paths.control_socket();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(socket::serve(socket, control.clone(), warnings.clone()));
    if let Some(address) = control.settings.status_addr.get() {
        tasks.spawn(http::serve(address, control.clone(), warnings));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down");
    tasks.shutdown().await;
    Ok(())
}

#[derive(Debug)]
struct Daemon {
    started: Instant,
    settings: Settings,
    rejected: Vec<Rejected>,
    warnings: Warnings,
    paths: Paths,
    /// Held while the targets on disk are changed.
    targets: Mutex<()>,
}

impl Control for Daemon {
    async fn report(&self) -> Report {
        Report {
            uptime_seconds: self.started.elapsed().as_secs(),
            warnings: self.warnings.all(),
            ..Report::of_settings(self.settings.in_force(), self.rejected.clone())
        }
    }

    async fn connect(&self, peers: Vec<PeerAddress>, replace: bool) -> Result<(), ControlError> {
        self.change_targets(move |targets, of_settings| {
            targets.connect(peers, replace, of_settings)
        })
        .await
    }

    async fn forget(&self, peers: Vec<PeerAddress>) -> Result<(), ControlError> {
        self.change_targets(move |targets, of_settings| targets.forget(peers, of_settings))
            .await
    }
}

impl Daemon {
    async fn change_targets(
        &self,
        change: impl FnOnce(Targets, &[PeerAddress]) -> Targets + Send + 'static,
    ) -> Result<(), ControlError> {
        let _one_at_a_time = self.targets.lock().await;
        let dir = self.paths.state();
        let of_settings = self.settings.peers.clone();
        let write = move || -> Result<(), StoreError> {
            let store = Store::open(dir)?;
            change(Targets::load(&store)?, &of_settings).save(&store)
        };
        let written = tokio::task::spawn_blocking(write).await;
        written
            .map_err(|_| ControlError::Stopped)?
            .map_err(|error| ControlError::Store(error.to_string()))
            .inspect_err(|error| {
                let remedy = "free space or repair the file, then repeat the command";
                self.warnings
                    .set("targets", Warning::new(error.to_string(), remedy));
            })?;
        self.warnings.clear("targets");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(root: &std::path::Path) -> Daemon {
        let peers = ["a".to_owned(), "b".to_owned()];
        let paths = Paths::below(root);
        let (settings, rejected) = Settings::load([], &peers, &paths);
        Daemon {
            started: Instant::now(),
            settings,
            rejected,
            warnings: Warnings::default(),
            paths,
            targets: Mutex::new(()),
        }
    }

    #[tokio::test]
    async fn commands_are_remembered_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let peers = |text: &str| vec![text.parse().unwrap()];
        daemon(dir.path()).connect(peers("c"), false).await.unwrap();
        daemon(dir.path()).forget(peers("a")).await.unwrap();
        let daemon = daemon(dir.path());
        let targets = Targets::load(&Store::open(daemon.paths.state()).unwrap()).unwrap();
        assert!(targets.wanted(&daemon.settings.peers).eq(&peers("b")));
        assert!(targets.added().eq(&peers("c")));
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_stored_is_refused_and_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("var")).unwrap();
        std::fs::write(dir.path().join("var/lib"), "in the way").unwrap();
        let daemon = daemon(dir.path());
        let error = daemon.connect(vec![], true).await.unwrap_err();
        assert!(matches!(error, ControlError::Store(_)), "{error}");
        assert_eq!(daemon.report().await.warnings.len(), 1);
    }
}
