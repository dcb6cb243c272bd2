//! What operators tell the daemon.

use super::Daemon;
use crate::config::PeerAddress;
use crate::control::{Control, ControlError, Report, Targets, Warning};
use crate::store::StoreError;

impl Control for Daemon {
    async fn report(&self) -> Report {
        Self::report(self).await
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

/// Where to connect to, by source.
pub(super) fn targets(
    of_commands: &Targets,
    of_settings: &[PeerAddress],
) -> Vec<(String, Vec<String>)> {
    let wanted = of_commands.wanted(of_settings).map(ToString::to_string);
    let added = of_commands.added().map(ToString::to_string);
    vec![
        ("settings".to_owned(), wanted.collect()),
        ("command".to_owned(), added.collect()),
    ]
}

impl Daemon {
    async fn change_targets(
        &self,
        change: impl FnOnce(Targets, &[PeerAddress]) -> Targets + Send + 'static,
    ) -> Result<(), ControlError> {
        let _one_at_a_time = self.targets.lock().await;
        let store = self.store.clone();
        let of_settings = self.settings.peers.clone();
        let write = move || -> Result<_, StoreError> {
            let changed = change(Targets::load(&store)?, &of_settings);
            changed.save(&store)?;
            Ok(targets(&changed, &of_settings))
        };
        let written = tokio::task::spawn_blocking(write).await;
        let by_source = written
            .map_err(|_| ControlError::Stopped)?
            .map_err(|error| ControlError::Store(error.to_string()))
            .inspect_err(|error| {
                let remedy = "free space or repair the file, then repeat the command";
                self.warnings
                    .set("targets", Warning::new(error.to_string(), remedy));
            })?;
        self.warnings.clear("targets");
        for (source, targets) in by_source {
            self.mesh.set_targets(source, targets);
        }
        Ok(())
    }
}
