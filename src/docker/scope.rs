//! Whose networks these are: the Engine's own (local scope) or the swarm's (global scope).
//!
//! A managed plugin has one scope, which the Engine reads when it starts the plugin.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::engine::{Engine, SwarmInfo};
use crate::store::Store;

/// The document that remembers the last answer.
const DOCUMENT: &str = "scope";
/// How long the Engine may take to say whether it is in a swarm, when nothing is remembered. At
/// the first start its API is up and answers within milliseconds.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// The same when something is remembered. The Engine, when it starts, waits half a second between
/// starting a plugin and asking it, and its API is not up.
const PATIENCE: Duration = Duration::from_millis(400);
/// How soon the Engine is asked again.
const RETRY: Duration = Duration::from_millis(50);

/// Who defines the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Each host's engine its own.
    Local,
    /// Swarm's managers.
    Global,
}

impl Scope {
    /// As the Engine writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
        }
    }

    /// The scope as a source for `Calls`, known from the beginning.
    pub fn known(self) -> watch::Receiver<Option<Self>> {
        watch::channel(Some(self)).1
    }

    const fn of_membership(member: bool) -> Self {
        if member { Self::Global } else { Self::Local }
    }
}

/// Decides the scope once and watches whether it would be decided otherwise; cloning gives
/// another handle.
#[derive(Debug, Clone)]
pub struct ScopeKeeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    setting: Option<Scope>,
    store: Store,
    decided: watch::Sender<Option<Scope>>,
    /// What the Engine's membership asks for, as far as it is known.
    wanted: Mutex<Option<Scope>>,
}

impl ScopeKeeper {
    /// A keeper of this setting, `None` for one that follows the Engine.
    pub fn new(setting: Option<Scope>, store: Store) -> Self {
        Self {
            shared: Arc::new(Shared {
                setting,
                store,
                decided: watch::Sender::new(setting),
                wanted: Mutex::new(None),
            }),
        }
    }

    /// The decision, as soon as there is one.
    pub fn subscribe(&self) -> watch::Receiver<Option<Scope>> {
        self.shared.decided.subscribe()
    }

    /// Decides: by the setting, else by the Engine's place in a swarm, else as the last time,
    /// else local. Takes at most two seconds.
    pub async fn decide(&self, engine: &Engine) -> Scope {
        if let Some(setting) = self.shared.setting {
            return setting;
        }
        let remembered = self.remembered();
        let patience = if remembered.is_some() {
            PATIENCE
        } else {
            FIRST_PATIENCE
        };
        let asked = ask(engine, Instant::now() + patience).await;
        let scope = asked.or(remembered).unwrap_or(Scope::Local);
        self.shared.decided.send_replace(Some(scope));
        tracing::info!(scope = scope.as_str(), "scope decided");
        if let Some(asked) = asked {
            self.want(asked);
        }
        scope
    }

    /// Takes note of the Engine's place in a swarm, for the next start.
    pub fn note(&self, swarm: &SwarmInfo) {
        if let Some(member) = swarm.is_member() {
            self.want(Scope::of_membership(member));
        }
    }

    /// What an operator should do, where the decision no longer fits.
    pub fn warning(&self) -> Option<String> {
        if self.shared.setting.is_some() {
            return None;
        }
        let decided = (*self.shared.decided.borrow())?;
        let change = match (decided, (*self.wanted())?) {
            (Scope::Local, Scope::Global) => "has joined a swarm; its networks are still local",
            (Scope::Global, Scope::Local) => "has left its swarm; its networks are still global",
            _ => return None,
        };
        Some(format!(
            "this engine {change} (WEAVE_SCOPE=auto): disable and enable the plugin to change that"
        ))
    }

    fn want(&self, scope: Scope) {
        *self.wanted() = Some(scope);
        if self.remembered() == Some(scope) {
            return;
        }
        if let Err(error) = self.shared.store.save(DOCUMENT, &scope) {
            tracing::warn!(%error, "the scope will not be remembered");
        }
    }

    fn remembered(&self) -> Option<Scope> {
        self.shared.store.load(DOCUMENT).unwrap_or_else(|error| {
            tracing::warn!(%error, "the scope of the last start is not known");
            None
        })
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Option<Scope>> {
        let wanted = self.shared.wanted.lock();
        wanted.unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(engine: &Engine, until: Instant) -> Option<Scope> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let info = engine.clone().with_deadline(left).info().await;
        if let Some(member) = info.ok().and_then(|info| info.swarm.is_member()) {
            return Some(Scope::of_membership(member));
        }
        if until.saturating_duration_since(Instant::now()) <= RETRY {
            return None;
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::engine::tests::FakeEngine;

    const MEMBER: &str = r#"{"Swarm":{"LocalNodeState":"active"}}"#;
    const LONE: &str = r#"{"Swarm":{"LocalNodeState":"inactive"}}"#;

    fn keeper(dir: &tempfile::TempDir, setting: Option<Scope>) -> ScopeKeeper {
        ScopeKeeper::new(setting, Store::open(dir.path()).unwrap())
    }

    fn swarm(state: &str) -> SwarmInfo {
        SwarmInfo {
            local_node_state: state.to_owned(),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn auto_is_global_in_a_swarm_and_local_on_a_lone_engine() {
        for (info, scope) in [(MEMBER, Scope::Global), (LONE, Scope::Local)] {
            let dir = tempfile::tempdir().unwrap();
            let fake = FakeEngine::start(Some("1.41"), [("/info", info)]);
            let keeper = keeper(&dir, None);
            assert_eq!(*keeper.subscribe().borrow(), None);
            assert_eq!(keeper.decide(&fake.engine()).await, scope);
            assert_eq!(*keeper.subscribe().borrow(), Some(scope));
            assert_eq!(keeper.warning(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_engine_the_last_answer_holds() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = Engine::new(dir.path().join("docker.sock"));
        let begin = Instant::now();
        assert_eq!(keeper(&dir, None).decide(&nobody).await, Scope::Local);
        assert!(begin.elapsed() <= FIRST_PATIENCE);

        keeper(&dir, None).note(&swarm("pending"));
        let begin = Instant::now();
        assert_eq!(keeper(&dir, None).decide(&nobody).await, Scope::Global);
        assert!(begin.elapsed() <= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_membership_is_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = Engine::new(dir.path().join("docker.sock"));
        let keeper = keeper(&dir, None);
        keeper.decide(&nobody).await;
        keeper.note(&swarm("error"));
        assert_eq!(keeper.warning(), None);
        keeper.note(&swarm("active"));
        let warning = keeper.warning().unwrap();
        assert!(
            warning.contains("disable and enable the plugin"),
            "{warning}"
        );
        assert_eq!(*keeper.subscribe().borrow(), Some(Scope::Local));
        let next = self::keeper(&dir, None);
        assert_eq!(next.decide(&nobody).await, Scope::Global);
    }

    #[tokio::test]
    async fn a_setting_needs_no_engine_and_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = keeper(&dir, Some(Scope::Global));
        assert_eq!(*keeper.subscribe().borrow(), Some(Scope::Global));
        keeper.note(&swarm("inactive"));
        assert_eq!(keeper.warning(), None);
    }
}
