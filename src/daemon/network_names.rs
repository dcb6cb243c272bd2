//! What Docker's networks are called.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::docker::engine::Engine;
use crate::types::NetworkId;

/// How long the Engine may take to tell names: without them networks are shown by their identifiers.
const PATIENCE: Duration = Duration::from_millis(200);

/// The pause before it is asked again for a name that it did not tell.
const PAUSE: Duration = Duration::from_secs(1);

/// Names of networks, asked of the Engine when they are wanted. A network keeps its name for as long
/// as there is the network.
#[derive(Debug)]
pub(super) struct NetworkNames {
    engine: Engine,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    names: BTreeMap<String, String>,
    asked: Option<Instant>,
}

impl NetworkNames {
    pub(super) fn new(engine: Engine) -> Self {
        let known = Mutex::default();
        Self { engine, known }
    }

    /// The names of these networks, as far as they are known.
    pub(super) async fn of(&self, networks: &[&NetworkId]) -> BTreeMap<NetworkId, String> {
        if self.should_ask(networks)
            && let Ok(Ok(all)) = timeout(PATIENCE, self.engine.all_networks()).await
        {
            let names = all.into_iter().map(|network| (network.id, network.name));
            self.lock().names = names.collect();
        }
        let known = self.lock();
        let name = |id: &&NetworkId| {
            let name = known.names.get(id.as_str())?;
            Some(((*id).clone(), name.clone()))
        };
        networks.iter().filter_map(name).collect()
    }

    /// Whether a name is missing and was not asked for just now.
    fn should_ask(&self, networks: &[&NetworkId]) -> bool {
        let mut known = self.lock();
        let missing = networks
            .iter()
            .any(|id| !known.names.contains_key(id.as_str()));
        let now = Instant::now();
        let due = known.asked.is_none_or(|asked| now > asked + PAUSE);
        if missing && due {
            known.asked = Some(now);
        }
        missing && due
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Each change is one assignment: whole also after a panic elsewhere.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
