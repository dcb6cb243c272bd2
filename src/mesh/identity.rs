//! Who this peer is: an X25519 key made once, and a counter of its starts.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::store::{Store, StoreError};
use crate::types::{ParseError, PeerId};

/// The document in which the identity is kept.
const DOCUMENT: &str = "identity";

/// A peer's key and what tells this start of it from all others.
#[derive(Clone)]
pub(super) struct Identity {
    secret: SecretKey,
    public: [u8; 32],
    epoch: u64,
    instance: u64,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct SecretKey([u8; 32]);

#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
struct Document {
    secret_key: String,
    epoch: u64,
}

impl Identity {
    /// The stored identity, or a new one that is stored now, with the next epoch.
    ///
    /// Never fails: when nothing can be stored, the identity lasts as long as the process, and
    /// the second value says why and what to do.
    pub(super) fn load(store: Option<&Store>) -> (Self, Option<String>) {
        let Some(store) = store else {
            return (Self::generate(), None);
        };
        match store.load::<Document>(DOCUMENT) {
            Ok(None) => Self::generate().stored(store),
            Ok(Some(document)) => match Self::of_document(&document) {
                Ok(identity) => identity.stored(store),
                Err(error) => (Self::generate(), Some(unreadable(store, &error))),
            },
            Err(error) => (Self::generate(), Some(unreadable(store, &error))),
        }
    }

    /// A new key in place of the stored one: another machine has the same, as happens when disks
    /// are cloned.
    pub(super) fn regenerate(store: Option<&Store>) -> (Self, Option<String>) {
        match store {
            Some(store) => Self::generate().stored(store),
            None => (Self::generate(), None),
        }
    }

    /// Writes down that an epoch was used that is greater than the one of this start.
    ///
    /// # Errors
    ///
    /// When the store is not writable.
    pub(super) fn raise_epoch(
        &mut self,
        epoch: u64,
        store: Option<&Store>,
    ) -> Result<(), StoreError> {
        if epoch <= self.epoch {
            return Ok(());
        }
        self.epoch = epoch;
        store.map_or(Ok(()), |store| store.save(DOCUMENT, &self.document()))
    }

    /// An identity that is stored nowhere.
    pub(super) fn generate() -> Self {
        Self::new(rand::random(), 1)
    }

    /// The peer's name in the mesh.
    pub(super) fn id(&self) -> PeerId {
        PeerId::of_public_key(&self.public)
    }

    /// The private half of the key.
    pub(super) fn secret_key(&self) -> &[u8; 32] {
        &self.secret.0
    }

    /// The public half of the key.
    pub(super) fn public_key(&self) -> &[u8; 32] {
        &self.public
    }

    /// A number greater than that of every earlier start with this key.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A number of this start: what differs between two machines that have the same key. The later
    /// one has the greater number, as far as their clocks agree: the upper half is the time in
    /// seconds since 1970, the lower half is random.
    pub(super) fn instance(&self) -> u64 {
        self.instance
    }

    fn new(secret: [u8; 32], epoch: u64) -> Self {
        // A clock before 1970 makes this start an early one.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        Self {
            public: PublicKey::from(&StaticSecret::from(secret)).to_bytes(),
            secret: SecretKey(secret),
            epoch,
            instance: now << 32 | u64::from(rand::random::<u32>()),
        }
    }

    fn of_document(document: &Document) -> Result<Self, ParseError> {
        let mut secret = BASE64_STANDARD
            .decode(&document.secret_key)
            .unwrap_or_default();
        let key = secret.as_slice().try_into();
        secret.zeroize();
        let key = key.map_err(|_| ParseError::new("a key of 32 bytes in base64", "another"))?;
        Ok(Self::new(key, document.epoch.saturating_add(1)))
    }

    fn document(&self) -> Document {
        Document {
            secret_key: BASE64_STANDARD.encode(self.secret.0),
            epoch: self.epoch,
        }
    }

    fn stored(self, store: &Store) -> (Self, Option<String>) {
        let warning = store.save(DOCUMENT, &self.document()).err().map(|error| {
            format!(
                "the identity could not be stored ({error}): this peer may have another after a \
                 restart; make {} writable",
                store.dir().display()
            )
        });
        (self, warning)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

fn unreadable(store: &Store, error: &dyn fmt::Display) -> String {
    format!(
        "the stored identity could not be read ({error}): this peer has another until it is \
         restarted; repair or remove identity.json in {}",
        store.dir().display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_the_key_and_raises_the_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, warning) = Identity::load(Some(&store));
        assert_eq!(warning, None);
        let (second, _) = Identity::load(Some(&store));
        assert_eq!(first.id(), second.id());
        assert!(second.epoch() > first.epoch());
        assert_ne!(first.instance(), second.instance());
    }

    #[test]
    fn a_new_key_replaces_a_cloned_one_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (cloned, _) = Identity::load(Some(&store));
        let (new, _) = Identity::regenerate(Some(&store));
        assert_ne!(cloned.id(), new.id());
        assert_eq!(Identity::load(Some(&store)).0.id(), new.id());
    }

    #[test]
    fn a_store_that_cannot_be_written_costs_a_warning_only() {
        // Nobody, not even root, makes directories there.
        let store = Store::at("/proc/weave");
        let (_, warning) = Identity::load(Some(&store));
        assert!(warning.unwrap().contains("could not be stored"));
    }

    #[test]
    fn a_damaged_document_is_left_for_the_operator() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let text = r#"{"secret_key":"short","epoch":7}"#;
        std::fs::write(dir.path().join("identity.json"), text).unwrap();
        let (_, warning) = Identity::load(Some(&store));
        assert!(warning.unwrap().contains("could not be read"));
        let kept = std::fs::read_to_string(dir.path().join("identity.json")).unwrap();
        assert_eq!(kept, text);
    }

    #[test]
    fn the_key_does_not_show() {
        let identity = Identity::generate();
        let shown = format!("{identity:?}");
        assert!(!shown.contains(&BASE64_STANDARD.encode(identity.secret_key())));
    }
}
