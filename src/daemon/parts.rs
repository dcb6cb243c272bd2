//! The parts of the daemon that are switched while it runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::report::Sockets;
use crate::config::LegacySocket;
use crate::control::{ControlError, Part, Switch};
use crate::docker::calls::Calls;
use crate::docker::plugin_socket::PluginSocket;
use crate::store::{Store, StoreError};

/// The name of the document.
const DOCUMENT: &str = "parts";

/// How long a socket that could not be made waits for its next try.
const RETRY: Duration = Duration::from_secs(1);

/// What was remembered: nothing where no operator said anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Remembered {
    plugin: Option<bool>,
    proxy: Option<bool>,
}

/// The switches.
#[derive(Debug)]
pub(super) struct Parts {
    store: Store,
    /// Held while it is changed.
    remembered: Mutex<Remembered>,
    plugin: watch::Sender<bool>,
    proxy: watch::Sender<bool>,
    /// The legacy sockets that the plugin part has.
    sockets: Vec<LegacySocket>,
}

impl Parts {
    /// As they were left; else the plugin part is on where the settings name sockets. Also tells
    /// why what was left is not known, if so.
    pub(super) fn load(store: Store, of_settings: &[LegacySocket]) -> (Self, Option<StoreError>) {
        let (remembered, error) = match store.load::<Remembered>(DOCUMENT) {
            Ok(remembered) => (remembered.unwrap_or_default(), None),
            Err(error) => (Remembered::default(), Some(error)),
        };
        let on = remembered.plugin.unwrap_or(!of_settings.is_empty());
        let sockets = match of_settings {
            [] => vec![LegacySocket::Weave, LegacySocket::Weavemesh],
            given => given.to_vec(),
        };
        let parts = Self {
            store,
            remembered: Mutex::new(remembered),
            plugin: watch::channel(on).0,
            proxy: watch::channel(remembered.proxy == Some(true)).0,
            sockets,
        };
        (parts, error)
    }

    /// The legacy sockets to serve while the plugin part is on.
    pub(super) fn sockets(&self) -> &[LegacySocket] {
        &self.sockets
    }

    /// Whether the plugin part is on, now and whenever that changes.
    pub(super) fn plugin(&self) -> watch::Receiver<bool> {
        self.plugin.subscribe()
    }

    /// Whether the proxy is on, now and whenever that changes.
    pub(super) fn proxy(&self) -> watch::Receiver<bool> {
        self.proxy.subscribe()
    }

    /// Switches a part, and remembers that.
    pub(super) fn switch(&self, part: Part, state: Switch) -> Result<(), ControlError> {
        let on = state == Switch::On;
        let mut current = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut remembered = *current;
        let switch = match part {
            Part::Plugin => {
                remembered.plugin = Some(on);
                &self.plugin
            }
            Part::Proxy => {
                remembered.proxy = Some(on);
                &self.proxy
            }
        };
        let saved = self.store.save(DOCUMENT, &remembered);
        saved.map_err(|error| ControlError::Store(error.to_string()))?;
        *current = remembered;
        switch.send_replace(on);
        Ok(())
    }
}

/// Serves one plugin socket while it is wanted; where it cannot be made, tries again until it can.
pub(super) async fn serve(
    path: PathBuf,
    calls: Calls,
    sockets: Arc<Sockets>,
    mut wanted: watch::Receiver<bool>,
    stopped: watch::Receiver<()>,
) {
    loop {
        if !*wanted.borrow_and_update() {
            sockets.forget(&path);
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        }
        let bound = PluginSocket::bind(&path);
        sockets.note(&path, bound.as_ref().err().map(ToString::to_string));
        match bound {
            Ok(socket) => {
                let (mut unwanted, mut end) = (wanted.clone(), stopped.clone());
                let shutdown = async move {
                    tokio::select! {
                        // Both fail when the daemon ends, which is as good.
                        _ = unwanted.wait_for(|wanted| !wanted) => {}
                        _ = end.changed() => {}
                    }
                };
                socket.serve(calls.clone(), shutdown).await;
                if stopped.has_changed().is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_remembered_and_wins_over_the_settings() {
        let dir = tempfile::tempdir().unwrap();
        let load = |given: &[LegacySocket]| Parts::load(Store::at(dir.path()), given).0;
        let on = |parts: &Parts| *parts.plugin().borrow();
        assert!(!on(&load(&[])));
        assert!(on(&load(&[LegacySocket::Weave])));
        load(&[]).switch(Part::Plugin, Switch::On).unwrap();
        load(&[]).switch(Part::Proxy, Switch::On).unwrap();
        let parts = load(&[]);
        assert!(on(&parts) && *parts.proxy().borrow());
        assert_eq!(parts.sockets().len(), 2);
        parts.switch(Part::Plugin, Switch::Off).unwrap();
        assert!(!on(&load(&[LegacySocket::Weave])));
    }
}
