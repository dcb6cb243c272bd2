//! Where an operator said to connect to, and where not to, by command.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::PeerAddress;
use crate::store::{Store, StoreError};

/// The name of the document.
const DOCUMENT: &str = "targets";

/// The targets that commands added to, and removed from, those of the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Targets {
    added: BTreeSet<PeerAddress>,
    forgotten: BTreeSet<PeerAddress>,
}

impl Targets {
    /// What was remembered.
    pub fn load(store: &Store) -> Result<Self, StoreError> {
        Ok(store.load(DOCUMENT)?.unwrap_or_default())
    }

    /// Forgets what was remembered.
    pub fn forget_all(store: &Store) -> Result<(), StoreError> {
        store.remove(DOCUMENT)
    }

    /// Remembers.
    pub fn save(&self, store: &Store) -> Result<(), StoreError> {
        store.save(DOCUMENT, self)
    }

    /// Adds targets; with `replace` in place of all others, those of the settings included.
    #[must_use]
    pub fn connect(
        &self,
        peers: impl IntoIterator<Item = PeerAddress>,
        replace: bool,
        of_settings: &[PeerAddress],
    ) -> Self {
        let mut next = self.clone();
        if replace {
            next.added.clear();
            next.forgotten.extend(of_settings.iter().cloned());
        }
        for peer in peers {
            next.forgotten.remove(&peer);
            if !of_settings.contains(&peer) {
                next.added.insert(peer);
            }
        }
        next
    }

    /// Removes targets, whoever named them.
    #[must_use]
    pub fn forget(
        &self,
        peers: impl IntoIterator<Item = PeerAddress>,
        of_settings: &[PeerAddress],
    ) -> Self {
        let mut next = self.clone();
        for peer in peers {
            next.added.remove(&peer);
            // A peer that no setting names needs no memory of being forgotten.
            if of_settings.contains(&peer) {
                next.forgotten.insert(peer);
            }
        }
        next
    }

    /// Whether it is a target, whoever named it.
    pub fn contains(&self, peer: &PeerAddress, of_settings: &[PeerAddress]) -> bool {
        self.added.contains(peer) || (of_settings.contains(peer) && !self.forgotten.contains(peer))
    }

    /// The targets that commands added.
    pub fn added(&self) -> impl Iterator<Item = &PeerAddress> {
        self.added.iter()
    }

    /// Those of the settings that are still wanted.
    pub fn wanted<'a>(
        &'a self,
        of_settings: &'a [PeerAddress],
    ) -> impl Iterator<Item = &'a PeerAddress> {
        of_settings
            .iter()
            .filter(|peer| !self.forgotten.contains(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(text: &str) -> Vec<PeerAddress> {
        text.split_whitespace()
            .map(|p| p.parse().unwrap())
            .collect()
    }

    fn all(targets: &Targets, of_settings: &[PeerAddress]) -> String {
        let all = targets.wanted(of_settings).chain(targets.added());
        all.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn commands_add_to_and_take_from_the_settings() {
        let settings = peers("a b");
        let targets = Targets::default().connect(peers("c b"), false, &settings);
        assert_eq!(all(&targets, &settings), "a b c");
        let known = |peer: &str| targets.contains(&peers(peer)[0], &settings);
        assert!(known("a") && known("c") && !known("x"));
        let targets = targets.forget(peers("a c x"), &settings);
        assert_eq!(all(&targets, &settings), "b");
        assert!(!targets.contains(&peers("a")[0], &settings));
        let targets = targets.connect(peers("a"), false, &settings);
        assert_eq!(all(&targets, &settings), "a b");
    }

    #[test]
    fn replacing_leaves_nothing_else() {
        let settings = peers("a b");
        let targets = Targets::default()
            .connect(peers("c"), false, &settings)
            .connect(peers("b d"), true, &settings);
        assert_eq!(all(&targets, &settings), "b d");
    }

    #[test]
    fn they_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(Targets::load(&store).unwrap(), Targets::default());
        let targets = Targets::default().connect(peers("c"), true, &peers("a"));
        targets.save(&store).unwrap();
        assert_eq!(Targets::load(&store).unwrap(), targets);
    }
}
