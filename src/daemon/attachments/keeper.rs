//! What becomes of attachments by itself: the host's come back, those of namespaces that have ended
//! go, and so do the addresses of containers that are gone for good.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;

use super::place::Place;
use super::record::HOST;
use super::{Attachments, Shared, WARNING};
use crate::control::Warning;
use crate::datapath::port_name;
use crate::docker::containers::Running;

/// How often it is looked whether attachments are still there: nobody tells of a namespace's end.
const LOOK: Duration = Duration::from_secs(1);

impl Attachments {
    /// Brings this host's addresses back, then takes note, for ever, of what has ended.
    pub(in crate::daemon) async fn keep(self, mut running: watch::Receiver<Option<Running>>) {
        self.shared.restore().await;
        loop {
            let told = tokio::select! {
                changed = running.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = tokio::time::sleep(LOOK) => false,
            };
            let ended = self.shared.tidy().await;
            if told || ended {
                self.shared.drop_removed().await;
            }
        }
    }
}

impl Shared {
    /// Makes this host's interfaces again that went with the machine.
    async fn restore(&self) {
        let mut all = self.all.lock().await;
        let Some(ports) = self.ports().await else {
            return;
        };
        let of_host: Vec<_> = all
            .iter()
            .filter(|a| a.container == HOST)
            .cloned()
            .collect();
        for old in of_host {
            if ports.contains(&port_name(&old.endpoint)) {
                continue;
            }
            let Ok(place) = Place::of_host(old.masquerade, old.naming.clone()) else {
                continue;
            };
            match self.plug(&place, &old.holder, old.address).await {
                Ok(new) => {
                    all.retain(|a| a.endpoint != new.endpoint);
                    all.push(new);
                }
                Err(error) => {
                    let what = format!(
                        "this host does not have its address {}: {error}",
                        old.address
                    );
                    let remedy = "repeat `weave expose`, or give it up with `weave hide`";
                    self.warnings.set(WARNING, Warning::new(what, remedy));
                }
            }
        }
        let done = self.save(&all).await;
        if let Err(error) = done.and(self.translate(&all).await) {
            let remedy = "repeat `weave expose`";
            self.warnings
                .set(WARNING, Warning::new(error.to_string(), remedy));
        }
    }

    /// Takes note of attachments whose namespace has ended; returns whether there were any.
    async fn tidy(&self) -> bool {
        let mut all = self.all.lock().await;
        if all.is_empty() {
            return false;
        }
        let Some(ports) = self.ports().await else {
            return false;
        };
        let before = all.clone();
        for attachment in all.iter_mut().filter(|a| a.attached) {
            attachment.attached = ports.contains(&port_name(&attachment.endpoint));
        }
        let ended: Vec<_> = all
            .iter()
            .zip(&before)
            .filter(|(now, before)| before.attached && !now.attached)
            .map(|(now, _)| now.clone())
            .collect();
        for attachment in &ended {
            self.unplug(attachment, &all).await;
        }
        if *all != before
            && let Err(error) = self.save(&all).await
        {
            tracing::warn!(%error, "the end of an attachment is not remembered");
        }
        !ended.is_empty()
    }

    /// Gives the addresses back of containers that docker knows no more.
    async fn drop_removed(&self) {
        let idle: BTreeSet<String> = self
            .saved
            .borrow()
            .iter()
            .filter(|a| !a.attached && a.container != HOST)
            .map(|a| a.container.clone())
            .collect();
        for container in idle {
            let asked = self.engine.container(&container).await;
            if !asked.is_err_and(|error| error.is_not_found()) {
                continue;
            }
            if let Err(error) = self.remove_of(&container, &[]).await {
                tracing::warn!(%error, "the end of a container is not remembered");
            }
        }
    }
}
