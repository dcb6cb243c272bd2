//! What the mesh keeps on disk, written in order and away from the threads that run tasks.

use std::sync::mpsc;
use std::thread::JoinHandle;

use super::core::KnownPeer;
use super::identity::Identity;
use crate::store::Store;

/// The document in which known peers are kept.
const PEERS: &str = "peers";

/// Writes what the mesh wants kept.
#[derive(Debug)]
pub(super) struct Keeper {
    work: mpsc::Sender<Work>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Work {
    peers: Vec<KnownPeer>,
    epoch: u64,
}

impl Keeper {
    /// Begins to keep; `failed` is told whenever something could not be written, and `None` when
    /// it could again.
    pub(super) fn new(
        store: Option<Store>,
        mut identity: Identity,
        failed: impl Fn(Option<String>) + Send + 'static,
    ) -> Self {
        let (work, queue) = mpsc::channel::<Work>();
        let keep = move || {
            while let Ok(first) = queue.recv() {
                // Only the latest counts.
                let Work { peers, epoch } = queue.try_iter().last().unwrap_or(first);
                let Some(store) = &store else { continue };
                let kept = store
                    .save(PEERS, &peers)
                    .and_then(|()| identity.raise_epoch(epoch, Some(store)));
                failed(kept.err().map(|error| error.to_string()));
            }
        };
        let thread = std::thread::Builder::new()
            .name("mesh-keeper".to_owned())
            .spawn(keep);
        Self {
            work,
            thread: thread.ok(),
        }
    }

    /// Has these peers and this epoch written.
    pub(super) fn keep(&self, peers: Vec<KnownPeer>, epoch: u64) {
        // Without its thread nothing is kept, as on a disk that is full.
        let _ = self.work.send(Work { peers, epoch });
    }

    /// Waits until all is written. Blocks.
    pub(super) fn finish(self) {
        drop(self.work);
        if let Some(thread) = self.thread {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// The peers that were kept, or why there are none.
pub(super) fn known_peers(store: Option<&Store>) -> (Vec<KnownPeer>, Option<String>) {
    match store.map(|store| store.load(PEERS)) {
        Some(Ok(Some(peers))) => (peers, None),
        Some(Err(error)) => {
            let warning = format!("the peers of an earlier start could not be read: {error}");
            (Vec::new(), Some(warning))
        }
        _ => (Vec::new(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PeerId;

    #[test]
    fn what_is_kept_is_there_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (identity, _) = Identity::load(Some(&store));
        let epoch = identity.epoch() + 5;
        let keeper = Keeper::new(Some(store.clone()), identity, |failed| {
            assert_eq!(failed, None);
        });
        let peer = KnownPeer {
            id: PeerId::from_bytes([1; 16]),
            addresses: vec!["10.0.0.1:6783".parse().unwrap()],
        };
        keeper.keep(Vec::new(), 0);
        keeper.keep(vec![peer.clone()], epoch);
        keeper.finish();
        assert_eq!(known_peers(Some(&store)), (vec![peer], None));
        assert!(Identity::load(Some(&store)).0.epoch() > epoch);
    }
}
